"""Records in a file that grows line by line, so that a run that was killed goes on where it stopped.

The file is JSONL: a header that says what was measured, then one record a line. What a kill leaves of a last line is
left out, and written over. Several processes write a file each, which belong together: ``quality.jsonl`` and
``quality.rank1.jsonl``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kvplan.core.errors import FileError
from kvplan.core.evaluation import Record

SCHEMA = 1
_KIND = "kvplan evaluate"
_KEYS = {"task", "method", "sample", "values"}
_OTHER = "give --results another file, or delete this one"


@dataclass(frozen=True, kw_only=True)
class Header:
    """What all records of a file have in common: mixing others in would compare what cannot be compared.

    ``settings`` are those on which figures depend and which the names of samples do not carry. What may grow from run
    to run is no part of it: methods, tasks and the number of samples.
    """

    model: str
    device: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    seed: int


Key = tuple[str, str, str]


def record_key(record: Record) -> Key:
    """(task, method, sample), which a file has once."""
    return record.task, record.method, record.sample


class ResultsFile:
    """The records of one run at ``path``; ``rank`` writes to a file of its own, and reads all of them.

    Raises FileError where a file cannot be read or written, is no results file, or has another header.
    """

    def __init__(self, path: Path, header: Header, rank: int = 0) -> None:
        kind = header.device.partition(":")[0]  # each process has a GPU of its own
        self._path, self._header = path, json.loads(json.dumps({**asdict(header), "device": kind}))
        self._own = path if rank == 0 else path.with_suffix(f".rank{rank}{path.suffix}")

    def read(self) -> list[Record]:
        """All records of all processes, each once, in the order of their writing."""
        found: dict[Key, Record] = {}
        for path in self._files():
            for record in _records(path, self._header):
                found.setdefault(record_key(record), record)
        return list(found.values())

    def append(self, records: Iterable[Record]) -> Iterator[Record]:
        """Write each record as it comes and hand it on; it is on disk, whole, before the next one is made."""
        try:
            with self._open() as file:
                for record in records:
                    file.write(_line(asdict(record)))
                    file.flush()
                    yield record
        except OSError as error:
            raise FileError(f"{self._own}: cannot be written ({error.strerror})") from None

    def fold(self, records: Iterable[Record] = ()) -> None:
        """Put what all processes wrote, and ``records`` besides, into the one file; for one process, when all are done.

        The file is replaced in one step, and those of other processes go.
        """
        others = [path for path in self._files() if path != self._path]
        stored = {record_key(record): record for record in self.read()}
        found = stored | {record_key(record): record for record in records}
        if not others and len(found) == len(stored):
            return
        lines = [self._header_line(), *(_line(asdict(record)) for record in found.values())]
        new = self._path.with_suffix(f"{self._path.suffix}.new")
        try:
            new.write_text("".join(lines), encoding="utf-8")
            os.replace(new, self._path)
            for path in others:
                path.unlink()
        except OSError as error:
            raise FileError(f"{self._path}: cannot be written ({error.strerror})") from None

    def _files(self) -> list[Path]:
        """This file and those of other processes, as far as they are there."""
        parts = sorted(self._path.parent.glob(f"{_literal(self._path.stem)}.rank*{_literal(self._path.suffix)}"))
        return [path for path in (self._path, *parts) if path.exists()]

    def _open(self) -> Any:
        """The own file, open behind its last whole line; a new one gets its header first."""
        self._own.parent.mkdir(parents=True, exist_ok=True)
        whole = _whole_bytes(self._own)
        next(_records(self._own, self._header), None)  # refuses a file that is another's
        file = self._own.open("r+" if self._own.exists() else "w", encoding="utf-8", newline="\n")
        file.truncate(whole)
        file.seek(whole)
        if not whole:
            file.write(self._header_line())
            file.flush()
        return file

    def _header_line(self) -> str:
        return _line({_KIND: SCHEMA, **self._header})


def _records(path: Path, header: Mapping[str, Any]) -> Iterator[Record]:
    lines = _lines(path) if path.exists() else []
    if not lines:
        return
    _check_header(path, _object(path, 1, lines[0]), header)
    for number, line in enumerate(lines[1:], start=2):
        values = _object(path, number, line)
        if values.keys() != _KEYS or not isinstance(values["values"], dict):
            raise FileError(f"{path}: line {number} is no record of kvplan evaluate", _OTHER)
        yield Record(**values)


def _lines(path: Path) -> list[str]:
    """The whole lines of a file; none where a kill left nothing but a part of the header."""
    try:
        text = path.read_bytes()[: _whole_bytes(path)].decode("utf-8")
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise FileError(f"{path}: is not a results file of kvplan evaluate", _OTHER) from None
    return text.split("\n")[:-1]


def _whole_bytes(path: Path) -> int:
    """Up to the end of the last whole line: a kill may leave a part of one behind it.

    Raises FileError for a file without a whole line that is no beginning of a header: it is somebody's, not ours.
    """
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None
    whole = content.rfind(b"\n") + 1
    start = _line({_KIND: SCHEMA})[:-2].encode()
    if not whole and content[: len(start)] != start[: len(content)]:
        raise FileError(f"{path}: is not a results file of kvplan evaluate", _OTHER)
    return whole


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise FileError(f"{path}: line {number} is not a line of a results file of kvplan evaluate", _OTHER)
    return values


def _check_header(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise FileError, in one line that names the first thing that differs."""
    if found.get(_KIND) != SCHEMA:
        raise FileError(f"{path}: is not a results file of kvplan evaluate", _OTHER)
    for name, value in wanted.items():
        if (there := found.get(name)) == value:
            continue
        if isinstance(value, dict) and isinstance(there, dict):
            name, value, there = next(
                (f"{name}.{key}", value.get(key), there.get(key))
                for key in (*value, *there)
                if value.get(key) != there.get(key)
            )
        raise FileError(f"{path}: was written with {name} {there!r}, this run has {value!r}", _OTHER)


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")) + "\n"


def _literal(text: str) -> str:
    """As a pattern of glob that matches itself alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)
