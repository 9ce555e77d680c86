"""The frontier: as many blocks as are predicted are really allocated beside the weights, and the next one fails."""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from kvplan.core.errors import DoesNotFitError, UnsupportedError  # noqa: E402
from kvplan.core.fit import FitResult  # noqa: E402
from kvplan.engines import get_engine  # noqa: E402
from kvplan.planning.fit import fit_model  # noqa: E402
from kvplan.planning.fit_request import FitWords, build_fit_request  # noqa: E402
from kvplan.runtime.verify import frontier  # noqa: E402
from kvplan.runtime.verify.findings import Findings  # noqa: E402
from kvplan.runtime.verify.frontier import check_frontier, growth_of  # noqa: E402
from kvplan.runtime.verify.limited_memory import largest_in_limit  # noqa: E402
from kvplan.runtime.verify.stored_tensors import TensorShape  # noqa: E402
from kvplan.runtime.verify.torch_allocator import PoolBytes, predict_pool  # noqa: E402
from kvplan.specs.catalogue import load_packaged  # noqa: E402

CPU = torch.device("cpu")
MIB, GIB = 1 << 20, 1 << 30
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")


def fitted(name: str, **words: Any) -> FitResult:
    model = load_packaged(name)
    stated = FitWords(model=name, **words)
    engine = get_engine(stated.engine)
    return fit_model(model, build_fit_request(model, stated, engine), engine)


def test_the_cache_grows_by_blocks_of_every_layer_beside_weights_and_overhead() -> None:
    fit = fitted("qwen3-0.6b", gpu="t4", ctx="8k", engine="vllm")
    growth = growth_of(fit)
    # a block is 16 tokens x 28 layers x 2 x 8 heads x 128 x 2 bytes
    assert growth.unit_bytes == sum(tensor.nbytes for tensor in growth.unit) == 16 * 28 * 2 * 8 * 128 * 2
    assert growth.fitting == (fit.capacity.num_blocks if fit.capacity else None)
    assert growth.beside_bytes == fit.fullest.requested_bytes - fit.fullest.kv_cache.size_bytes


def test_what_is_in_use_already_is_not_held_a_second_time() -> None:
    fit = fitted("qwen3-0.6b", gpu="t4", ctx="8k", engine="vllm")
    non_torch = fit.fullest.non_torch.size_bytes
    assert growth_of(fit).beside_bytes - growth_of(fit, in_use_bytes=non_torch // 2).beside_bytes == non_torch // 2
    assert growth_of(fit).beside_bytes - growth_of(fit, in_use_bytes=GIB << 10).beside_bytes == non_torch


def test_without_blocks_the_cache_grows_by_requests() -> None:
    growth = growth_of(fitted("qwen3-0.6b", gpu="t4", ctx="8k", concurrency=3, engine="transformers"))
    assert growth.unit_name == "request"
    assert growth.unit_bytes == sum(tensor.nbytes for tensor in growth.unit)


def test_layers_that_share_a_pool_grow_by_its_blocks() -> None:
    growth = growth_of(fitted("gemma-2-2b", gpu="l4", ctx="8k", engine="vllm"))
    assert [tensor.nbytes for tensor in growth.unit] == [growth.unit_bytes]


@linux
@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_the_frontier_of_a_limited_process_is_where_it_is_predicted(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frontier, "total_and_free", lambda device: (8 * GIB, 5 * GIB))
    findings = check_frontier(fitted("qwen3-0.6b", gpu="t4", ctx="4k", engine=engine), CPU)
    assert all(check.passed for check in findings.checks)
    blocks, usable = findings.checks
    assert blocks.measured_bytes > 0
    assert usable.what == "usable after the failure"
    assert "more than the 4.75 GiB free here" in findings.skipped[0]


@linux
def test_a_limit_is_kept_to_the_block_and_the_process_lives_on() -> None:
    unit = (TensorShape(name="", shape=(1, MIB), dtype=torch.uint8),)
    # 64 MiB hold 32 MiB and 31 blocks: each takes a page more than its MiB
    assert largest_in_limit(unit, beside_bytes=32 * MIB, limit_bytes=64 * MIB, most=1000, guess=40) == (31, True)


def test_a_wrong_prediction_of_the_frontier_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontier, "total_and_free", lambda device: (8 * GIB, 5 * GIB))
    fit = fitted("qwen3-0.6b", gpu="t4", ctx="4k", engine="vllm")
    monkeypatch.setattr(frontier, "largest_in_limit", lambda unit, beside, limit, most, guess: (guess - 2, True))
    blocks, _ = check_frontier(fit, CPU).checks
    assert not blocks.passed


