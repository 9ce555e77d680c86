"""Where ``fit`` puts a model when the user names devices but no parallel sizes."""

from __future__ import annotations

from kvplan.core.errors import UsageError
from kvplan.core.model import Architecture
from kvplan.core.parallel import Parallel


def choose_parallel(
    architecture: Architecture, count: int | None, tp: int | None, pp: int | None, dp: int | None, dcp: int
) -> Parallel:
    """The parallel sizes for ``count`` devices: what is stated stays, the rest goes to tensor parallelism.

    Where the heads do not split over the devices that are left, pipeline stages take a share of them. Raises
    UsageError where the stated sizes and the count contradict each other.
    """
    stated = (tp or 1) * (pp or 1) * (dp or 1)
    if count is None or tp is not None:
        if count is not None and stated != count and pp is not None and dp is not None:
            raise UsageError(f"--tp {tp} x --pp {pp} x --dp {dp} are {stated} devices, not --count {count}")
        rest = 1 if count is None else count // stated
        if count is not None and stated * rest != count:
            raise UsageError(f"--count {count} is no multiple of the {stated} devices that --tp, --pp and --dp take")
        if rest > 1 and dp is None:
            return Parallel(tp=tp or 1, pp=pp or 1, dp=rest, dcp=dcp)
        return Parallel(tp=tp or 1, pp=pp or 1, dp=dp or 1, dcp=dcp)
    if count % stated:
        raise UsageError(f"--count {count} is no multiple of the {stated} devices that --pp and --dp take")
    free = count // stated
    heads = architecture.num_heads
    split = free if heads is None else max(size for size in range(1, free + 1) if not free % size and not heads % size)
    if pp is not None and split != free:
        raise UsageError(f"{heads} attention heads do not split over {free} devices", "give --tp, --pp and --dp")
    return Parallel(tp=split, pp=(pp or 1) * (free // split), dp=dp or 1, dcp=dcp)
