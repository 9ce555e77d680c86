"""Which attention backend vLLM picks for a layer, and the block sizes that its kernels take.

vLLM 0.32.0: the order in ``platforms/cuda.py:83-174``, what a backend declares in ``v1/attention/backends/``. The
first backend in the order that takes the layer wins; the reasons of the others make the refusal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from kvplan.core.errors import UnsupportedError, UsageError, near_hint
from kvplan.core.frozen import dataclass
from kvplan.engines.vllm import flash_attention as flash
from kvplan.engines.vllm.families import Quirks
from kvplan.engines.vllm.query import Blocks, Query
from kvplan.engines.vllm.rules import PER_TOKEN_HEAD, TURBOQUANT
from kvplan.engines.vllm.run import Device, Traits

SIXTEEN_BITS = ("auto", "float16", "bfloat16")
FP8 = ("fp8", "fp8_e4m3")


class Span(NamedTuple):
    """Compute capabilities from ``first`` to ``last``, both included."""

    first: tuple[int, int]
    last: tuple[int, int]


ANY_DEVICE = Span((0, 0), (99, 9))
HOPPER = Span((9, 0), (9, 9))
BLACKWELL = Span((10, 0), (10, 9))
HOPPER_OR_BLACKWELL = Span((9, 0), (10, 9))
WORKSTATION = Span((12, 0), (12, 9))


def _no_more(query: Query) -> str | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """What one backend takes.

    ``blocks`` are its kernels' block sizes for a layer; ``head_dims`` an empty tuple where any will do; ``more`` a
    last check. ``packs`` are the cache dtypes whose scales it stores inside the page: any other dtype of one byte
    takes one byte per element.
    """

    name: str
    span: Span = ANY_DEVICE
    dtypes: tuple[str, ...] = SIXTEEN_BITS
    blocks: Callable[[Query], Blocks] = lambda query: Blocks(multiple=16)
    head_dims: tuple[int, ...] = ()
    latent: bool = False
    sparse: bool = False
    sinks: bool = False
    windows: bool = True
    image_prefix: bool = False
    cross: bool = False
    context_parallel: bool = True
    flashinfer: bool = False
    packs: tuple[str, ...] = ()
    more: Callable[[Query], str | None] = _no_more


def _fixed(*exact: int, multiple: int = 0) -> Callable[[Query], Blocks]:
    return lambda query: Blocks(exact=exact, multiple=multiple)


def _flashinfer_blocks(query: Query) -> Blocks:
    """[16, 32, 64]; larger pages run on trtllm-gen kernels alone: grouped queries on compute capability 10.x."""
    kv_heads = max(1, query.model_kv_heads // query.tp)
    grouped = query.rank_heads // kv_heads > 1 and query.rank_heads % kv_heads == 0
    large = (128, 256, 512, 1024) if grouped and query.device.major == 10 else ()
    return Blocks(exact=(16, 32, 64, *large))


def _flashinfer_more(query: Query) -> str | None:
    everywhere, major = query.rules.flashinfer_everywhere, query.device.major
    if query.sinks and major not in ((9, 10, 12) if everywhere else (10,)):
        return "attention sinks not supported"
    if major == 10 or not query.dtype.startswith("nvfp4"):
        return None
    if not everywhere or major not in (8, 9, 12) or query.device.capability == (8, 9) or query.dtype != "nvfp4":
        return "kv_cache_dtype not supported"
    if query.head_dim == 64:
        return "fa2 prefill misreads an NVFP4 KV cache at head_size 64"
    return "the sink prefill wrapper cannot read an NVFP4 KV cache" if query.sinks else None


def _triton_more(query: Query) -> str | None:
    return "head_size not supported" if query.head_dim < 32 else None


def _sparse_flashmla_more(query: Query) -> str | None:
    if query.dtype == "nvfp4_ds_mla" and query.device.major != 10:
        return "the nvfp4_ds_mla kv-cache dtype needs compute capability 10.x"
    return None


def _sparse_flash4_more(query: Query) -> str | None:
    heads = query.rank_heads * query.dcp
    if not query.rules.sparse_flash4:
        return f"vLLM {query.rules.version} does not have it"
    return None if heads in (8, 16, 32, 64, *((128,) if query.dcp == 1 else ())) else f"not for {heads} query heads"


DENSE: dict[str, Backend] = {
    entry.name: entry
    for entry in (
        Backend(
            name="FLASH_ATTN",
            span=Span((8, 0), (99, 9)),
            dtypes=(*SIXTEEN_BITS, *FP8),
            blocks=flash.blocks,
            sinks=True,
            image_prefix=True,
            cross=True,
            more=flash.refusal,
        ),
        Backend(
            name="FLASHINFER",
            span=Span((8, 0), (12, 1)),
            dtypes=(*SIXTEEN_BITS, *FP8, "fp8_e5m2", "nvfp4", "nvfp4_4over6"),
            blocks=_flashinfer_blocks,
            head_dims=(64, 128, 256, 512),
            sinks=True,
            flashinfer=True,
            packs=("nvfp4", "nvfp4_4over6"),
            more=_flashinfer_more,
        ),
        Backend(
            name="TRITON_ATTN",
            dtypes=(*SIXTEEN_BITS, *FP8, "fp8_e5m2", *PER_TOKEN_HEAD),
            sinks=True,
            image_prefix=True,
            cross=True,
            packs=PER_TOKEN_HEAD,
            more=_triton_more,
        ),
        Backend(name="FLEX_ATTENTION", image_prefix=True),
        Backend(
            name="TURBOQUANT",
            dtypes=TURBOQUANT,
            blocks=_fixed(16, 32, 64, 128),
            windows=False,
            packs=TURBOQUANT,
        ),
        Backend(
            name="TRITON_FLASH_ATTN",
            span=HOPPER,
            dtypes=(*SIXTEEN_BITS, *FP8),
            blocks=flash.blocks,
            head_dims=(256, 512),
            image_prefix=True,
            more=flash.causal_refusal,
        ),
        Backend(
            name="TRITON_FLASHINFER",
            span=BLACKWELL,
            dtypes=(*SIXTEEN_BITS, *FP8, "fp8_e5m2"),
            blocks=_fixed(64),
            head_dims=(256, 512),
            image_prefix=True,
            flashinfer=True,
        ),
    )
}
"""Backends of attention with keys and values."""

LATENT: dict[str, Backend] = {
    entry.name: replace(entry, latent=True, windows=False)
    for entry in (
        Backend(name="FLASH_ATTN_MLA", span=HOPPER),
        Backend(name="FLASHMLA", span=HOPPER, dtypes=(*SIXTEEN_BITS, *FP8), blocks=_fixed(64)),
        Backend(
            name="FLASHINFER_MLA",
            span=BLACKWELL,
            dtypes=(*SIXTEEN_BITS, *FP8),
            blocks=_fixed(32, 64),
            flashinfer=True,
        ),
        Backend(name="CUTLASS_MLA", span=BLACKWELL, dtypes=(*SIXTEEN_BITS, *FP8), blocks=_fixed(128)),
        Backend(name="TRITON_MLA", dtypes=(*SIXTEEN_BITS, *FP8)),
        Backend(
            name="FLASH_ATTN_MLA_SPARSE",
            span=HOPPER,
            blocks=_fixed(multiple=64),
            sparse=True,
            context_parallel=False,
        ),
        Backend(
            name="FLASH_ATTN_MLA_SPARSE_FA4",
            span=BLACKWELL,
            dtypes=("auto", "bfloat16"),
            blocks=_fixed(multiple=64),
            head_dims=(576,),
            sparse=True,
            flashinfer=True,
            more=_sparse_flash4_more,
        ),
        Backend(
            name="FLASHMLA_SPARSE",
            span=HOPPER_OR_BLACKWELL,
            dtypes=("auto", "bfloat16", "fp8_ds_mla", "fp8", "nvfp4_ds_mla"),
            blocks=_fixed(multiple=64),
            head_dims=(512, 576),
            sparse=True,
            more=_sparse_flashmla_more,
        ),
        Backend(
            name="FLASHINFER_MLA_SPARSE",
            span=BLACKWELL,
            dtypes=(*SIXTEEN_BITS, *FP8),
            blocks=_fixed(multiple=32),
            head_dims=(512, 576),
            sparse=True,
        ),
        Backend(
            name="FLASHINFER_MLA_SPARSE_SM90",
            span=HOPPER,
            dtypes=("auto", "bfloat16", *FP8),
            blocks=_fixed(multiple=64),
            head_dims=(512, 576),
            sparse=True,
            flashinfer=True,
        ),
        Backend(
            name="FLASHINFER_MLA_SPARSE_SM120",
            span=WORKSTATION,
            dtypes=("auto", *FP8, "fp8_ds_mla"),
            blocks=_fixed(multiple=64),
            head_dims=(512, 576),
            sparse=True,
            flashinfer=True,
        ),
    )
}
"""Backends of multi-head latent attention."""

INDEXER = Backend(name="DEEPSEEK_V32_INDEXER", blocks=_fixed(64))
FLASH_DIFFKV = Backend(name="FLASH_ATTN_DIFFKV", blocks=flash.blocks)
TRITON_DIFFKV = Backend(name="TRITON_ATTN_DIFFKV", dtypes=("auto", "bfloat16", *FP8))
SPARSE_FULL = Backend(name="MINIMAX_M3_SPARSE", blocks=_fixed(128), packs=("nvfp4",))
COMPRESSED = Backend(name="FLASHMLA_SPARSE_DSV4", blocks=_fixed(256))
ROCM = Backend(name="ROCM_ATTN", packs=(*PER_TOKEN_HEAD, *TURBOQUANT, "ultraquant_4bit"))


def choose_backend(query: Query) -> Backend:
    """The backend of one layer. Raises UnsupportedError where none takes it, with each one's reasons."""
    if query.device.amd:
        return ROCM
    if query.v_head_dim != query.head_dim and not query.latent:
        return _wider_keys(query)
    names = [query.user_backend] if query.user_backend else _order(query)
    known = LATENT if query.latent else DENSE
    refused: list[str] = []
    for name in names:
        reasons = _reasons(known[name], query) if name in known else ["unknown backend"]
        if not reasons:
            return _checked(known[name], query)
        refused.append(f"{name}: {', '.join(reasons)}")
    raise UnsupportedError(
        f"vLLM has no attention backend on compute capability {query.device.text} for {query.text}", "; ".join(refused)
    )


