"""A rank's weights: laws over real models, and hand arithmetic for the parts that do not split evenly."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from kvplan.core.model import Model, WeightsOnDisk
from kvplan.core.parallel import Parallel
from kvplan.core.weight_shards import RankWeights, WeightSpread, shard_weights
from kvplan.core.weights import get_weight_format, weights_bytes
from kvplan.specs.catalogue import find_spec, load_found

BF16 = get_weight_format("bf16")
MODELS = (
    "llama-3.1-8b",
    "qwen3-8b",
    "gpt-oss-20b",
    "qwen3.5-27b",
    "deepseek-v2-lite",
    "deepseek-v3.2",
    "deepseek-v4-flash",
    "mixtral-8x7b",
    "glm-4.5-air",
    "gemma-3-27b",
    "gemma-4-e4b",
    "nemotron-h-56b-base-8k",
    "nvidia-nemotron-3-nano-30b-a3b-bf16",
    "llama-4-maverick-17b-128e",
    "kimi-k2-instruct",
    "whisper-large-v3",
    "gpt2",
)


def load(name: str) -> Model:
    found = find_spec(name)
    assert found is not None, name
    return load_found(found)


def shards(model: Model, spread: WeightSpread, weights: WeightsOnDisk | None = None) -> tuple[RankWeights, ...]:
    found = shard_weights(model.architecture, weights or WeightsOnDisk(), BF16, spread)
    assert found is not None
    return found


def line(rank: RankWeights, words: str) -> int:
    return dict(rank.lines)[words]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("weight_format", ["bf16", "fp8", "int4_awq", "mxfp4_experts"])
def test_one_rank_holds_what_the_whole_model_weighs(name: str, weight_format: str) -> None:
    model, chosen = load(name), get_weight_format(weight_format)
    assert model.architecture.parameters is not None
    found = shard_weights(model.architecture, WeightsOnDisk(), chosen, WeightSpread())
    assert found is not None
    assert [rank.bytes for rank in found] == [weights_bytes(model.architecture.parameters, chosen)]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("tp", [1, 2, 4, 8])
@pytest.mark.parametrize("pp", [1, 2, 3])
@pytest.mark.parametrize("expert_parallel", [False, True])
def test_all_ranks_together_hold_at_least_the_model(name: str, tp: int, pp: int, expert_parallel: bool) -> None:
    model = load(name)
    assert model.architecture.parameters is not None
    ranks = shards(model, WeightSpread(parallel=Parallel(tp=tp, pp=pp), expert_parallel=expert_parallel))
    assert len(ranks) == pp
    assert tp * sum(rank.bytes for rank in ranks) >= weights_bytes(model.architecture.parameters, BF16)
    for rank in ranks:
        assert rank.bytes == sum(size for _, size in rank.lines)
        assert min(size for _, size in rank.lines) > 0


@pytest.mark.parametrize("name", MODELS)
def test_more_ranks_never_hold_more_each(name: str) -> None:
    sizes = [shards(load(name), WeightSpread(parallel=Parallel(tp=tp)))[0].bytes for tp in (1, 2, 4, 8, 16)]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("name", MODELS)
def test_stages_of_one_rank_add_up_to_the_model_and_its_second_tied_embedding(name: str) -> None:
    parameters = load(name).architecture.parameters
    assert parameters is not None
    ranks = shards(load(name), WeightSpread(parallel=Parallel(pp=3)))
    twice = 0 if parameters.output_head else 2 * parameters.embedding
    assert sum(rank.bytes for rank in ranks) - weights_bytes(parameters, BF16) - twice in range(3)


def test_llama_8b_on_16_ranks_repeats_its_8_kv_heads() -> None:
    # A layer: hidden 4096, 32 query and 8 KV heads of 128. One rank: 2 query heads with their output, 1 key, 1 value.
    (rank,) = shards(load("llama-3.1-8b"), WeightSpread(parallel=Parallel(tp=16)))
    assert line(rank, "attention") == 32 * 2 * 4096 * 128 * (2 + 2 + 1 + 1)
    assert line(rank, "feed-forward blocks and shared experts") == 32 * 2 * 3 * 4096 * 14336 // 16
    assert line(rank, "norms") == 65 * 2 * 4096
    assert line(rank, "embedding") == line(rank, "output head") == 2 * 4096 * 128256 // 16


def test_an_uneven_vocabulary_is_padded_before_it_is_split() -> None:
    # GPT-2: 50,257 tokens are padded to 50,304, half of them a rank's; 1,024 positions stand beside them, whole.
    spread = WeightSpread(parallel=Parallel(tp=2), vocab_multiple=64)
    (rank,) = shards(load("gpt2"), spread)
    assert line(rank, "embedding") == 2 * 768 * (50304 // 2 + 1024)


def test_deepseek_v3_replicates_its_projections_into_latents_and_its_indexer() -> None:
    # models/deepseek_v2.py of vLLM 0.33: q_a and kv_a with their norms, and the whole indexer, on each of 128 ranks.
    into_latents = 7168 * (1536 + 512 + 64) + 1536 + 512
    out_of_latents = 1536 * 128 * 192 + 512 * 128 * 256 + 128 * 128 * 7168
    indexer = 1536 * 64 * 128 + 7168 * (128 + 64)
    (rank,) = shards(load("deepseek-v3.2"), WeightSpread(parallel=Parallel(tp=128)))
    expected = 61 * 2 * (into_latents + indexer + Fraction(out_of_latents, 128))
    key_norms = 61 * 2 * 2 * 128  # weight and bias, counted as split
    assert line(rank, "attention") == pytest.approx(float(expected), abs=key_norms)


def test_deepseek_v3_splits_shared_experts_by_width_and_routed_ones_by_expert() -> None:
    # 256 experts of 2048 and one shared in 58 layers, 3 dense layers of 18432, hidden 7168.
    (rank,) = shards(load("deepseek-v3.2"), WeightSpread(parallel=Parallel(tp=8), expert_parallel=True))
    assert line(rank, "routed experts") == 2 * 58 * 32 * 3 * 7168 * 2048
    assert line(rank, "feed-forward blocks and shared experts") == 2 * 3 * 7168 * (3 * 18432 + 58 * 2048) // 8


def test_experts_are_spread_over_data_parallel_replicas_and_shared_ones_repeated() -> None:
    # config/parallel.py of vLLM 0.33, use_sequence_parallel_moe
    spread = WeightSpread(parallel=Parallel(tp=2, dp=8), expert_parallel=True)
    (rank,) = shards(load("deepseek-v3.2"), spread)
    assert line(rank, "routed experts") == 2 * 58 * 16 * 3 * 7168 * 2048
    assert line(rank, "feed-forward blocks and shared experts") == 2 * 3 * 7168 * (3 * 18432 // 2 + 58 * 2048)


def test_experts_that_do_not_divide_fill_the_first_ranks() -> None:
    # 8 experts on 3 ranks: 3 of them on the fullest
    spread = WeightSpread(parallel=Parallel(tp=1, dp=3), expert_parallel=True)
    (rank,) = shards(load("mixtral-8x7b"), spread)
    assert line(rank, "routed experts") == 2 * 32 * 3 * 3 * 4096 * 14336


def test_dense_layers_weigh_on_their_own_stage() -> None:
    # Llama 4 Maverick: every other layer dense, so both halves weigh the same but for embedding, head and final norm.
    first, last = shards(load("llama-4-maverick-17b-128e"), WeightSpread(parallel=Parallel(pp=2), towers=False))
    assert line(first, "routed experts") == line(last, "routed experts")
    # DeepSeek-V3.2 starts with three dense layers: the first of 61 stages has no experts.
    stages = shards(load("deepseek-v3.2"), WeightSpread(parallel=Parallel(pp=61)))
    assert ["routed experts" in dict(stage.lines) for stage in stages] == 3 * [False] + 58 * [True]


def test_a_tied_embedding_stands_at_both_ends_of_a_pipeline() -> None:
    first, middle, last = shards(load("gemma-3-27b"), WeightSpread(parallel=Parallel(pp=3)))
    assert line(first, "embedding") == line(last, "embedding") == 2 * 262208 * 5376
    assert "embedding" not in dict(middle.lines)
    assert ["encoders and towers" in dict(rank.lines) for rank in (first, middle, last)] == [True, False, False]


def test_draft_layers_load_on_the_last_stage_and_split_like_the_others() -> None:
    model = load("deepseek-v3")
    parameters = model.architecture.parameters
    assert parameters is not None
    parallel = Parallel(tp=8, pp=2)
    without = shards(model, WeightSpread(parallel=parallel))
    first, last = shards(model, WeightSpread(parallel=parallel, draft_layers=True))
    assert first == without[0]
    draft = last.bytes - without[1].bytes
    assert 2 * parameters.mtp / 8 < draft < 2 * parameters.mtp / 8 * 1.1
    (whole,) = shards(model, WeightSpread(draft_layers=True))
    assert line(whole, "draft layers") == 2 * parameters.mtp


def test_exact_bytes_of_files_scale_all_parts() -> None:
    model = load("llama-3.1-8b")
    (rank,) = shards(model, WeightSpread(), WeightsOnDisk(exact_bytes=8_000_000_000))
    assert (rank.bytes, rank.certainty) == (8_000_000_000, "exact")
    (half,) = shards(model, WeightSpread(parallel=Parallel(tp=2)), WeightsOnDisk(exact_bytes=8_000_000_000))
    assert half.certainty == "rule"
    assert 4_000_000_000 < half.bytes < 4_001_000_000  # norms are whole


def test_files_that_hold_the_draft_layers_do_not_swell_the_model() -> None:
    model = load("deepseek-v3")
    parameters = model.architecture.parameters
    assert parameters is not None
    stored = parameters.total + parameters.mtp
    (rank,) = shards(model, WeightSpread(), WeightsOnDisk(exact_bytes=2 * stored, exact_parameters=stored))
    assert rank.bytes == 2 * parameters.total


def test_without_widths_everything_splits_evenly_as_an_estimate() -> None:
    model = load("llama-3.1-8b")
    bare = replace(model, architecture=replace(model.architecture, widths=None))
    assert bare.architecture.parameters is not None
    ranks = shards(bare, WeightSpread(parallel=Parallel(tp=4, pp=2)))
    assert {rank.certainty for rank in ranks} == {"estimate"}
    assert {rank.bytes for rank in ranks} == {-(-weights_bytes(bare.architecture.parameters, BF16) // 8)}


def test_nothing_known_is_no_figure() -> None:
    architecture = replace(load("llama-3.1-8b").architecture, parameters=None)
    assert shard_weights(architecture, WeightsOnDisk(), BF16, WeightSpread()) is None


@pytest.mark.parametrize(
    ("weight_format", "tp", "certainty"), [("bf16", 2, "rule"), ("fp8", 2, "estimate"), ("fp8", 1, "estimate")]
)
def test_certainty_is_that_of_format_and_split(weight_format: str, tp: int, certainty: str) -> None:
    model = load("llama-3.1-8b")
    spread = WeightSpread(parallel=Parallel(tp=tp))
    found = shard_weights(model.architecture, WeightsOnDisk(), get_weight_format(weight_format), spread)
    assert found is not None
    assert found[0].certainty == certainty
