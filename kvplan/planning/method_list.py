"""``--methods int8,window:1024,sinks=4,h2o:keep=0.5``: a list by commas whose entries have commas of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kvplan.core.errors import UsageError
from kvplan.core.evaluation import BASELINE

DEMO_METHODS = "int8,fp8,int4,kivi2,window:512,h2o:keep=0.5,snapkv:keep=0.5,int8+snapkv:keep=0.5"
"""One of each kind: 8 bits, 4 bits, 2 bits, a recency window, two ways to choose tokens, and both together."""

DEFAULT_METHODS = "int8,fp8,int4"
"""What engines offer."""

_OPTION = re.compile(r"[0-9]|[^:+/]*=", re.ASCII)


def split_methods(text: str) -> tuple[str, ...]:
    """The methods of a list, without the baseline, which is measured in any case.

    A piece that is an option of a method (``sinks=4``, or a value that starts with a digit: ``4096=int8``, ``32``)
    belongs to the method before it; no format and no policy has such a name. Raises UsageError for a list without a
    method, one that starts with an option, and for a method named twice.
    """
    methods: list[str] = []
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        if not _OPTION.match(piece):
            methods.append(piece)
        elif methods:
            methods[-1] += f",{piece}"
        else:
            raise UsageError(f"--methods starts with the option {piece!r}", "name a method first: window:1024,sinks=4")
    if twice := next((name for name in methods if methods.count(name) > 1), None):
        raise UsageError(f"--methods names {twice} twice")
    compared = tuple(name for name in methods if name != BASELINE)
    if not compared:
        raise UsageError("--methods names nothing to compare with the uncompressed cache", _hint())
    return compared


def split_tasks(text: str, known: Sequence[str]) -> tuple[str, ...]:
    """The tasks of a list by commas, each once, in the order of ``known``. Raises UnknownNameError or UsageError."""
    from kvplan.core.engine import check_name

    asked = {check_name("--tasks", piece.strip(), known) for piece in text.split(",") if piece.strip()}
    if not asked:
        raise UsageError("--tasks names nothing to measure", f"allowed: {', '.join(known)}")
    return tuple(task for task in known if task in asked)


def _hint() -> str:
    return f"write --methods {DEFAULT_METHODS}, for example"
