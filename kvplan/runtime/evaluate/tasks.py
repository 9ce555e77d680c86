"""What a task is made of: pieces, each a few samples that are measured together under every method.

A task is a function ``task(handle, settings) -> list[Piece]`` that plans and runs nothing; ``piece.measure(methods)``
does the work. So a run can share pieces among processes, leave out what is done, and say how far it is, while
what all methods need (the baseline's distribution, the prompt's ids) is computed once in a piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from kvplan.core.evaluation import Record
from kvplan.runtime.evaluate.methods import Method

Measure = Callable[[Sequence[Method]], Iterator[Record]]
"""Records of every sample of a piece under each of the methods, method after method."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some samples of one task (``tasks`` where a measurement yields records of several).

    ``measure(methods)`` yields one record for each sample, method and task; the same methods again give the same.
    """

    tasks: tuple[str, ...]
    samples: tuple[str, ...]
    measure: Measure


Item = TypeVar("Item")


def batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """``items`` in runs of ``size``; the last may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def in_batches(methods: Iterable[Method], count: int) -> Iterator[tuple[Method, list[slice]]]:
    """Each method with the slices of ``count`` samples that it may take at once: all, or one by one."""
    for method in methods:
        step = count if method.takes_batches else 1
        yield method, [slice(start, start + step) for start in range(0, count, step)]
