"""``--gpu`` becomes an Accelerator: a packaged device by name or alias, a YAML file, or the devices of this machine.

Packaged files are trusted (tests check each) and only the one that is named is parsed; a user's file is checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from kvplan.core.accelerator import Accelerator
from kvplan.core.errors import FileError, SpecError, UnknownNameError, UsageError
from kvplan.core.units import format_bytes, parse_bytes
from kvplan.specs.yaml_file import load_yaml_file

AUTO = "auto"
"""The name that stands for the devices of this machine."""

MAX_COUNT = 2**20
"""No cluster has more devices."""

_WHAT = "accelerator"
_FOLDER = Path(__file__).resolve().parent.parent / "accelerators"
_ENDINGS = (".yaml", ".yml")
_ALIASES = re.compile(r"^aliases: \[(.*?)\]$", re.MULTILINE | re.DOTALL)
_COUNT_FIRST = re.compile(r"(\d+)\s*[x×*]\s*(\S.*)", re.ASCII | re.IGNORECASE)  # 8xh100
_COUNT_LAST = re.compile(r"(.*\S)\s*:\s*(\d+)", re.ASCII)  # h100:8, as SkyPilot and dstack write it
_MAKERS = frozenset("nvidia geforce tesla amd instinct radeon intel habana google apple".split())


def accelerator_names() -> list[str]:
    """The names of all packaged devices, without aliases."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_accelerator(name: str) -> Accelerator:
    """The device of a name or alias, whatever the case and the dashes, or the one in a YAML file.

    Raises UnknownNameError with the near names, FileError or SpecError.
    """
    if name.lower().endswith(_ENDINGS):
        return read_accelerator(Path(name).expanduser())
    found = find_accelerator(name)
    if found is None:
        raise UnknownNameError(_WHAT, name, [word for path in _files() for word in (path.stem, *aliases_in(path))])
    return found


def parse_accelerator(text: str) -> tuple[Accelerator, int]:
    """The device and how many of it: ``h100``, ``8xh100``, ``h100:8``, ``path/to/my.yaml``, ``auto``.

    ``auto`` is this machine's devices, all of them unless a number is given. Raises UsageError on a malformed text and
    on a machine of several kinds of device, and what ``load_accelerator`` and ``detect`` raise.
    """
    count, name = _split_count(text.strip())
    if not name:
        raise UsageError("the accelerator has no name", "write h100 or 8xh100; kvplan accelerators list shows all")
    if name.lower() != AUTO:
        return load_accelerator(name), 1 if count is None else count
    from kvplan.specs.detect_accelerator import detect

    devices = detect()
    if len(set(devices)) > 1:
        kinds = ", ".join(sorted({f"{device.name} ({format_bytes(device.memory_bytes)})" for device in devices}))
        raise UsageError(f"this machine has different accelerators: {kinds}", "name the one to plan for")
    return devices[0], len(devices) if count is None else count


def custom_accelerator(memory_bytes: int, base: Accelerator | None = None) -> Accelerator:
    """A device of a given memory, like ``base`` in all else; without one nothing else is known of it."""
    if base is None:
        return Accelerator(name="custom", vendor="unknown", memory_bytes=memory_bytes)
    sources = {name: source for name, source in base.sources.items() if "bytes" not in name}
    return replace(
        base, memory_bytes=memory_bytes, memory_reading="given", management_bytes=None, aliases=(), sources=sources
    )


def find_accelerator(name: str) -> Accelerator | None:
    """The packaged device that a person or a driver calls ``name``; None for an unknown one."""
    wanted = _key(name)
    for path in _files():
        if _key(path.stem) == wanted:
            return _load_packaged(path)
    for path in _files():
        if any(_key(alias) == wanted for alias in aliases_in(path)):
            return _load_packaged(path)
    return None


def read_accelerator(path: Path) -> Accelerator:
    """The device in a user's file, every value of which is checked. Raises FileError, SpecError or UsageError."""
    from kvplan.specs.accelerator_schema import check_accelerator

    if not path.is_file():
        raise FileError(f"{path}: there is no such file")
    values = load_yaml_file(path, "an accelerator")
    if isinstance(values.get("memory_bytes"), str):
        values["memory_bytes"] = parse_bytes(values["memory_bytes"], f"{path}: memory_bytes")
    problems = check_accelerator(values)
    if problems:
        raise SpecError(str(path), problems, "kvplan/accelerators/__init__.py explains every field")
    return build_accelerator(values)


def build_accelerator(values: Mapping[str, Any]) -> Accelerator:
    """The device that a checked file describes."""
    capability = values.get("compute_capability")
    return Accelerator(
        name=values["name"],
        title=values.get("title", ""),
        vendor=values.get("vendor", "unknown"),
        aliases=tuple(values.get("aliases", ())),
        memory_bytes=values["memory_bytes"],
        memory_reading=values.get("memory_reading", "given"),
        management_bytes=values.get("management_bytes"),
        nominal_gigabytes=values.get("nominal_gigabytes"),
        unified_memory=values.get("unified_memory", False),
        compute_capability=(capability[0], capability[1]) if capability else None,
        gfx_target=values.get("gfx_target"),
        bandwidth_bytes_per_second=_scaled(values.get("bandwidth_gigabytes_per_second"), 10**9),
        peak_flops={dtype: float(round(rate * 10**12)) for dtype, rate in values.get("peak_tflops", {}).items()},
        link=values.get("link"),
        link_bytes_per_second=_scaled(values.get("link_gigabytes_per_second"), 10**9),
        sources={_FIELDS.get(name, name): source for name, source in values.get("sources", {}).items()},
        notes=tuple(values.get("notes", ())),
    )


_FIELDS = {
    "bandwidth_gigabytes_per_second": "bandwidth_bytes_per_second",
    "peak_tflops": "peak_flops",
    "link_gigabytes_per_second": "link_bytes_per_second",
}
"""Names in a file -> fields of Accelerator, where they differ by the unit."""


def aliases_in(path: Path) -> list[str]:
    """The aliases of a packaged file, read without parsing it: one bracketed line, as a test makes sure."""
    match = _ALIASES.search(path.read_text(encoding="utf-8"))
    return [alias.strip(' \n"') for alias in match[1].split(",")] if match else []


def _files() -> Iterator[Path]:
    yield from sorted(_FOLDER.glob("*.yaml"))


@cache
def _load_packaged(path: Path) -> Accelerator:
    return build_accelerator(load_yaml_file(path, "an accelerator"))


def _key(name: str) -> str:
    """What is compared of a name: letters, digits and dots, without the maker's words in front."""
    words = re.findall(r"[a-z0-9.]+", name.lower())
    while len(words) > 1 and words[0] in _MAKERS:
        words = words[1:]
    return "".join(words)


def _split_count(text: str) -> tuple[int | None, str]:
    """The number of devices, if the text states one, and the rest. Raises UsageError on an impossible number."""
    first, last = _COUNT_FIRST.fullmatch(text), _COUNT_LAST.fullmatch(text)
    if first is None and last is None:
        return None, text
    digits, name = (first[1], first[2]) if first is not None else (last[2], last[1]) if last is not None else ("", "")
    if len(digits) > 9 or not 1 <= int(digits) <= MAX_COUNT:
        raise UsageError(f"{text!r} is not a number of accelerators", "write 8xh100, for example")
    return int(digits), name


def _scaled(value: float | None, unit: int) -> int | None:
    return None if value is None else round(value * unit)
