"""GGUF headers: weights to the byte, and one clear line for every damaged file."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from gguf_file import gguf_bytes, model_keys

from kvplan.core.errors import FileError
from kvplan.core.model import WeightsOnDisk
from kvplan.core.widths import Widths
from kvplan.specs.gguf import read_gguf
from kvplan.specs.gguf_header import parse_gguf_header

KEYS = model_keys("llama", block_count=2, embedding_length=256, context_length=4096, attention__head_count=8)
MOE_KEYS = model_keys("qwen3moe", block_count=1, embedding_length=256, attention__head_count=8, expert_count=4,
                      expert_used_count=1)  # fmt: skip
TENSORS = (
    ("token_embd.weight", (256, 100), 12),
    ("blk.0.attn_q.weight", (256, 256), 8),
    ("blk.0.ffn_up.weight", (256, 512), 1),
    ("blk.0.attn_norm.weight", (256,), 0),
)
TENSOR_BYTES = 100 * 144 + 256 * 8 * 34 + 256 * 512 * 2 + 256 * 4


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_weights_are_exact(tmp_path: Path) -> None:
    keys = {**KEYS, "general.file_type": 15, "general.name": "Tiny"}
    model = read_gguf(write(tmp_path / "tiny.gguf", gguf_bytes(keys, TENSORS)))
    elements = 256 * 100 + 256 * 256 + 256 * 512 + 256
    assert model.weights == WeightsOnDisk(weight_format="Q4_K_M", exact_bytes=TENSOR_BYTES, exact_parameters=elements)
    assert (model.name, model.family, model.architecture.max_context_tokens) == ("Tiny", "llama", 4096)
    assert model.architecture_class is None  # a GGUF file names an architecture of llama.cpp's, no class


def test_parameters_are_counted_by_part(tmp_path: Path) -> None:
    parts = (
        ("blk.0.ffn_gate_inp.weight", (256, 4), 0),
        ("blk.0.ffn_up_exps.weight", (256, 32, 4), 1),
        ("output.weight", (256, 100), 1),
        ("output_norm.weight", (256,), 0),
        ("rope_freqs.weight", (16,), 0),
        ("blk.1.nextn.eh_proj.weight", (256, 8), 1),
    )
    keys = {**MOE_KEYS, "qwen3moe.block_count": 2, "qwen3moe.nextn_predict_layers": 1}
    counted = read_gguf(write(tmp_path / "moe.gguf", gguf_bytes(keys, TENSORS + parts))).architecture.parameters
    assert counted is not None
    assert (counted.embedding, counted.output_head, counted.attention, counted.mlp) == (25600, 25600, 65536, 131072)
    assert (counted.routers, counted.experts, counted.norms, counted.other, counted.mtp) == (1024, 32768, 512, 16, 2048)
    assert counted.active == counted.total - 3 * 32768 // 4


def test_widths_come_from_keys_and_tensors(tmp_path: Path) -> None:
    keys = {**KEYS, **model_keys("llama", feed_forward_length=512)}
    widths = read_gguf(write(tmp_path / "plain.gguf", gguf_bytes(keys, TENSORS))).architecture.widths
    assert widths == Widths(vocab_size=100, intermediate_size=512, gated=False, tied_embeddings=True)
    gates = (("blk.0.ffn_gate.weight", (256, 512), 1), ("output.weight", (256, 100), 1))
    gated = read_gguf(write(tmp_path / "gated.gguf", gguf_bytes(keys, TENSORS + gates))).architecture.widths
    assert gated == Widths(vocab_size=100, intermediate_size=512)


def test_a_gate_inside_the_up_projection_is_a_gate(tmp_path: Path) -> None:
    keys = {**KEYS, **model_keys("llama", feed_forward_length=256)}
    widths = read_gguf(write(tmp_path / "fused.gguf", gguf_bytes(keys, TENSORS))).architecture.widths
    assert widths is not None
    assert widths.gated


def test_widths_of_experts_and_latents_are_those_of_deepseek_v3(tmp_path: Path) -> None:
    # the sizes of its config.json under llama.cpp's names for them
    keys = model_keys("deepseek2", block_count=4, embedding_length=7168, attention__head_count=128,
                      attention__head_count_kv=1, attention__kv_lora_rank=512, attention__q_lora_rank=1536,
                      attention__key_length=576, attention__value_length=512, attention__key_length_mla=192,
                      attention__value_length_mla=128, rope__dimension_count=64, vocab_size=129280,
                      feed_forward_length=18432, expert_count=256, expert_used_count=8, expert_shared_count=1,
                      expert_feed_forward_length=2048, leading_dense_block_count=3)  # fmt: skip
    gate = (("blk.0.ffn_gate.weight", (256, 512), 1),)
    widths = read_gguf(write(tmp_path / "moe.gguf", gguf_bytes(keys, TENSORS[:2] + gate))).architecture.widths
    assert widths == Widths(
        vocab_size=129280,
        intermediate_size=18432,
        num_experts=256,
        experts_per_token=8,
        moe_intermediate_size=2048,
        shared_intermediate_size=2048,
        q_lora_rank=1536,
        qk_nope_head_dim=128,
        v_head_dim=128,
        tied_embeddings=True,
        dense_layers=(0, 1, 2),
    )


def test_a_file_cut_behind_its_header_says_so(tmp_path: Path) -> None:
    model = read_gguf(write(tmp_path / "head.gguf", gguf_bytes(KEYS, TENSORS, with_data=False)))
    assert model.weights.exact_bytes == TENSOR_BYTES
    assert any("ends behind its header" in note for note in model.notes)


def test_any_shard_of_a_split_model_counts_them_all(tmp_path: Path) -> None:
    first = {**KEYS, "split.no": 0, "split.count": 2}
    write(tmp_path / "m-00001-of-00002.gguf", gguf_bytes(first, TENSORS[:2]))
    second = write(
        tmp_path / "m-00002-of-00002.gguf",
        gguf_bytes({"general.architecture": "llama", "split.no": 1, "split.count": 2}, TENSORS[2:]),
    )
    assert read_gguf(second).weights.exact_bytes == TENSOR_BYTES


def test_a_missing_shard_leaves_the_weights_uncounted(tmp_path: Path) -> None:
    first = {**KEYS, "split.no": 0, "split.count": 3}
    model = read_gguf(write(tmp_path / "m-00001-of-00003.gguf", gguf_bytes(first, TENSORS[:2])))
    assert model.weights.exact_bytes is None
    assert any("m-00002-of-00003.gguf is missing" in note for note in model.notes)


def test_a_vocabulary_of_any_size_is_passed_over(tmp_path: Path) -> None:
    keys = {"tokenizer.ggml.tokens": ["a"] * 5000, "tokenizer.ggml.scores": [0.5] * 5000, **KEYS}
    assert len(read_gguf(write(tmp_path / "vocabulary.gguf", gguf_bytes(keys))).architecture.layers) == 2


SOUND = gguf_bytes(KEYS, TENSORS)


def patched(position: int, layout: str, value: int) -> bytes:
    return SOUND[:position] + struct.pack(layout, value) + SOUND[position + struct.calcsize(layout) :]


def tensor_of(row: int, rows: int, kind: int) -> bytes:
    """A file with one tensor that its data do not fit."""
    sound = gguf_bytes(KEYS, [("w", (256, 2), 0)])
    return sound.replace(struct.pack("<I2QI", 2, 256, 2, 0), struct.pack("<I2QI", 2, row, rows, kind))


ARRAY_OF_ARRAYS = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 9, 1)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "too short"),
        (b"PK\3\4" + SOUND[4:], "is not a GGUF file"),
        (b"FUGG" + SOUND[4:], "big-endian"),
        (patched(4, ">I", 3), "big-endian"),
        (patched(4, "<I", 1), "GGUF version 1"),
        (patched(4, "<I", 9), "GGUF version 9"),
        (patched(8, "<Q", 2**40), "tensors"),
        (patched(8, "<Q", 500_000), "more than fit"),
        (patched(16, "<Q", 2**33), "keys"),
        (patched(16, "<Q", 60_000), "more than fit"),
        (patched(24, "<Q", 2**62), "claims"),
        (patched(24, "<Q", 2**20), "past the end of the file"),
        (SOUND[:100], "the end of the file"),
        (SOUND[:-1], "past the end of the file"),
        (ARRAY_OF_ARRAYS + b"\0" * 64, "array of arrays"),
        (gguf_bytes({"a": [1]}).replace(struct.pack("<IIQ", 9, 4, 1), struct.pack("<IIQ", 9, 4, 2**40)), "items"),
        (gguf_bytes({"a": 1}).replace(struct.pack("<II", 4, 1), struct.pack("<II", 77, 1)), "unknown type 77"),
        (gguf_bytes({**KEYS, "general.alignment": 24}, TENSORS), "power of two"),
        (tensor_of(256, 2, 31), "ggml type 31"),
        (tensor_of(8, 2, 12), "whole blocks of 256"),
        (tensor_of(2**62, 2, 0), "elements"),
        (gguf_bytes(KEYS, [("w", (8,), 0)] * 2), "twice"),
        (gguf_bytes({}), "general.architecture"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_in_one_line(data: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=said) as caught:
        read_gguf(write(tmp_path / "damaged.gguf", data))
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400


def test_every_truncation_is_refused_or_a_whole_header() -> None:
    refused = 0
    for size in range(len(gguf_bytes(KEYS, TENSORS, with_data=False))):
        with pytest.raises(FileError):
            parse_gguf_header(SOUND[:size], "cut")
        refused += 1
    assert refused > 300


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"absent\.gguf"):
        read_gguf(tmp_path / "absent.gguf")


def test_files_of_the_reference_writer_read_the_same(tmp_path: Path) -> None:
    gguf: Any = pytest.importorskip("gguf", reason="the reference writer is not installed")
    numpy = pytest.importorskip("numpy")
    path = tmp_path / "reference.gguf"
    writer = gguf.GGUFWriter(path, "jamba")
    writer.add_block_count(4)
    writer.add_embedding_length(64)
    writer.add_context_length(1024)
    writer.add_head_count(8)
    writer.add_head_count_kv([0, 2, 0, 4])
    writer.add_ssm_conv_kernel(4)
    writer.add_ssm_inner_size(128)
    writer.add_ssm_state_size(16)
    writer.add_file_type(7)
    writer.add_token_list(["<s>", "a", "ä"])
    quantized = gguf.quants.quantize(numpy.ones((32, 64), dtype=numpy.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blk.0.ssm_in.weight", quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("output_norm.weight", numpy.ones(64, dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = read_gguf(path)
    expected = gguf.GGUFReader(path).tensors
    assert model.weights == WeightsOnDisk(
        weight_format="Q8_0",
        exact_bytes=sum(int(tensor.n_bytes) for tensor in expected),
        exact_parameters=sum(int(tensor.n_elements) for tensor in expected),
    )
    assert [layer[0].kind for layer in model.architecture.layers] == ["mamba1", "full_attention"] * 2


def test_the_tables_of_types_are_those_of_the_reference_package() -> None:
    constants: Any = pytest.importorskip("gguf.constants", reason="the reference package is not installed")
    from kvplan.specs.ggml_types import FILE_TYPES, GGML_TYPES

    sizes = {kind.value: (kind.name, *size) for kind, size in constants.GGML_QUANT_SIZES.items()}
    assert {number: GGML_TYPES.get(number) for number in sizes} == sizes
    names = {kind.value: kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in constants.LlamaFileType}
    assert {number: FILE_TYPES.get(number) for number in names if number < 1000} == {
        number: name for number, name in names.items() if number < 1000
    }