def forced_backend(text: str | None, traits: Traits, quirks: Quirks, device: Device) -> str | None:
    """The backend that ``--attention-backend`` or the architecture insists on, if any. Raises UsageError."""
    if text is None:
        on_triton = quirks.even_heads_or_flash4 and traits.mixed_heads and device.major not in flash.VERSION_4_MAJORS
        return "TRITON_ATTN" if on_triton else None
    name, known = text.strip().upper().replace("-", "_"), LATENT if traits.latent else DENSE
    if name not in known:
        raise UsageError(f"vLLM has no attention backend {text!r} for this model", near_hint(name, known))
    return name


def _order(query: Query) -> list[str]:
    return _latent_order(query) if query.latent else _dense_order(query)


def _dense_order(query: Query) -> list[str]:
    names = ["FLASH_ATTN", "FLASHINFER", "TRITON_ATTN", "FLEX_ATTENTION", "TURBOQUANT"]
    if query.device.major == 10:
        names[:2] = ["FLASHINFER", "FLASH_ATTN"]
    routed = {9: "TRITON_FLASH_ATTN", 10: "TRITON_FLASHINFER"}.get(query.device.major)
    return [routed, *names] if routed and query.image_prefix and query.rules.routes_image_tokens else names


def _latent_order(query: Query) -> list[str]:
    if query.device.major == 12:
        return ["TRITON_MLA", "FLASHINFER_MLA_SPARSE_SM120"]
    if query.device.major != 10:
        sparse = ["FLASH_ATTN_MLA_SPARSE", "FLASHMLA_SPARSE"]
        own = ["FLASHINFER_MLA_SPARSE_SM90"] if query.rules.hopper_sparse_flashinfer else []
        sparse = own + sparse if query.head_dim == 512 else sparse + own
        return ["FLASH_ATTN_MLA", "FLASHMLA", "FLASHINFER_MLA", "TRITON_MLA", *sparse]
    sparse = ["FLASHINFER_MLA_SPARSE", "FLASHMLA_SPARSE"]
    if query.dtype in SIXTEEN_BITS and query.rank_heads > 16:
        sparse.reverse()
    elif query.dtype in SIXTEEN_BITS and query.rules.sparse_flash4:
        sparse.insert(0, "FLASH_ATTN_MLA_SPARSE_FA4")
    return ["FLASHINFER_MLA", "CUTLASS_MLA", "FLASH_ATTN_MLA", "FLASHMLA", "TRITON_MLA", *sparse]


