"""One process of those that ``test_evaluate_ranks`` launches: ``FOLDER MODE...``, records without a model."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kvplan.core.errors import EvaluationError, KvplanError
from kvplan.core.evaluation import Record
from kvplan.runtime.evaluate import run as run_module
from kvplan.runtime.evaluate.methods import Method
from kvplan.runtime.evaluate.ranks import Share, joined
from kvplan.runtime.evaluate.results_file import Header, ResultsFile
from kvplan.runtime.evaluate.run import run
from kvplan.runtime.evaluate.tasks import Piece
from kvplan.runtime.verify.ranks import launched_rank

HEADER = Header(model="none", device="cpu", settings={}, versions={}, seed=0)


def piece(task: str, samples: tuple[str, ...], mode: str) -> Piece:
    """Samples whose records carry the rank that made them."""

    def measure(methods: Sequence[Method]) -> Iterator[Record]:
        rank = os.environ.get("RANK", "alone")
        if rank == "1" and mode == "killed" and task == "qa":
            sys.exit(9)
        for method in methods:
            yield from (Record(task=task, method=method.text, sample=name, values={"rank": rank}) for name in samples)

    return Piece(tasks=(task,), samples=samples, measure=measure)


def failing_check(handle: object, text: object) -> None:
    """Stands for a harness that reads nothing."""
    if os.environ["RANK"] == "1":
        raise EvaluationError("self-check: blind", "no hint")


def ran(folder: Path, mode: str, share: Share) -> list[Any]:
    """What this process got of five pieces, or the error that it met."""
    run_module.self_check = failing_check if mode == "blind" else lambda handle, text: None
    pieces = [piece("latency", ("t",), mode), *(piece("qa", (f"{at}a", f"{at}b"), mode) for at in range(4))]
    results = ResultsFile(folder / f"{mode}.jsonl", HEADER, share.index)
    try:
        found = run(None, [Method(kv_dtype="fp8_e4m3")], pieces, results=results, share=share)
    except KvplanError as error:
        return [type(error).__name__, error.message]
    return [[one.task, one.method, one.sample, one.values["rank"]] for one in found]


def main(folder: Path, *modes: str) -> None:
    """Run in each mode and write a line for it: rank, mode, what came out."""
    with joined(launched_rank()) as share:
        for mode in modes:
            # in one write, so that lines of two processes stay whole
            sys.stdout.write(json.dumps([share.index, mode, ran(folder, mode, share)]) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
