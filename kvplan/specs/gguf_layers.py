"""What each layer of a GGUF model keeps, by the rules of llama.cpp's own loader.

Which layers slide, share or recur is decided per architecture in llama.cpp (``src/llama-model.cpp`` and
``src/models/*.cpp``, 2026; ``load_arch_hparams``), partly from keys, partly from constants. The tables here repeat
those rules. An architecture without an entry is refused: a plain decoder is never assumed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvplan.core import attention, recurrent
from kvplan.core.attention import LayerKind
from kvplan.core.config_reader import ConfigReader
from kvplan.core.frozen import dataclass
from kvplan.core.model import Architecture, Layer

MAX_LAYERS = 1024
"""Twice the most that llama.cpp takes (LLAMA_MAX_LAYERS)."""

_FULL_ATTENTION_NAMES = """
    llama mistral3 deci falcon baichuan grok gpt2 gptj gptneox mpt starcoder starcoder2 refact bloom stablelm
    qwen qwen2 qwen2moe qwen2vl qwen3 qwen3moe qwen3vl qwen3vlmoe phi2 phi3 phimoe plamo codeshell orion internlm2
    minicpm gemma xverse command-r dbrx olmo olmoe openelm arctic deepseek chatglm glm4 glm4moe bitnet jais jais2
    nemotron exaone granite granitemoe chameleon bailingmoe bailingmoe2 dots1 arcee ernie4_5 ernie4_5-moe
    hunyuan-moe hunyuan-dense hunyuan_vl hy_v3 smollm3 seed_oss grovemoe apertus minimax-m2 cogvlm pangu-embedded
    paddleocr maincoder
