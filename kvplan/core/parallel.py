"""How a model is spread over devices: tensor, pipeline, data and decode-context parallelism."""

from __future__ import annotations

from kvplan.core.errors import UsageError
from kvplan.core.frozen import dataclass
from kvplan.core.model import Architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallel:
    """Parallel sizes; ranks are listed replica by replica, then stage by stage.

    ``dcp`` interleaves a sequence's tokens over ranks inside a tensor-parallel group.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    dcp: int = 1

    def __post_init__(self) -> None:
        for name in ("tp", "pp", "dp", "dcp"):
            if not 1 <= getattr(self, name) <= 4096:
                raise UsageError(f"--{name} must lie between 1 and 4096, not {getattr(self, name)}")
        if self.tp % self.dcp:
            raise UsageError(
                f"--dcp {self.dcp} does not divide --tp {self.tp}",
                "decode-context ranks live inside a tensor-parallel group",
            )

    @property
    def head_ranks(self) -> int:
        """Ranks over which heads are split; the ``dcp`` ranks of a group hold the same heads, other tokens."""
        return self.tp // self.dcp

    def check(self, architecture: Architecture) -> None:
        """Raise UsageError where the model cannot be split so."""
        heads = architecture.num_heads
        if heads is not None and heads % self.tp:
            allowed = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
            raise UsageError(f"--tp {self.tp} does not divide the {heads} attention heads", f"allowed: {allowed}")
        if self.pp > architecture.num_layers:
            raise UsageError(f"--pp {self.pp} is more than the {architecture.num_layers} layers")

    def sequences_per_replica(self, concurrency: int) -> tuple[int, ...]:
        """Concurrent sequences on each data-parallel replica, as even as they come."""
        base, rest = divmod(concurrency, self.dp)
        return tuple(base + (index < rest) for index in range(self.dp))


def pipeline_stages(num_layers: int, pp: int) -> tuple[int, ...]:
    """Layers of each pipeline stage.

    A remainder goes one layer each to the stages before the last, from the back: the last stage holds the output
    head and the first the embedding (vLLM 0.33, ``distributed/utils.py`` ``get_pp_indices``).
    """
    sizes = [num_layers // pp] * pp
    for offset in range(num_layers % pp):
        sizes[-2 - offset] += 1
    return tuple(sizes)
