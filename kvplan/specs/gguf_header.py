"""The header of a GGUF file: metadata and tensor descriptions, never the tensors.

Read from the format's description and its reader in ggml (``ggml/src/gguf.cpp``, 2026): magic, version, counts, key and
value pairs, tensor descriptions. Every count and length is compared with the bytes that are left in the file before
anything is read by it, so that a damaged header costs neither time nor memory.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from kvplan.core.errors import FileError
from kvplan.core.frozen import dataclass
from kvplan.core.units import round_up
from kvplan.specs.ggml_types import GGML_TYPES

MAGIC = b"GGUF"
SUPPORTED_VERSIONS = (2, 3)
MAX_KEYS = 65_536
MAX_TENSORS = 1_000_000
MAX_HEADER_BYTES = 512 * 1024**2
"""Real headers, vocabulary included, stay below 100 MB."""
MAX_STRING_BYTES = 16 * 1024**2
MAX_ITEMS = 2**24
MAX_DIMENSIONS = 4
"""GGML_MAX_DIMS."""
MAX_KEPT_ITEMS = 4_096
"""Longer arrays (vocabularies, merges) are skipped: no per-layer list is this long."""
MAX_TENSOR_ELEMENTS = 2**56
MAX_ALIGNMENT = 2**20
DEFAULT_ALIGNMENT = 32

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_SMALLEST_KEY = 8 + 4 + 1
_SMALLEST_TENSOR = 8 + 4 + 4 + 8


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of the file: its name, ggml type name, number of elements, size, and place in the data section."""

    name: str
    type_name: str
    elements: int
    size_bytes: int
    offset_bytes: int


