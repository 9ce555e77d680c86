"""Whatever a file holds, only a KvplanError may come out of a reader."""

from __future__ import annotations

import contextlib
import copy
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from gguf_file import gguf_bytes, model_keys
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvplan.core.errors import KvplanError, SpecError
from kvplan.specs.gguf import read_gguf
from kvplan.specs.safetensors_header import read_safetensors_folder
from kvplan.specs.schema import check_spec
from kvplan.specs.spec_yaml import build_model, contradictions, read_spec

FUZZ = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

GGUF = gguf_bytes(
    model_keys("gemma3", block_count=4, embedding_length=64, context_length=4096, attention__head_count=8,
               attention__head_count_kv=[2, 2, 1, 0], attention__key_length=16, attention__sliding_window=16,
               attention__sliding_window_pattern=[True, False, True, False]),
    [("token_embd.weight", (64, 10), 1), ("blk.0.attn_q.weight", (64, 64), 8)],
)  # fmt: skip
_HEADER = json.dumps({"w": {"dtype": "BF16", "shape": [4, 4], "data_offsets": [0, 32]}}).encode()
SAFETENSORS = struct.pack("<Q", len(_HEADER)) + _HEADER + b"\0" * 32

SPEC: dict[str, Any] = {
    "name": "toy",
    "aliases": ["t"],
    "source": {"url": "u", "date": "2026-01-31"},
    "hidden_size": 64,
    "num_heads": 8,
    "kinds": {
        "win": {"kind": "sliding_window", "num_kv_heads": 2, "head_dim": 8, "window": 4},
        "mamba": {"kind": "mamba1", "intermediate_size": 8, "state_size": 4, "conv_kernel": 4},
    },
    "layers": [{"pattern": ["win", "mamba"], "repeat": 2}],
    "num_layers": 4,
    "parameters": {"embedding": 3, "total": 3, "active": 2},
    "weights": {"format": "fp8"},
    "expect": {"bytes_per_token": 64},
    "notes": ["n"],
}
SHORT = {"name": "s", "num_layers": 2, "hidden_size": 64, "num_heads": 8, "num_kv_heads": 2, "vocab_size": 10}

patches = st.lists(st.tuples(st.integers(0, 2**16), st.binary(min_size=1, max_size=9)), max_size=4)


def patched(data: bytes, changes: list[tuple[int, bytes]], end: int) -> bytes:
    changed = bytearray(data)
    for place, new in changes:
        place %= len(changed)
        changed[place : place + len(new)] = new
    return bytes(changed[: len(changed) - end])


@FUZZ
@given(st.binary(max_size=200), patches, st.integers(0, 20))
def test_gguf_reader(tmp_path: Path, noise: bytes, changes: list[tuple[int, bytes]], end: int) -> None:
    for data in (noise, b"GGUF" + struct.pack("<I", 3) + noise, patched(GGUF, changes, end)):
        path = tmp_path / "fuzz.gguf"
        path.write_bytes(data)
        with contextlib.suppress(KvplanError):
            read_gguf(path)


@FUZZ
@given(st.binary(max_size=200), patches, st.integers(0, 20))
def test_safetensors_reader(tmp_path: Path, noise: bytes, changes: list[tuple[int, bytes]], end: int) -> None:
    for data in (noise, struct.pack("<Q", len(noise)) + noise, patched(SAFETENSORS, changes, end)):
        (tmp_path / "model.safetensors").write_bytes(data)
        with contextlib.suppress(KvplanError):
            read_safetensors_folder(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@FUZZ
@given(st.dictionaries(st.text(max_size=8), json_values, max_size=3))
def test_safetensors_header_of_any_json(tmp_path: Path, header: dict[str, Any]) -> None:
    text = json.dumps({**header, "w": header}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    with contextlib.suppress(KvplanError):
        read_safetensors_folder(tmp_path)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))]


def replaced(spec: dict[str, Any], place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    changed = copy.deepcopy(spec)
    inner: Any = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = new
    return changed


@FUZZ
@given(st.data())
def test_spec_reader_of_mutated_mappings(data: st.DataObject) -> None:
    base = data.draw(st.sampled_from([SPEC, SHORT]))
    place = data.draw(st.sampled_from(places(base)[1:]))
    mapping = replaced(base, place, data.draw(json_values | st.sampled_from([0, -1, 10**30, "win+mamba", "latent"])))
    problems = check_spec(mapping) + contradictions(mapping)
    if problems:
        with contextlib.suppress(SpecError):
            build_model(mapping, "fuzz")
    else:
        build_model(mapping, "fuzz")  # what the schema accepts can be built


@FUZZ
@given(st.text(max_size=60), st.dictionaries(st.sampled_from(sorted(SPEC)), json_values, max_size=4))
def test_spec_reader_of_any_text(tmp_path: Path, text: str, mapping: dict[str, Any]) -> None:
    path = tmp_path / "fuzz.yaml"
    for content in (text, json.dumps(mapping), "name: x\nkinds: {a: {kind: " + text):
        path.write_bytes(content.encode("utf-8", errors="replace"))
        with contextlib.suppress(KvplanError):
            read_spec(path)


@pytest.mark.parametrize("base", [SPEC, SHORT])
def test_the_mappings_that_are_mutated_are_sound(base: dict[str, Any]) -> None:
    assert check_spec(base) + contradictions(base) == []
