"""vLLM's words for a cache dtype, the kvplan formats that they store, and what ``auto`` means.

vLLM 0.32.0 ``config/cache.py:39``, ``utils/torch_utils.py:457-531``, ``mla_attention.py:358``.
"""

from __future__ import annotations

from kvplan.core.engine import EngineSettings, ModelFacts, Stage, choose_dtype
from kvplan.core.errors import UnsupportedError
from kvplan.core.format import KVFormat
from kvplan.core.geometry import CacheChoice
from kvplan.engines.vllm.backends import choose_backend
from kvplan.engines.vllm.families import quirks_of
from kvplan.engines.vllm.query import Query
from kvplan.engines.vllm.rules import PACKED_LATENT, TURBOQUANT, Rules
from kvplan.engines.vllm.run import Device, Traits, run_traits

FORMATS = {
    "float16": "fp16",
    "bfloat16": "bf16",
    "fp8": "fp8_e4m3",
    "nvfp4_4over6": "nvfp4",
}
"""kvplan's format for a word of vLLM's that is spelled otherwise."""

KVPLANS_OWN = {"fp16": "float16", "f16": "float16", "bf16": "bfloat16"}
"""kvplan's own names, accepted besides vLLM's."""

WORDS = {"bf16": "auto", "fp16": "auto"}
"""vLLM's word for a stored format; the others are spelled alike."""


def words_of(rules: Rules, amd: bool) -> dict[str, str]:
    """Every word that a release accepts on a device, with the format that it stores."""
    names = ("auto", "float16", "bfloat16", *rules.cache_dtypes, *(rules.amd_dtypes if amd else ()))
    return {name: FORMATS.get(name, name) for name in names}


def resolve_word(text: str, facts: ModelFacts, traits: Traits, rules: Rules, device: Device) -> str:
    """The word that vLLM uses for what the user wrote; ``auto`` becomes the checkpoint's own scheme.

    Latent attention follows ModelOpt's schemes alone (``tests/parity/vllm_kv_schemes.py``).

    Raises UnsupportedError for a word that the release does not have on this device.
    """
    word = text.strip().lower().replace("-", "_")
    word = KVPLANS_OWN.get(word, word)
    if word in ("float16", "bfloat16"):
        return _sixteen_bits(word, facts, traits, rules)
    if word in rules.amd_dtypes and not device.amd:
        raise UnsupportedError(f"vLLM's {word} cache needs an AMD accelerator", "name one with --gpu")
    if word in rules.unpriced_dtypes:
        raise UnsupportedError(f"kvplan has no format for vLLM's {word} cache", "choose fp8, for example")
    choose_dtype(f"vLLM {rules.version}", text, words_of(rules, device.amd))
    if word != "auto":
        return word
    follows = facts.kv_scheme_method == "modelopt" or not traits.latent
    if follows and facts.kv_scheme in words_of(rules, device.amd):
        return str(facts.kv_scheme)
    fp8 = rules.glm_fp8_on_blackwell and device.major == 10 and traits.sparse and _is_glm(facts)
    return "fp8_e4m3" if fp8 else "auto"


def _is_glm(facts: ModelFacts) -> bool:
    """Whether indexed latent attention is GLM-5's: where the class is not known, by its 64 heads (DeepSeek has 128)."""
    return quirks_of(facts).fp8_on_blackwell or (facts.architecture_class is None and facts.num_heads == 64)


def _sixteen_bits(word: str, facts: ModelFacts, traits: Traits, rules: Rules) -> str:
    """A 16-bit word, which must be the model's dtype since 0.33 (DeepSeek-V3.2 reads ``bfloat16`` as ``auto``)."""
    own = "float16" if facts.dtype == "fp16" else "bfloat16"
    if rules.sixteen_bits_match and word != own and not traits.sparse:
        raise UnsupportedError(f"vLLM {rules.version} has no {word} cache for a {own} model", f"use auto or {own}")
    return word


def stored_format(
    text: str, facts: ModelFacts, stages: tuple[Stage, ...], settings: EngineSettings, rules: Rules, device: Device
) -> str:
    """The kvplan format of vLLM's cache for a ``--kv-dtype`` of ``text``. Raises UnsupportedError."""
    traits = run_traits(stages, facts)
    word = resolve_word(text, facts, traits, rules, device)
    if traits.compressed:
        return _compressed_format(word, rules)
    if traits.latent and word.startswith("nvfp4") and word not in PACKED_LATENT:
        raise UnsupportedError("vLLM has no nvfp4 cache for latent attention (MLA)", "use fp8, or nvfp4_ds_mla")
    if traits.sparse:
        word = _sparse_word(word, facts, traits, settings, rules, device)
    quirks = quirks_of(facts)
    one_head = quirks.single_head_uncached_dtype and traits.num_kv_heads == 1
    if (one_head or (quirks.uneven_heads and not rules.mimo_cache_dtype)) and word not in TURBOQUANT:
        word = "auto"  # TurboQuant still aligns the block size, so it stays the run's dtype
    return words_of(rules, device.amd)[word]


def _compressed_format(word: str, rules: Rules) -> str:
    known = ("fp8", "fp8_e4m3", "fp8_ds_mla", *(("auto",) if rules.compressed_auto else ()))
    if word not in known:
        raise UnsupportedError(
            f"vLLM {rules.version} has no cache dtype {word} for DeepSeek-V4", "its layout is FP8 alone: use fp8"
        )
    return "fp8_ds_mla"


def _sparse_word(
    word: str, facts: ModelFacts, traits: Traits, settings: EngineSettings, rules: Rules, device: Device
) -> str:
    """Packed rows where the backend stores FP8 so: FLASHMLA_SPARSE always, the SM120 one for ``auto`` too."""
    query = sparse_query(word, facts, traits, settings, rules, device)
    name = choose_backend(query).name
    if name == "FLASHMLA_SPARSE" and word not in ("auto", "float16", "bfloat16", "nvfp4_ds_mla"):
        return "fp8_ds_mla"
    return "fp8_ds_mla" if name == "FLASHINFER_MLA_SPARSE_SM120" else word


def sparse_query(
    word: str, facts: ModelFacts, traits: Traits, settings: EngineSettings, rules: Rules, device: Device
) -> Query:
    """The question of a layer of sparse latent attention."""
    return Query(
        rules=rules,
        device=device,
        head_dim=traits.head_dim,
        v_head_dim=0,
        dtype=word,
        run_dtype=word,
        model_head_dim=traits.head_dim,
        model_kv_heads=1,
        rank_heads=facts.num_heads or 1,
        latent=True,
        sparse=True,
        user_block_tokens=settings.block_tokens,
        user_backend=settings.attention_backend.upper() if settings.attention_backend else None,
    )


def run_word(choice: CacheChoice, rules: Rules, device: Device) -> str:
    """vLLM's word for the formats of a request. Raises UnsupportedError for formats that vLLM does not store."""
    kv_format = choice.kv_format
    if kv_format.key != kv_format.value:
        raise UnsupportedError("vLLM stores keys and values in one cache dtype", f"not {kv_format.name}")
    name = kv_format.key.name
    word = WORDS.get(name, name)
    if word not in words_of(rules, device.amd):
        choose_dtype(f"vLLM {rules.version}", name, words_of(rules, device.amd))
    return word


def layer_word(kv_format: KVFormat, word: str) -> str:
    """The word of one layer: ``auto`` where the layer is left in the model's dtype."""
    return "auto" if kv_format.key == kv_format.native else word
