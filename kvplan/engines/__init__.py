"""Floor 2: one file per engine, each defining ``ENGINE`` and stating the release its rules were read from.

To add one, copy ``none.py``: a frozen dataclass with ``name``, ``version``, ``certainty`` and ``allocate``. An engine
gets the layers of one rank and the request, and says what one sequence takes. The folder is scanned by file name.
"""

from __future__ import annotations

from importlib import import_module

from kvplan.core.engine import Engine
from kvplan.core.errors import UnknownNameError
from kvplan.core.registry import has_module, modules


def get_engine(name: str) -> Engine:
    """The engine of this name. Raises UnknownNameError."""
    key = name.strip().lower()
    if not has_module(__name__, key):
        raise UnknownNameError("engine", name, engine_names())
    engine: Engine = import_module(f"{__name__}.{key}").ENGINE
    return engine


def engine_names() -> list[str]:
    """All engines that ``--engine`` takes."""
    return [module.ENGINE.name for module in modules(__name__)]
