"""Exact weights of a checkpoint folder, from the headers of its safetensors files.

The format: eight bytes of length, a JSON header, the tensors without holes (safetensors' own ``validate``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

from kvplan.core.errors import FileError
from kvplan.core.frozen import dataclass
from kvplan.core.model import WeightsOnDisk
from kvplan.specs.json_file import load_json_object

MAX_HEADER_BYTES = 100_000_000
"""The limit of the format's own reader."""

DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip

UNQUANTIZED = frozenset({"BF16", "F16", "F32", "F64"})
"""Where all tensors have these dtypes, an element is a parameter; packed and scaled formats hide the count."""

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of a checkpoint: its dtype as the format spells it, its elements and its bytes."""

    dtype: str
    elements: int
    size_bytes: int


def has_safetensors(folder: Path) -> bool:
    """Whether the folder holds a checkpoint in this format."""
    return any((folder / name).is_file() for name in (SINGLE_FILE, INDEX_FILE))


def read_safetensors_folder(folder: Path) -> WeightsOnDisk:
    """Exact bytes, and exact parameters if nothing is quantized. Raises FileError naming the file at fault."""
    index = folder / INDEX_FILE
    if not index.is_file():
        return weights_of(read_safetensors_header(folder / SINGLE_FILE).values())
    tensors: dict[str, StoredTensor] = {}
    shards = _read_index(index)
    for shard in sorted(set(shards.values())):
        path = folder / shard
        if not path.is_file():
            raise FileError(f"{path}: is missing, but {index.name} lists it", "is the download complete?")
        found = read_safetensors_header(path)
        twice = next((name for name in found if name in tensors), None)
        if twice is not None:
            raise FileError(f"{path}: holds the tensor {twice!r}, which another shard holds too")
        tensors.update(found)
    absent = next((name for name in shards if name not in tensors), None)
    if absent is not None:
        raise FileError(f"{index}: lists the tensor {absent!r}, which no shard holds")
    return weights_of(tensors.values())


def weights_of(tensors: Iterable[StoredTensor]) -> WeightsOnDisk:
    """The sums over a checkpoint's tensors."""
    stored = tuple(tensors)
    unquantized = all(tensor.dtype in UNQUANTIZED for tensor in stored)
    return WeightsOnDisk(
        exact_bytes=sum(tensor.size_bytes for tensor in stored),
        exact_parameters=sum(tensor.elements for tensor in stored) if unquantized else None,
    )


def read_safetensors_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file by name. Raises FileError on anything that is not a sound safetensors file."""
    try:
        file_bytes = path.stat().st_size
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if file_bytes < 8 or header_bytes > min(MAX_HEADER_BYTES, file_bytes - 8):
                raise FileError(
                    f"{path}: is no safetensors file, or cut off (claims a header of {header_bytes:,} bytes)"
                )
            text = file.read(header_bytes)
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise FileError(f"{path}: its header is not valid JSON") from None
    if not isinstance(header, dict):
        raise FileError(f"{path}: its header is not a JSON object")
    header.pop("__metadata__", None)
    return _check(header, path, file_bytes - 8 - header_bytes)


def _check(header: dict[str, Any], path: Path, data_bytes: int) -> dict[str, StoredTensor]:
    """The described tensors; refuses holes, overlaps and a data section of another size (none at all may follow)."""
    described = {name: _describe(entry, name, path) for name, entry in header.items()}
    end = 0
    for name, (start, _) in sorted(described.items(), key=lambda item: (item[1][0], item[1][1].size_bytes)):
        if start != end:
            raise FileError(f"{path}: tensor {name!r} starts at byte {start}, not at {end}, where the last one ends")
        end += described[name][1].size_bytes
    if data_bytes not in (0, end):
        raise FileError(f"{path}: holds {data_bytes:,} of {end:,} bytes of tensors", "is the download complete?")
    return {name: tensor for name, (_, tensor) in described.items()}


def _describe(entry: Any, name: str, path: Path) -> tuple[int, StoredTensor]:
    """The start and the tensor that one entry of the header describes."""
    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise FileError(f"{path}: tensor {name!r} is not described by a dtype, a shape and two offsets")
    if dtype not in DTYPE_BITS:
        raise FileError(f"{path}: tensor {name!r} has the unknown dtype {dtype!r}")
    start, end = offsets
    elements = prod(shape)
    if elements >= 2**63:
        raise FileError(f"{path}: tensor {name!r} claims more elements than exist")
    if (end - start) * 8 != elements * DTYPE_BITS[dtype]:
        raise FileError(f"{path}: tensor {name!r} ({dtype}, {elements:,} elements) does not take {end - start:,} bytes")
    return start, StoredTensor(dtype, elements, end - start)


def _are_sizes(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 64
        and all(isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**63 for size in value)
    )


def _read_index(path: Path) -> dict[str, str]:
    """Tensor name -> shard name. Shards lie beside the index: a path is refused."""
    shards = load_json_object(path, "a safetensors index", MAX_HEADER_BYTES).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise FileError(f"{path}: has no weight_map")
    for name, shard in shards.items():
        if not isinstance(shard, str) or not shard or shard in (".", "..") or any(sign in shard for sign in "/\\\0"):
            raise FileError(f"{path}: the shard of {name!r} is not a file name")
    return shards
