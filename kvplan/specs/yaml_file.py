"""YAML as specs use it: plain values, no key twice, no merge keys, no tags; one clear line for everything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from kvplan.core.errors import FileError

MAX_YAML_BYTES = 1024**2
"""The longest spec of a model with 100 irregular layers stays below 10 KB."""

MAX_NESTING = 20
"""A spec is four deep."""


def load_yaml_file(path: Path, what: str = "a model spec") -> dict[str, Any]:
    """The mapping in a YAML file that should be ``what``. Raises FileError."""
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise FileError(f"{path}: too large to be {what}")
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise FileError(f"{path}: is not UTF-8 text") from None
    return load_yaml(text, str(path), what)


def load_yaml(text: str, source: str, what: str = "a model spec") -> dict[str, Any]:
    """The mapping in a YAML text that should be ``what``. Raises FileError with the line at fault."""
    try:
        _check_events(text, source, what)
        values = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        if "nesting depth" in _reason(error):  # libyaml's own limit, since PyYAML 6.0.4
            raise FileError(f"{source}: is nested too deeply to be {what}") from None
        raise FileError(f"{source}: is not valid YAML ({_reason(error)})") from None
    except (ValueError, RecursionError) as error:  # impossible dates, numbers of thousands of digits
        raise FileError(f"{source}: is not valid YAML ({type(error).__name__})") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise FileError(f"{source}: is not {what} (a mapping of names is expected)")
    return values


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _UniqueKeyLoader(_SafeLoader):  # type: ignore[misc]
    """The safe loader, which otherwise lets the last of two equal keys win."""


def _construct_mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, (str, int)):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a name", key_node.start_mark)
        if key in mapping:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is there twice", key_node.start_mark)
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


_UniqueKeyLoader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


def _check_events(text: str, source: str, what: str) -> None:
    """Refuse anchors, tags and deep nesting by the parser's flat stream of events: the step after it recurses in C."""
    depth = 0
    for event in yaml.parse(text, Loader=_SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_NESTING:
            raise FileError(f"{source}: is nested too deeply to be {what}")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
            raise FileError(f"{source}: has an anchor or a tag, but {what} is plain values")


def _reason(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or "unreadable characters"
    mark = getattr(error, "problem_mark", None)
    return f"line {mark.line + 1}: {problem}" if mark is not None else str(problem)
