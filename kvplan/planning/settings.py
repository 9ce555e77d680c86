"""Engine settings in words (``40GiB``, ``8k``, ``h100``) become EngineSettings."""

from __future__ import annotations

from kvplan.core.accelerator import Accelerator
from kvplan.core.engine import EngineSettings
from kvplan.core.frozen import dataclass
from kvplan.core.units import parse_bytes, parse_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingWords:
    """What a user says about the engine; None leaves it to the engine."""

    gpu: str | None = None
    kv_memory: str | None = None
    block_size: str | None = None
    attention_backend: str | None = None
    prefix_caching: bool | None = None
    max_model_len: str | None = None
    max_num_batched_tokens: str | None = None
    max_num_seqs: str | None = None
    num_speculative_tokens: str | None = None


def read_settings(words: SettingWords) -> EngineSettings:
    """The settings that the words mean. Raises UsageError or UnknownNameError."""
    return EngineSettings(
        accelerator=_accelerator(words.gpu),
        kv_memory_bytes=None if words.kv_memory is None else parse_bytes(words.kv_memory, "--kv-memory"),
        block_tokens=_count(words.block_size, "--block-size"),
        attention_backend=words.attention_backend,
        prefix_caching=words.prefix_caching,
        max_model_len=_count(words.max_model_len, "--max-model-len"),
        max_num_batched_tokens=_count(words.max_num_batched_tokens, "--max-num-batched-tokens"),
        max_num_seqs=_count(words.max_num_seqs, "--max-num-seqs"),
        num_speculative_tokens=_count(words.num_speculative_tokens, "--num-speculative-tokens"),
    )


def _count(text: str | None, what: str) -> int | None:
    return None if text is None else parse_tokens(text, what)


def _accelerator(name: str | None) -> Accelerator | None:
    if name is None:
        return None
    from kvplan.specs.accelerator import parse_accelerator  # reads YAML: only where a device is named

    accelerator, _ = parse_accelerator(name)
    return accelerator
