"""Which attention backend SGLang runs, and the page size that it forces.

``arg_groups/model_override_base.py:279`` ``get_default_attn_backend``, ``arg_groups/overrides.py:1140-1363``.
"""

from __future__ import annotations

from kvplan.core.engine import EngineSettings, check_name
from kvplan.core.errors import UnsupportedError, UsageError
from kvplan.core.frozen import dataclass
from kvplan.engines.sglang.families import class_backend
from kvplan.engines.sglang.hardware import Hardware
from kvplan.engines.sglang.layers import Traits

BACKENDS = (
    "triton",
    "torch_native",
    "flex_attention",
    "dsa",
    "dsv4",
    "fa3",
    "fa4",
    "flashinfer",
    "flashmla",
    "trtllm_mla",
    "cutedsl_mla",
    "trtllm_mha",
    "hpc_ops",
)
"""``arg_groups/choices.py`` ``ATTENTION_BACKEND_CHOICES``, those of CUDA devices."""

_SUPERSEDED = {"nsa": "dsa", "compressed": "dsv4", "tokenspeed_mla": "cutedsl_mla"}

_PAGES = {
    "flashmla": (64,),
    "trtllm_mla": (64, 32),
    "cutedsl_mla": (64, 32),
    "trtllm_mha": (64, 16, 32, 128),
    "hpc_ops": (64,),
}
"""Page sizes that a backend has, the one it falls back to first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paging:
    """The backend, the page size, and a sentence on why where it is not what was asked for."""

    backend: str
    page_tokens: int
    remark: str | None = None


def choose_backend(settings: EngineSettings, traits: Traits, hardware: Hardware, kv_dtype: str) -> str:
    """The backend asked for, else SGLang's default for the model and the device. Raises UsageError."""
    asked = settings.attention_backend
    if asked is not None:
        asked = _SUPERSEDED.get(asked.lower(), asked.lower())
        return check_name("attention backend of SGLang", asked, BACKENDS)
    if traits.compressed:
        return "dsv4"
    if traits.sparse:
        return "dsa"
    if kv_dtype == "nvfp4":
        return "trtllm_mha" if hardware.generation == "sm100" else "flashinfer"
    if kv_dtype == "mxfp8":
        return "fa4"
    asked_by_class = class_backend(traits.family, traits.architecture_class, hardware.generation)
    backend = asked_by_class or _default_backend(traits, hardware)
    if traits.family == "minimax_m3" and hardware.generation == "sm100" and kv_dtype == "fp8_e4m3":
        backend = "trtllm_mha"
    return "triton" if (backend, kv_dtype) == ("fa3", "fp8_e5m2") else backend


def _default_backend(traits: Traits, hardware: Hardware) -> str:
    generation = hardware.generation
    if generation == "sm90":
        return "fa3"
    if traits.latent:
        return "flashinfer" if generation == "sm100" else "triton"
    if generation == "sm100":
        unpaged = traits.one_page or (traits.delta_net and not traits.paged_states)
        return "triton" if unpaged else "fa4" if traits.asymmetric else "trtllm_mha"
    return "triton" if traits.sinks else "flashinfer"


def choose_paging(settings: EngineSettings, traits: Traits, hardware: Hardware, kv_dtype: str) -> Paging:
    """The page size that results. Raises UsageError where SGLang refuses the one asked for."""
    backend = choose_backend(settings, traits, hardware, kv_dtype)
    pager = "trtllm_mha" if kv_dtype == "nvfp4" else backend  # which decodes, whatever prefills
    asked = settings.block_tokens
    page, why = asked or 1, None
    if traits.compressed:
        page, why = 256, "DeepSeek-V4 has pages of 256 tokens"
    elif traits.sparse:
        page, why = 64, "sparse attention has pages of 64 tokens"
    elif traits.family == "minimax_m3" and asked is None and hardware.generation in ("sm90", "sm100"):
        page, why = 128, "MiniMax-M3 has pages of 128 tokens"
    elif pager in _PAGES and asked not in _PAGES[pager]:
        page, why = _PAGES[pager][0], f"the {pager} backend has pages of {_words(_PAGES[pager])} tokens"
    elif backend == "fa4" and not traits.latent and hardware.generation == "sm100":
        page, why = 128, "the fa4 backend has pages of 128 tokens on this GPU"
    changed = asked is not None and page != asked
    remark = f"{why}: the {asked} asked for become {page}" if changed else why
    _check_states(settings, traits, backend, page)
    return Paging(backend=backend, page_tokens=page, remark=remark)


def _words(pages: tuple[int, ...]) -> str:
    *most, last = map(str, sorted(pages))
    return f"{', '.join(most)} or {last}" if most else last


def _check_states(settings: EngineSettings, traits: Traits, backend: str, page: int) -> None:
    """``arg_groups/mamba_hook.py:155`` ``validate_mamba_no_buffer``."""
    if traits.one_page and settings.prefix_caching is not False and (page != 1 or backend == "trtllm_mha"):
        raise UsageError(
            f"SGLang caches prefixes of this model in pages of one token alone, not {page} ({backend})",
            "add --no-prefix-caching, or leave --block-size and --attention-backend out",
        )


def check_dtype(kv_dtype: str, backend: str, traits: Traits, hardware: Hardware) -> None:
    """Raise UnsupportedError where the backend or the GPU cannot read the dtype (``kv_cache_hook.py:100-330``)."""
    if kv_dtype in ("nvfp4", "mxfp8") and not hardware.blackwell:
        raise UnsupportedError(
            f"SGLang runs a cache in {kv_dtype} on Blackwell GPUs alone", "name one with --gpu, or use fp8_e4m3"
        )
    if kv_dtype == "nvfp4" and backend not in ("trtllm_mha", "flashinfer"):
        raise UnsupportedError(f"SGLang has no nvfp4 with the {backend} backend", "leave --attention-backend out")
    if kv_dtype == "mxfp8" and backend != "fa4":
        raise UnsupportedError(f"SGLang has no mxfp8 with the {backend} backend", "use --attention-backend fa4")
    if kv_dtype == "fp4_mx_block16":
        able = ("flashinfer",) if traits.latent else ("triton", "torch_native", "flex_attention", "trtllm_mha")
        if backend not in able:
            raise UnsupportedError(
                f"SGLang has no fp4_mx_block16 with the {backend} backend", f"use --attention-backend {able[0]}"
            )
    if backend == "trtllm_mla" and kv_dtype not in ("bf16", "fp16", "fp8_e4m3"):
        raise UnsupportedError(f"SGLang has no {kv_dtype} with the trtllm_mla backend", "use fp8_e4m3 or bf16")
