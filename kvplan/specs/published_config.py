"""The published ``config.json`` of a model: the truth beside its spec, from which the model's own code is built."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from kvplan.core.frozen import dataclass
from kvplan.core.model import Model
from kvplan.specs.catalogue import spec_folders
from kvplan.specs.config_json import load_checkpoint_config

FOLDER = "configs"
"""Beside the packaged specs: one ``ORG__NAME.json`` for each repository that a spec was read from."""

_HUB_URL = re.compile(r"https?://(?:www\.)?huggingface\.co/([\w.-]+)/([\w.-]+)(?:/.*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedConfig:
    """``values`` as published and the ``file`` that holds them; both None, with the ``reason``, where there is none."""

    values: Mapping[str, Any] | None = field(default=None, hash=False)
    file: Path | None = None
    reason: str = ""


def published_config(model: Model) -> PublishedConfig:
    """The config that a model was published with.

    A model read from a ``config.json`` has that file, one read from a folder the file in it, and one with a spec the
    packaged copy of the config at its source's address, or the Hub's own copy in its cache. Raises FileError for a
    file that is gone or is no JSON object.
    """
    source = model.source
    if source.endswith(".json") and source != model.provenance.get("file"):
        return _read(Path(source))
    match = _HUB_URL.fullmatch(source)
    if match is None:
        return PublishedConfig(reason=f"{model.name} was read from {source}, which names no published config")
    name = f"{match[1]}__{match[2]}.json"
    for folder in spec_folders():
        if (folder / FOLDER / name).is_file():
            return _read(folder / FOLDER / name)
    cached = _cached_file(f"{match[1]}/{match[2]}")
    if cached is not None:
        return _read(cached)
    return PublishedConfig(reason=f"the config of {match[1]}/{match[2]} is neither packaged nor in the Hub's cache")


def _read(path: Path) -> PublishedConfig:
    return PublishedConfig(values=load_checkpoint_config(path), file=path)


def _cached_file(repository: str) -> Path | None:
    """The config that the Hub's client has fetched before, where it is installed."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    cached = try_to_load_from_cache(repository, "config.json")
    return Path(cached) if isinstance(cached, str) else None