"""
FULL_ATTENTION = frozenset(_FULL_ATTENTION_NAMES.split())
"""Attention on every layer that has KV heads, all tokens kept, whatever window the file mentions."""

LATENT = frozenset({"deepseek2", "mistral4", "minicpm3", "plm", "deepseek32", "glm-dsa", "kimi-linear"})
INDEXED = frozenset({"deepseek32", "glm-dsa"})


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowRule:
    """Which layers of an architecture slide, unless ``attention.sliding_window_pattern`` in the file says it.

    ``period``       of every ``period`` layers one is full: the last, or the first (``full_first``); None: the file
                     must say it
    ``silent``       the window when the file states none; 0: then nothing slides; None: then the file is refused
    ``fixed``        the window that replaces any positive one in the file
    ``chunked``      chunks instead of windows
    ``only_layers``  the period holds for models of exactly this depth; others slide only if the file says which layers
    """

    period: int | None
    silent: int | None = None
    fixed: int | None = None
    full_first: bool = False
    chunked: bool = False
    only_layers: int | None = None


WINDOWED: dict[str, WindowRule] = {
    "gemma2": WindowRule(period=2, silent=4096),
    "gemma3": WindowRule(period=6, silent=0),
    "gemma3n": WindowRule(period=5),
    "gemma4": WindowRule(period=None),
    "cohere2": WindowRule(period=4),
    "olmo2": WindowRule(period=4, silent=0),
    "exaone4": WindowRule(period=4, silent=4096, only_layers=64),
    "exaone-moe": WindowRule(period=4),
    "gpt-oss": WindowRule(period=2),
    "llama4": WindowRule(period=4, silent=8192, fixed=8192, chunked=True),
    "smallthinker": WindowRule(period=4, silent=0, fixed=4096, full_first=True),
    "afmoe": WindowRule(period=4, silent=0),
    "mimo2": WindowRule(period=None),
    "step35": WindowRule(period=None),
}


def read_architecture(reader: ConfigReader, name: str) -> Architecture:
    """The layers of a GGUF model; ``reader`` holds the keys below ``{name}.``, ``name`` is a known architecture.

    Raises MissingKeyError and SpecError with the key at fault.
    """
    num_layers = reader.integer("block_count")
    if num_layers > MAX_LAYERS:
        reader.wrong("block_count", f"must be at most {MAX_LAYERS}, not {num_layers}")
    num_draft = reader.integer("nextn_predict_layers", default=0, minimum=0)
    if num_draft >= num_layers:
        reader.wrong("nextn_predict_layers", f"must be below block_count {num_layers}, not {num_draft}")
    plan = _Plan(reader, name, num_layers, num_layers - num_draft)
    layers = tuple(plan.layer(index) for index in range(num_layers))
    return Architecture(
        layers=layers[: plan.num_main],
        draft_layers=layers[plan.num_main :],
        hidden_size=reader.integer("embedding_length"),
        num_heads=max(plan.num_heads) or None,
        max_context_tokens=reader.optional_integer("context_length"),
        notes=tuple(reader.notes),
    )


def known_architectures() -> list[str]:
    """The values of ``general.architecture`` that are understood."""
    return sorted(FULL_ATTENTION | LATENT | WINDOWED.keys() | RECURRENT.keys())


class _Plan:
    """The per-layer lists of one model, read once; ``layer`` puts them together."""

    def __init__(self, reader: ConfigReader, name: str, num_layers: int, num_main: int) -> None:
        self.reader, self.name = reader, name
        self.num_layers, self.num_main = num_layers, num_main
        self.num_heads = self.per_layer("attention.head_count", default=0)
        self.num_kv_heads = self.per_layer("attention.head_count_kv", default=self.num_heads)
        self.windows = self.read_windows()
        self.states = self.read_states()
        self.num_owners = num_layers - self.num_sharing()
        self.indexed = self.read_indexed()

    def per_layer(self, key: str, default: int | list[int]) -> list[int]:
        """One number for each layer: the file has a list, or one number for all."""
        value = self.reader.value(key, default=default)
        if not isinstance(value, list):
            value = [self.reader.integer(key, default=0, minimum=0)] * self.num_layers
        if len(value) not in (self.num_layers, self.num_main):
            self.reader.wrong(key, f"has {len(value)} entries for {self.num_layers} layers")
        if not all(isinstance(item, int) and item >= 0 for item in value):
            self.reader.wrong(key, "must hold whole numbers of 0 or more")
        return [int(item) for item in value] + [int(value[-1])] * (self.num_layers - len(value))

    def read_windows(self) -> list[int | None]:
        """The window of each layer, None where all tokens are kept."""
        rule = WINDOWED.get(self.name)
        stated = self.reader.optional_integer("attention.sliding_window", minimum=0)
        if rule is None:
            if stated:
                self.reader.note(
                    f"the file mentions a window of {stated} tokens, but llama.cpp keeps all for {self.name}"
                )
            return [None] * self.num_layers
        pattern = self.reader.value("attention.sliding_window_pattern")
        if pattern is None and rule.only_layers not in (None, self.num_main):
            return [None] * self.num_layers
        window = rule.silent if stated is None else stated
        if window is None:
            self.reader.missing("attention.sliding_window")
        if not window:
            return [None] * self.num_layers
        sliding = self.sliding_layers(rule, pattern)
        return [(rule.fixed or window) if slides else None for slides in sliding]

    def sliding_layers(self, rule: WindowRule, pattern: Any) -> list[bool]:
        """Which layers slide: a list in the file, a period in the file, or the architecture's own period."""
        key = "attention.sliding_window_pattern"
        if isinstance(pattern, list):
            flags = self.per_layer(key, default=0)
            return [bool(flag) and index < self.num_main for index, flag in enumerate(flags)]
        period = self.reader.integer(key, default=rule.period, minimum=0)
        full = 0 if rule.full_first else period - 1
        return [index < self.num_main and (not period or index % period != full) for index in range(self.num_layers)]

    def read_states(self) -> list[LayerKind | None]:
        """The recurrent state of each layer; draft layers have none."""
        if self.name not in RECURRENT:
            return [None] * self.num_layers
        state, recurs = RECURRENT[self.name]
        chosen = recurs(self)
        kind = state(self.reader, max(self.num_heads)) if any(chosen) else None
        return [kind if recurring else None for recurring in chosen]

    def num_sharing(self) -> int:
        """How many of the last layers read an earlier layer's cache: a key, or llama.cpp's constant for Gemma 3n."""
        if self.name not in ("gemma3n", "gemma4"):
            return 0
        default = max(self.num_layers - 20, 0) if self.name == "gemma3n" else 0
        sharing = self.reader.integer("attention.shared_kv_layers", default=default, minimum=0)
        if sharing >= self.num_layers:
            self.reader.wrong("attention.shared_kv_layers", f"must be below block_count, not {sharing}")
        return sharing

    def read_indexed(self) -> list[bool]:
        """Which layers keep index keys. GLM-5.2 (1M context) has them on 2 + every fourth layer, others on all."""
        if self.name not in INDEXED:
            return [False] * self.num_layers
        if self.reader.has("attention.indexer.types"):
            return [bool(flag) for flag in self.per_layer("attention.indexer.types", default=0)]
        sparse = self.name == "glm-dsa" and self.reader.integer("context_length") >= 1048576
        return [not sparse or index < 2 or index % 4 == 2 for index in range(self.num_layers)]

    def layer(self, index: int) -> Layer:
        """Everything that the layer keeps."""
        state = self.states[index]
        kinds: list[LayerKind] = []
        if self.num_kv_heads[index] and (state is None or self.name in PARALLEL):
            kinds.append(self.attention_kind(index))
        if self.indexed[index]:
            kinds.append(attention.IndexKeys(head_dim=self.reader.integer("attention.indexer.key_length")))
        if state is not None:
            kinds.append(state)
        return tuple(kinds) or (attention.NoCache(),)

    def attention_kind(self, index: int) -> LayerKind:
        """The attention cache of a layer that has KV heads."""
        window = self.windows[index]
        if index >= self.num_owners:
            return attention.Shared(source_layer=max(self.num_owners - (1 if window is None else 2), 0))
        if self.name in LATENT and self.reader.has("attention.key_length_mla"):
            return self.latent()
        heads = self.num_kv_heads[index]
        key, value = self.head_dims(sliding=window is not None)
        v_head_dim = value if value != key else None
        if window is None:
            return attention.FullAttention(num_kv_heads=heads, head_dim=key, v_head_dim=v_head_dim)
        if WINDOWED[self.name].chunked:
            return attention.ChunkedLocal(num_kv_heads=heads, head_dim=key, v_head_dim=v_head_dim, chunk_size=window)
        return attention.SlidingWindow(num_kv_heads=heads, head_dim=key, v_head_dim=v_head_dim, window=window)

    def head_dims(self, sliding: bool) -> tuple[int, int]:
        """Widths of a key and of a value; sliding layers may have their own."""
        first = next((heads for heads in self.num_heads if heads), 1)
        default = self.reader.integer("embedding_length") // first
        if self.name in LATENT:
            self.reader.note(
                "the file has no attention.key_length_mla: llama.cpp caches expanded heads, not the latent"
            )
        names = [f"attention.{part}_length" for part in ("key", "value")]
        widths = [self.reader.integer(name, default=default) for name in names]
        if sliding:
            widths = [self.reader.integer(f"{name}_swa", default=width) for name, width in zip(names, widths)]
        return widths[0], widths[1]

    def latent(self) -> LayerKind:
        """The latent and rotary key; the converter writes their joint width as ``key_length``."""
        rank = self.reader.integer("attention.kv_lora_rank")
        joint = self.reader.integer("attention.key_length")
        if joint < rank:
            self.reader.wrong("attention.key_length", f"must be at least the latent's {rank}, not {joint}")
        return attention.Latent(kv_lora_rank=rank, qk_rope_head_dim=joint - rank)


