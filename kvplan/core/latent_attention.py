"""Multi-head latent attention and its sparse index, read from a config and counted.

DeepSeek-V2 (arXiv 2405.04434) introduced the latent; DeepSeek-V3.2 and GLM-5 add an index of keys that picks the
tokens to read (DSA). Key names are those of transformers 5.23, which the published files share.
"""

from __future__ import annotations

from kvplan.core.attention import IndexKeys, Latent
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import linear
from kvplan.core.frozen import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentShape:
    """The projections of one latent attention block; ``q_lora_rank`` None projects queries in one step (V2-Lite)."""

    hidden_size: int
    num_heads: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    q_lora_rank: int | None
    bias: bool = False

    def kind(self) -> Latent:
        """What the block stores per token."""
        return Latent(kv_lora_rank=self.kv_lora_rank, qk_rope_head_dim=self.qk_rope_head_dim)

    def parameters(self) -> int:
        """Query, key-value and output projections with the norms of the two latents."""
        hidden, rank = self.hidden_size, self.kv_lora_rank
        query = self.num_heads * (self.qk_nope_head_dim + self.qk_rope_head_dim)
        if self.q_lora_rank is None:
            queries = linear(hidden, query)
        else:
            down = linear(hidden, self.q_lora_rank, self.bias)
            queries = down + self.q_lora_rank + linear(self.q_lora_rank, query)
        keys_values = (
            linear(hidden, rank + self.qk_rope_head_dim, self.bias)
            + rank
            + linear(rank, self.num_heads * (self.qk_nope_head_dim + self.v_head_dim))
        )
        return queries + keys_values + linear(self.num_heads * self.v_head_dim, hidden, self.bias)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexerShape:
    """The indexer of DeepSeek sparse attention: queries from the query latent, one key head, a weight per head."""

    hidden_size: int
    q_lora_rank: int
    num_heads: int
    head_dim: int

    def kind(self) -> IndexKeys:
        """What the indexer stores per token."""
        return IndexKeys(head_dim=self.head_dim)

    def parameters(self) -> int:
        """Query, key and weight projections, and the layer norm (weight and bias) of the key."""
        return (
            linear(self.q_lora_rank, self.num_heads * self.head_dim)
            + linear(self.hidden_size, self.head_dim)
            + 2 * self.head_dim
            + linear(self.hidden_size, self.num_heads)
        )


def read_latent_shape(
    config: ConfigReader, hidden_size: int, num_heads: int, default_v_head_dim: int | None = None
) -> LatentShape:
    """The latent attention of a config; ``default_v_head_dim`` is what the model's class takes for an absent key.

    Raises MissingKeyError for an absent rank or width. ``q_lora_rank`` must be written down: null (V2-Lite) and
    absent (a class default of 1536) mean different models.
    """
    config.ignore("head_dim", "qk_head_dim", "num_key_value_heads")  # derived, or a relic of the unfolded heads
    if "q_lora_rank" not in config.values:
        config.missing("q_lora_rank")
    if default_v_head_dim is not None and not config.has("v_head_dim"):
        config.note(f"{config.path}v_head_dim is absent: {default_v_head_dim}, the default of its class, is assumed")
    return LatentShape(
        hidden_size=hidden_size,
        num_heads=num_heads,
        kv_lora_rank=config.integer("kv_lora_rank"),
        qk_nope_head_dim=config.integer("qk_nope_head_dim"),
        qk_rope_head_dim=config.integer("qk_rope_head_dim", minimum=0),
        v_head_dim=config.integer("v_head_dim", default=default_v_head_dim),
        q_lora_rank=config.optional_integer("q_lora_rank"),
        bias=config.flag("attention_bias", default=False),
    )


def read_index_layers(config: ConfigReader, num_layers: int) -> list[bool]:
    """Which layers compute their own index; the others reuse an earlier layer's choice and store no index keys.

    ``indexer_types`` (full, shared) wins over ``index_topk_pattern`` (F, S), which wins over the schedule of
    ``index_topk_freq`` and ``index_skip_topk_offset`` (transformers 5.23 ``GlmMoeDsaConfig``; vLLM 0.33
    ``models/deepseek_v32/attention.py`` reads the last two alike).
    """
    pattern = config.value("index_topk_pattern")
    every = config.integer("index_topk_freq", default=1)
    offset = config.integer("index_skip_topk_offset", default=2, minimum=0)
    types = config.texts("indexer_types", allowed=("full", "shared"))
    name = "indexer_types"
    if types is None and pattern is not None:
        name, types = "index_topk_pattern", _spell_out(config, pattern)
    if types is None:
        name = "index_topk_freq"
        types = ["shared" if max(layer - offset + 1, 0) % every else "full" for layer in range(num_layers)]
    if len(types) != num_layers:
        config.wrong(name, f"has {len(types)} entries for {num_layers} layers")
    if types[0] != "full":
        config.wrong(name, "lets the first layer share an index that no layer before it computes")
    return [entry == "full" for entry in types]


def _spell_out(config: ConfigReader, pattern: object) -> list[str]:
    letters = {"F": "full", "S": "shared", "full": "full", "shared": "shared"}
    types = []
    for entry in pattern if isinstance(pattern, (str, list)) else [pattern]:
        if not isinstance(entry, str) or entry not in letters:
            config.wrong("index_topk_pattern", f"has the unknown entry {entry!r} (known: F, S)")
        types.append(letters[entry])
    return types
