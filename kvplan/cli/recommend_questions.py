"""What ``kvplan recommend`` asks on a terminal: model, devices, context and concurrency, with defaults."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from kvplan.core.errors import KvplanError, UsageError
from kvplan.core.units import parse_tokens
from kvplan.planning.fit_request import FitWords, read_devices
from kvplan.specs.accelerator import accelerator_names, parse_accelerator
from kvplan.specs.catalogue import catalogue_names
from kvplan.specs.reference import resolve_model

DEFAULT_MODEL, DEFAULT_GPU, DEFAULT_CONTEXT, DEFAULT_CONCURRENCY = "llama-3.1-8b", "h100", "32k", "16"


def can_ask() -> bool:
    """Whether a person sits at both ends."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def ask(words: FitWords, asks_concurrency: bool) -> FitWords:
    """The words with what was missing asked for; Tab completes names, Enter takes the default."""
    if words.model is None:
        words = replace(words, model=_ask("Model", DEFAULT_MODEL, resolve_model, catalogue_names()))
    if words.gpu is None and words.gpu_memory is None:
        gpu = _ask("GPU (8xh100 for eight)", _own_gpu(), parse_accelerator, accelerator_names())
        words = replace(words, gpu=gpu)
    if words.ctx is None:
        words = replace(words, ctx=_ask("Context in tokens", DEFAULT_CONTEXT, lambda text: parse_tokens(text, "--ctx")))
    if asks_concurrency:
        words = replace(words, concurrency=int(_ask("Requests at once", DEFAULT_CONCURRENCY, _positive)))
    print()
    return words


def _ask(question: str, default: str, check: Callable[[str], object], names: Sequence[str] = ()) -> str:
    """Ask until the answer passes; what is wrong with one is said in its own line."""
    while True:
        with _completion(names):
            text = input(f"{question} [{default}]: ").strip() or default
        try:
            check(text)
        except KvplanError as error:
            print(f"  {error.message}" + (f" ({error.hint})" if error.hint else ""))
        else:
            return text


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise UsageError(f"{text!r} is not a positive number")
    return int(text)


def _own_gpu() -> str:
    """This machine's devices, where it has any that kvplan knows."""
    try:
        read_devices(FitWords())
    except KvplanError:
        return DEFAULT_GPU
    return "auto"


@contextmanager
def _completion(names: Sequence[str]) -> Iterator[None]:
    """Tab completes ``names`` while a question is open, where Python was built with readline."""
    try:
        import readline
    except ImportError:
        yield
        return
    before = readline.get_completer()

    def complete(text: str, state: int) -> str | None:
        """The ``state``-th name that begins so."""
        found = [name for name in names if name.startswith(text.lower())]
        return found[state] if state < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" ")
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        readline.set_completer(before)
