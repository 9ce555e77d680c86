"""The ``model code`` checks: a model's own code in transformers against what its spec predicts, layer by layer.

Predicted from the spec; measured on the skeleton that transformers builds from the *published* config. A spec that is
wrong about a head, a width or a window differs from the code, and the check names the layer.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers

from kvplan.core.errors import KvplanError, UnsupportedError
from kvplan.core.model import Model
from kvplan.core.verification import Check
from kvplan.runtime.verify.code_prediction import other_release
from kvplan.runtime.verify.code_runs import check_run, plan_runs
from kvplan.runtime.verify.device import Progress, release, silent
from kvplan.runtime.verify.skeleton import Skeleton, build_skeleton, in_dtype
from kvplan.specs.published_config import PublishedConfig, published_config
from kvplan.specs.reference import resolve_model

STANDARD_COMPRESSIONS = (
    *(("int8", "none"), ("int4", "none"), ("fp8", "none"), ("kivi2", "none")),
    ("auto", "h2o:keep=0.2"),
)
"""``--kv-dtype`` and ``--policy`` of the compressed caches that are checked where none are named."""

_TORCH_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True, kw_only=True)
class CodeOptions:
    """What is run: ``compressions`` are pairs of ``--kv-dtype`` and ``--policy``, ``batches`` numbers of sequences.

    ``tokens`` is the prompt's length: by default 17 beyond the largest window, or 300. ``whole`` keeps every layer.
    No run starts after ``seconds``.
    """

    compressions: tuple[tuple[str, str], ...] = STANDARD_COMPRESSIONS
    batches: tuple[int, ...] = (1, 3)
    tokens: int | None = None
    whole: bool = False
    seconds: float = 60.0


@dataclass(frozen=True, kw_only=True)
class CodeChecks:
    """The checks of one model. ``skipped`` says what did not run, and why; ``notes`` how the skeleton was made."""

    model: str
    checks: tuple[Check, ...] = ()
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether every check passed; a model without checks is not verified."""
        return bool(self.checks) and all(check.passed for check in self.checks)


def verify_model_code(
    model: Model, device: torch.device, options: CodeOptions | None = None, progress: Progress = silent
) -> CodeChecks:
    """Run the code of ``model`` on ``device`` with its own cache and with compressed ones.

    What transformers has no code for is skipped with the reason. Raises FileError for a config that cannot be read.
    """
    options = options or CodeOptions()
    started = time.monotonic()
    published = published_config(model)
    departs = other_release(model, transformers.__version__)
    if published.values is None or departs:
        return CodeChecks(model=model.name, skipped=(departs or published.reason,))
    values = in_dtype(published.values, _TORCH_DTYPES[model.dtype])
    with quiet():
        progress("its own code, made small")
        try:
            skeleton = build_skeleton(values, model.architecture.layers, device, whole=options.whole)
        except UnsupportedError as error:
            return CodeChecks(model=model.name, skipped=(error.message,), seconds=time.monotonic() - started)
        cut = replace(
            model, architecture=replace(model.architecture, layers=model.architecture.layers[: skeleton.num_layers])
        )
        checks, skipped = _run_all(cut, skeleton, device, options, started + options.seconds, progress)
        notes = tuple(_notes(model, skeleton, published))
        del skeleton
    release(device)
    return CodeChecks(
        model=model.name,
        checks=tuple(checks),
        skipped=tuple(skipped),
        notes=notes,
        seconds=time.monotonic() - started,
    )


def verify_many(
    references: Iterable[str], device: torch.device, options: CodeOptions | None = None, progress: Progress = silent
) -> Iterator[CodeChecks]:
    """``verify_model_code`` of every model named as ``--model`` names one; an error is that model's ``skipped``."""
    for reference in references:
        try:
            yield verify_model_code(resolve_model(reference), device, options, _about(reference, progress))
        except KvplanError as error:
            yield CodeChecks(model=reference, skipped=(error.message,))


def _about(reference: str, progress: Progress) -> Progress:
    return lambda words: progress(f"{reference}: {words}")


@contextmanager
def quiet() -> Iterator[None]:
    """Without what transformers says of token ids beyond a small vocabulary, and of kernels that are not installed."""
    logging: Any = transformers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)


def _run_all(
    model: Model,
    skeleton: Skeleton,
    device: torch.device,
    options: CodeOptions,
    deadline: float,
    progress: Progress,
) -> tuple[list[Check], list[str]]:
    """The checks of every run, and a line for each reason that some did not run."""
    checks: list[Check] = []
    missed: dict[str, list[str]] = {}
    for run in plan_runs(model, skeleton, device, options.batches, options.compressions, options.tokens):
        if time.monotonic() > deadline:
            missed.setdefault(f"{options.seconds:g} s had passed", []).append(run.words)
            continue
        progress(run.words)
        try:
            checks += list(check_run(model, skeleton, run))
        except KvplanError as error:
            missed.setdefault(error.message, []).append(run.cache)
        except torch.OutOfMemoryError:
            missed.setdefault("the device is out of memory", []).append(run.words)
    return checks, [f"{model.name}: {', '.join(dict.fromkeys(runs))}: {reason}" for reason, runs in missed.items()]


def _notes(model: Model, skeleton: Skeleton, published: PublishedConfig) -> Iterator[str]:
    assert published.file is not None
    layers = f"{skeleton.num_layers} of {model.architecture.num_layers} layers"
    yield (
        f"{model.name}: code of transformers {transformers.__version__} built from {published.file.name}, {layers},"
        f" {skeleton.num_parameters:,} parameters"
    )
    yield f"{model.name}: made small in {', '.join(skeleton.shrunk)}; same cache shapes as {skeleton.probe}"
