"""A model's own code beside what its spec predicts: right specs agree in every layer, planted mistakes are named."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of hqq, which transformers imports where it is installed
    from kvplan.runtime.verify.model_code import CodeChecks, CodeOptions, verify_many, verify_model_code

from kvplan.core.attention import FullAttention, LayerKind  # noqa: E402
from kvplan.core.model import Model  # noqa: E402
from kvplan.runtime.verify.code_prediction import other_release  # noqa: E402
from kvplan.runtime.verify.shrink_steps import cut_layers  # noqa: E402
from kvplan.runtime.verify.skeleton import build_skeleton, in_dtype  # noqa: E402
from kvplan.specs.catalogue import load_packaged  # noqa: E402
from kvplan.specs.published_config import published_config  # noqa: E402

CPU, META = torch.device("cpu"), torch.device("meta")
PLAIN = CodeOptions(compressions=(), batches=(2,), tokens=40, seconds=600)


def check(model: Model, options: CodeOptions = PLAIN, device: torch.device = CPU) -> CodeChecks:
    return verify_model_code(model, device, options)


def with_layers(model: Model, change: Callable[[int, LayerKind], LayerKind]) -> Model:
    """The model with every kind of every layer put through ``change``."""
    layers = tuple(
        tuple(change(index, kind) for kind in layer) for index, layer in enumerate(model.architecture.layers)
    )
    return replace(model, architecture=replace(model.architecture, layers=layers))


def wrong_layers(found: CodeChecks) -> list[str]:
    return list(dict.fromkeys(entry.what for entry in found.checks if not entry.passed))


@pytest.mark.parametrize(
    ("name", "compressions"),
    [
        ("llama-3.2-1b", [("int8", "none"), ("auto", "h2o:keep=0.2")]),  # grouped queries
        ("gemma-3-1b", [("fp8", "none")]),  # 5 windows of 512 tokens, then a full layer
        ("qwen3-0.6b", [("int4", "none"), ("kivi2", "none")]),
        ("deepseek-v2-lite", [("int8", "none")]),  # latents
        ("lfm2-8b-a1b", [("int8", "none")]),  # convolutions between attention layers
        ("mamba-130m", []),  # a state and no rows
        ("t5-v1.1-xxl", [("int8", "none")]),  # cross-attention
    ],
)
def test_the_code_holds_what_the_spec_predicts(name: str, compressions: Sequence[tuple[str, str]]) -> None:
    tokens = None if name == "gemma-3-1b" else 140  # beyond kivi's residual of 128
    found = check(load_packaged(name), replace(PLAIN, compressions=tuple(compressions), tokens=tokens))
    assert wrong_layers(found) == []
    assert found.skipped == ()
    assert found.passed
    moments = 2 * (1 + len(compressions))
    assert len(found.checks) >= 2 * moments  # two layers at least, every one in each cache at both moments


def test_a_prompt_goes_beyond_the_window() -> None:
    found = check(load_packaged("gemma-3-1b"), replace(PLAIN, tokens=None))
    kinds = {entry.what: entry.measured_bytes for entry in found.checks if "after the prompt" in entry.detail}
    row = 2 * 1 * 256 * 2 * 2  # key and value, one head of 256, bf16, two sequences
    assert kinds["layer 0 sliding_window"] == 511 * row
    assert kinds["layer 5 full_attention"] == 529 * row


def test_one_kv_head_too_few_is_caught_in_every_layer() -> None:
    model = with_layers(load_packaged("llama-3.2-1b"), lambda _, kind: replace(kind, num_kv_heads=7))
    found = check(model)
    assert wrong_layers(found) == ["layer 0 full_attention", "layer 1 full_attention"]
    assert not found.passed
    assert {8 * entry.predicted_bytes for entry in found.checks} == {7 * entry.measured_bytes for entry in found.checks}


def test_a_window_missed_in_one_layer_is_caught_in_that_layer() -> None:
    full = FullAttention(num_kv_heads=1, head_dim=256)
    model = with_layers(load_packaged("gemma-3-1b"), lambda index, kind: full if index == 3 else kind)
    assert wrong_layers(check(model, replace(PLAIN, tokens=None))) == ["layer 3 full_attention"]


def test_a_window_missed_beyond_the_first_period_is_caught() -> None:
    full = FullAttention(num_kv_heads=1, head_dim=256)
    model = with_layers(load_packaged("gemma-3-1b"), lambda index, kind: full if index == 9 else kind)
    assert wrong_layers(check(model, replace(PLAIN, tokens=600), META)) == ["layer 9 full_attention"]


def test_windows_missed_everywhere_are_caught_where_the_code_has_them() -> None:
    full = FullAttention(num_kv_heads=1, head_dim=256)
    model = with_layers(load_packaged("gemma-3-1b"), lambda _, kind: full)
    assert wrong_layers(check(model, replace(PLAIN, tokens=600), META)) == [
        f"layer {i} full_attention" for i in range(5)
    ]


def test_a_wrong_head_width_is_caught() -> None:
    model = with_layers(load_packaged("qwen3-0.6b"), lambda _, kind: replace(kind, head_dim=64))
    assert wrong_layers(check(model)) == ["layer 0 full_attention", "layer 1 full_attention"]


def test_a_wrong_latent_rank_is_caught() -> None:
    model = with_layers(load_packaged("deepseek-v2-lite"), lambda _, kind: replace(kind, kv_lora_rank=511))
    assert wrong_layers(check(model)) == ["layer 0 latent", "layer 1 latent"]


def test_a_wrong_state_size_is_caught() -> None:
    model = with_layers(load_packaged("mamba-130m"), lambda _, kind: replace(kind, state_size=15))
    assert wrong_layers(check(model)) == ["layer 0 mamba1", "layer 1 mamba1"]


def test_a_missing_layer_is_caught() -> None:
    model = load_packaged("llama-3.2-1b")
    model = replace(model, architecture=replace(model.architecture, layers=model.architecture.layers[:-1]))
    assert wrong_layers(check(model)) == ["layer 15 that the spec does not have"]


def test_a_layer_too_many_is_caught() -> None:
    model = load_packaged("llama-3.2-1b")
    more = (*model.architecture.layers, model.architecture.layers[0])
    model = replace(model, architecture=replace(model.architecture, layers=more))
    assert wrong_layers(check(model)) == ["layer 16 full_attention"]


def test_a_wrong_head_count_is_caught_in_a_compressed_cache() -> None:
    model = with_layers(load_packaged("llama-3.2-1b"), lambda _, kind: replace(kind, num_kv_heads=9))
    found = check(model, replace(PLAIN, compressions=(("int8", "none"),)))
    assert all(not entry.passed for entry in found.checks)
    assert any(entry.detail.startswith("CompressedCache int8") for entry in found.checks)


def test_a_window_too_wide_for_a_cpu_is_passed_on_the_meta_device() -> None:
    found = check(load_packaged("mistral-7b-v0.1"), replace(PLAIN, tokens=None))  # windows of 4096 tokens
    far = [entry for entry in found.checks if "on the meta device" in entry.detail]
    assert found.passed
    assert far
    assert all("4,113 tokens" in entry.detail for entry in far)
    assert any("meta" not in entry.detail for entry in found.checks)


def test_every_layer_runs_when_all_are_asked_for() -> None:
    found = check(load_packaged("smollm2-135m"), replace(PLAIN, whole=True), META)
    assert {entry.what for entry in found.checks} == {f"layer {index} full_attention" for index in range(30)}


def test_a_model_without_code_in_transformers_is_skipped_with_the_reason() -> None:
    found = check(load_packaged("chatglm3-6b"))
    assert found.checks == ()
    assert not found.passed
    assert found.skipped == (f"transformers {transformers.__version__} does not know the model type 'chatglm'",)


def test_no_run_starts_after_the_time_is_up() -> None:
    found = check(load_packaged("llama-3.2-1b"), replace(PLAIN, seconds=0))
    assert found.checks == ()
    assert found.skipped == ("llama-3.2-1b: DynamicCache, 2 x 40 tokens: 0 s had passed",)


def test_a_state_cannot_be_compressed_and_says_so() -> None:
    found = check(load_packaged("mamba-130m"), replace(PLAIN, compressions=(("int8", "none"), ("int4", "none"))))
    assert found.passed
    assert len(found.skipped) == 1
    assert found.skipped[0].startswith("mamba-130m: CompressedCache int8, CompressedCache int4: no layer")


def test_many_models_are_verified_and_a_wrong_name_is_a_line() -> None:
    found = list(verify_many(["no-such-model", "smollm2-135m"], CPU, PLAIN))
    assert [entry.passed for entry in found] == [False, True]
    assert found[0].skipped[0].startswith("unknown model 'no-such-model'")
    assert json.loads(json.dumps(asdict(found[1])))["checks"][0]["group"] == "model code"


def test_releases_before_5_18_expand_sparse_latents_and_are_left_out() -> None:
    assert "since 5.18" in str(other_release(load_packaged("deepseek-v3.2"), "5.17.0"))
    assert other_release(load_packaged("deepseek-v3.2"), "5.23.0") is None
    assert other_release(load_packaged("deepseek-v3"), "5.17.0") is None


def test_a_skeleton_keeps_what_reaches_the_cache() -> None:
    # GPT-2's heads are as wide as its hidden size says, Falcon's cache has every query head
    kept = {}
    for name in ("gpt2", "falcon-7b", "llama-3.1-8b"):
        model = load_packaged(name)
        values = published_config(model).values
        assert values is not None
        skeleton = build_skeleton(in_dtype(values), model.architecture.layers, torch.device("meta"))
        kept[name] = skeleton.kept
    assert kept == {"gpt2": ("hidden size",), "falcon-7b": ("hidden size",), "llama-3.1-8b": ()}


def test_a_skeleton_of_70b_is_small() -> None:
    model = load_packaged("llama-3.1-70b")
    values = published_config(model).values
    assert values is not None
    skeleton = build_skeleton(in_dtype(values), model.architecture.layers, torch.device("meta"))
    assert skeleton.num_layers == 2
    assert skeleton.num_parameters < 1_000_000


def test_cutting_shortens_lists_of_an_entry_per_layer() -> None:
    values = {"text_config": {"num_hidden_layers": 4, "layer_types": list("abcd"), "eos_token_id": [1, 2, 3]}}
    cut = cut_layers(values, 2)["text_config"]
    assert cut == {"num_hidden_layers": 2, "layer_types": ["a", "b"], "eos_token_id": [1, 2, 3]}