def _reasons(backend: Backend, query: Query) -> list[str]:
    """Why a backend does not take a layer, in vLLM's words (``v1/attention/backend.py:276``); empty if it does."""
    checks = (
        (backend.head_dims and query.head_dim not in backend.head_dims, "head_size not supported"),
        (query.dtype not in backend.dtypes, "kv_cache_dtype not supported"),
        (not backend.blocks(query).accept(query.user_block_tokens), "block_size not supported"),
        (query.image_prefix and not backend.image_prefix, "partial multimodal token full attention not supported"),
        (query.sinks and not backend.sinks, "attention sinks not supported"),
        (query.sparse and not backend.sparse, "sparse not supported"),
        (backend.sparse and not query.sparse, "non-sparse not supported"),
        (
            not backend.span.first <= query.device.capability <= backend.span.last,
            "compute capability not supported",
        ),
        (query.cross and not backend.cross, "attention type encoder_decoder not supported"),
        (query.window and not backend.windows, "sliding window not supported"),
        (query.dcp > 1 and not backend.context_parallel, "DCP not supported"),
        (backend.flashinfer and not query.device.flashinfer, "FlashInfer is not installed"),
    )
    reasons = [reason for failed, reason in checks if failed]
    last = backend.more(query)
    return [*reasons, last] if last else reasons


