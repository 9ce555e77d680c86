"""DeepSeek-V4: a sliding latent in every layer, compressed streams of the whole context in most.

Each layer keeps one row per token of the newest ``sliding_window`` tokens; the row serves as key and value of all
heads. A compressed layer adds one row for every 4 tokens (compressed sparse attention, with an index of the same
rate) or every 128 (heavily compressed attention). Shapes and key names: transformers 5.23 ``models/deepseek_v4``.

A compressor folds tokens as they come, so it carries the raw projections and gate scores of the group it has not
closed yet; at rate 4 groups overlap, which doubles the rows and gives every token two series. The geometry counts
what serving code holds, in fp32: ``2 * rate`` rows of two series (rate 4), ``rate`` rows of one (rate 128), each
with values and scores (vLLM 0.33 ``models/deepseek_v4/compressor.py``, llama.cpp b10256 ``llama-kv-cache``).
transformers keeps only the rows in use, in the compute dtype: its fixed part is smaller, its growth the same.
"""

from __future__ import annotations

from dataclasses import replace

from kvplan.core.attention import CompressedStream, IndexKeys, Latent
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import linear
from kvplan.core.decoder import read_mixture
from kvplan.core.family import Family
from kvplan.core.frozen import dataclass
from kvplan.core.mixture import MixtureShape
from kvplan.core.model import Architecture, Layer, Parameters
from kvplan.core.recurrent import StateBuffer
from kvplan.core.widths import Widths

_WINDOW = "sliding_attention"
_SPARSE = "compressed_sparse_attention"
_HEAVY = "heavily_compressed_attention"

