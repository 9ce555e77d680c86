"""Reads a ``config.json`` for the families: typed access, and a record of every key that was understood.

A family asks for the keys it knows. Whatever is left unread in the end is either known to be neutral, or the
config is refused with the name of the key: a key that could change the cache is never ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from kvplan.core.errors import MissingKeyError, SpecError
from kvplan.core.model import Architecture

MAX_LAYERS = 10_000
"""Layer counts above this are mistakes: layers are listed one by one."""

MAX_NUMBER = 2**48
"""No width, length or count of a model comes near this."""

_ABSENT = object()


class ConfigReader:
    """Typed, recorded access to one mapping of a config; ``section`` opens a nested one.

    ``source`` names the file in errors, ``path`` the place inside it (``text_config.``).
    ``resolve`` turns a nested text config into an Architecture through the family it belongs to.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        source: str,
        path: str = "",
        resolve: Callable[[ConfigReader, str | None], Architecture] | None = None,
    ) -> None:
        self.values = values
        self.source = source
        self.path = path
        self.notes: list[str] = []
        self._resolve = resolve
        self._read: set[str] = set()
        self._sections: dict[str, ConfigReader] = {}

    # -- reading ------------------------------------------------------------------------------------------------

    def has(self, *names: str) -> bool:
        """Whether one of the keys is present and not null; marks them as read."""
        return self._find(names) is not _ABSENT

    def value(self, *names: str, default: Any = None) -> Any:
        """The first present, non-null key's raw value."""
        found = self._find(names)
        return default if found is _ABSENT else found

    def integer(self, *names: str, default: int | None = None, minimum: int = 1) -> int:
        """The first present key as a whole number of at least ``minimum``; an error if absent without default."""
        found = self.optional_integer(*names, minimum=minimum)
        if found is not None:
            return found
        if default is None:
            self.missing(*names)
        return default

    def optional_integer(self, *names: str, minimum: int = 1) -> int | None:
        """Like ``integer``, but None where all keys are absent or null."""
        found = self._find(names)
        if found is _ABSENT:
            return None
        if isinstance(found, float) and found.is_integer():
            found = int(found)
        if not isinstance(found, int) or isinstance(found, bool):
            self.wrong(names[0], f"must be a whole number, not {_show(found)}")
        if found < minimum:
            self.wrong(names[0], f"must be at least {minimum}, not {found}")
        most = MAX_LAYERS if names[0].endswith(("layers", "n_layer", "modules")) else MAX_NUMBER
        if found > most:
            self.wrong(names[0], f"must be at most {most}, not {_show(found)}")
        return int(found)

    def number(self, *names: str, default: float | None = None) -> float:
        """The first present key as a finite number."""
        found = self._find(names)
        if found is _ABSENT:
            if default is None:
                self.missing(*names)
            return default
        if not isinstance(found, (int, float)) or isinstance(found, bool) or not -1e300 < found < 1e300:
            self.wrong(names[0], f"must be a number, not {_show(found)}")
        return float(found)

    def flag(self, *names: str, default: bool | None = None) -> bool:
        """The first present key as true or false."""
        found = self._find(names)
        if found is _ABSENT:
            if default is None:
                self.missing(*names)
            return default
        if not isinstance(found, bool):
            self.wrong(names[0], f"must be true or false, not {_show(found)}")
        return bool(found)

    def text(self, *names: str, default: str | None = None) -> str:
        """The first present key as a string."""
        found = self._find(names)
        if found is _ABSENT:
            if default is None:
                self.missing(*names)
            return default
        if not isinstance(found, str):
            self.wrong(names[0], f"must be text, not {_show(found)}")
        return str(found)

    def integers(self, *names: str, minimum: int = 0) -> list[int] | None:
        """The first present key as a list of whole numbers, or None where absent."""
        found = self._find(names)
        if found is _ABSENT:
            return None
        if not isinstance(found, Sequence) or isinstance(found, (str, bytes)):
            self.wrong(names[0], f"must be a list of whole numbers, not {_show(found)}")
        for item in found:
            if not isinstance(item, int) or isinstance(item, bool) or item < minimum:
                self.wrong(names[0], f"must hold whole numbers of at least {minimum}, not {_show(item)}")
        return list(found)

    def texts(self, *names: str, allowed: Sequence[str] | None = None) -> list[str] | None:
        """The first present key as a list of strings, or None where absent; ``allowed`` limits them."""
        found = self._find(names)
        if found is _ABSENT:
            return None
        if not isinstance(found, Sequence) or isinstance(found, (str, bytes)):
            self.wrong(names[0], f"must be a list of names, not {_show(found)}")
        for item in found:
            if not isinstance(item, str):
                self.wrong(names[0], f"must hold names, not {_show(item)}")
            if allowed is not None and item not in allowed:
                self.wrong(names[0], f"has the unknown entry {item!r} (known: {', '.join(allowed)})")
        return list(found)

    def section(self, name: str) -> ConfigReader | None:
        """The nested mapping under ``name``, or None where it is absent or null."""
        found = self._find((name,))
        if found is _ABSENT:
            return None
        if not isinstance(found, Mapping):
            self.wrong(name, f"must be a mapping, not {_show(found)}")
        if name not in self._sections:
            nested = ConfigReader(found, self.source, f"{self.path}{name}.", self._resolve)
            nested.notes = self.notes  # one list per file: an assumption about a section is the reader's to know
            self._sections[name] = nested
        return self._sections[name]

    def text_model(self, *names: str, model_type: str | None = None) -> Architecture:
        """The architecture of the language model nested under the first present of ``names``.

        ``model_type`` says what the nested config is when it does not say so itself.
        """
        nested = next(filter(None, map(self.section, names)), None)
        if nested is None:
            self.missing(*names)
        if self._resolve is None:
            raise RuntimeError("this reader was made without a resolver for nested models")
        return self._resolve(nested, model_type)

    def text_model_here(self, model_type: str, replaced: Mapping[str, Any] | None = None) -> Architecture:
        """The architecture of a language model whose keys stand in this mapping itself, beside the wrapper's own.

        It is read as ``model_type``. Keys that the wrapper has read before are its own and stay hidden from it;
        ``replaced`` gives values in the language model's own spelling.
        """
        if self._resolve is None:
            raise RuntimeError("this reader was made without a resolver for nested models")
        hidden = self._read | {"architectures"}  # the class named there is the wrapper's
        own = {key: value for key, value in self.values.items() if key not in hidden}
        seen = ConfigReader(
            {**own, **(replaced or {}), "model_type": model_type}, self.source, self.path, self._resolve
        )
        seen.notes = self.notes
        architecture = self._resolve(seen, model_type)
        self._read.update(own)
        return architecture

    def complete(self, defaults: Mapping[str, Any]) -> None:
        """Add keys that the mapping does not have: what its class is known to take for them."""
        self.values = {**defaults, **self.values}

    def ignore(self, *names: str) -> None:
        """Mark keys as understood: they do not change the cache of this family."""
        self._read.update(names)

    def settle(self) -> None:
        """Mark every key of this mapping, nested ones included, as understood (a vision tower has no KV cache)."""
        self._read.update(self.values)
        for name, value in self.values.items():
            if isinstance(value, Mapping) and (nested := self.section(name)) is not None:
                nested.settle()

    def note(self, text: str) -> None:
        """Record an assumption for the reader of the result."""
        if text not in self.notes:
            self.notes.append(text)

    # -- the verdict --------------------------------------------------------------------------------------------

    def unread(self) -> dict[str, Any]:
        """Keys that nobody asked for, with their full path, sections included."""
        left = {self.path + name: value for name, value in self.values.items() if name not in self._read}
        for nested in self._sections.values():
            left.update(nested.unread())
        return left

    def missing(self, *names: str) -> NoReturn:
        """Refuse the config because it lacks a key."""
        wanted = " (or ".join(repr(self.path + name) for name in names[:2]) + (")" if len(names) > 1 else "")
        raise MissingKeyError(
            self.source,
            [f"lacks the key {wanted}"],
            "the file may be trimmed; add the key, or write a spec (see `kvplan models import --help`)",
        )

    def wrong(self, name: str, problem: str) -> NoReturn:
        """Refuse the config because a key's value is impossible."""
        raise SpecError(self.source, [f"{self.path}{name} {problem}"])

    def _find(self, names: Sequence[str]) -> Any:
        self._read.update(names)
        for name in names:
            if self.values.get(name) is not None:
                return self.values[name]
        return _ABSENT


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
