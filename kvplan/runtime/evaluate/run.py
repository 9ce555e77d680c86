"""A run: methods x tasks x samples become records, after a self-check, without what a results file already has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from kvplan.core.errors import FileError
from kvplan.core.evaluation import Record
from kvplan.runtime.evaluate.cost import CostSettings, cost
from kvplan.runtime.evaluate.harness import ModelHandle
from kvplan.runtime.evaluate.methods import Method
from kvplan.runtime.evaluate.needle import NeedleSettings, needle
from kvplan.runtime.evaluate.perplexity import PerplexitySettings, perplexity
from kvplan.runtime.evaluate.qa import QaSettings, qa
from kvplan.runtime.evaluate.ranks import Share
from kvplan.runtime.evaluate.results_file import Key, ResultsFile, record_key
from kvplan.runtime.evaluate.self_check import self_check
from kvplan.runtime.evaluate.tasks import Piece

TASKS: Mapping[type[Any], Callable[[ModelHandle, Any], list[Piece]]] = {
    PerplexitySettings: perplexity,
    NeedleSettings: needle,
    QaSettings: qa,
    CostSettings: cost,
}
"""The task that each kind of settings is of."""

_MAY_DIFFER = {
    *("num_samples", "per_cell", "depths", "num_keys", "prefix_tokens", "suffix_tokens"),  # samples are named by them
    *("context_tokens", "decode_tokens", "repeats", "batch_tokens"),
}
"""Settings that leave the samples that were measured before as they were."""

_TIMED = "latency"
"""Pieces of this task run while no other process does."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """How far this process is: ``done`` of ``total`` records, of which the last was ``task`` under ``method``."""

    done: int
    total: int
    task: str
    method: str


Progress = Callable[[Step], None]


def plan(handle: ModelHandle, settings: Iterable[Any]) -> list[Piece]:
    """The pieces of all tasks whose settings are given (keys of ``TASKS``), in their order; nothing runs yet.

    Raises UsageError and FileError as the tasks do.
    """
    return [piece for one in settings for piece in TASKS[type(one)](handle, one)]


def fixed_settings(settings: Iterable[Any]) -> dict[str, Any]:
    """The settings on which the figures of a sample depend and that its name does not carry, for a ``Header``.

    Give those of all tasks, run or not, so that tasks may be added later. Of a file it is the content that counts.
    Raises FileError where that cannot be read.
    """
    return {
        f"{TASKS[type(one)].__name__}.{entry.name}": _plain(getattr(one, entry.name))
        for one in settings
        for entry in fields(one)
        if entry.name not in _MAY_DIFFER
    }


def run(
    handle: ModelHandle,
    methods: Sequence[Method],
    pieces: Sequence[Piece],
    *,
    results: ResultsFile | None = None,
    share: Share | None = None,
    progress: Progress | None = None,
    check_text: str | None = None,
) -> list[Record]:
    """Records of every piece under the baseline and every method, in the order of pieces and methods.

    What ``results`` holds is not measured again, and what is measured is written there at once. The self-check (on
    ``check_text``, else on text of the demo's making) comes first, where anything is left to measure. Processes that
    ``share`` the work all get all records. Raises EvaluationError where the self-check fails, FileError where the file
    is another's.
    """
    share = share or Share()
    every = (Method(), *(method for method in methods if not method.is_baseline))
    known = {record_key(record): record for record in (results.read() if results else ())}
    timed = [piece for piece in pieces if _TIMED in piece.tasks]
    mine = share.of([piece for piece in pieces if _TIMED not in piece.tasks])
    work = _Work(every, (*mine, *(timed if share.gathers else ())), known, results, progress)

    def untimed() -> list[Record]:
        if work.is_left:
            self_check(handle, check_text)
        return work.measure(mine)

    found = share.gather(untimed)
    found += share.gather(lambda: work.measure(timed) if share.gathers else [])
    if results and share.gathers:
        results.fold(found)
    known |= {record_key(record): record for record in found}
    return [known[key] for piece in pieces for method in every for key in _keys(piece, method)]


class _Work:
    """What one process measures: ``pieces`` under ``methods``, without the records that are ``known``."""

    def __init__(
        self,
        methods: Sequence[Method],
        pieces: Iterable[Piece],
        known: Mapping[Key, Record],
        results: ResultsFile | None,
        progress: Progress | None,
    ) -> None:
        keys = [key for piece in pieces for method in methods for key in _keys(piece, method)]
        self._methods, self._known, self._results, self._progress = methods, dict(known), results, progress
        self._total, self._done = len(keys), sum(key in known for key in keys)

    @property
    def is_left(self) -> bool:
        """Whether any record is missing."""
        return self._done < self._total

    def measure(self, pieces: Iterable[Piece]) -> list[Record]:
        """The missing records of some of the pieces, each written to the file and reported as it comes."""
        missing, made = self._missing(pieces), list[Record]()
        for record in self._results.append(missing) if self._results and self.is_left else missing:
            made.append(record)
            self._done += 1
            if self._progress:
                step = Step(done=self._done, total=self._total, task=record.task, method=record.method)
                self._progress(step)
        return made

    def _missing(self, pieces: Iterable[Piece]) -> Iterator[Record]:
        for piece in pieces:
            if methods := [method for method in self._methods if self._lacks(piece, method)]:
                yield from (record for record in piece.measure(methods) if record_key(record) not in self._known)

    def _lacks(self, piece: Piece, method: Method) -> bool:
        return any(key not in self._known for key in _keys(piece, method))


def _plain(value: Any) -> Any:
    """A setting as JSON; a file by its name and the start of its SHA-256."""
    if not isinstance(value, Path):
        return value
    try:
        return f"{value.name} {sha256(value.read_bytes()).hexdigest()[:16]}"
    except OSError as error:
        raise FileError(f"{value}: cannot be read ({error.strerror})") from None


def _keys(piece: Piece, method: Method) -> Iterator[Key]:
    yield from ((task, method.text, sample) for sample in piece.samples for task in piece.tasks)
