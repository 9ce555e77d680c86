"""Floor 2: one file (or package) per engine, each defining ``ENGINE`` and stating the release it was read from.

To add one, copy ``none.py``: a frozen dataclass with ``name``, ``version``, ``certainty``, ``cache_dtype`` and
``allocate`` (``kvplan/core/engine.py`` is the contract). Its other fields are its own options, written after a colon:
``llamacpp:swa_full=true``. A module may offer ``VERSIONS`` (release -> engine, for ``vllm@0.25``) and ``PRESETS``
(name -> engine, as ``ollama`` is of llama.cpp). The folder is scanned by name; ``tests/contracts/test_engines.py``
holds every engine to the contract.
"""

from __future__ import annotations

from dataclasses import fields
from types import ModuleType

from kvplan.core.engine import Engine
from kvplan.core.errors import UnknownNameError, UsageError, near_hint
from kvplan.core.registry import configure, find_module, modules, split_call

_WHAT = "engine"
_FIXED = ("name", "version", "certainty")


def get_engine(text: str) -> Engine:
    """The engine of ``vllm``, ``vllm@0.25`` or ``llamacpp:swa_full=true``. Raises UnknownNameError or UsageError."""
    head, colon, arguments = text.partition(":")
    head, at, version = head.partition("@")
    name, positional, options = split_call(f"{head}{colon}{arguments}", _WHAT)
    if not name:
        raise UsageError(f"{_WHAT} {text!r} has no name", f"allowed: {', '.join(engine_names())}")
    module = find_module(__name__, name, _WHAT, names_of)
    engine: Engine = _of_version(module, name, version.strip()) if at else _presets(module).get(name, module.ENGINE)
    what = f"{_WHAT} {name}"
    fixed = (*_FIXED, *getattr(engine, "fixed_options", ()))
    chosen: Engine = configure(engine, positional, options, fixed, what)
    return chosen


def engine_words(engine: Engine) -> str:
    """What ``get_engine`` reads as this engine again: its name, its release and the options that are not the default.

    An engine whose state no option sets is described by the options that it has.
    """
    name = f"{engine.name}@{engine.version}" if engine.version else engine.name
    default, fixed = get_engine(name), (*_FIXED, *getattr(engine, "fixed_options", ()))
    values = {field.name: getattr(engine, field.name) for field in fields(engine) if field.name not in fixed}  # type: ignore[arg-type]
    changed = [f"{key}={_option_text(value)}" for key, value in values.items() if value != getattr(default, key)]
    return f"{name}:{','.join(changed)}" if changed else name


def _option_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def engine_names() -> list[str]:
    """All engines that ``--engine`` takes, presets included."""
    return [name for module in modules(__name__) for name in names_of(module)]


def names_of(module: ModuleType) -> list[str]:
    """Every name that an engine's module answers to: its own and its presets."""
    return [module.ENGINE.name, *_presets(module)]


def engine_versions(name: str) -> tuple[str, ...]:
    """The releases of an engine whose rules kvplan has, newest last."""
    module = find_module(__name__, name, _WHAT, names_of)
    version = module.ENGINE.version
    return tuple(getattr(module, "VERSIONS", {})) or ((version,) if version else ())


def _presets(module: ModuleType) -> dict[str, Engine]:
    presets: dict[str, Engine] = getattr(module, "PRESETS", {})
    return presets


def _of_version(module: ModuleType, name: str, version: str) -> Engine:
    """The engine whose release is ``version``, or starts with it (``0.25`` for 0.25.1)."""
    engines: list[Engine] = [*getattr(module, "VERSIONS", {}).values(), _presets(module).get(name, module.ENGINE)]
    for engine in engines:
        if engine.version and f"{engine.version}.".startswith(f"{version}."):
            return engine
    known = sorted({engine.version for engine in engines if engine.version})
    if not known:
        raise UnknownNameError("version of engine", f"{name}@{version}", [name])
    raise UsageError(f"kvplan has no rules of {name} {version}", near_hint(version, known))