@dataclass(frozen=True, slots=True)
class SkippedArray:
    """Stands in the metadata for an array that is too long to be a per-layer list."""

    count: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What the header says. ``has_data`` is False for a file that was cut off right behind its header."""

    metadata: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]
    has_data: bool


def read_gguf_header(path: Path) -> GgufHeader:
    """The header of the file. Raises FileError, in one line, on anything that is not a sound GGUF file."""
    try:
        with path.open("rb") as file:
            if path.stat().st_size < 24:
                raise FileError(f"{path}: is not a GGUF file (too short for a header)")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return parse_gguf_header(data, str(path))
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # mmap's complaint about a file that shrinks under it
        raise FileError(f"{path}: cannot be read ({error})") from None


def parse_gguf_header(data: bytes | mmap.mmap, source: str) -> GgufHeader:
    """The header at the start of ``data``, which is the whole file. Raises FileError."""
    cursor = _Cursor(data, source)
    num_tensors, num_keys = _read_preamble(cursor)
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
        key = cursor.string("a key")
        value = _read_value(cursor, key)
        if key in metadata:
            cursor.fail(f"has the key {_short(key)} twice")
        metadata[key] = value
    tensors = tuple(_read_tensor(cursor) for _ in range(num_tensors))
    return GgufHeader(metadata, tensors, _check_data(cursor, metadata, tensors))


class _Cursor:
    """A position in the file; every step is checked against the end of the file."""

    def __init__(self, data: bytes | mmap.mmap, source: str) -> None:
        self.data = data
        self.size = len(data)
        self.position = 0
        self.source = source

    def fail(self, problem: str) -> NoReturn:
        """Raise FileError naming the file."""
        hint = "is the download complete?" if "the end of the file" in problem else None
        raise FileError(f"{self.source}: {problem}", hint)

    def number(self, layout: str, what: str) -> Any:
        """The next number in a struct layout."""
        start = self.position
        self.skip(struct.calcsize(layout), what)
        return struct.unpack_from(layout, self.data, start)[0]

    def skip(self, size: int, what: str) -> None:
        """Move on by ``size`` bytes."""
        if size > self.size - self.position:
            self.fail(f"{what} runs past the end of the file")
        self.position += size
        if self.position > MAX_HEADER_BYTES:
            self.fail(f"has a header of more than {MAX_HEADER_BYTES:,} bytes")

    def count(self, layout: str, smallest: int, most: int, what: str) -> int:
        """The next number as a count of things that take at least ``smallest`` bytes each."""
        count = int(self.number(layout, what))
        if count > most:
            self.fail(f"claims {count:,} {what}; the most that is taken is {most:,}")
        if count * smallest > self.size - self.position:
            self.fail(f"claims {count:,} {what}, more than fit before the end of the file")
        return count

    def string(self, what: str) -> str:
        """The next length-prefixed string; invalid UTF-8 is replaced."""
        length = self.number("<Q", what)
        if length > MAX_STRING_BYTES:
            self.fail(f"{what} claims {length:,} bytes of text")
        start = self.position
        self.skip(length, what)
        return bytes(self.data[start : start + length]).decode("utf-8", errors="replace")

    def skip_strings(self, count: int, what: str) -> None:
        """Move past ``count`` length-prefixed strings."""
        for _ in range(count):
            self.skip(self.number("<Q", what), what)


def _read_preamble(cursor: _Cursor) -> tuple[int, int]:
    magic = bytes(cursor.data[:4])
    cursor.skip(4, "the magic")
    if magic != MAGIC:
        big_endian = magic == MAGIC[::-1]
        cursor.fail("is a big-endian GGUF file, which is not read" if big_endian else "is not a GGUF file")
    version = cursor.number("<I", "the version")
    if version not in SUPPORTED_VERSIONS:
        if version & 0xFFFF == 0 and version:
            cursor.fail("is a big-endian GGUF file, which is not read")
        allowed = " and ".join(map(str, SUPPORTED_VERSIONS))
        cursor.fail(f"is GGUF version {version}; versions {allowed} are read (convert an older file with llama.cpp)")
    num_tensors = cursor.count("<Q", 0, MAX_TENSORS, "tensors")
    num_keys = cursor.count("<Q", _SMALLEST_KEY, MAX_KEYS, "keys")
    if num_tensors * _SMALLEST_TENSOR > cursor.size - cursor.position:
        cursor.fail(f"claims {num_tensors:,} tensors, more than fit before the end of the file")
    return num_tensors, num_keys


def _read_value(cursor: _Cursor, key: str) -> Any:
    what = f"the value of {_short(key)}"
    kind = cursor.number("<I", what)
    if kind == _STRING:
        return cursor.string(what)
    if kind in _SCALARS:
        return cursor.number(_SCALARS[kind], what)
    if kind != _ARRAY:
        cursor.fail(f"{what} has the unknown type {kind}")
    return _read_array(cursor, what)


def _read_array(cursor: _Cursor, what: str) -> list[Any] | SkippedArray:
    """The items of an array; of one that is too long to matter, only the length."""
    kind = cursor.number("<I", what)
    if kind == _ARRAY:
        cursor.fail(f"{what} is an array of arrays, which no known model has")
    if kind != _STRING and kind not in _SCALARS:
        cursor.fail(f"{what} has items of the unknown type {kind}")
    item_bytes = 8 if kind == _STRING else struct.calcsize(_SCALARS[kind])
    count = cursor.count("<Q", item_bytes, MAX_ITEMS, f"items in {what}")
    if count > MAX_KEPT_ITEMS:
        if kind == _STRING:
            cursor.skip_strings(count, what)
        else:
            cursor.skip(count * item_bytes, what)
        return SkippedArray(count)
    if kind == _STRING:
        return [cursor.string(what) for _ in range(count)]
    return [cursor.number(_SCALARS[kind], what) for _ in range(count)]


def _read_tensor(cursor: _Cursor) -> TensorInfo:
    name = cursor.string("a tensor's name")
    what = f"tensor {_short(name)}"
    num_dimensions = cursor.count("<I", 8, MAX_DIMENSIONS, f"dimensions in {what}")
    shape = [cursor.number("<Q", what) for _ in range(num_dimensions)]
    type_id = cursor.number("<I", what)
    offset = cursor.number("<Q", what)
    if type_id not in GGML_TYPES:
        cursor.fail(f"{what} has the unknown ggml type {type_id}")
    type_name, block_elements, block_bytes = GGML_TYPES[type_id]
    elements = prod(shape)
    if elements > MAX_TENSOR_ELEMENTS:
        cursor.fail(f"{what} claims {elements:,} elements")
    if (shape[0] if shape else 1) % block_elements:
        cursor.fail(
            f"{what} has rows of {shape[0] if shape else 1}, not whole blocks of {block_elements} ({type_name})"
        )
    return TensorInfo(name, type_name, elements, elements // block_elements * block_bytes, offset)


def _check_data(cursor: _Cursor, metadata: Mapping[str, Any], tensors: tuple[TensorInfo, ...]) -> bool:
    """Whether the data section is there; refuses tensors that overlap, are named twice, or run past the file."""
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        cursor.fail("general.alignment is not a power of two")
    start = round_up(cursor.position, alignment)
    names: set[str] = set()
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset_bytes):
        if tensor.name in names:
            cursor.fail(f"describes tensor {_short(tensor.name)} twice")
        if tensor.offset_bytes < end or tensor.offset_bytes % alignment:
            cursor.fail(f"tensor {_short(tensor.name)} does not start where it can (offset {tensor.offset_bytes})")
        names.add(tensor.name)
        end = tensor.offset_bytes + tensor.size_bytes
    if cursor.size <= start:
        return False
    if start + end > cursor.size:
        cursor.fail(f"describes {end:,} bytes of tensors, which run past the end of the file")
    return True


def _short(name: str) -> str:
    text = repr(name)
    return text if len(text) <= 80 else text[:77] + "..."
