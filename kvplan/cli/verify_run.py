"""Runs checks for a command: torch imported or asked for, progress on stderr, ranks of torchrun joined."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from threading import Timer
from time import sleep
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from kvplan.core.engine import Engine
    from kvplan.core.fit import FitResult
    from kvplan.core.request import SizeResult
    from kvplan.core.verification import Verification
    from kvplan.runtime.verify.ranks import Rank
    from kvplan.runtime.verify.run import Case

BAR_CELLS = 24
ERROR_SECONDS = 5.0
"""How long rank 0 may take to say an error of all ranks."""

SILENT_SECONDS = 1.0
"""Work that is done by then shows no progress bar."""

_HOW_TO_ANSWER = ("report", "diff", "explain", "output", "as_json", "verify", "check", "plot")
"""Options that change what is written, and not what is asked."""


def require_torch() -> None:
    """Raise UnsupportedError where torch is not installed."""
    from importlib.util import find_spec

    from kvplan.core.errors import UnsupportedError

    if find_spec("torch") is None:
        raise UnsupportedError(
            "checks run real tensors, and torch is not installed; in a checkout: pip install '.[torch]'",
            "checks of the models' own code need '.[transformers]'",
        )


def stated_options(command: Callable[..., None], values: Mapping[str, Any]) -> dict[str, str]:
    """The options of a command that were given, in words: ``{"model": "llama-8b", "kv-dtype": "fp8"}``."""
    import inspect

    stated = {}
    for name, parameter in inspect.signature(command).parameters.items():
        value = values[name]
        if name not in _HOW_TO_ANSWER and value != parameter.default:
            text = ",".join(map(str, value)) if isinstance(value, list) else value
            stated[name.replace("_", "-")] = text.value if isinstance(text, Enum) else "" if text is True else str(text)
    return stated


def request_words(stated: Mapping[str, str], result: "SizeResult") -> dict[str, str]:
    """What asks for the checks of one result again, where a command had several models, contexts or engines."""
    from kvplan.engines import engine_words

    model = stated["model"] if "," not in stated["model"] else result.model.name
    words = {**stated, "model": model, "ctx": str(result.request.context_tokens)}
    engine = {} if result.engine == "none" else {"engine": engine_words(result.rules)}
    return {**{name: value for name, value in words.items() if name != "engine"}, **engine}


def verify_on_device(cases: "list[Case]", request: Mapping[str, str], device: str) -> "Verification":
    """All checks of ``cases`` on the device that a word names, with progress. Raises KvplanError."""
    from kvplan.runtime.verify.device import choose_device
    from kvplan.runtime.verify.run import Place, num_steps, verify_cases

    chosen = choose_device(device)
    with progress_bar(num_steps(cases)) as told:
        return verify_cases(cases, request, Place(device=chosen, doing=told.doing, done=told.done))


def verify_rank(
    rank: "Rank", case: "Callable[[], Case]", request: Mapping[str, str], device: str
) -> "Verification | None":
    """This process's part of the checks of one request over all ranks; the whole on rank 0, None on the others.

    Errors are raised on rank 0 alone: the others exit as it does, after it, as torchrun ends all when one has ended.
    """
    from kvplan.core.errors import KvplanError

    try:
        found = _verify_own_shard(rank, case(), request, device)
    except KvplanError as error:
        if rank.index:
            sleep(ERROR_SECONDS)
            sys.exit(error.exit_code)
        raise
    return None if rank.index else found


def _verify_own_shard(rank: "Rank", case: "Case", request: Mapping[str, str], device: str) -> "Verification":
    from dataclasses import replace

    from kvplan.runtime.verify.device import choose_device
    from kvplan.runtime.verify.ranks import held_words, process_group, rank_words, verify_on_all
    from kvplan.runtime.verify.run import Place, verify_cases

    model, parallel = case.result.model, case.result.request.parallel
    rank.check(parallel)
    place = Place(device=choose_device(rank.device_word(device)))
    own = replace(case, groups=rank.groups(case.groups), stages=(rank.stage(parallel),))
    with process_group(place.device):
        found = verify_on_all(rank, place.device, lambda: verify_cases([own], request, place))
    return replace(found, shares={rank_words(index): held_words(model, parallel, index) for index in range(rank.size)})


def verify_requests(results: "Sequence[SizeResult]", stated: Mapping[str, str]) -> "list[Verification]":
    """The checks of a command's own answers, each by itself, on the best device that is here."""
    require_torch()
    from kvplan.runtime.verify.run import Case

    return [verify_on_device([Case(result=result)], request_words(stated, result), "auto") for result in results]


def verify_fit(fit: "FitResult", engine: "Engine", stated: Mapping[str, str]) -> "Verification":
    """The checks of a fit's own request, and its frontier, on the best device that is here."""
    require_torch()
    from kvplan.planning.size import size_model
    from kvplan.runtime.verify.run import USUAL_GROUPS, Case

    result = size_model(fit.model, fit.request.size, engine)
    words = request_words({"model": fit.model.name, **stated, "frontier": ""}, result)
    return verify_on_device([Case(result=result, fit=fit, groups=(*USUAL_GROUPS, "frontier"))], words, "auto")


class Told(NamedTuple):
    """What a progress bar is told: what is being done, and that a step of it is done."""

    doing: Callable[[str], None]
    done: Callable[[], None]


@contextmanager
def progress_bar(num_steps: int) -> Iterator[Told]:
    """A bar on stderr, where that is a terminal and the work takes over a second; its words are cut, never the bar."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column

    length = BarColumn(BAR_CELLS, table_column=Column(min_width=BAR_CELLS, no_wrap=True))
    elapsed = TimeElapsedColumn(Column(min_width=7, no_wrap=True))
    words = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
    columns = (length, elapsed, words)
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task("", total=num_steps or None)
    start = Timer(SILENT_SECONDS, bar.start)
    start.daemon = True
    if bar.console.is_terminal:
        start.start()
    try:
        yield Told(lambda words: bar.update(task, description=words), lambda: bar.advance(task))
    finally:
        start.cancel()
        if bar.live.is_started:
            bar.stop()
