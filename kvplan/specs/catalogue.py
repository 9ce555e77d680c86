"""Finds packaged specs by name or alias, without reading more than it must.

Searched in this order: the folder in the environment variable ``KVPLAN_SPECS``, the copy inside an installed wheel
(``kvplan/model_specs``), the top-level ``model_specs`` of a source checkout. Packaged specs are trusted (tests check
each); a spec in ``KVPLAN_SPECS`` is checked like any external file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from kvplan.core.errors import FileError, KvplanError, UnknownNameError
from kvplan.core.model import Model
from kvplan.specs.spec_yaml import build_model, read_spec
from kvplan.specs.yaml_file import load_yaml_file

FOLDER_VARIABLE = "KVPLAN_SPECS"

_NAME = re.compile(r"(\w[^/\\]*/)?\w[^/\\]*")
"""A name, or an organization and a name; not a path."""


def spec_folders() -> list[Path]:
    """The folders that exist, in the order in which they are searched. Raises FileError on a wrong variable."""
    package = Path(__file__).resolve().parent.parent
    folders = [folder for folder in (package / "model_specs", package.parent / "model_specs") if folder.is_dir()][:1]
    own = os.environ.get(FOLDER_VARIABLE)
    if not own:
        return folders
    if not Path(own).is_dir():
        raise FileError(f"{FOLDER_VARIABLE} names {own!r}, which is no folder")
    return [Path(own), *folders]


def spec_files() -> list[Path]:
    """Every spec file, folder by folder."""
    return [path for folder in spec_folders() for path in sorted(folder.glob("*.yaml"))]


def find_spec(ref: str) -> Path | None:
    """The spec whose file name, name or alias is ``ref``, whatever the case.

    The organization before ``/`` may be left out; an exact match wins over such a one.
    """
    wanted = ref.strip().lower()
    if not _NAME.fullmatch(wanted):
        return None
    loose: Path | None = None
    for folder in spec_folders():
        paths = sorted(folder.glob("*.yaml"))
        for path in paths:
            if path.stem.lower() == wanted:
                return path
        for path in paths:
            names = _names_if_mentioned(path, _tail(wanted))
            if wanted in names:
                return path
            if loose is None and "/" not in wanted and wanted in map(_tail, names):
                loose = path
    return loose


def _names_if_mentioned(path: Path, tail: str) -> set[str]:
    """The names of a spec in lower case; none, without parsing it, unless its text mentions ``tail``."""
    if tail != path.stem.lower() and tail.encode() not in path.read_bytes().lower():
        return set()
    return {name.lower() for name in _readable_names(path)}


def load_packaged(name: str) -> Model:
    """The Model of a spec in the catalogue. Raises UnknownNameError with the near names."""
    path = find_spec(name)
    if path is None:
        raise UnknownNameError("model", name, catalogue_names())
    return load_found(path)


def load_found(path: Path) -> Model:
    """The Model of a spec that ``find_spec`` found."""
    own = os.environ.get(FOLDER_VARIABLE)
    if own and path.parent == Path(own):
        return read_spec(path)
    return build_model(_values(path), str(path))


def catalogue_names() -> list[str]:
    """Every file name, name and alias, for hints and listings. Files that cannot be read are passed over here."""
    return sorted({name for path in spec_files() for name in _readable_names(path)})


def _readable_names(path: Path) -> Iterator[str]:
    try:
        yield from _names(path)
    except KvplanError:
        yield path.stem


def _names(path: Path) -> list[str]:
    values = _values(path)
    aliases = values.get("aliases")
    stated = [values.get("name"), *(aliases if isinstance(aliases, list) else [])]
    return [path.stem, *(name for name in stated if isinstance(name, str))]


@cache
def _values(path: Path) -> dict[str, Any]:
    """The mapping in a file; finding a spec and loading it read it once."""
    return load_yaml_file(path)


def _tail(name: str) -> str:
    return name.rpartition("/")[2]