# -- layers with a state ----------------------------------------------------------------------------------------


def _mamba1(reader: ConfigReader, num_heads: int) -> LayerKind:
    return recurrent.Mamba1(
        intermediate_size=reader.integer("ssm.inner_size"),
        state_size=reader.integer("ssm.state_size"),
        conv_kernel=reader.integer("ssm.conv_kernel"),
    )


def _mamba2(reader: ConfigReader, num_heads: int) -> LayerKind:
    heads = reader.integer("ssm.time_step_rank")
    return recurrent.Mamba2(
        num_heads=heads,
        head_dim=_divided(reader, "ssm.inner_size", heads),
        state_size=reader.integer("ssm.state_size"),
        num_groups=reader.integer("ssm.group_count"),
        conv_kernel=reader.integer("ssm.conv_kernel"),
    )


def _delta_net(reader: ConfigReader, num_heads: int) -> LayerKind:
    heads = reader.integer("ssm.time_step_rank")
    return recurrent.GatedDeltaNet(
        num_k_heads=reader.integer("ssm.group_count"),
        num_v_heads=heads,
        k_head_dim=reader.integer("ssm.state_size"),
        v_head_dim=_divided(reader, "ssm.inner_size", heads),
        conv_kernel=reader.integer("ssm.conv_kernel"),
    )


