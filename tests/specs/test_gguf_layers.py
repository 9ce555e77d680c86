"""The layers of real models as GGUF describes them, against what llama.cpp allocated for the same models.

Source of every figure: the log of llama.cpp 0.5.0 (2026-09-28) with f16 caches, one sequence, for the converted
model: layers and MiB (two decimals) of K and V, of the sliding K and V, and of the f32 recurrent R and S.
Keys are those that the converter writes from the model's config.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gguf_file import gguf_bytes, model_keys

from kvplan.core.attention import (
    ChunkedLocal,
    FullAttention,
    IndexKeys,
    Latent,
    LayerKind,
    NoCache,
    Shared,
    SlidingWindow,
)
from kvplan.core.errors import KvplanError, MissingKeyError, UnknownArchitectureError
from kvplan.core.model import Architecture
from kvplan.core.recurrent import Mamba2, Rwkv
from kvplan.specs.gguf import read_gguf

MIB = 2**20


@dataclass(frozen=True)
class Case:
    """A model, and what llama.cpp logged: (layers, cells, MiB of K, MiB of V) and (MiB of R, MiB of S)."""

    name: str
    keys: dict[str, Any]
    full: tuple[int, int, float, float] | None = None
    sliding: tuple[int, int, float, float] | None = None
    state: tuple[float, float] | None = None
    index: tuple[int, int, float] | None = None


def heads(num_heads: int, num_kv_heads: Any, **keys: Any) -> dict[str, Any]:
    return {"attention__head_count": num_heads, "attention__head_count_kv": num_kv_heads, **keys}


GEMMA4_31B = [index % 6 != 5 for index in range(60)]
GEMMA4_E4B = [index % 6 != 5 for index in range(42)]
MIMO = [index not in (0, *range(5, 48, 6)) and index != 47 for index in range(48)]
JAMBA_KV = [8 if index % 8 == 4 else 0 for index in range(32)]
NANO = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"
GRANITE_KV = [8 if index in (5, 15, 25, 35) else 0 for index in range(40)]
LFM2_KV = [8 if index % 4 == 2 else 0 for index in range(40)]
OPENELM_KV = [3] * 4 + [4] * 14 + [5] * 12 + [6] * 6
OPENELM_HEADS = [12] * 4 + [16] * 14 + [20] * 12 + [24] * 6

CASES = (
    Case("Llama-3.1-8B", model_keys("llama", block_count=32, embedding_length=4096, **heads(32, 8)),
         full=(32, 32768, 2048.0, 2048.0)),
    Case("gemma-3-4b-it", model_keys("gemma3", block_count=34, embedding_length=2560, attention__key_length=256,
         attention__value_length=256, attention__sliding_window=1024, **heads(8, 4)),
         full=(5, 32768, 320.0, 320.0), sliding=(29, 1536, 87.0, 87.0)),
    Case("gemma-2-27b", model_keys("gemma2", block_count=46, embedding_length=4608, attention__key_length=128,
         attention__value_length=128, attention__sliding_window=4096, **heads(32, 16)),
         full=(23, 32768, 2944.0, 2944.0), sliding=(23, 4608, 414.0, 414.0)),
    Case("gpt-oss-120b", model_keys("gpt-oss", block_count=36, embedding_length=2880, attention__key_length=64,
         attention__value_length=64, attention__sliding_window=128, **heads(64, 8)),
         full=(18, 32768, 576.0, 576.0), sliding=(18, 768, 13.5, 13.5)),
    Case("Llama-4-Scout", model_keys("llama4", block_count=48, embedding_length=5120, attention__key_length=128,
         attention__value_length=128, **heads(40, 8)),
         full=(12, 32768, 768.0, 768.0), sliding=(36, 8704, 612.0, 612.0)),
    Case("command-r7b", model_keys("cohere2", block_count=32, embedding_length=4096, attention__key_length=128,
         attention__value_length=128, attention__sliding_window=4096, **heads(32, 8)),
         full=(8, 32768, 512.0, 512.0), sliding=(24, 4608, 216.0, 216.0)),
    Case("Olmo-3.1-32B", model_keys("olmo2", block_count=64, embedding_length=5120, attention__sliding_window=4096,
         attention__sliding_window_pattern=[index % 4 != 3 for index in range(64)], **heads(40, 8)),
         full=(16, 32768, 1024.0, 1024.0), sliding=(48, 4608, 432.0, 432.0)),
    Case("EXAONE-4.0-32B", model_keys("exaone4", block_count=64, embedding_length=5120, attention__sliding_window=4096,
         **heads(40, 8)),
         full=(16, 32768, 1024.0, 1024.0), sliding=(48, 4608, 432.0, 432.0)),
    Case("MiMo-V2-Flash", model_keys("mimo2", block_count=48, embedding_length=4096, attention__key_length=192,
         attention__value_length=128, attention__sliding_window=128, attention__sliding_window_pattern=MIMO,
         **heads(64, [8 if slides else 4 for slides in MIMO])),
         full=(9, 8192, 108.0, 72.0), sliding=(39, 768, 87.75, 58.5)),
    Case("Trinity-Mini", model_keys("afmoe", block_count=32, embedding_length=2048, attention__key_length=128,
         attention__value_length=128, attention__sliding_window=2048, **heads(32, 4)),
         full=(8, 32768, 256.0, 256.0), sliding=(24, 2560, 60.0, 60.0)),
    Case("gemma-4-31B-it", model_keys("gemma4", block_count=60, embedding_length=5376, attention__key_length=512,
         attention__value_length=512, attention__key_length_swa=256, attention__value_length_swa=256,
         attention__sliding_window=1024, attention__sliding_window_pattern=GEMMA4_31B,
         **heads(32, [16 if slides else 4 for slides in GEMMA4_31B])),
         full=(10, 8192, 320.0, 320.0), sliding=(50, 1536, 600.0, 600.0)),
    Case("gemma-4-E4B-it", model_keys("gemma4", block_count=42, embedding_length=2560, attention__key_length=512,
         attention__value_length=512, attention__key_length_swa=256, attention__value_length_swa=256,
         attention__sliding_window=512, attention__sliding_window_pattern=GEMMA4_E4B,
         attention__shared_kv_layers=18, **heads(8, 2)),
         full=(4, 8192, 64.0, 64.0), sliding=(20, 1024, 20.0, 20.0)),
    Case("OpenELM-3B", model_keys("openelm", block_count=36, embedding_length=3072, attention__key_length=128,
         attention__value_length=128, attention__head_count=OPENELM_HEADS, attention__head_count_kv=OPENELM_KV),
         full=(36, 32768, 1312.0, 1312.0)),
    Case("DeepSeek-R1", model_keys("deepseek2", block_count=61, embedding_length=7168, attention__kv_lora_rank=512,
         attention__key_length=576, attention__value_length=512, attention__key_length_mla=192, **heads(128, 1)),
         full=(61, 32768, 2196.0, 0.0)),
    Case("GLM-5.2", model_keys("glm-dsa", block_count=79, nextn_predict_layers=1, embedding_length=6144,
         context_length=1048576, attention__kv_lora_rank=512, attention__key_length=576,
         attention__key_length_mla=256, attention__indexer__key_length=128, **heads(64, 1)),
         full=(78, 32768, 2808.0, 0.0), index=(21, 32768, 168.0)),
    Case("GLM-4.5", model_keys("glm4moe", block_count=93, nextn_predict_layers=1, embedding_length=5120,
         attention__key_length=128, attention__value_length=128, **heads(96, 8)),
         full=(92, 32768, 5888.0, 5888.0)),
    Case("Qwen3-Next-80B", model_keys("qwen3next", block_count=48, embedding_length=2048, attention__key_length=256,
         attention__value_length=256, ssm__conv_kernel=4, ssm__inner_size=4096, ssm__state_size=128,
         ssm__time_step_rank=32, ssm__group_count=16, **heads(16, 2)),
         full=(12, 8192, 96.0, 96.0), state=(3.38, 72.0)),
    Case("Jamba-v0.1", model_keys("jamba", block_count=32, embedding_length=4096, ssm__conv_kernel=4,
         ssm__inner_size=8192, ssm__state_size=16, ssm__time_step_rank=256, **heads(32, JAMBA_KV)),
         full=(4, 8192, 64.0, 64.0), state=(2.62, 14.0)),
    Case("Nemotron-3-Nano", model_keys("nemotron_h_moe", block_count=52, embedding_length=2688,
         attention__key_length=128, attention__value_length=128, ssm__conv_kernel=4, ssm__inner_size=4096,
         ssm__state_size=128, ssm__time_step_rank=64, ssm__group_count=8,
         feed_forward_length=[1856 if sign == "E" else 0 for sign in NANO],
         **heads(32, [2 if sign == "*" else 0 for sign in NANO])),
         full=(6, 8192, 24.0, 24.0), state=(1.62, 46.0)),
    Case("granite-4.0-h-micro", model_keys("granitehybrid", block_count=40, embedding_length=2048, ssm__conv_kernel=4,
         ssm__inner_size=4096, ssm__state_size=128, ssm__time_step_rank=64, ssm__group_count=1,
         **heads(32, GRANITE_KV)),
         full=(4, 8192, 32.0, 32.0), state=(1.79, 72.0)),
    Case("LFM2-24B-A2B", model_keys("lfm2moe", block_count=40, embedding_length=2048, shortconv__l_cache=3,
         **heads(32, LFM2_KV)),
         full=(10, 8192, 80.0, 80.0), state=(0.47, 0.0)),
    Case("mamba-130m", model_keys("mamba", block_count=24, embedding_length=768, ssm__conv_kernel=4,
         ssm__inner_size=1536, ssm__state_size=16, ssm__time_step_rank=48, attention__head_count=0),
         state=(0.42, 2.25)),
    Case("mamba2-2.7b", model_keys("mamba2", block_count=64, embedding_length=2560, ssm__conv_kernel=4,
         ssm__inner_size=5120, ssm__state_size=128, ssm__time_step_rank=80, ssm__group_count=1,
         attention__head_count=0),
         state=(3.94, 160.0)),
)  # fmt: skip


def architecture_of(tmp_path: Path, keys: dict[str, Any]) -> Architecture:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes(keys))
    return read_gguf(path).architecture


def kinds(architecture: Architecture, *classes: type[LayerKind]) -> list[LayerKind]:
    return [kind for layer in architecture.layers for kind in layer if isinstance(kind, classes)]


def mib(found: list[LayerKind], cells: int, *names: str) -> float:
    """f16 MiB of the parts called so, in caches of ``cells`` cells."""
    widths = [part.num_heads * part.width for kind in found for part in kind.parts() if part.name in names]
    return sum(widths) * cells * 2 / MIB


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_layers_are_those_that_llama_cpp_allocates(case: Case, tmp_path: Path) -> None:
    architecture = architecture_of(tmp_path, case.keys)
    full = kinds(architecture, FullAttention, Latent)
    sliding = kinds(architecture, SlidingWindow, ChunkedLocal)
    index = kinds(architecture, IndexKeys)
    for found, expected in ((full, case.full), (sliding, case.sliding)):
        layers, cells, key_mib, value_mib = expected or (0, 0, 0.0, 0.0)
        assert len(found) == layers
        assert mib(found, cells, "key", "latent", "rope") == pytest.approx(key_mib)
        assert mib(found, cells, "value") == pytest.approx(value_mib)
    assert (len(index), mib(index, 32768, "index")) == ((case.index[0], case.index[2]) if case.index else (0, 0.0))
    states = [state for layer in architecture.layers for kind in layer for state in kind.states()]
    conv = sum(state.elements for state in states if state.name.startswith("conv")) * 4 / MIB
    recurrent = sum(state.elements for state in states if state.name == "state") * 4 / MIB
    assert (conv, recurrent) == pytest.approx(case.state or (0.0, 0.0), abs=0.0051)


def test_draft_layers_stand_apart(tmp_path: Path) -> None:
    keys = model_keys("glm4moe", block_count=3, nextn_predict_layers=1, embedding_length=64, **heads(8, 2))
    architecture = architecture_of(tmp_path, keys)
    assert (len(architecture.layers), len(architecture.draft_layers)) == (2, 1)


def test_a_draft_layer_of_a_hybrid_has_attention(tmp_path: Path) -> None:
    keys = model_keys("qwen35", block_count=5, nextn_predict_layers=1, embedding_length=64, ssm__conv_kernel=4,
                      ssm__inner_size=64, ssm__state_size=16, ssm__time_step_rank=4, ssm__group_count=2,
                      **heads(8, 2))  # fmt: skip
    architecture = architecture_of(tmp_path, keys)
    assert architecture.draft_layers == ((FullAttention(num_kv_heads=2, head_dim=8),),)
    assert [layer[0].kind for layer in architecture.layers] == ["gated_delta_net"] * 3 + ["full_attention"]


def test_shared_layers_read_the_last_owner_of_their_type(tmp_path: Path) -> None:
    # llama.cpp's reuse rule: owners - 2 for a sliding layer, owners - 1 for a full one.
    keys = model_keys("gemma3n", block_count=30, embedding_length=2048, attention__key_length=256,
                      attention__sliding_window=512, **heads(8, 2))  # fmt: skip
    layers = architecture_of(tmp_path, keys).layers
    shared = {index: layer[0].source_layer for index, layer in enumerate(layers) if isinstance(layer[0], Shared)}
    assert set(shared) == set(range(20, 30))
    assert (shared[20], shared[24]) == (18, 19)


def test_layers_without_heads_store_nothing(tmp_path: Path) -> None:
    keys = model_keys("deci", block_count=3, embedding_length=64, **heads(8, [2, 0, 4]))
    layers = architecture_of(tmp_path, keys).layers
    assert layers[1] == (NoCache(),)
    assert [layer[0].num_kv_heads for layer in layers if isinstance(layer[0], FullAttention)] == [2, 4]


def test_parallel_layers_have_attention_and_state(tmp_path: Path) -> None:
    keys = model_keys("falcon-h1", block_count=2, embedding_length=64, ssm__conv_kernel=4, ssm__inner_size=96,
                      ssm__state_size=16, ssm__time_step_rank=3, ssm__group_count=1, **heads(8, 2))  # fmt: skip
    state = Mamba2(num_heads=3, head_dim=32, state_size=16, num_groups=1, conv_kernel=4)
    assert architecture_of(tmp_path, keys).layers == ((FullAttention(num_kv_heads=2, head_dim=8), state),) * 2


def test_rwkv_keeps_shift_rows_and_a_matrix(tmp_path: Path) -> None:
    keys = model_keys("rwkv7", block_count=2, embedding_length=768, wkv__head_size=64, attention__head_count=0)
    state = Rwkv(hidden_size=768, num_heads=12, head_dim=64, state_columns=64)
    assert architecture_of(tmp_path, keys).layers == ((state,),) * 2


def test_a_window_that_llama_cpp_ignores_is_noted(tmp_path: Path) -> None:
    keys = model_keys("phi3", block_count=2, embedding_length=64, attention__sliding_window=2047, **heads(8, 8))
    architecture = architecture_of(tmp_path, keys)
    assert architecture.layers[0] == (FullAttention(num_kv_heads=8, head_dim=8),)
    assert "2047" in architecture.notes[0]


def test_an_old_deepseek_file_caches_expanded_heads(tmp_path: Path) -> None:
    keys = model_keys("deepseek2", block_count=2, embedding_length=2048, attention__kv_lora_rank=512,
                      attention__key_length=192, attention__value_length=128, **heads(16, 16))  # fmt: skip
    architecture = architecture_of(tmp_path, keys)
    assert architecture.layers[0] == (FullAttention(num_kv_heads=16, head_dim=192, v_head_dim=128),)
    assert "expanded" in architecture.notes[0]


def test_a_period_in_the_file_beats_the_architectures_own(tmp_path: Path) -> None:
    keys = model_keys("gemma3", block_count=6, embedding_length=64, attention__sliding_window=16,
                      attention__sliding_window_pattern=3, **heads(8, 2))  # fmt: skip
    assert [len(kinds(architecture_of(tmp_path, keys), kind)) for kind in (SlidingWindow, FullAttention)] == [4, 2]


def test_an_unknown_architecture_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnknownArchitectureError, match="'quasar'"):
        architecture_of(tmp_path, model_keys("quasar", block_count=2, embedding_length=64, **heads(8, 2)))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"gemma3.attention.head_count_kv": [2, 2, 2]}, "head_count_kv has 3 entries"),
        ({"gemma3.block_count": 0}, "block_count must be at least 1"),
        ({"gemma3.block_count": 10**9}, "block_count must be at most"),
        ({"gemma3.nextn_predict_layers": 4}, "nextn_predict_layers"),
        ({"gemma3.attention.key_length": 0}, "key_length"),
        ({"gemma3.attention.sliding_window_pattern": "often"}, "sliding_window_pattern"),
        ({"gemma3.embedding_length": True}, "embedding_length"),
        ({"gemma3.attention.head_count_kv": list(range(5000))}, "head_count_kv"),
    ],
)
def test_an_impossible_value_is_refused_with_its_key(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    keys = model_keys("gemma3", block_count=4, embedding_length=64, attention__sliding_window=16, **heads(8, 2))
    with pytest.raises(KvplanError, match=named):
        architecture_of(tmp_path, {**keys, **change})


def test_a_required_window_is_never_guessed(tmp_path: Path) -> None:
    with pytest.raises(MissingKeyError, match=r"gpt-oss\.attention.sliding_window"):
        architecture_of(tmp_path, model_keys("gpt-oss", block_count=2, embedding_length=64, **heads(8, 2)))
