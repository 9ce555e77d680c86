"""What launchers share: which parts of a plan an engine has options for, and options as flags, Python and YAML."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from kvplan.core.errors import UnsupportedError, UsageError
from kvplan.core.launch import LaunchPlan
from kvplan.core.parallel import Parallel
from kvplan.core.units import GIB, cdiv

_ABOUT = ("model", "engine", "engine_version", "cache_word", "device", "vendor", "num_devices", "parallel")
"""Fields that every launcher reads or that are for people; ``parallel`` is asked about size by size."""

_SIZES = ("tp", "pp", "dp", "dcp")

_WORDS: Mapping[str, str] = {
    "native_layers": "layers in the model's own dtype",
    "native_windows": "sliding-window layers in the model's own dtype",
    "policy": "a policy that drops tokens",
    "max_model_len": "a longest request",
    "max_num_seqs": "a number of requests at once",
    "max_num_batched_tokens": "a number of tokens in a batch",
    "memory_utilization": "a share of memory",
    "block_tokens": "a block size",
    "attention_backend": "an attention backend",
    "prefix_caching": "prefix caching to switch",
    "expert_parallel": "expert parallelism",
    "eager": "eager mode",
    "text_only": "loading a model without its towers",
    "host_cache_bytes": "a cache in host memory",
}
"""What each part of a plan asks for, in words."""


def refuse_missing(engine: str, plan: LaunchPlan, known: Iterable[str]) -> None:
    """Raise UnsupportedError for a part of the plan that is set and that the engine has no option for.

    ``known`` names fields of LaunchPlan and sizes of Parallel: nothing that a plan asks for is left out in silence.
    """
    known = {*known, *_ABOUT}
    for item in fields(LaunchPlan):
        default = item.default if item.default is not MISSING else None
        if item.name not in known and getattr(plan, item.name) != default:
            raise UnsupportedError(f"{engine} has no option for {_WORDS[item.name]} ({item.name})")
    for size in _SIZES:
        if size not in known and getattr(plan.parallel, size) > 1:
            raise UnsupportedError(f"{engine} has no option for --{size} {getattr(plan.parallel, size)}")


def cache_word(plan: LaunchPlan) -> str | None:
    """The word to give to the engine; None for ``auto``, which is every engine's default and needs no flag."""
    word = plan.cache_word.strip().lower()
    if not word:
        raise UsageError("a launch plan needs the engine's word for the cache dtype", "auto leaves it to the engine")
    return None if word == "auto" else word


def above_one(size: int) -> int | None:
    """A parallel size, None where it is the default of 1."""
    return size if size > 1 else None


def ratio_value(ratio: float | None) -> float | None:
    """A share of memory as people write it: four digits are more than any engine's memory can tell apart."""
    return None if ratio is None else round(float(ratio), 4)


def host_cache_gib(size_bytes: int, replicas: int) -> float | int | None:
    """GiB of one replica, to the hundredth, rounded up; None where there is no such cache."""
    size = cdiv(size_bytes * 100, replicas * GIB) / 100
    return (int(size) if size.is_integer() else size) or None


def ranks_of(parallel: Parallel) -> int:
    """Ranks of all replicas; ``dcp`` ranks are tensor-parallel ones."""
    return parallel.tp * parallel.pp * parallel.dp


def set_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are set: None leaves one to the engine."""
    return {name: value for name, value in options.items() if value is not None}


def flag_words(options: Mapping[str, Any], dashes: bool = True) -> tuple[str, ...]:
    """Options by their Python names as words of a command line: True is the flag alone, False its ``--no-`` form.

    ``dashes`` writes ``_`` as ``-``; values of a list follow the flag one by one.
    """
    words: list[str] = []
    for name, value in set_options(options).items():
        spelled = name.replace("_", "-") if dashes else name
        words.append(f"--no-{spelled}" if value is False else f"--{spelled}")
        if isinstance(value, (list, tuple)):
            words += map(str, value)
        elif not isinstance(value, bool):
            words.append(str(value))
    return tuple(words)


def python_call(name: str, arguments: Mapping[str, Any], positional: Sequence[str] = ()) -> str:
    """A call with one argument a line, in ruff's format; ``positional`` and values of type Code are written as is."""
    items = [*positional, *(f"{key}={python_value(value)}" for key, value in set_options(arguments).items())]
    short = f"{name}({', '.join(items)})"
    if len(items) < 2 or (len(items) == 2 and len(short) <= 72):
        return short
    lines = "".join(f"    {line}\n" for item in items for line in f"{item},".splitlines())
    return f"{name}(\n{lines})"


class Code(str):
    """Python source, to be written without quotes."""

    __slots__ = ()


def python_value(value: Any) -> str:
    """A literal in double quotes, as formatters write it."""
    if isinstance(value, Code):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(python_value, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{python_value(key)}: {python_value(entry)}" for key, entry in value.items()) + "}"
    return repr(value)


_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
_RESERVED = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


def to_yaml(value: Mapping[str, Any]) -> str:
    """Mappings, lists, text, numbers, booleans and None as YAML in block style; text is quoted where it must be."""
    return "".join(f"{line}\n" for line in _yaml_lines(value))


def _yaml_lines(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if isinstance(entry, (Mapping, list, tuple)) and entry:
                yield f"{_yaml_scalar(key)}:"
                yield from (f"  {line}" for line in _yaml_lines(entry))
            else:
                yield f"{_yaml_scalar(key)}: {_yaml_scalar(entry)}"
    else:
        for entry in value:
            lines = list(_yaml_lines(entry)) if isinstance(entry, (Mapping, list, tuple)) else [_yaml_scalar(entry)]
            yield from (f"{'  ' if index else '- '}{line}" for index, line in enumerate(lines))


def _yaml_scalar(value: Any) -> str:
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.lower() not in _RESERVED
        return value if plain else json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, (list, tuple)):
        return "[]"
    return json.dumps(value)
