"""Data-parallel evaluation: ``torchrun --nproc-per-node N -m kvplan evaluate ...``, or with accelerate
``accelerate launch --num-processes N -m kvplan evaluate ...`` (``--cpu`` besides where there is no GPU).

Each process holds the whole model on a device of its own and takes every N-th piece; the first one gathers the records.
What goes between them are records alone, so they are joined by Gloo whatever the device, and no memory of a GPU goes to
a communicator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from kvplan.core.errors import KvplanError
from kvplan.runtime.verify.ranks import Rank, process_group

_PATIENCE = timedelta(days=7)
"""How long a process waits for the slowest: a share of a long run may take much longer than another."""

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one of ``size`` processes does; one alone does everything, and needs no process group."""

    index: int = 0
    size: int = 1

    @property
    def gathers(self) -> bool:
        """Whether this is the process that reports."""
        return self.index == 0

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """Every ``size``-th item, so that long and short ones, which stand together, are spread over all."""
        return items[self.index :: self.size]

    def gather(self, work: Callable[[], Sequence[Item]]) -> list[Item]:
        """What the work of all processes gave, on each of them.

        A KvplanError of any is raised on all, once all are done.
        """
        if self.size == 1:
            return list(work())
        found: list[Sequence[Item] | KvplanError] = [()] * self.size
        dist.all_gather_object(found, _guarded(work, self.index))
        for entry in found:
            if isinstance(entry, KvplanError):
                raise entry
        return [item for entry in found if not isinstance(entry, KvplanError) for item in entry]


@contextmanager
def joined(rank: Rank | None) -> Iterator[Share]:
    """This process among those that were launched together, while the block runs.

    ``rank`` is what ``kvplan.runtime.verify.ranks.launched_rank`` found.
    """
    if rank is None or rank.size == 1:
        yield Share()
        return
    with process_group(torch.device("cpu"), _PATIENCE):
        yield Share(index=rank.index, size=rank.size)


def _guarded(work: Callable[[], Sequence[Item]], index: int) -> Sequence[Item] | KvplanError:
    """An error is a result that travels: a process that raised would leave the others waiting.

    Kinds that are made of more than a message and a hint cannot be sent as they are.
    """
    try:
        return work()
    except KvplanError as error:
        plain = type(error).__init__ is KvplanError.__init__
        kind = type(error) if plain else KvplanError
        return kind(f"rank {index}: {error.message}", error.hint)