def _kda(reader: ConfigReader, num_heads: int) -> LayerKind:
    return recurrent.KimiDeltaAttention(
        num_heads=num_heads, head_dim=reader.integer("kda.head_dim"), conv_kernel=reader.integer("ssm.conv_kernel")
    )


def _short_conv(reader: ConfigReader, num_heads: int) -> LayerKind:
    return recurrent.ShortConv(
        channels=reader.integer("embedding_length"), conv_kernel=reader.integer("shortconv.l_cache")
    )


def _rwkv(reader: ConfigReader, num_heads: int) -> LayerKind:
    head_dim = reader.integer("wkv.head_size")
    return recurrent.Rwkv(
        hidden_size=reader.integer("embedding_length"),
        num_heads=_divided(reader, "embedding_length", head_dim),
        head_dim=head_dim,
        state_columns=head_dim,
        num_shift_rows=reader.integer("token_shift_count", default=2),
    )


def _divided(reader: ConfigReader, key: str, divisor: int) -> int:
    value = reader.integer(key)
    if value % divisor:
        reader.wrong(key, f"must be a multiple of {divisor}, not {value}")
    return value // divisor


def _everywhere(plan: _Plan) -> list[bool]:
    return [True] * plan.num_layers


def _without_kv_heads(plan: _Plan) -> list[bool]:
    return [not heads for heads in plan.num_kv_heads]


def _without_kv_heads_and_mlp(plan: _Plan) -> list[bool]:
    widths = plan.per_layer("feed_forward_length", default=0)
    return [not heads and not width for heads, width in zip(plan.num_kv_heads, widths)]


def _between_full_attention(plan: _Plan) -> list[bool]:
    if plan.reader.has("attention.recurrent_layers"):
        return [bool(flag) for flag in plan.per_layer("attention.recurrent_layers", default=0)]
    interval = plan.reader.integer("full_attention_interval", default=4)
    return [index < plan.num_main and (index + 1) % interval != 0 for index in range(plan.num_layers)]


RECURRENT: dict[str, tuple[Callable[[ConfigReader, int], LayerKind], Callable[[_Plan], list[bool]]]] = {
    "mamba": (_mamba1, _everywhere),
    "mamba2": (_mamba2, _everywhere),
    "jamba": (_mamba1, _without_kv_heads),
    "granitehybrid": (_mamba2, _without_kv_heads),
    "nemotron_h": (_mamba2, _without_kv_heads_and_mlp),
    "nemotron_h_moe": (_mamba2, _without_kv_heads_and_mlp),
    "falcon-h1": (_mamba2, _everywhere),
    "qwen3next": (_delta_net, _between_full_attention),
    "qwen35": (_delta_net, _between_full_attention),
    "qwen35moe": (_delta_net, _between_full_attention),
    "kimi-linear": (_kda, _without_kv_heads),
    "lfm2": (_short_conv, _without_kv_heads),
    "lfm2moe": (_short_conv, _without_kv_heads),
    "rwkv6": (_rwkv, _everywhere),
    "rwkv6qwen2": (_rwkv, _everywhere),
    "rwkv7": (_rwkv, _everywhere),
    "arwkv7": (_rwkv, _everywhere),
}
"""Architecture -> (the state of a recurrent layer, which layers recur)."""

PARALLEL = frozenset({"falcon-h1"})
"""Architectures whose layers run attention and a recurrent mixer side by side."""
