"""Files of requests: kvplan's own JSON lines and the common public traces, told apart by their header or keys.

Own format, JSON lines or CSV with the same names: ``arrival_seconds`` (also ``arrival_time``, ``arrival`` or
``timestamp``), ``prompt_tokens``, ``output_tokens`` (or ``input_tokens``, ``output_tokens``), and where prefixes are
shared ``hash_ids`` (one for each block of ``hash_block_tokens`` prompt tokens; JSON lines only).

* Azure LLM inference traces 2023 and 2024 (github.com/Azure/AzurePublicDataset): CSV
  ``TIMESTAMP,ContextTokens,GeneratedTokens`` with dates. The multimodal one of 2025 has ``NumImages`` besides.
* BurstGPT (github.com/HPMLL/BurstGPT): CSV ``Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type``,
  in seconds; a failed request has 0 response tokens. A later release has more columns.
* Mooncake (github.com/kvcache-ai/Mooncake, FAST25-release): JSON lines ``timestamp`` in milliseconds,
  ``input_length``, ``output_length``, ``hash_ids`` of 512 tokens.
* Qwen-Bailian (github.com/alibaba-edu/qwen-bailian-usagetraces-anon): the same keys with ``chat_id`` besides;
  ``timestamp`` in seconds, ``hash_ids`` of 16 tokens.

Files may be gzipped. A row without prompt or output tokens is a failed request: it is left out and counted.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, NoReturn

from kvplan.core.errors import FileError
from kvplan.core.frozen import dataclass
from kvplan.core.units import MAX_TOKENS
from kvplan.core.workload import Request, Workload

_KNOWN = (
    "known are kvplan's own (arrival_seconds, prompt_tokens, output_tokens), Azure (TIMESTAMP, ContextTokens, "
    "GeneratedTokens), BurstGPT (Timestamp, Request tokens, Response tokens), Mooncake and Qwen-Bailian "
    "(timestamp, input_length, output_length, hash_ids)"
)
_DATE = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:?\d\d)?")
_MAX_SECONDS = 1e12


class _RowError(Exception):
    """What is wrong in one row; the reader adds the file and the line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFormat:
    """How the rows of one format say when a request came and how long it was.

    ``columns`` name arrival, prompt tokens and output tokens; ``marks`` further names that the format has. ``arrival``
    reads a time as seconds. ``hash_block_tokens`` are the tokens of a hash, where rows have ``hash_ids``; 0: each row
    states them.
    """

    name: str
    columns: tuple[str, str, str]
    arrival: Callable[[Any], float]
    marks: frozenset[str] = frozenset()
    hash_block_tokens: int | None = None


def read_trace(path: Path) -> Workload:
    """All requests of a file in the order of their arrival, the first at 0 s. Raises FileError with the line."""
    reader = _Reader(path)
    requests = list(reader.rows())
    if not requests:
        raise FileError(f"{path}: holds no requests" + (f" ({reader.failed} failed ones)" if reader.failed else ""))
    notes = []
    if reader.failed:
        notes.append(f"{reader.failed:,} rows without prompt or output tokens (failed requests) are left out")
    arrival = itemgetter(0)
    ordered = sorted(requests, key=arrival)
    if ordered != requests:
        notes.append("the file is not in the order of arrival: it was sorted")
    start = ordered[0].arrival_seconds
    return Workload(
        requests=tuple(Request(when - start, prompt, output, hashes) for when, prompt, output, hashes in ordered),
        source=f"{path.name} ({reader.format_name})",
        hash_block_tokens=reader.hash_block_tokens,
        notes=tuple(notes),
    )


