"""Runs a plainly spelled command without importing typer, which takes longer than sizing a model.

The options are those that the command declares. Whatever is not plain (help, a mistake, ``--name=value``) is left to
typer, so there is one set of options and one set of error messages.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from types import UnionType
from typing import Any, Union, get_args, get_origin

from kvplan.cli.options import Option


def quick_arguments(command: Callable[..., None], words: Sequence[str]) -> dict[str, Any] | None:
    """The keyword arguments that the words spell for a command, or None where typer must look at them."""
    names = {flag: name for name in _options(command) for flag in _options(command)[name][1].flags}
    given: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        name = names.get(word)
        if name is None:
            return None
        kind = _options(command)[name][0]
        try:
            value = True if kind is bool else _read(kind, next(rest, "-"))
        except ValueError:
            return None
        given[name] = [*given.get(name, []), *value] if isinstance(value, list) else value
    required = len(_options(command)) - len(command.__defaults__ or ())
    return given if set(list(_options(command))[:required]) <= set(given) else None


def _options(command: Callable[..., None]) -> dict[str, tuple[Any, Option]]:
    """Every parameter's type and option."""
    hints = {name: hint for name, hint in command.__annotations__.items() if name != "return"}
    return {name: (_plain(hint.__origin__), hint.__metadata__[0]) for name, hint in hints.items()}


def _plain(hint: Any) -> Any:
    """``T`` for an optional ``T``."""
    if get_origin(hint) in (UnionType, Union):
        return next(entry for entry in get_args(hint) if entry is not type(None))
    return hint


def _read(kind: Any, word: str) -> Any:
    """A word as a value of a type; a list of one where the option repeats. Raises ValueError."""
    if word.startswith("-"):
        raise ValueError(word)
    if get_origin(kind) is list:
        return [word]
    if kind in (int, str) or issubclass(kind, Enum):
        return kind(word)
    raise ValueError(kind)
