"""One file per target that a plan can be started with: an engine by itself, or Kubernetes.

To add one, write a module with ``TARGET`` (its name, that of the file), ``ENGINES`` (the engines whose plans it
starts) and ``launch(plan) -> Launch`` (``kvplan/core/launch.py``). The folder is scanned by name;
``tests/launchers/test_launchers.py`` holds every target to the contract.
"""

from __future__ import annotations

from types import ModuleType

from kvplan.core.errors import UnsupportedError, UsageError
from kvplan.core.launch import Launch, LaunchPlan
from kvplan.core.registry import find_module, modules

_WHAT = "launch target"


def targets() -> list[str]:
    """Every target that ``--emit`` takes."""
    return [module.TARGET for module in modules(__name__)]


def default_target(engine: str) -> str:
    """The target that starts an engine (``vllm``, ``vllm@0.25``) by itself.

    Raises UsageError for plain geometry, UnknownNameError for an engine that no target starts.
    """
    name = engine_name(engine)
    if name == "none":
        raise UsageError("plain geometry starts nothing", "name an engine: --engine vllm, for example")
    module = find_module(__name__, name, _WHAT, _names)
    return str(module.TARGET)


def engine_of(target: str) -> str:
    """The engine that a target starts; the first where it starts several. Raises UnknownNameError."""
    module = find_module(__name__, target.strip().lower(), _WHAT, _names)
    return str(module.ENGINES[0])


def launch(target: str, plan: LaunchPlan) -> Launch:
    """How ``target`` starts the plan.

    Raises UnknownNameError for a target that is none, UnsupportedError where it starts another engine or lacks an
    option that the plan sets, UsageError for a plan that makes no sense.
    """
    module = find_module(__name__, target.strip().lower(), _WHAT, _names)
    engine = engine_name(plan.engine)
    if engine not in module.ENGINES:
        raise UnsupportedError(
            f"{module.TARGET} does not start {engine}, for which this was planned",
            f"it starts {', '.join(module.ENGINES)}: plan with --engine {module.ENGINES[0]}",
        )
    if not plan.model:
        raise UsageError("there is no model to start", "name what the engine loads: a Hub id, a folder or a file")
    answer: Launch = module.launch(plan)
    return answer


def engine_name(text: str) -> str:
    """``vllm`` of ``vllm@0.25`` or ``vllm:option=value``."""
    return text.partition(":")[0].partition("@")[0].strip().lower()


def _names(module: ModuleType) -> list[str]:
    return [module.TARGET]
