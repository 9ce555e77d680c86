"""Writes small GGUF files: the format by hand, so that the reader is not tested against itself."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

U32, F32, BOOL, STRING, ARRAY, U64 = 4, 6, 7, 8, 9, 10
BLOCKS = {0: (1, 4), 1: (1, 2), 8: (32, 34), 12: (256, 144), 30: (1, 2)}
"""ggml type -> (elements, bytes) of a block, for the types that the tests use."""


def gguf_bytes(
    values: Mapping[str, Any],
    tensors: Sequence[tuple[str, tuple[int, ...], int]] = (),
    *,
    with_data: bool = True,
    version: int = 3,
) -> bytes:
    """A whole file. Tensors are (name, shape with the row first, ggml type)."""
    body = b"".join(_string(key) + _value(value) for key, value in values.items())
    offset = 0
    for name, shape, kind in tensors:
        dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        body += _string(name) + dimensions + struct.pack("<IQ", kind, offset)
        offset += -(-_size(shape, kind) // 32) * 32
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(values)) + body
    return head + b"\0" * (-len(head) % 32 + offset) if with_data else head


def model_keys(architecture: str, **keys: Any) -> dict[str, Any]:
    """The metadata of a model: ``attention__head_count=8`` is ``{arch}.attention.head_count``."""
    named = {f"{architecture}.{key.replace('__', '.')}": value for key, value in keys.items()}
    return {"general.architecture": architecture, **named}


def _size(shape: tuple[int, ...], kind: int) -> int:
    elements = 1
    for dimension in shape:
        elements *= dimension
    block, size = BLOCKS[kind]
    return elements // block * size


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    if isinstance(value, list):
        kind = _kind(value[0])
        return struct.pack("<IIQ", ARRAY, kind, len(value)) + b"".join(_plain(item, kind) for item in value)
    return struct.pack("<I", _kind(value)) + _plain(value, _kind(value))


def _kind(value: Any) -> int:
    kinds = {bool: BOOL, int: U32, float: F32, str: STRING}
    return kinds[type(value)]


def _plain(value: Any, kind: int) -> bytes:
    return _string(value) if kind == STRING else struct.pack({U32: "<I", F32: "<f", BOOL: "<?"}[kind], value)
