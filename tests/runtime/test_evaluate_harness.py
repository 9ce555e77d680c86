"""Perplexity, self-check and cost on the trained demo model: does what is measured depend on what is stored?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
import torch
from torch import Tensor

from kvplan.core.errors import EvaluationError, FileError, UnknownNameError, UsageError
from kvplan.core.evaluation import Record
from kvplan.runtime.demo.load import demo_folder
from kvplan.runtime.evaluate.cost import CostSettings, cost
from kvplan.runtime.evaluate.harness import ModelHandle, load_model
from kvplan.runtime.evaluate.methods import Method, parse_method, parse_methods
from kvplan.runtime.evaluate.perplexity import PerplexitySettings, perplexity
from kvplan.runtime.evaluate.self_check import self_check
from kvplan.runtime.evaluate.texts import prose_ids


@pytest.fixture(scope="module")
def demo() -> ModelHandle:
    return load_model(str(demo_folder()), device="cpu")


def scored(handle: ModelHandle, words: str, **settings: Any) -> dict[str, list[Record]]:
    chosen = {"prefix_tokens": 384, "suffix_tokens": 64, "chunk_tokens": 16, "num_samples": 4, **settings}
    found: dict[str, list[Record]] = {}
    for piece in perplexity(handle, PerplexitySettings(**chosen)):
        for record in piece.measure(parse_methods(words)):
            found.setdefault(record.method, []).append(record)
    return found


@dataclass(frozen=True, kw_only=True)
class OnePass(ModelHandle):
    """The classic mistake: what is scored was computed beside the cache, which was only written."""

    seen: list[Tensor] = field(default_factory=list)

    def prefill(self, ids: Tensor, cache: Any) -> Tensor:
        self.seen[:] = [ids]
        return super().prefill(ids, cache)

    def score_suffix(self, cache: Any, ids: Tensor, chunk: int) -> Iterator[Tensor]:
        with torch.inference_mode():
            logits = self.model(input_ids=torch.cat([*self.seen, ids], dim=1), use_cache=False).logits
        yield logits[:, -ids.shape[1] :].float().log_softmax(dim=-1)


@dataclass(frozen=True, kw_only=True)
class OneCacheForAll(ModelHandle):
    """A harness that builds the same cache whatever the method."""

    def new_cache(self, method: Method) -> Any:
        return super().new_cache(parse_method("int4") if method.kv_dtype.startswith("int") else Method())


@dataclass(frozen=True, kw_only=True)
class Contrary(ModelHandle):
    """Says the opposite of what the model knows, so that knowing less is better."""

    def score_suffix(self, cache: Any, ids: Tensor, chunk: int) -> Iterator[Tensor]:
        for log_probs in super().score_suffix(cache, ids, chunk):
            yield (-log_probs).log_softmax(dim=-1)


def as_broken(kind: type[ModelHandle], sound: ModelHandle) -> ModelHandle:
    return kind(name=sound.name, model=sound.model, tokenizer=sound.tokenizer, device=sound.device, native=sound.native)


def test_the_self_check_passes_on_the_demo_model_and_orders_the_methods(demo: ModelHandle) -> None:
    found = self_check(demo)
    assert found.zeroed_loss > found.loss + 0.05
    assert found.int8_kld < found.int4_kld < found.zeroed_kld
    assert found.noise_kld is not None
    assert abs(found.noise_kld) < 1e-6


@pytest.mark.parametrize(("kind", "says"), [(OnePass, "to zero changes nothing"), (OneCacheForAll, "int8 and int4")])
def test_a_harness_that_does_not_read_the_compressed_cache_is_found_out(
    demo: ModelHandle, kind: type[ModelHandle], says: str
) -> None:
    with pytest.raises(EvaluationError, match=says):
        self_check(as_broken(kind, demo))


def test_a_model_that_does_better_without_its_cache_is_no_evidence(demo: ModelHandle) -> None:
    with pytest.raises(EvaluationError, match="does not raise the loss"):
        self_check(as_broken(Contrary, demo))


def test_the_baseline_gives_what_one_pass_without_a_cache_gives(demo: ModelHandle) -> None:
    """bf16 rows under fp32 arithmetic differ in the last bits alone."""
    (record,) = scored(demo, "none", prefix_tokens=96, suffix_tokens=32, chunk_tokens=8, num_samples=1)["none"]
    ids = demo.rows([prose_ids(demo, 128, seed=0)])
    with torch.inference_mode():
        log_probs = demo.model(input_ids=ids, use_cache=False).logits.log_softmax(-1)
    expected = -log_probs[:, 95:-1].gather(2, ids[:, 96:, None])[0, :, 0]
    assert torch.tensor(record.values["nll"]) == pytest.approx(expected, abs=0.02)


def test_samples_pair_between_methods_and_every_token_is_scored(demo: ModelHandle) -> None:
    found = scored(demo, "none,window:64,sinks=4", num_samples=3, suffix_tokens=40, batch_tokens=848)
    names = [[record.sample for record in records] for records in found.values()]
    assert names[0] == names[1]
    assert len(set(names[0])) == 3
    for record in (record for records in found.values() for record in records):
        assert [len(record.values[key]) for key in ("nll", "kld", "same_top")] == [40, 40, 40]


def test_a_sample_scores_the_same_alone_and_beside_others(demo: ModelHandle) -> None:
    words = "h2o:keep=0.3,threshold:keep=0.5,threshold=0.001"
    together = scored(demo, words, prefix_tokens=128, suffix_tokens=16)
    alone = scored(demo, words, prefix_tokens=128, suffix_tokens=16, batch_tokens=1)
    for method, records in together.items():
        for one, other in zip(records, alone[method]):
            assert one.sample == other.sample
            assert one.values["nll"] == pytest.approx(other.values["nll"], abs=1e-3)


def test_a_text_is_cut_into_samples_and_a_short_one_is_refused(demo: ModelHandle, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("A line of text. " * 40, encoding="utf-8")
    found = scored(demo, "none", text=path, prefix_tokens=128, suffix_tokens=32, num_samples=9)["none"]
    assert len(found) == 4  # 640 bytes in samples of 160 tokens, of which the first starts the text
    with pytest.raises(UsageError, match="fewer than one sample"):
        scored(demo, "none", text=path, prefix_tokens=1024)
    with pytest.raises(FileError):
        scored(demo, "none", text=tmp_path / "nothing.txt")


def test_cost_measures_every_method_beside_the_baseline_and_stores_what_is_priced(demo: ModelHandle) -> None:
    (piece,) = cost(demo, CostSettings(context_tokens=100, decode_tokens=4, repeats=2))
    records = list(piece.measure(parse_methods("none,int8")))
    latency = [record for record in records if record.task == "latency"]
    for record in latency:
        assert {len(seconds) for seconds in record.values.values()} == {2}
        assert all(second > 0 for seconds in record.values.values() for second in seconds)
    assert latency[1].values["baseline_decode_seconds"] == latency[0].values["decode_seconds"]
    memory = {record.method: record.values for record in records if record.task == "memory"}
    rows = 104 * 5 * 2 * 2  # tokens, layers, KV heads, key and value
    assert memory["none"]["steady_bytes"] == rows * 64 * 2
    assert memory["int8_per_token_head"]["steady_bytes"] == rows * (64 + 4)
    weights = sum(parameter.nbytes for parameter in demo.model.parameters())
    assert memory["none"]["peak_bytes"] == weights + rows * 64 * 2 + 104 * 2 * 2 * 64 * 4
    assert memory["none"]["peak"] == "estimated"


def test_what_cannot_be_loaded_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="not loaded as a causal language model"):
        load_model(str(tmp_path), device="cpu")
    with pytest.raises(UnknownNameError):
        load_model(str(demo_folder()), device="cpu", dtype="int8")
