"""Parameter counts of a mixture-of-experts block with gated experts, and which layers have one."""

from __future__ import annotations

from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import gated_mlp
from kvplan.core.frozen import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureShape:
    """``num_experts`` gated experts of which a token visits ``num_active``, and an always-active shared one.

    A bias that only balances the load (DeepSeek-V3's ``e_score_correction_bias``) is a buffer, no parameter.
    """

    hidden_size: int
    expert_intermediate_size: int
    num_experts: int
    num_active: int
    shared_intermediate_size: int = 0

    @property
    def expert(self) -> int:
        """Parameters of one routed expert."""
        return gated_mlp(self.hidden_size, self.expert_intermediate_size)

    @property
    def experts(self) -> int:
        """Parameters of all routed experts."""
        return self.num_experts * self.expert

    @property
    def idle(self) -> int:
        """Parameters of the routed experts that a token does not visit."""
        return (self.num_experts - self.num_active) * self.expert

    @property
    def shared(self) -> int:
        """Parameters of the shared experts."""
        return gated_mlp(self.hidden_size, self.shared_intermediate_size)

    @property
    def router(self) -> int:
        """Parameters of the router."""
        return self.hidden_size * self.num_experts


def read_sparse_layers(config: ConfigReader, num_layers: int) -> list[bool]:
    """Which layers hold experts, in configs of DeepSeek's kind.

    ``mlp_layer_types`` wins; then a ``moe_layer_freq`` that lists 1 for a layer with experts (MiMo, MiniMax-M3); else
    all layers from ``first_k_dense_replace`` on that ``moe_layer_freq`` divides (DeepSeek's own modeling code; every
    published file has a frequency of 1). Raises MissingKeyError without any.
    """
    types = config.texts("mlp_layer_types", allowed=("dense", "sparse"))
    listed = config.integers("moe_layer_freq") if isinstance(config.value("moe_layer_freq"), list) else None
    if types is None and listed is not None:
        types = ["sparse" if entry else "dense" for entry in listed]
    if types is not None:
        config.ignore("first_k_dense_replace")
        if len(types) != num_layers:
            config.wrong(
                "mlp_layer_types" if listed is None else "moe_layer_freq",
                f"has {len(types)} entries for {num_layers} layers",
            )
        return [entry == "sparse" for entry in types]
    every = config.integer("moe_layer_freq", default=1)
    first = config.integer("first_k_dense_replace", minimum=0)
    return [layer >= first and layer % every == 0 for layer in range(num_layers)]