class _Reader:
    """One pass over a file; what it learns on the way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = 0
        self.failed = 0
        self.format_name = ""
        self.hash_block_tokens: int | None = None

    def rows(self) -> Iterator[Request]:
        """The requests in the order of the file. Raises FileError."""
        try:
            with _open(self.path) as file:
                lines = self._count(file)
                first = next((line for line in lines if line.strip()), "")
                read = self._json_rows if first.lstrip().startswith("{") else self._csv_rows
                yield from read(chain([first], lines))
        except _RowError as error:
            raise FileError(f"{self.path}, line {self.line}: {error}") from None
        except csv.Error as error:
            raise FileError(f"{self.path}, line {self.line}: is not CSV ({error})") from None
        except UnicodeDecodeError:
            raise FileError(f"{self.path}: is not a text file", _KNOWN) from None
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise FileError(f"{self.path}: the gzip file is damaged or cut short") from None
        except OSError as error:
            raise FileError(f"{self.path}: cannot be read ({error.strerror})") from None

    def _count(self, file: Iterable[str]) -> Iterator[str]:
        for line in file:
            self.line += 1
            yield line

    def _csv_rows(self, lines: Iterable[str]) -> Iterator[Request]:
        rows = csv.reader(lines)
        header = [name.strip().lower() for name in next(rows, [])]
        found = self._recognise(header, _CSV_FORMATS)
        when, prompt, output = (header.index(name) for name in found.columns)
        for row in rows:
            if not any(row):
                continue
            if len(row) != len(header):
                raise _RowError(f"has {len(row)} fields, the header {len(header)}")
            yield from self._request(found, row[when], row[prompt], row[output], ())

    def _json_rows(self, lines: Iterable[str]) -> Iterator[Request]:
        found: TraceFormat | None = None
        for line in lines:
            if not line.strip():
                continue
            row = _json_object(line)
            if found is None:
                found = self._recognise(row, _JSON_FORMATS)
            missing = [name for name in found.columns if name not in row]
            if missing:
                raise _RowError(f"has no {' and no '.join(missing)}")
            when, prompt, output = (row[name] for name in found.columns)
            yield from self._request(found, when, prompt, output, self._hashes(found, row))

    def _request(
        self, found: TraceFormat, when: Any, prompt: Any, output: Any, hashes: tuple[int | str, ...]
    ) -> Iterator[Request]:
        """The request of one row; none where it failed."""
        request = Request(
            found.arrival(when), _tokens(prompt, found.columns[1]), _tokens(output, found.columns[2]), hashes
        )
        if request.prompt_tokens and request.output_tokens:
            yield request
        else:
            self.failed += 1

    def _recognise(self, names: Iterable[str], formats: Sequence[TraceFormat]) -> TraceFormat:
        """The first format all of whose names are there. Raises FileError where there is none."""
        names = set(names)
        for entry in formats:
            if names >= entry.marks | set(entry.columns):
                self.format_name = entry.name
                return entry
        shown = ", ".join(sorted(names)[:8]) or "nothing"
        raise FileError(f"{self.path}: is no trace of requests (its first row has {shown[:200]})", _KNOWN)

    def _hashes(self, found: TraceFormat, row: Mapping[str, Any]) -> tuple[int | str, ...]:
        """The hashes of a row, all of which must stand for equally many tokens."""
        hashes = row.get("hash_ids")
        if hashes is None or found.hash_block_tokens is None:
            return ()
        if not isinstance(hashes, list) or not all(type(entry) in (int, str) for entry in hashes):
            raise _RowError("hash_ids is not a list of numbers or texts")
        if not hashes:
            return ()
        block_tokens = found.hash_block_tokens or _tokens(row.get("hash_block_tokens"), "hash_block_tokens")
        if self.hash_block_tokens is None:
            self.hash_block_tokens = block_tokens
        if not block_tokens or block_tokens != self.hash_block_tokens:
            raise _RowError(f"hash_block_tokens is {block_tokens}, in the rows before {self.hash_block_tokens}")
        return tuple(hashes)


def _open(path: Path) -> IO[str]:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    if zipped:
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _json_object(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise _RowError("is not valid JSON") from None
    if not isinstance(row, dict):
        raise _RowError("is not a JSON object")
    return row


def _tokens(value: Any, name: str) -> int:
    """A count of tokens from a cell or a JSON number (``12`` or ``12.0``)."""
    tokens = value if type(value) is int else _whole(value)
    if tokens is None or not 0 <= tokens <= MAX_TOKENS:
        _refuse(value, name, "a number of tokens")
    return tokens


def _whole(value: Any) -> int | None:
    """A whole number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() else None


def _seconds(value: Any) -> float:
    """Seconds from any start."""
    try:
        seconds = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = float("nan")
    if not -_MAX_SECONDS < seconds < _MAX_SECONDS:
        _refuse(value, "arrival", "a number of seconds")
    return seconds


def _milliseconds(value: Any) -> float:
    """Milliseconds from any start, as seconds."""
    return _seconds(value) / 1000


def _date(value: Any) -> float:
    """A date with time, fraction and zone (UTC without one), as seconds since 1970."""
    match = _DATE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        _refuse(value, "arrival", "a date with time, like 2023-11-16 18:15:46.6805900")
    return _whole_second(match[1], match[3] or "") + float(match[2] or 0)


def _seconds_or_date(value: Any) -> float:
    """Either of the two: kvplan's own format takes both."""
    if isinstance(value, str) and _DATE.fullmatch(value.strip()):
        return _date(value)
    return _seconds(value)


@lru_cache(maxsize=1024)
def _whole_second(text: str, zone: str) -> float:
    try:
        day = datetime.fromisoformat(text).replace(tzinfo=timezone.utc)
    except ValueError:
        _refuse(text, "arrival", "a date that exists")
    digits = zone[1:].replace(":", "")
    offset = 60 * (60 * int(digits[:2]) + int(digits[2:])) if digits else 0
    return day.timestamp() - (-offset if zone.startswith("-") else offset)


def _refuse(value: Any, name: str, wanted: str) -> NoReturn:
    shown = "missing" if value is None else repr(value)[:60]
    raise _RowError(f"{name} {shown} is not {wanted}")


_OWN = tuple(
    (arrival, prompt, "output_tokens")
    for arrival in ("arrival_seconds", "arrival_time", "arrival", "timestamp")
    for prompt in ("prompt_tokens", "input_tokens")
)
_LENGTHS = ("timestamp", "input_length", "output_length")
_CSV_FORMATS = (
    TraceFormat(
        name="Azure LLM inference trace", columns=("timestamp", "contexttokens", "generatedtokens"), arrival=_date
    ),
    TraceFormat(name="BurstGPT", columns=("timestamp", "request tokens", "response tokens"), arrival=_seconds),
    *(TraceFormat(name="kvplan CSV", columns=columns, arrival=_seconds_or_date) for columns in _OWN),
)
_JSON_FORMATS = (
    TraceFormat(
        name="Qwen-Bailian", columns=_LENGTHS, arrival=_seconds, marks=frozenset({"chat_id"}), hash_block_tokens=16
    ),
    TraceFormat(name="Mooncake", columns=_LENGTHS, arrival=_milliseconds, hash_block_tokens=512),
    *(
        TraceFormat(name="kvplan JSON lines", columns=columns, arrival=_seconds_or_date, hash_block_tokens=0)
        for columns in _OWN
    ),
)
