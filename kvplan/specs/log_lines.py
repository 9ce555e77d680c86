"""The lines of an engine's log: clean of colours, with their rank, and the words in them that rules look for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

from kvplan.core.errors import FileError
from kvplan.core.frozen import dataclass
from kvplan.core.measured import MeasuredStart, RefusedStart
from kvplan.core.units import GIB, MIB, format_bytes

MAX_LOG_BYTES = 64 * MIB
"""A start-up takes kilobytes; a log of this size is mostly requests."""

MAX_LINE_CHARS = 100_000
"""SGLang's longest line, its arguments, has 12,000."""

MAX_SIGHTINGS = 10_000
"""Of one field; thousands of ranks say the same words once."""

UNITS = {"GiB": GIB, "GB": GIB, "MiB": MIB, "MB": MIB}
"""The engines that are read write GB and MB for the binary units (SGLang, vLLM before 0.8)."""

AMOUNT = r"-?[\d.]+"
"""What ``{amount}`` in a rule's pattern stands for."""

_COLOUR = re.compile(r"(?:\x1b|\\u001b|\\x1b)\[[0-9;?]*[A-Za-z]")
_PROCESS = re.compile(
    r"\((\w{0,20}(?:Worker|EngineCore)\w{0,60}(?:-\d+)?)((?:[ _](?:rank=|[A-Z]+)\d+)*)[ ,][^)]{0,120}\)"  # vLLM, Ray
    r"|\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:[.,]\d+)?((?: [A-Z_]+\d+)+)\]"  # SGLang
)
_RANK = re.compile(r"(?:rank=|[A-Z]{2,}|EngineCore_|Worker-)(\d+)")
_NUMBERLESS = ("VllmWorkerProcess", "RayWorkerWrapper", "RayWorkerVllm")
"""vLLM's names of workers other than the first, which logs from the engine's own process."""

_UNKNOWN_RANK = (1_000_000,)


@dataclass(frozen=True, slots=True)
class Rule:
    """Words to look for: a line that holds ``cue`` is matched, and each named group is a sighting of that field.

    Groups whose name ends in ``_bytes`` are amounts in ``unit`` bytes.
    """

    cue: str
    pattern: re.Pattern[str]
    unit: int = GIB


@dataclass(frozen=True, slots=True)
class Sighting:
    """A field's text on one line: of which rank (see ``rank_of``), and by which rule (0: the best)."""

    rank: tuple[int, ...]
    rule: int
    text: str
    unit: int


@dataclass(frozen=True, slots=True)
class Amount:
    """Bytes that a log rounded, and how far off the rounding may be."""

    size_bytes: int
    tolerance_bytes: int

    def minus(self, other: Amount) -> Amount:
        """The difference; the roundings add up."""
        return Amount(self.size_bytes - other.size_bytes, self.tolerance_bytes + other.tolerance_bytes)


def rule(cue: str, pattern: str, unit: str = "GiB") -> Rule:
    """A rule; ``{amount}`` in the pattern stands for a number of gigabytes."""
    return Rule(cue, re.compile(pattern.replace("{amount}", AMOUNT)), UNITS[unit])