def test_weights_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontier, "total_and_free", lambda device: (2 * GIB, 1 * GIB))
    with pytest.raises(DoesNotFitError, match=r"1\.00 GiB are free"):
        check_frontier(fitted("qwen3-0.6b", gpu="t4", ctx="4k", engine="vllm"), CPU)


def test_a_device_without_a_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontier, "total_and_free", lambda device: (64 * GIB, 64 * GIB))
    monkeypatch.setattr(frontier, "release", lambda device: None)
    with pytest.raises(UnsupportedError, match="no limit can be kept on mps"):
        check_frontier(fitted("qwen3-0.6b", gpu="t4", ctx="4k", engine="vllm"), torch.device("mps"))


class PlayedGpu:
    """A GPU of 8 GiB played by the model of torch's allocator: what is tested is the check, not the device."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, lost_bytes: int = 0) -> None:
        self.lost_bytes = lost_bytes
        self.limit = 0.0
        self.limits: list[float] = []
        properties = SimpleNamespace(total_memory=8 * GIB)
        monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", self._set)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        for name, value in {
            "total_and_free": lambda device: (8 * GIB, 8 * GIB - 500 * MIB),
            "release": lambda device: None,
            "unpredictable": lambda device: None,
            "pool_bytes": lambda device: PoolBytes(),
            "holds_tensors": self._holds,
            "allocate": lambda shape, device: torch.empty(shape.shape, dtype=shape.dtype),
        }.items():
            monkeypatch.setattr(frontier, name, value)

    def _set(self, fraction: float, device: torch.device) -> None:
        self.limit = fraction * 8 * GIB
        self.limits.append(fraction)

    def _holds(self, shapes: list[TensorShape], device: torch.device) -> bool:
        return predict_pool(shape.nbytes for shape in shapes).reserved_bytes + self.lost_bytes <= self.limit


def test_on_a_gpu_the_limit_is_drawn_at_what_is_free_and_lifted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    played = PlayedGpu(monkeypatch)
    findings = check_frontier(fitted("qwen3-0.6b", gpu="t4", ctx="4k", engine="vllm"), torch.device("cuda", 0))
    assert [check.what for check in findings.checks if not check.passed] == []
    assert findings.checks[0].difference_bytes == 0
    assert played.limits[-1] == 1.0
    free = 8 * GIB - 500 * MIB - 256 * MIB
    assert free - 2 * MIB < played.limits[0] * 8 * GIB <= free + MIB


def test_a_gpu_that_holds_less_than_is_predicted_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    PlayedGpu(monkeypatch, lost_bytes=200 * MIB)
    findings = check_frontier(fitted("qwen3-0.6b", gpu="t4", ctx="4k", engine="vllm"), torch.device("cuda", 0))
    assert not findings.checks[0].passed


def test_the_frontier_of_an_allocator_with_other_rules_is_not_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    PlayedGpu(monkeypatch)
    monkeypatch.setattr(frontier, "unpredictable", lambda device: "PYTORCH_CUDA_ALLOC_CONF changes torch's allocator")
    findings = check_frontier(fitted("qwen3-0.6b", gpu="t4", ctx="4k", engine="vllm"), torch.device("cuda", 0))
    assert findings.checks == ()
    assert findings.skipped == ("frontier: PYTORCH_CUDA_ALLOC_CONF changes torch's allocator",)


def found_on_a_gpu(engine: str) -> Findings:
    device = torch.device("cuda", torch.cuda.current_device())
    return check_frontier(fitted("qwen3-0.6b", gpu="t4", ctx="4k", engine=engine), device)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("engine", ["vllm", "sglang", "transformers"])
def test_the_frontier_of_a_gpu_is_where_it_is_predicted(engine: str, fresh_process: ProcessPoolExecutor) -> None:
    findings = fresh_process.submit(found_on_a_gpu, engine).result()
    assert findings.checks
    assert [check.what for check in findings.checks if not check.passed] == []