_TYPE_OF_RATIO = {0: _WINDOW, 4: _SPARSE, 128: _HEAVY}
"""What the published ``compress_ratios`` mean (transformers 5.23 ``_COMPRESS_RATIO_TO_LAYER_TYPE``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """The attention of a V4 config. Methods take a layer type and answer for one layer of it."""

    hidden_size: int
    num_heads: int
    head_dim: int
    rope_head_dim: int
    window: int
    q_lora_rank: int
    o_groups: int
    o_lora_rank: int
    index_heads: int
    index_head_dim: int
    sparse_rate: int
    heavy_rate: int

    def layer(self, layer_type: str) -> Layer:
        """What the layer stores."""
        window = Latent(
            kv_lora_rank=self.head_dim - self.rope_head_dim, qk_rope_head_dim=self.rope_head_dim, window=self.window
        )
        if layer_type == _SPARSE:
            return (
                window,
                self._stream(self.sparse_rate),
                IndexKeys(head_dim=self.index_head_dim, tokens_per_row=self.sparse_rate),
                StateBuffer(rows=2 * self.sparse_rate, width=2 * 2 * self.head_dim),
                StateBuffer(rows=2 * self.sparse_rate, width=2 * 2 * self.index_head_dim),
            )
        if layer_type == _HEAVY:
            return (
                window,
                self._stream(self.heavy_rate),
                StateBuffer(rows=self.heavy_rate, width=2 * self.head_dim),
            )
        return (window,)

    def _stream(self, rate: int) -> CompressedStream:
        return CompressedStream(head_dim=self.head_dim, rope_head_dim=self.rope_head_dim, tokens_per_row=rate)

    def parameters(self, layer_type: str) -> int:
        """Low-rank queries, the shared key-value row, the grouped output, a sink per head, and the compressor."""
        hidden, head = self.hidden_size, self.head_dim
        query = self.num_heads * head
        queries = linear(hidden, self.q_lora_rank) + self.q_lora_rank + linear(self.q_lora_rank, query)
        row = linear(hidden, head) + head
        group_out = self.o_groups * self.o_lora_rank
        output = linear(query // self.o_groups, group_out) + linear(group_out, hidden)
        return queries + row + output + self.num_heads + self._compressor_parameters(layer_type)

    def _compressor_parameters(self, layer_type: str) -> int:
        if layer_type == _HEAVY:
            return self._folding_parameters(self.head_dim, series=1, rate=self.heavy_rate)
        if layer_type == _WINDOW:
            return 0
        index = (
            self._folding_parameters(self.index_head_dim, series=2, rate=self.sparse_rate)
            + linear(self.q_lora_rank, self.index_heads * self.index_head_dim)
            + linear(self.hidden_size, self.index_heads)
        )
        return self._folding_parameters(self.head_dim, series=2, rate=self.sparse_rate) + index

    def _folding_parameters(self, head_dim: int, series: int, rate: int) -> int:
        """Value and gate projections, a bias per position in the group, and the norm of the folded row."""
        return 2 * linear(self.hidden_size, series * head_dim) + rate * series * head_dim + head_dim


def _read(config: ConfigReader) -> Architecture:
    num_layers = config.integer("num_hidden_layers")
    shape = _read_shape(config)
    types, draft_types = _read_layer_types(config, num_layers)
    return Architecture(
        layers=tuple(shape.layer(layer_type) for layer_type in types),
        hidden_size=shape.hidden_size,
        num_heads=shape.num_heads,
        max_context_tokens=config.optional_integer("max_position_embeddings"),
        draft_layers=tuple(shape.layer(layer_type) for layer_type in draft_types),
        parameters=_parameters(config, shape, types, draft_types),
        widths=_widths(config, shape),
    )


def _widths(config: ConfigReader, shape: _Shape) -> Widths:
    mixture = _read_experts(config, shape.hidden_size)
    return Widths(
        vocab_size=config.integer("vocab_size"),
        num_experts=mixture.num_experts,
        experts_per_token=mixture.num_active,
        moe_intermediate_size=mixture.expert_intermediate_size,
        shared_intermediate_size=mixture.shared_intermediate_size,
        q_lora_rank=shape.q_lora_rank,
        index_num_heads=shape.index_heads,
        tied_embeddings=config.flag("tie_word_embeddings", default=False),
    )


def _read_experts(config: ConfigReader, hidden_size: int) -> MixtureShape:
    expert_size = config.integer("moe_intermediate_size")
    shared_size = expert_size * config.integer("n_shared_experts", minimum=0)
    return read_mixture(config, hidden_size, expert_size, shared_size=shared_size)


def _read_shape(config: ConfigReader) -> _Shape:
    if config.integer("num_key_value_heads", default=1) != 1:
        config.wrong("num_key_value_heads", "must be 1: keys and values are one shared row")
    head_dim = config.integer("head_dim")
    sparse_rate, heavy_rate = _read_rates(config)
    return _Shape(
        hidden_size=config.integer("hidden_size"),
        num_heads=config.integer("num_attention_heads"),
        head_dim=head_dim,
        rope_head_dim=_read_rope_head_dim(config, head_dim),
        window=config.integer("sliding_window"),
        q_lora_rank=config.integer("q_lora_rank"),
        o_groups=config.integer("o_groups"),
        o_lora_rank=config.integer("o_lora_rank"),
        index_heads=config.integer("index_n_heads"),
        index_head_dim=config.integer("index_head_dim"),
        sparse_rate=sparse_rate,
        heavy_rate=heavy_rate,
    )


def _read_rope_head_dim(config: ConfigReader, head_dim: int) -> int:
    """``qk_rope_head_dim``, or the share of the head that transformers writes in its place."""
    width = config.optional_integer("qk_rope_head_dim")
    if width is None:
        width = int(head_dim * config.number("partial_rotary_factor"))
    if not 0 < width < head_dim:
        config.wrong("qk_rope_head_dim", f"must lie between 1 and head_dim - 1 ({head_dim - 1}), not {width}")
    return width


def _read_rates(config: ConfigReader) -> tuple[int, int]:
    """Tokens per row of the sparse and the heavy compression."""
    rates = config.section("compress_rates")
    sparse = config.integer("compress_rate_csa", default=4)
    heavy = config.integer("compress_rate_hca", default=128)
    if rates is not None:
        sparse, heavy = rates.integer(_SPARSE, default=sparse), rates.integer(_HEAVY, default=heavy)
    return sparse, heavy


def _read_layer_types(config: ConfigReader, num_layers: int) -> tuple[list[str], list[str]]:
    """The types of the model's layers and of its draft layers.

    ``layer_types`` wins over ``compress_ratios``. Entries beyond the model's layers belong to the draft layers;
    a draft layer without an entry has the window alone (vLLM 0.33 ``models/deepseek_v4/attention.py``).
    """
    types = config.texts("layer_types", allowed=tuple(_TYPE_OF_RATIO.values()))
    ratios = config.integers("compress_ratios")
    name = "layer_types"
    if types is None:
        if ratios is None:
            config.missing("layer_types", "compress_ratios")
        name, types = "compress_ratios", [_type_of_ratio(config, ratio) for ratio in ratios]
    surplus = len(types) - num_layers
    num_draft = config.integer("num_nextn_predict_layers", default=max(surplus, 0), minimum=0)
    if not 0 <= surplus <= num_draft:
        config.wrong(name, f"has {len(types)} entries for {num_layers} layers and {num_draft} draft layers")
    return types[:num_layers], types[num_layers:] + (num_draft - surplus) * [_WINDOW]


def _type_of_ratio(config: ConfigReader, ratio: int) -> str:
    if ratio not in _TYPE_OF_RATIO:
        config.wrong("compress_ratios", f"has the unknown ratio {ratio} (known: 0, 4, 128)")
    return _TYPE_OF_RATIO[ratio]


def _parameters(config: ConfigReader, shape: _Shape, types: list[str], draft_types: list[str]) -> Parameters:
    """Counts of the whole model. Hash layers route by a table of token ids, which is a buffer, no parameter."""
    hidden, num_layers = shape.hidden_size, len(types)
    vocab = hidden * config.integer("vocab_size")
    mixture = _read_experts(config, hidden)
    streams = config.integer("hc_mult")
    mixing = (2 + streams) * streams * (streams * hidden + 1) + 3  # one hyper-connection; two per layer
    collapse = streams * (streams * hidden + 1) + 1  # the streams' final sum
    draft_layer = mixture.experts + mixture.shared + mixture.router + 2 * mixing + 2 * hidden * hidden + 5 * hidden
    counts = Parameters(
        embedding=vocab,
        output_head=0 if config.flag("tie_word_embeddings", default=False) else vocab,
        attention=sum(shape.parameters(layer_type) for layer_type in types),
        mlp=num_layers * mixture.shared,
        experts=num_layers * mixture.experts,
        routers=num_layers * mixture.router,
        norms=(2 * num_layers + 1) * hidden,
        other=2 * num_layers * mixing + collapse,
        mtp=sum(shape.parameters(layer_type) + draft_layer for layer_type in draft_types),
    )
    return replace(counts, active=counts.total - num_layers * mixture.idle)


FAMILY = Family(
    name="deepseek_v4",
    model_types=("deepseek_v4",),
    architectures=("DeepseekV4ForCausalLM",),
    read=_read,
    neutral_keys=frozenset(
        {
            "_attn_implementation",
            "attention_bias",
            "compress_rope_theta",
            "expert_dtype",
            "hc_eps",
            "hc_sinkhorn_iters",
            "index_topk",
            "mlp_layer_types",
            "num_hash_layers",
            "swiglu_limit",
        }
    ),
)