def amount(text: str, unit: int = GIB) -> Amount | None:
    """``15.0`` of a log in bytes; None for what is no number.

    Every engine that is read rounds to two decimals or more; vLLM leaves out a trailing zero (``round(x, 2)``), so one
    decimal does not mean a coarser rounding. A number without a point was cut, not rounded (llama.cpp's MiB).
    """
    try:
        value = Decimal(text)
    except ArithmeticError:
        return None
    if "." not in text:
        return Amount(round(value * unit), unit)
    decimals = max(2, len(text.partition(".")[2]))
    return Amount(round(value * unit), -(-unit // (2 * 10**decimals)))


def log_lines(path: Path) -> Iterator[str]:
    """The lines of a log file, without colours; a progress bar's states are lines of their own. Raises FileError."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
            size = path.stat().st_size
        encoding = _encoding(path, head, size)
        with path.open(encoding=encoding, errors="replace") as text:
            for line in text:
                yield clean(line)
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None


def clean(line: str) -> str:
    """A line without colours and end, cut to the longest that an engine writes."""
    line = line[:MAX_LINE_CHARS].rstrip()
    return _COLOUR.sub("", line) if "\x1b" in line or "\\" in line else line


def rank_of(line: str) -> tuple[int, ...]:
    """The numbers of the rank that speaks; empty for the first rank and for lines without one, which sorts first."""
    ranks: tuple[int, ...] = ()
    for name, numbers, spaced in _PROCESS.findall(line):
        found = tuple(int(each) for each in _RANK.findall(name + numbers + spaced))
        ranks += found or (_UNKNOWN_RANK if name in _NUMBERLESS else ())
    return ranks if any(ranks) else ()


class LogReader(Protocol):
    """Reads one engine's words."""

    engine: str

    @property
    def score(self) -> int:
        """How many kinds of words of this engine were found; 0: the log is not its."""

    def read(self, line: str) -> None:
        """Take in a line."""

    def finish(self) -> MeasuredStart:
        """What the log says."""


class Sightings:
    """All that the rules of one engine found in a log, in the order of its lines."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = tuple((each.cue, index, each) for index, each in enumerate(rules))
        self._seen: dict[str, list[Sighting]] = {}

    def read(self, line: str) -> None:
        """Note what the rules find on a line."""
        for index, each in [(index, each) for cue, index, each in self._rules if cue in line]:
            if match := each.pattern.search(line):
                rank = rank_of(line)
                for field, text in match.groupdict().items():
                    seen = self._seen.setdefault(field, [])
                    if text is not None and len(seen) < MAX_SIGHTINGS:
                        seen.append(Sighting(rank, index, text, each.unit))

    def forget(self, fields: Iterable[str]) -> None:
        """Drop what was seen of some fields: another start begins."""
        for field in fields:
            self._seen.pop(field, None)

    def seen(self, field: str) -> list[Sighting]:
        """The sightings of a field by its best rule, the first rank's where it spoke."""
        found = self._seen.get(field, [])
        best = min(((each.rank, each.rule) for each in found), default=None)
        return [each for each in found if (each.rank, each.rule) == best]

    def everyone(self, field: str) -> list[Sighting]:
        """The sightings of a field by its best rule, whichever rank spoke."""
        found = self._seen.get(field, [])
        best = min((each.rule for each in found), default=None)
        return [each for each in found if each.rule == best]

    def text(self, field: str) -> str | None:
        """The last word on an argument: an engine resolves it later than it was given."""
        found = self.seen(field)
        return found[-1].text if found else None

    def number(self, field: str) -> int | None:
        """A whole number, commas allowed."""
        return whole(self.text(field))

    def amount(self, field: str) -> Amount | None:
        """The first word on an amount of memory."""
        return next(iter(self.amounts(self.seen(field))), None)

    def least(self, field: str) -> Amount | None:
        """The smallest amount of any rank."""
        return min(self.amounts(self.everyone(field)), key=lambda each: each.size_bytes, default=None)

    def sum(self, field: str) -> Amount | None:
        """All amounts of the first rank together."""
        return total(self.amounts(self.seen(field)))

    @staticmethod
    def amounts(found: Iterable[Sighting]) -> list[Amount]:
        """The readable amounts among some sightings."""
        return [size for each in found if (size := amount(each.text, each.unit)) is not None]

    def fields(self) -> tuple[str, ...]:
        """The names of all fields that were seen."""
        return tuple(self._seen)

    def count(self, without: Iterable[str]) -> int:
        """How many fields were seen besides some."""
        return len(self._seen.keys() - set(without))


def total(amounts: Sequence[Amount]) -> Amount | None:
    """Their sum; None for none."""
    if not amounts:
        return None
    return Amount(sum(each.size_bytes for each in amounts), sum(each.tolerance_bytes for each in amounts))


def figures(**amounts: Amount | None) -> dict[str, Any]:
    """Fields of a MeasuredStart from amounts by name, with their ``tolerance_bytes``."""
    known = {name: each for name, each in amounts.items() if each is not None}
    sizes: dict[str, Any] = {name: each.size_bytes for name, each in known.items()}
    return sizes | {"tolerance_bytes": {name: each.tolerance_bytes for name, each in known.items()}}


def argument(text: str | None, name: str) -> str | None:
    """The value of ``name`` in what an engine prints of its arguments: ``name=value`` or ``'name': value``."""
    match = re.search(rf"(?<![\w.])['\"]?{name}['\"]?\s*[=:]\s*('[^']*'|\"[^\"]*\"|[^,\s(){{}}]+)", text or "")
    if match is None or (value := match[1].strip("'\"")) in ("", "None"):
        return None
    return value


def first(*texts: str | None) -> str | None:
    """The first that is known."""
    return next((text for text in texts if text is not None), None)


def whole(text: str | None) -> int | None:
    """A whole number, commas allowed; None for anything else."""
    digits = (text or "").replace(",", "")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 19 else None


def flag(text: str | None) -> bool | None:
    """``True`` or ``False``; None for anything else."""
    return {"True": True, "False": False}.get(text or "")


def ratio(text: str | None) -> Fraction | None:
    """A share of the memory, exact in decimals; None for anything else."""
    try:
        value = Fraction(text or "")
    except (ValueError, ZeroDivisionError):
        return None
    return value if 0 < value <= 1 else None


def number(text: str | None) -> float | None:
    """A decimal number; None for anything else."""
    found = amount(text or "", 1)
    return float(Decimal(text or "0")) if found is not None else None


Refusal = tuple[str, str, Callable[[str], "re.Match[str] | None"]]


def refusal(kind: str, cue: str, pattern: str) -> Refusal:
    """Words of a refusal; groups: ``needed_bytes``, ``available_bytes``, ``max_seq_len``, ``estimated``, ``unit``."""
    return kind, cue, re.compile(pattern.replace("{amount}", AMOUNT)).search


OUT_OF_MEMORY = refusal(
    "out_of_memory",
    "out of memory. Tried to allocate",
    r"(?:CUDA|HIP|XPU) out of memory\. Tried to allocate (?P<needed_bytes>{amount}) (?P<unit>GiB|MiB)"
    r"(?:.*?of which (?P<available_bytes>{amount}) (?P<unit_of_free>GiB|MiB) is free)?",
)
"""PyTorch's words, in vLLM and in SGLang."""


def refused(line: str, refusals: Sequence[Refusal]) -> RefusedStart | None:
    """The refusal that a line holds, if any."""
    for kind, cue, search in refusals:
        if cue in line and (match := search(line)):
            groups = match.groupdict()
            unit = UNITS[groups.get("unit") or "GiB"]
            needed = amount(groups.get("needed_bytes") or "", unit)
            available = amount(groups.get("available_bytes") or "", UNITS[groups.get("unit_of_free") or "GiB"])
            return RefusedStart(
                kind=kind,
                message=match[0].strip(),
                needed_bytes=needed.size_bytes if needed else None,
                available_bytes=available.size_bytes if available else None,
                max_seq_len=whole(groups.get("max_seq_len")),
                estimated_max_model_len=whole(groups.get("estimated")),
                tolerance_bytes=max((each.tolerance_bytes for each in (needed, available) if each), default=0),
            )
    return None


def _encoding(path: Path, head: bytes, size: int) -> str:
    """UTF-8, or UTF-16 as PowerShell redirects it. Raises FileError for what is no text."""
    if not head:
        raise FileError(f"{path}: is empty")
    if size > MAX_LOG_BYTES:
        hint = f"keep its start: head -n 5000 {path.name} > start.log"
        raise FileError(f"{path}: has {format_bytes(size)}; at most {format_bytes(MAX_LOG_BYTES)} are read", hint)
    if head.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"BZh", b"\xfd7zXZ")):
        raise FileError(f"{path}: is compressed", "unpack it first")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if b"\x00" in head:
        raise FileError(f"{path}: is binary, not a log")
    return "utf-8"
