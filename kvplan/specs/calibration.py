"""What this machine's starts taught: measured minus predicted overhead, kept in a file under the user's configuration.

The file is JSON, ``calibration.json`` in ``$KVPLAN_CONFIG_DIR``, else ``$XDG_CONFIG_HOME/kvplan``, else
``~/.config/kvplan``. It holds one record per start; a correction is the median of the records of the same engine, the
same release (major and minor) and the same accelerator.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from statistics import median
from typing import Any

from kvplan.core.errors import FileError
from kvplan.core.frozen import dataclass
from kvplan.specs.json_file import load_json_object

LINES = ("activation_bytes", "cuda_graph_bytes", "non_torch_bytes")
"""The lines of a budget that depend on the machine."""

SCHEMA = 1
MAX_CALIBRATION_BYTES = 4 * 1024**2
MAX_RECORDS = 2000
"""The oldest go first; two thousand records take half a megabyte."""

FOLDER_VARIABLE = "KVPLAN_CONFIG_DIR"
_NAMES = ("engine", "version", "accelerator", "model", "date")


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRecord:
    """One start: measured minus predicted bytes of a rank, None for a line that the log is silent of.

    ``version``      of the engine, as the log or the user names it
    ``accelerator``  kvplan's name of the device
    ``date``         ISO 8601 day on which it was learnt
    """

    engine: str
    version: str
    accelerator: str
    model: str
    date: str
    activation_bytes: int | None = None
    cuda_graph_bytes: int | None = None
    non_torch_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """Bytes to add to each predicted line: the median over ``num_starts`` starts; None where none measured the line."""

    activation_bytes: int | None = None
    cuda_graph_bytes: int | None = None
    non_torch_bytes: int | None = None
    num_starts: int = 0


def calibration_path() -> Path:
    """Where the file is, or will be."""
    if folder := os.environ.get(FOLDER_VARIABLE):
        return Path(folder) / "calibration.json"
    home = os.environ.get("XDG_CONFIG_HOME", "")
    base = Path(home) if os.path.isabs(home) else Path.home() / ".config"  # a relative one is to be ignored
    return base / "kvplan" / "calibration.json"


def read_records(path: Path | None = None) -> tuple[CalibrationRecord, ...]:
    """All records, the oldest first; none without a file. Raises FileError for a file that is not what it should be."""
    path = path or calibration_path()
    if not path.exists():
        return ()
    try:
        values = load_json_object(path, "a calibration file", MAX_CALIBRATION_BYTES)
        return _records(path, values)
    except FileError as error:
        raise FileError(error.message, error.hint or "mend it, or delete it to start anew") from None


def learn(record: CalibrationRecord, path: Path | None = None) -> int:
    """Add a start and return how many are known; the same start learnt again counts once. Raises FileError."""
    path = path or calibration_path()
    known = [each for each in read_records(path) if _same(each) != _same(record)]
    records = [*known, record][-MAX_RECORDS:]
    _write(path, {"schema": SCHEMA, "records": [asdict(each) for each in records]})
    return len(records)


def correction(engine: str, version: str, accelerator: str, path: Path | None = None) -> Correction:
    """What the starts of this engine's release on this accelerator taught. Raises FileError."""
    key = (engine, release(version), accelerator)
    starts = [each for each in read_records(path) if (each.engine, release(each.version), each.accelerator) == key]
    return Correction(**{line: _median(starts, line) for line in LINES}, num_starts=len(starts))


def release(version: str) -> str:
    """``0.25`` of ``0.25.1`` and of ``0.25.1rc2+cu130``; other names (``b10256``) whole."""
    match = re.match(r"v?(\d+\.\d+)", version)
    return match[1] if match else version


def _median(starts: list[CalibrationRecord], line: str) -> int | None:
    known = [value for each in starts if (value := getattr(each, line)) is not None]
    return round(median(known)) if known else None


def _same(record: CalibrationRecord) -> dict[str, Any]:
    values: dict[str, Any] = asdict(record)
    return {name: value for name, value in values.items() if name != "date"}


def _records(path: Path, values: Mapping[str, Any]) -> tuple[CalibrationRecord, ...]:
    if values.get("schema") != SCHEMA:
        raise FileError(f"{path}: has schema {values.get('schema')!r}; this kvplan reads {SCHEMA}")
    records = values.get("records")
    if not isinstance(records, list):
        raise FileError(f"{path}: has no list of records")
    return tuple(_record(f"{path}: record {index + 1}", each) for index, each in enumerate(records))


def _record(where: str, values: Any) -> CalibrationRecord:
    known = {field.name for field in fields(CalibrationRecord)}
    if not isinstance(values, dict) or not set(_NAMES) <= values.keys() <= known:
        raise FileError(f"{where} does not have the keys {', '.join(_NAMES)} and bytes")
    for name in _NAMES:
        if not isinstance(values[name], str):
            raise FileError(f"{where}: {name} must be text, not {values[name]!r}")
    for name in LINES:
        size = values.get(name)
        if size is not None and (not isinstance(size, int) or isinstance(size, bool)):
            raise FileError(f"{where}: {name} must be a whole number of bytes or null, not {size!r}")
    return CalibrationRecord(**values)


def _write(path: Path, values: Mapping[str, Any]) -> None:
    """Replace the file in one step, so that a reader or a crash never meets half of it."""
    target = path.resolve()  # a link stays one
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=target.parent, suffix=".tmp", delete=False) as file:
            json.dump(values, file, indent=1)
            file.write("\n")
        try:
            os.replace(file.name, target)
        except OSError:
            os.unlink(file.name)
            raise
    except OSError as error:
        raise FileError(f"{path}: cannot be written ({error.strerror})") from None
