"""The allocation check: right predictions pass to the byte, wrong ones fail with the layer named."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from kvplan.core.attention import FullAttention, HeadedKind, LayerKind  # noqa: E402
from kvplan.core.errors import DoesNotFitError, KvplanError, UnknownNameError, UnsupportedError  # noqa: E402
from kvplan.core.format import GroupFormat, RowFormat  # noqa: E402
from kvplan.core.model import Model  # noqa: E402
from kvplan.core.parallel import Parallel  # noqa: E402
from kvplan.core.part import Part  # noqa: E402
from kvplan.core.request import SizeResult  # noqa: E402
from kvplan.engines import get_engine  # noqa: E402
from kvplan.formats import format_names, get_format  # noqa: E402
from kvplan.planning.request import RequestWords, build_request  # noqa: E402
from kvplan.planning.size import size_model  # noqa: E402
from kvplan.runtime.verify import allocation, device_memory  # noqa: E402
from kvplan.runtime.verify.allocation import check_allocation  # noqa: E402
from kvplan.runtime.verify.device import choose_device, device_facts, versions  # noqa: E402
from kvplan.runtime.verify.device_memory import count_pattern, write_pattern  # noqa: E402
from kvplan.runtime.verify.findings import Findings, layer_words  # noqa: E402
from kvplan.runtime.verify.layout import rank_layout  # noqa: E402
from kvplan.runtime.verify.stored_tensors import TensorShape, row_tensors  # noqa: E402
from kvplan.runtime.verify.torch_allocator import FreshPool  # noqa: E402
from kvplan.specs.catalogue import load_packaged  # noqa: E402

CPU = torch.device("cpu")


def first_layers(name: str, count: int = 6) -> Model:
    """A packaged model with its first layers alone: quick to allocate, every kind met."""
    model = load_packaged(name)
    return replace(model, architecture=replace(model.architecture, layers=model.architecture.layers[:count]))


def sized(model: Model, context: int = 300, engine: str = "none", **words: object) -> SizeResult:
    chosen = get_engine(engine)
    return size_model(model, build_request(model, context, RequestWords(**words), chosen), chosen)


def with_kind(model: Model, layer: int, change: Callable[[LayerKind], LayerKind]) -> Model:
    layers = list(model.architecture.layers)
    layers[layer] = tuple(change(kind) for kind in layers[layer])
    return replace(model, architecture=replace(model.architecture, layers=tuple(layers)))


def failed(findings: Findings) -> list[str]:
    return [check.what for check in findings.checks if not check.passed]


CASES = {
    "gpt2": {},
    "llama-3.1-8b": {"concurrency": 3, "kv_dtype": "fp8"},
    "gemma-3-4b": {"kv_dtype": "int8_per_token_head"},
    "qwen3-0.6b": {"kv_dtype": "kivi2"},
    "deepseek-v3": {"concurrency": 2},
    "gpt-oss-20b": {"kv_dtype": "q8_0/q4_0"},
    "falcon-mamba-7b": {"concurrency": 2},
    "lfm2-8b-a1b": {},
    "whisper-large-v3": {},
    "mistral-7b-v0.1": {"policy": "h2o:keep=0.2", "kv_dtype": "int4_per_token_head"},
}


@pytest.mark.parametrize("name", CASES)
def test_plain_geometry_is_allocated_to_the_byte(name: str) -> None:
    result = sized(first_layers(name), **CASES[name])
    findings = check_allocation(result, CPU)
    assert findings.checks
    assert failed(findings) == []
    total = next(check for check in findings.checks if check.what == "requested by all tensors")
    assert total.measured_bytes == result.allocated_bytes


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm", "llamacpp", "transformers", "lmdeploy", "exllamav3"])
@pytest.mark.parametrize("name", ["llama-3.1-8b", "gemma-3-4b", "gpt-oss-20b", "qwen3-next-80b-a3b"])
def test_an_engine_rows_are_what_its_bytes_say(name: str, engine: str) -> None:
    try:
        result = sized(first_layers(name), engine=engine, concurrency=2)
    except KvplanError as error:
        pytest.skip(error.message)
    findings = check_allocation(result, CPU)
    assert findings.checks
    assert failed(findings) == []


def test_one_table_of_blocks_is_paged_and_holds_the_blocks_that_the_engine_keeps_back() -> None:
    result = sized(first_layers("llama-3.1-8b"), engine="vllm", concurrency=2)
    layout = rank_layout(result, 0)
    # 300 tokens are 19 blocks of 16 each, and one null block; 8 heads of 128
    assert layout.paged
    assert layout.layers[0].tensors[0].shape == (2 * 19 + 1, 8, 16, 128)
    assert layout.reserved == ()


@pytest.mark.parametrize("parallel", [Parallel(tp=2), Parallel(tp=16), Parallel(pp=3), Parallel(tp=4, dcp=2)])
def test_every_stage_is_allocated_as_one_rank_holds_it(parallel: Parallel) -> None:
    result = sized(first_layers("llama-3.1-8b"), parallel=parallel)
    findings = check_allocation(result, CPU)
    assert failed(findings) == []
    totals = [check.measured_bytes for check in findings.checks if check.what.endswith("requested by all tensors")]
    assert totals == [rank.allocated_bytes for rank in result.allocation.stages]


def test_heads_off_by_one_are_caught_with_the_layer_named() -> None:
    model = first_layers("llama-3.1-8b")
    wrong = with_kind(model, 3, lambda kind: replace(kind, num_kv_heads=7) if isinstance(kind, HeadedKind) else kind)
    findings = check_allocation(sized(wrong), CPU, built=sized(model))
    assert failed(findings) == ["layer 3 full_attention", "requested by all tensors"]
    assert findings.checks[1].difference_bytes == 300 * 2 * 128 * 2  # a key and a value row of one head


def test_a_missed_window_is_caught_with_the_layers_named() -> None:
    model = first_layers("gemma-3-4b")  # windows of 1024 in layers 0 to 4, full attention in layer 5
    wrong = with_kind(
        model, 2, lambda kind: FullAttention(num_kv_heads=kind.head_shape()[0] or 0, head_dim=kind.head_shape()[1] or 0)
    )
    assert failed(check_allocation(sized(wrong, 1024), CPU, built=sized(model, 1024))) == []
    assert failed(check_allocation(sized(wrong, 1500), CPU, built=sized(model, 1500))) == [
        "layer 2 sliding_window",
        "requested by all tensors",
    ]


def test_a_forgotten_scale_is_caught_with_the_layers_named() -> None:
    result = sized(first_layers("gemma-3-4b"), kv_dtype="int8_per_token_head")
    kv_format = result.request.choice.kv_format
    assert isinstance(kv_format.key, RowFormat)
    bare = replace(kv_format.key, scale_bytes=0)
    choice = replace(result.request.choice, kv_format=replace(kv_format, key=bare, value=bare))
    wrong = size_model(result.model, replace(result.request, choice=choice), get_engine("none"))
    # the codec itself stores its scales: no second result is needed to see that the price lacks them
    assert failed(check_allocation(wrong, CPU)) == [
        "layers 0-4 sliding_window",
        "layer 5 full_attention",
        "requested by all tensors",
    ]


def test_a_missing_layer_is_caught() -> None:
    model = first_layers("gpt2")
    wrong = first_layers("gpt2", 5)
    assert failed(check_allocation(sized(wrong), CPU, built=sized(model))) == [
        "layer 5 full_attention",
        "requested by all tensors",
    ]
    assert failed(check_allocation(sized(model), CPU, built=sized(wrong)))[0] == "layer 5 full_attention"


def test_layers_that_an_engine_lays_out_its_own_way_are_not_claimed_as_proved() -> None:
    findings = check_allocation(sized(first_layers("falcon-mamba-7b"), engine="vllm"), CPU)
    assert findings.checks == ()
    assert findings.skipped[0].startswith("layers 0-5 mamba1: states in the engine's own columns")


def test_a_cache_beyond_the_free_memory_is_refused_before_anything_is_allocated_and_a_context_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = first_layers("llama-3.1-8b", 2)
    monkeypatch.setattr(allocation, "total_and_free", lambda device: (1 << 30, 1 << 30))
    monkeypatch.setattr(allocation, "allocate", lambda *_: pytest.fail("nothing may be allocated"))
    # of 1 GiB, 256 MiB stay free; a token takes 2 layers x 2 x 8 heads x 128 x 2 bytes = 8 KiB
    with pytest.raises(DoesNotFitError, match=r"1\.00 GiB of a rank, and 768\.00 MiB") as error:
        check_allocation(sized(model, 131072), CPU, resize=lambda tokens: sized(model, tokens))
    assert error.value.hint == "a context of 96k fits (--ctx 98304)"


def test_running_out_of_memory_on_the_way_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(allocation, "allocate", full)
    with pytest.raises(DoesNotFitError, match="ran out of memory"):
        check_allocation(sized(first_layers("gpt2")), CPU)


class PlayedGpu:
    """A GPU played by the model of torch's allocator: what is tested is the check, not the device."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pool = FreshPool()
        self.unsaid_bytes = 0
        for module in (allocation, device_memory):
            monkeypatch.setattr(module, "pool_bytes", lambda device: self.pool.held)
            monkeypatch.setattr(module, "allocate", self._allocate)
        monkeypatch.setattr(allocation, "unpredictable", lambda device: None)
        monkeypatch.setattr(allocation, "release", self._release)
        monkeypatch.setattr(allocation, "total_and_free", self._memory)

    def _allocate(self, shape: TensorShape, device: torch.device) -> torch.Tensor:
        self.pool.allocate(shape.nbytes)
        return torch.empty(shape.shape, dtype=shape.dtype)

    def _release(self, device: torch.device) -> None:
        self.pool = FreshPool()

    def _memory(self, device: torch.device) -> tuple[int, int]:
        taken = self.pool.held.reserved_bytes
        return 8 << 30, (8 << 30) - taken - (self.unsaid_bytes if taken else 0)


