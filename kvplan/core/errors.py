"""Every error that a user can cause: one clear line, what is allowed, and what is near."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class KvplanError(Exception):
    """Base of all errors that are the user's to mend; the command line prints them and exits with ``exit_code``.

    ``message`` is one line; ``hint`` says what is allowed or what is near.
    """

    code = "bad_input"
    exit_code = 2

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(KvplanError):
    """An option, or a combination of options, that makes no sense."""

    code = "usage"


class UnknownNameError(KvplanError):
    """A name that no entry of a registry carries; the hint lists the near ones."""

    code = "unknown_name"

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {what} {name!r}", near_hint(name, known))


class UnsupportedError(KvplanError):
    """A combination that the chosen format, policy or engine does not have."""

    code = "unsupported"


class DoesNotFitError(KvplanError):
    """A memory that does not hold what is asked: the engine would not start in it, or ``kvplan verify`` not run.

    The memory is the one that was stated, or the one that is free on the device at hand.
    """

    code = "does_not_fit"


class EvaluationError(KvplanError):
    """A measurement that cannot be trusted: what it should measure does not reach what it reads."""

    code = "evaluation"
    exit_code = 4


class FileError(KvplanError):
    """A file that cannot be read as what it should be."""

    code = "bad_file"


class SpecError(KvplanError):
    """A model spec or config with mistakes; each problem is one ``path: what is wrong`` line."""

    code = "bad_spec"

    def __init__(self, source: str, problems: Sequence[str], hint: str | None = None) -> None:
        self.problems = tuple(problems)
        head = self.problems[0] if len(self.problems) == 1 else f"{len(self.problems)} problems"
        lines = "" if len(self.problems) == 1 else "".join(f"\n  {problem}" for problem in self.problems)
        super().__init__(f"{source}: {head}{lines}", hint)


class UnknownArchitectureError(SpecError):
    """A config whose architecture has no family and is not fully understood as a plain decoder."""

    code = "unknown_architecture"


class MissingKeyError(SpecError):
    """A config that lacks a key without which the cache cannot be known."""

    code = "missing_key"


def near_hint(name: str, known: Iterable[str], limit: int = 3) -> str:
    """The names closest to ``name``, or all of them when nothing is close and they are few."""
    import difflib  # only on the error path: it is not free to import

    names = sorted(set(known))
    lowered = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower(), lowered, n=limit, cutoff=0.6)
    if not close:
        close = [low for low in lowered if name.lower() in low][:limit]
    if close:
        return "did you mean " + " or ".join(lowered[match] for match in close) + "?"
    if len(names) <= 40:
        return "allowed: " + ", ".join(names)
    return f"{len(names)} are known"
