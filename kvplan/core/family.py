"""The contract of an architecture family: which configs it reads, and how a config becomes an Architecture."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.core.config_reader import ConfigReader
from kvplan.core.frozen import dataclass
from kvplan.core.model import Architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One architecture family; each file in ``kvplan/families`` defines one as ``FAMILY``.

    ``model_types``    values of ``model_type`` it reads
    ``architectures``  values of ``architectures`` it reads when a config has no ``model_type``
    ``claims``         decides on configs that carry neither (old checkpoints), by their keys
    ``neutral_keys``   keys of this family that do not change the cache or the parameter count
    """

    name: str
    model_types: tuple[str, ...]
    read: Callable[[ConfigReader], Architecture]
    architectures: tuple[str, ...] = ()
    claims: Callable[[ConfigReader], bool] | None = None
    neutral_keys: frozenset[str] = frozenset()
