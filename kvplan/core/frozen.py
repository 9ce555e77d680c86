"""Frozen dataclasses that cost next to nothing to define.

The standard decorator writes and compiles six methods for every class, half a millisecond each time Python starts; the
classes that sizing one model needs would take longer than the rest of the command together. This one keeps the fields
(so ``dataclasses.fields``, ``replace`` and ``asdict`` work) and shares one set of methods among all classes. Type
checkers see the standard decorator.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen: bool, slots: bool = False, kw_only: bool = False) -> Any:
        """``dataclasses.dataclass(frozen=True, ...)``; instances have a ``__dict__`` whatever ``slots`` says."""
        assert frozen, "values are frozen"

        def define(cls: Any) -> Any:
            """Record the fields, and give the class the methods that all share."""
            cls = dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=kw_only)(cls)
            fields = dataclasses.fields(cls)
            cls._names = tuple(field.name for field in fields)
            cls._every_name = frozenset(cls._names)
            cls._positional = tuple(field.name for field in fields if not field.kw_only)
            cls._defaults = {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}
            cls._factories = {f.name: f.default_factory for f in fields if f.default_factory is not dataclasses.MISSING}
            cls._compared = tuple(f.name for f in fields if f.compare)
            cls._hashed = tuple(f.name for f in fields if (f.compare if f.hash is None else f.hash))
            for method in (_init, _repr, _eq, _hash, _setattr, _delattr, _getstate):
                setattr(cls, f"__{method.__name__[1:]}__", method)
            return cls

        return define


_HASH = "_hash"


def _init(self: Any, *args: Any, **kwargs: Any) -> None:
    cls = type(self)
    values = {**cls._defaults, **dict(zip(cls._positional, args)), **kwargs}
    for name, factory in cls._factories.items():
        if name not in values:
            values[name] = factory()
    if len(args) > len(cls._positional) or values.keys() != cls._every_name:
        wrong = sorted(values.keys() ^ cls._every_name) or f"more than {len(cls._positional)} positional values"
        raise TypeError(f"{cls.__name__}: missing or unexpected {wrong}")
    self.__dict__.update(values)
    if hasattr(cls, "__post_init__"):
        self.__post_init__()


def _repr(self: Any) -> str:
    return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self._names)})"


def _eq(self: Any, other: Any) -> Any:
    if type(self) is not type(other):
        return NotImplemented
    mine, theirs = self.__dict__, other.__dict__
    return self is other or all(mine[name] == theirs[name] for name in self._compared)


def _hash(self: Any) -> int:
    """Computed once: layers are counted by equality, and each holds its kind, formats and place."""
    values = self.__dict__
    if _HASH not in values:
        values[_HASH] = hash((type(self), *[values[name] for name in self._hashed]))
    found: int = values[_HASH]
    return found


def _getstate(self: Any) -> dict[str, Any]:
    """What is pickled or copied: another process hashes otherwise."""
    return {name: value for name, value in self.__dict__.items() if name != _HASH}


def _setattr(self: Any, name: str, value: Any) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _delattr(self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
