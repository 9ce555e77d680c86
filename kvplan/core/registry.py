"""Finds formats, policies, engines and families: one module per entry, found by its name.

An entry is asked for by the name of its file (``bf16`` is ``kvplan/formats/bf16.py``) or, where it is large, of its
package (``vllm`` is ``kvplan/engines/vllm/``), so the common path imports one module. Aliases live in the modules
themselves: they are looked for only when no file carries the name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from kvplan.core.errors import UnknownNameError, UsageError
from kvplan.core.units import parse_ratio, parse_tokens


def modules(package: str) -> Iterator[ModuleType]:
    """Every module of an extension folder such as ``kvplan.formats``, in the order of their names."""
    folder = Path(next(iter(import_module(package).__path__)))
    names = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    for name in sorted(names - {"__init__"}):
        yield import_module(f"{package}.{name}")


def has_module(package: str, name: str) -> bool:
    """Whether the folder has a file or a package of this name."""
    folder = Path(next(iter(import_module(package).__path__)))
    if not name.isidentifier() or name == "__init__":
        return False
    return (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()


@cache
def find_module(package: str, name: str, what: str, names_of: Callable[[ModuleType], list[str]]) -> ModuleType:
    """The module whose file carries ``name``, else the one that lists it as an alias. Raises UnknownNameError.

    Looked up once: searches ask for the same few entries thousands of times.
    """
    if has_module(package, name):
        return import_module(f"{package}.{name}")
    return find_alias(package, name, what, names_of)


def split_call(text: str, what: str) -> tuple[str, list[str], dict[str, str]]:
    """``h2o:keep=0.2`` as (name, positional, options). Raises UsageError on a malformed one."""
    name, _, rest = text.strip().partition(":")
    positional: list[str] = []
    options: dict[str, str] = {}
    for item in filter(None, (piece.strip() for piece in rest.split(","))):
        key, equals, value = item.partition("=")
        if not equals:
            positional.append(item)
        elif key in options:
            raise UsageError(f"{what} {text!r} gives {key} twice")
        else:
            options[key.strip()] = value.strip()
    return name.strip().lower().replace("-", "_"), positional, options


def configure(entry: Any, positional: list[str], options: Mapping[str, str], fixed: tuple[str, ...], what: str) -> Any:
    """A copy of a frozen dataclass with some fields set from text; fields in ``fixed`` are not options.

    A field's default decides how its text is read: tokens for whole numbers, an exact ratio for fractions; whether 0
    is possible is for the entry to say. Values without a name fill the fields in order; where some fields are
    keyword-only, they need their name. Raises UsageError on unknown options and impossible values.
    """
    items = [item for item in dataclasses.fields(entry) if item.name not in fixed]
    allowed = [item.name for item in items]
    nameless = [item.name for item in items if not item.kw_only] or allowed
    if len(positional) > len(nameless):
        raise UsageError(f"{what} takes at most {len(nameless)} values", _options_hint(allowed))
    given = dict(zip(nameless, positional))
    for key, value in options.items():
        if key not in allowed:
            raise UsageError(f"{what} has no option {key!r}", _options_hint(allowed))
        if key in given:
            raise UsageError(f"{what} gives {key} twice")
        given[key] = value
    changes = {key: _coerce(getattr(entry, key), text, f"{what} {key}") for key, text in given.items()}
    try:
        return dataclasses.replace(entry, **changes)
    except ValueError as error:
        raise UsageError(f"{what}: {error}") from None


def find_alias(package: str, name: str, what: str, names_of: Callable[[ModuleType], list[str]]) -> ModuleType:
    """The module of a folder that lists ``name`` among its names. Raises UnknownNameError."""
    known: list[str] = []
    for module in modules(package):
        names = names_of(module)
        if name in names:
            return module
        known += names
    raise UnknownNameError(what, name, known)


def _coerce(default: Any, text: str, what: str) -> Any:
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise UsageError(f"{what} must be true or false, not {text!r}", f"write {what.rpartition(' ')[2]}=true")
        return text.lower() == "true"
    if isinstance(default, Fraction):
        return Fraction(0) if text == "0" else parse_ratio(text, what)
    if isinstance(default, int):
        return 0 if text == "0" else parse_tokens(text, what)
    return text


def _options_hint(allowed: list[str]) -> str:
    return "its options: " + ", ".join(allowed) if allowed else "it takes no options"
