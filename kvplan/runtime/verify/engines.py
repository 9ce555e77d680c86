"""The ``engine`` checks: a real engine is started on a skeleton, and what it says of its cache is compared."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from kvplan.core.errors import UnknownNameError
from kvplan.core.request import SizeResult
from kvplan.runtime.verify import against as engines
from kvplan.runtime.verify.device import Progress, silent
from kvplan.runtime.verify.engine_process import engine_python
from kvplan.runtime.verify.findings import Findings

GROUP = "engine"


def engine_names() -> list[str]:
    """The engines that can be started."""
    return sorted(path.stem for path in Path(engines.__file__).parent.glob("*.py") if path.stem != "__init__")


def verify_engine(result: SizeResult, against: str, python: str | None = None, progress: Progress = silent) -> Findings:
    """Start the engine named ``against`` for the request of ``result``, and compare what its cache takes.

    ``python`` is the interpreter that has the engine; without it, ``KVPLAN_VLLM_PYTHON`` and the like are asked, and
    this one is taken last. Raises UnknownNameError, UnsupportedError (the engine is not installed, has no such model or
    does not start), UsageError or DoesNotFitError.
    """
    name = against.strip().lower()
    if name not in engine_names():
        raise UnknownNameError("engine to verify against", against, engine_names())
    module = import_module(f"{engines.__name__}.{name}")
    found: Findings = module.verify(result, engine_python(module.VARIABLE, python), progress)
    return found
