"""Runs the checks of one request or of several, group by group, and puts what they find into one Verification."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec

import torch

from kvplan.core.errors import KvplanError, UnsupportedError
from kvplan.core.fit import FitResult
from kvplan.core.policy import describe_policy
from kvplan.core.request import SizeResult
from kvplan.core.units import GIB
from kvplan.core.verification import Verification
from kvplan.planning.size import size_model
from kvplan.runtime.verify.device import Progress, device_facts, silent, versions
from kvplan.runtime.verify.findings import Findings, join_findings, named_lines
from kvplan.specs.config_json import read_config
from kvplan.specs.published_config import published_config

USUAL_GROUPS = ("allocation", "model code")
"""What is checked unless more is asked for."""

PLAIN_COMPRESSION = ("int8", "none")
"""``--kv-dtype`` and ``--policy`` of the compressed cache that model code runs with where none is asked for."""

ONE_THREAD_BYTES = GIB
"""Caches below this are filled by one thread: threads that wait for each other take longer, most of all on a CPU that
others use (measured: 14 s against 65 s for the standard set, on two busy cores)."""

CODE_BATCH = 2
"""Sequences that model code runs with: one more than hides a forgotten factor."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One request to verify.

    ``subject``   its name, where several are verified together
    ``groups``    the groups of checks that run, in order
    ``demanded``  groups whose refusal is an error, and not only a line that says why they did not run
    ``fit``       the placement whose frontier is looked for
    ``stages``    the pipeline stages that this process allocates; None for a rank of each
    ``against``   engines that are started, and ``engine_python`` the interpreter that has them
    """

    result: SizeResult
    subject: str = ""
    groups: tuple[str, ...] = USUAL_GROUPS
    demanded: frozenset[str] = frozenset()
    fit: FitResult | None = None
    stages: tuple[int, ...] | None = None
    against: tuple[str, ...] = ()
    engine_python: str | None = None


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where checks run, and who is told what is being done and when a group of checks is done."""

    device: torch.device
    doing: Progress = silent
    done: Callable[[], None] = lambda: None


def verify_cases(cases: Sequence[Case], request: Mapping[str, str], place: Place) -> Verification:
    """All checks of all cases. ``request`` are the words that ask for them again.

    Raises what a demanded group raises: UnsupportedError, UsageError or DoesNotFitError.
    """
    facts = device_facts(place.device)
    each = [_run_case(case, place) for case in cases]
    found = join_findings(each)
    return Verification(
        device=facts,
        request=request,
        checks=found.checks,
        versions=versions(),
        skipped=named_lines([(case.subject, findings.skipped) for case, findings in zip(cases, each)]),
        notes=named_lines([(case.subject, findings.notes) for case, findings in zip(cases, each)]),
    )


def num_steps(cases: Iterable[Case]) -> int:
    """Groups of checks that all cases run: what a progress bar counts."""
    return sum(len(case.groups) for case in cases)


def resized(result: SizeResult, context_tokens: int) -> SizeResult:
    """The same request at another context. Raises UsageError or UnsupportedError as sizing does."""
    request = replace(result.request, context_tokens=context_tokens)
    return size_model(result.model, request, result.rules)


def published(result: SizeResult) -> tuple[SizeResult | None, str]:
    """The same request for the model as its published config has it; None, with the reason, where there is none."""
    try:
        config = published_config(result.model)
        if config.values is None:
            return None, config.reason
        model = read_config(dict(config.values), str(config.file), result.model.name)
        return size_model(model, result.request, result.rules), ""
    except KvplanError as error:
        return None, error.message


def _run_case(case: Case, place: Place) -> Findings:
    found = []
    for group in case.groups:
        told = _telling(case, group, place)
        told.doing("")
        found.append(_run_group(group, case, told))
        place.done()
    joined = join_findings(found)
    return replace(joined, checks=tuple(replace(check, subject=case.subject) for check in joined.checks))


def _run_group(group: str, case: Case, place: Place) -> Findings:
    """What the group finds; a refusal is a reason, unless the group is demanded."""
    small = group == "model code" or case.result.allocated_bytes < ONE_THREAD_BYTES
    try:
        with _one_thread() if small else nullcontext():
            return _RUNNERS[group](case, place)
    except KvplanError as error:
        if group in case.demanded:
            raise
        return Findings(skipped=(f"{group}: {error.message}" + (f" ({error.hint})" if error.hint else ""),))


@contextmanager
def _one_thread() -> Iterator[None]:
    """torch computes in one thread while the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_allocation(case: Case, place: Place) -> Findings:
    from kvplan.runtime.verify.allocation import check_allocation

    built, reason = published(case.result)
    found = check_allocation(
        case.result,
        place.device,
        built=built,
        stages=case.stages,
        resize=lambda tokens: resized(case.result, tokens),
        progress=place.doing,
    )
    if built is not None:
        return found
    return replace(found, notes=(*found.notes, f"allocation: shapes are those of the spec itself: {reason}"))


def _check_model_code(case: Case, place: Place) -> Findings:
    if find_spec("transformers") is None:
        raise UnsupportedError("transformers is not installed", "in a checkout: pip install '.[transformers]'")
    from kvplan.runtime.verify.model_code import CodeOptions, verify_model_code

    choice = case.result.request.choice
    asked = (choice.kv_format.name, describe_policy(choice.policy))
    native = (choice.kv_format.native.name, "none")
    options = CodeOptions(compressions=(asked if asked != native else PLAIN_COMPRESSION,), batches=(CODE_BATCH,))
    found = verify_model_code(case.result.model, place.device, options, place.doing)
    own = f"{found.model}: "  # the case has a name of its own
    return Findings(
        checks=found.checks,
        skipped=tuple(f"model code: {line.removeprefix(own)}" for line in found.skipped),
        notes=tuple(line.removeprefix(own) for line in found.notes),
    )


def _check_frontier(case: Case, place: Place) -> Findings:
    from kvplan.runtime.verify.frontier import check_frontier

    if case.fit is None:
        raise UnsupportedError("no placement was fitted, so no frontier is known")
    return check_frontier(case.fit, place.device, progress=place.doing)


def _check_engines(case: Case, place: Place) -> Findings:
    from kvplan.runtime.verify.engines import verify_engine

    return join_findings([verify_engine(case.result, name, case.engine_python, place.doing) for name in case.against])


def _telling(case: Case, group: str, place: Place) -> Place:
    """The place, with every step told under the names of the case and the group."""

    def doing(words: str) -> None:
        """As ``place.doing``."""
        place.doing(": ".join(filter(None, (case.subject, group, words))))

    return replace(place, doing=doing)


_RUNNERS: Mapping[str, Callable[[Case, Place], Findings]] = {
    "allocation": _check_allocation,
    "model code": _check_model_code,
    "frontier": _check_frontier,
    "engine": _check_engines,
}
"""What runs each group of checks; each imports its part when it runs."""