def test_on_a_gpu_the_allocator_and_the_free_memory_are_compared_too(monkeypatch: pytest.MonkeyPatch) -> None:
    PlayedGpu(monkeypatch)
    findings = check_allocation(sized(first_layers("gpt2")), torch.device("cuda", 0))
    assert failed(findings) == []
    assert findings.skipped == ()
    assert [check.what for check in findings.checks] == [
        "layers 0-5 full_attention",
        "requested by all tensors",
        "read back as written",
        "allocated by torch",
        "reserved by torch",
        "free memory of the device",
        "still reserved afterwards",
    ]
    # 12 tensors of 12 heads x 300 tokens x 64 x 2 bytes: 450 KiB each, four in a small segment of 2 MiB
    assert findings.checks[3].predicted_bytes == 12 * 450 * 1024
    assert findings.checks[4].predicted_bytes == 3 * 2 * 1024**2


def test_memory_that_nobody_accounts_for_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    PlayedGpu(monkeypatch).unsaid_bytes = 64 << 20
    findings = check_allocation(sized(first_layers("gpt2")), torch.device("cuda", 0))
    assert failed(findings) == ["free memory of the device"]


PARTS = (Part(name="key", num_heads=2, width=128), Part(name="value", num_heads=2, width=128))


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
@pytest.mark.parametrize("rows", [1, 127, 129, 1500])
@pytest.mark.parametrize("name", [name for name in format_names() if not name.endswith("ds_mla")])
def test_shapes_of_many_rows_hold_the_bytes_that_the_format_prices(name: str, rows: int, part: Part) -> None:
    cache_format = get_format(name)
    tensors = row_tensors(cache_format, part, rows, torch.bfloat16)
    assert sum(tensor.nbytes for tensor in tensors) == cache_format.stored_bytes(part, rows)


