"""Safetensors headers: exact bytes and parameters, and one clear line for every damaged file."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from kvplan.core.errors import FileError
from kvplan.core.model import WeightsOnDisk
from kvplan.specs.safetensors_header import has_safetensors, read_safetensors_folder

BYTES = {"F32": 4, "BF16": 2, "F8_E4M3": 1, "U8": 1, "I64": 8}


def entries(*tensors: tuple[str, str, list[int]]) -> dict[str, Any]:
    """Header entries of tensors (name, dtype, shape), stored one behind the other."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dtype, shape in tensors:
        size = BYTES[dtype]
        for dimension in shape:
            size *= dimension
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    return header


def file_bytes(header: Any, data_bytes: int) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * data_bytes


def write_single(folder: Path, data: bytes) -> Path:
    (folder / "model.safetensors").write_bytes(data)
    return folder


def test_an_unquantized_file_gives_bytes_and_parameters(tmp_path: Path) -> None:
    header = entries(("a", "BF16", [4, 8]), ("b", "F32", [3]), ("scalar", "F32", []))
    write_single(tmp_path, file_bytes(header, 64 + 12 + 4))
    assert has_safetensors(tmp_path)
    assert read_safetensors_folder(tmp_path) == WeightsOnDisk(exact_bytes=80, exact_parameters=36)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "U8", "I64"])
def test_a_quantized_file_gives_bytes_alone(dtype: str, tmp_path: Path) -> None:
    header = entries(("a", dtype, [4, 8]), ("scale", "F32", [4]))
    size = 32 * BYTES[dtype] + 16
    write_single(tmp_path, file_bytes(header, size))
    assert read_safetensors_folder(tmp_path) == WeightsOnDisk(exact_bytes=size, exact_parameters=None)


def test_a_header_without_data_describes_the_weights(tmp_path: Path) -> None:
    write_single(tmp_path, file_bytes(entries(("a", "BF16", [1000, 1000])), 0))
    assert read_safetensors_folder(tmp_path).exact_bytes == 2_000_000


def write_shards(folder: Path, weight_map: dict[str, Any]) -> Path:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "one.safetensors").write_bytes(file_bytes(entries(("a", "BF16", [4])), 8))
    (folder / "two.safetensors").write_bytes(file_bytes(entries(("b", "BF16", [6])), 12))
    return folder


def test_shards_add_up(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    assert read_safetensors_folder(tmp_path) == WeightsOnDisk(exact_bytes=20, exact_parameters=10)


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        ({"a": "one.safetensors", "c": "three.safetensors"}, "three.safetensors: is missing"),
        ({"a": "one.safetensors", "z": "two.safetensors"}, "'z'"),
        ({"a": "../one.safetensors"}, "not a file name"),
        ({"a": 5}, "not a file name"),
        ({}, "weight_map"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(weight_map: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=said):
        read_safetensors_folder(write_shards(tmp_path, weight_map))


GOOD = {"a": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}


def changed(**fields: Any) -> dict[str, Any]:
    return {"a": {**GOOD["a"], **fields}}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\1\2", "no safetensors file"),
        (struct.pack("<Q", 2**40) + b"{}", "claims a header"),
        (struct.pack("<Q", 99) + b"{}", "claims a header"),
        (file_bytes(b"{nonsense", 0), "not valid JSON"),
        (file_bytes(b"[" * 5000, 0), "not valid JSON"),
        (file_bytes(b"[]", 0), "not a JSON object"),
        (file_bytes(b"\xff\xfe", 0), "not valid JSON"),
        (file_bytes(GOOD, 7), "holds 7 of 8 bytes"),
        (file_bytes(GOOD, 9), "holds 9 of 8 bytes"),
        (file_bytes(changed(dtype="Q9"), 8), "unknown dtype 'Q9'"),
        (file_bytes(changed(shape=[-4]), 8), "a shape"),
        (file_bytes(changed(shape=[2**62, 2**62]), 8), "more elements than exist"),
        (file_bytes(changed(shape=[True]), 8), "a shape"),
        (file_bytes(changed(data_offsets=[-8, 0]), 8), "two offsets"),
        (file_bytes(changed(data_offsets=[8, 0]), 8), "does not take"),
        (file_bytes(changed(data_offsets=[8, 16]), 16), "starts at byte 8"),
        (file_bytes(changed(shape=[5]), 8), "does not take"),
        (file_bytes({"a": 7}, 8), "not described"),
        (file_bytes({**GOOD, "b": GOOD["a"]}, 8), "starts at byte 0"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(data: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=said) as caught:
        read_safetensors_folder(write_single(tmp_path, data))
    assert "\n" not in caught.value.message
