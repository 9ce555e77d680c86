"""Floor 2: one file per architecture family. A family turns a ``config.json`` into an Architecture.

To add one, copy ``llama.py``: define ``FAMILY = Family(name=…, model_types=(…), read=…)``. ``read`` asks the
ConfigReader for every key that shapes the cache or the parameter count, builds one tuple of layer kinds per layer,
and returns an Architecture. Nothing else needs an edit: the folder is scanned, and the contract tests pick it up.
"""

from __future__ import annotations

from functools import cache

from kvplan.core.family import Family
from kvplan.core.registry import modules


@cache
def all_families() -> tuple[Family, ...]:
    """Every family in the folder."""
    return tuple(module.FAMILY for module in modules(__name__))