@pytest.mark.parametrize("name", [name for name in format_names() if isinstance(get_format(name), GroupFormat)])
def test_shapes_read_off_two_encodings_are_those_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from kvplan.runtime.verify import stored_tensors

    part = PARTS[0]
    short = row_tensors(get_format(name), part, 1500, torch.bfloat16)
    monkeypatch.setattr(stored_tensors, "_period", lambda _: 1500)
    assert row_tensors(get_format(name), part, 1500, torch.bfloat16) == short


def test_overlapping_tensors_do_not_read_back_as_written() -> None:
    memory = torch.empty(3000, dtype=torch.uint8)
    apart, overlapping = [memory[:1000], memory[1000:]], [memory[:2000], memory[1000:]]
    write_pattern(apart)
    assert count_pattern(apart) == 3000
    write_pattern(overlapping)
    assert count_pattern(overlapping) == 3000  # of 4000


def test_layers_are_written_as_ranges() -> None:
    assert layer_words([3]) == "layer 3"
    assert layer_words([0, 1, 2, 5, 7, 8]) == "layers 0-2, 5, 7-8"


def test_a_device_that_is_not_there_is_refused_politely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(UnsupportedError, match="sees no GPU"):
        choose_device("cuda")
    with pytest.raises(UnsupportedError, match="no Apple GPU"):
        choose_device("mps")
    with pytest.raises(UnknownNameError, match="tpu"):
        choose_device("tpu")


def test_the_device_and_the_versions_are_told() -> None:
    facts = device_facts(CPU)
    assert facts.kind == "cpu"
    assert facts.name
    assert 0 < facts.free_bytes <= facts.total_bytes
    assert versions()["torch"] == torch.__version__


def found_on_a_gpu(name: str) -> Findings:
    return check_allocation(sized(first_layers(name), 3000, **CASES[name]), choose_device("cuda"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", CASES)
def test_a_gpu_allocates_to_the_byte_what_is_predicted(name: str, fresh_process: ProcessPoolExecutor) -> None:
    findings = fresh_process.submit(found_on_a_gpu, name).result()
    assert failed(findings) == []
    assert {"allocated by torch", "reserved by torch", "free memory of the device"} <= {
        check.what for check in findings.checks
    }