def _checked(backend: Backend, query: Query) -> Backend:
    """What the chosen backend's own constructor refuses."""
    if backend.name.startswith("TRITON") and query.dtype.startswith("fp8") and query.device.capability < (8, 9):
        raise UnsupportedError(
            f"vLLM's {backend.name} has no {query.dtype} cache on compute capability {query.device.text}",
            "FP8 needs 8.9 or later; use --kv-dtype bfloat16",
        )
    shares = query.dcp == 1 or query.rules.sparse_shares_native
    if backend.name == "FLASHMLA_SPARSE" and query.dtype in SIXTEEN_BITS and not shares:
        raise UnsupportedError(
            "vLLM's decode-context parallelism over sparse MLA needs an fp8_ds_mla cache", "use --kv-dtype fp8"
        )
    return backend


def _wider_keys(query: Query) -> Backend:
    """Keys wider than values (MiMo-V2, 0.32 ``models/mimo_v2.py:300``): FlashAttention 3 or 4, else Triton."""
    if flash.version(query, query.head_dim, query.v_head_dim) in (3, 4):
        if query.dtype not in SIXTEEN_BITS and not flash.stores(query):
            raise UnsupportedError(
                f"vLLM's FlashAttention has no {query.dtype} cache on compute capability {query.device.text}",
                "use --kv-dtype bfloat16",
            )
        return FLASH_DIFFKV
    if query.dtype not in TRITON_DIFFKV.dtypes:
        raise UnsupportedError(
            f"vLLM's TRITON_ATTN_DIFFKV has no cache dtype {query.dtype}", "it has auto, bfloat16, fp8 and fp8_e4m3"
        )
    return _checked(TRITON_DIFFKV, query)
