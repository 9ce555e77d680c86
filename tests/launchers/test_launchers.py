"""Every target keeps the contract, and emits exactly these words for these plans."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kvplan.core.errors import KvplanError, UnknownNameError, UnsupportedError, UsageError
from kvplan.core.launch import Launch, LaunchPlan
from kvplan.core.parallel import Parallel
from kvplan.engines import engine_names
from kvplan.launchers import default_target, launch, targets

MODEL = "meta-llama/Llama-3.1-8B"

SMALLER: Mapping[str, str] = {
    "vllm": "fp8",
    "sglang": "fp8_e4m3",
    "trtllm": "fp8",
    "llamacpp": "q8_0",
    "ollama": "q8_0",
    "transformers": "quanto4",
    "lmdeploy": "int8",
    "mlx": "8bit",
    "exllamav3": "8",
}
"""A smaller cache of each engine, in its own word."""

PAIRS = [(target, engine) for engine in SMALLER for target in (engine, *(["k8s"] * (engine in ("vllm", "sglang"))))]


def a_plan(engine: str, /, **changes: Any) -> LaunchPlan:
    plan = LaunchPlan(model=MODEL, engine=engine, cache_word=SMALLER[engine], max_model_len=32768, max_num_seqs=8)
    return replace(plan, **changes)


def attempt(target: str, plan: LaunchPlan) -> Launch | UnsupportedError:
    try:
        return launch(target, plan)
    except UnsupportedError as error:
        return error


def python_of(plan: LaunchPlan) -> str:
    text = launch(default_target(plan.engine), plan).python
    assert text is not None
    return text


def test_every_target_starts_an_engine_and_every_engine_has_a_target() -> None:
    assert set(targets()) == {target for target, _ in PAIRS}
    assert {default_target(name) for name in engine_names() if name != "none"} == set(SMALLER)


@pytest.mark.parametrize(("target", "engine"), PAIRS)
@pytest.mark.parametrize("model", [MODEL, "/models/a folder/llama", "weights/it's.gguf"])
def test_a_launch_keeps_the_contract(target: str, engine: str, model: str) -> None:
    plan = a_plan(engine, model=model)
    answer = launch(target, plan)
    assert answer == launch(target, plan)
    assert (answer.environment, answer.files) == (launch(target, plan).environment, launch(target, plan).files)
    assert answer.target == target
    assert answer.argv or answer.python
    words = [*answer.argv, *answer.environment, *answer.environment.values(), *answer.notes]
    assert all(isinstance(word, str) and word and word not in ("None", "True", "False", "auto") for word in words)
    assert shlex.split(answer.command) == [*(f"{k}={v}" for k, v in answer.environment.items()), *answer.argv]
    for name, text in answer.files.items():
        assert name in answer.argv
        assert list(yaml.safe_load_all(text))
    if answer.python is not None:
        ast.parse(answer.python)
        assert model in {node.value for node in ast.walk(ast.parse(answer.python)) if isinstance(node, ast.Constant)}


@pytest.mark.parametrize(("target", "engine"), PAIRS)
def test_a_plan_that_sets_nothing_emits_no_option(target: str, engine: str) -> None:
    length = 4096 if engine == "exllamav3" else None
    answer = launch(target, LaunchPlan(model=MODEL, engine=engine, max_model_len=length))
    assert not answer.environment
    always = {"sglang": ["--model-path"], "llamacpp": ["-hf", "-ngl"], "lmdeploy": ["--backend"], "mlx": ["--model"]}
    flags = [word for word in answer.argv if word.startswith("-") and word not in ("-m", "-f")]
    assert flags == (always.get(engine, []) if target == engine else [])


@pytest.mark.parametrize("engine", SMALLER)
def test_python_is_formatted(engine: str, tmp_path: Path) -> None:
    if (text := launch(engine, a_plan(engine)).python) is not None:
        file = tmp_path / "program.py"
        file.write_text(text)
        command = [sys.executable, "-m", "ruff", "format", "--isolated", "--check", "--quiet", str(file)]
        assert subprocess.run(command, check=False).returncode == 0, text


@pytest.mark.parametrize("target", [target for target, _ in PAIRS])
def test_a_target_refuses_the_plan_of_another_engine_in_one_line(target: str) -> None:
    for engine in SMALLER:
        if (target, engine) not in PAIRS:
            with pytest.raises(UnsupportedError, match=f"{target} does not start {engine}") as error:
                launch(target, a_plan(engine))
            assert "\n" not in error.value.message


@pytest.mark.parametrize("engine", SMALLER)
def test_what_an_engine_has_no_option_for_is_refused_not_left_out(engine: str) -> None:
    """Each part of a plan changes what is emitted, or is refused; those that change nothing are the engine's ways."""
    silent = {
        ("llamacpp", "parallel"),  # layers are split over the devices it sees
        ("ollama", "parallel"),
        ("mlx", "max_model_len"),  # caches grow with their requests
        ("mlx", "max_num_seqs"),  # a quantized cache is served one request at a time, as a note says
        ("lmdeploy", "prefix_caching"),  # off by default
        ("transformers", "max_model_len"),
        ("transformers", "eager"),  # it has no other mode
    }
    parts: dict[str, Any] = {
        "native_layers": (0,),
        "native_windows": True,
        "policy": "h2o:keep=0.2",
        "parallel": Parallel(pp=2),
        "max_model_len": 65536,
        "max_num_seqs": 3,
        "max_num_batched_tokens": 4096,
        "memory_utilization": 0.77,
        "block_tokens": 128,
        "attention_backend": "flashinfer",
        "prefix_caching": False,
        "expert_parallel": True,
        "eager": True,
        "text_only": True,
        "host_cache_bytes": 1 << 34,
    }
    plain = a_plan(engine, parallel=Parallel(tp=1 if engine in ("llamacpp", "ollama", "mlx") else 2))
    for name, value in parts.items():
        changed = attempt(engine, replace(plain, **{name: value}))
        if isinstance(changed, UnsupportedError):
            assert name in changed.message or "--pp" in changed.message
            continue
        before = launch(engine, plain)
        same = (changed, changed.environment, changed.files) == (before, before.environment, before.files)
        assert same == ((engine, name) in silent), name


def test_names_that_are_near_are_suggested() -> None:
    with pytest.raises(UnknownNameError, match="unknown launch target 'vlm'") as error:
        launch("vlm", a_plan("vllm"))
    assert error.value.hint == "did you mean vllm?"
    with pytest.raises(UnknownNameError):
        default_target("vlm")


def test_plain_geometry_starts_nothing() -> None:
    with pytest.raises(UsageError, match="plain geometry starts nothing"):
        default_target("none")


def test_a_version_or_options_of_an_engine_do_not_change_its_target() -> None:
    assert default_target("vllm@0.25") == "vllm"
    assert launch("llamacpp", a_plan("llamacpp", engine="llamacpp:ubatch=1024")).argv[0] == "llama-server"


@pytest.mark.parametrize("engine", SMALLER)
def test_a_plan_without_a_model_or_a_word_is_refused(engine: str) -> None:
    for broken in (a_plan(engine, model=""), a_plan(engine, cache_word=" ")):
        with pytest.raises(KvplanError):
            launch(engine, broken)


@pytest.mark.parametrize("engine", ["trtllm", "ollama", "transformers", "lmdeploy", "mlx", "exllamav3"])
def test_a_word_of_another_engine_is_refused_where_words_are_translated(engine: str) -> None:
    if engine == "trtllm":  # the word is passed on as it is
        assert "int3" in launch(engine, a_plan(engine, cache_word="int3")).files["kv_cache.yaml"]
        return
    with pytest.raises(UnsupportedError, match="int3") as error:
        launch(engine, a_plan(engine, cache_word="int3"))
    assert error.value.hint is not None


def test_vllm() -> None:
    """Parsed by vLLM itself in ``tests/parity/test_launch_lines.py``."""
    plan = a_plan("vllm", parallel=Parallel(tp=2), native_windows=True, prefix_caching=False, memory_utilization=0.95)
    answer = launch("vllm", plan)
    assert answer.command == (
        "vllm serve meta-llama/Llama-3.1-8B --kv-cache-dtype fp8 --kv-cache-dtype-skip-layers sliding_window "
        "--tensor-parallel-size 2 --max-model-len 32768 --max-num-seqs 8 --gpu-memory-utilization 0.95 "
        "--no-enable-prefix-caching"
    )
    assert answer.wrapped_command.splitlines() == [
        "vllm serve meta-llama/Llama-3.1-8B --kv-cache-dtype fp8 \\",
        "  --kv-cache-dtype-skip-layers sliding_window --tensor-parallel-size 2 \\",
        "  --max-model-len 32768 --max-num-seqs 8 --gpu-memory-utilization 0.95 \\",
        "  --no-enable-prefix-caching",
    ]
    assert python_of(a_plan("vllm", max_num_seqs=None)) == (
        "from vllm import LLM\n\n"
        'llm = LLM(\n    model="meta-llama/Llama-3.1-8B",\n    kv_cache_dtype="fp8",\n    max_model_len=32768,\n)\n'
    )


def test_vllm_serves_replicas_and_gives_no_python_for_them() -> None:
    """``LLM(data_parallel_size=2)`` raises ValueError (vLLM 0.32 ``entrypoints/llm.py:282``)."""
    answer = launch("vllm", a_plan("vllm", parallel=Parallel(dp=2)))
    assert answer.argv[5:7] == ("--data-parallel-size", "2")
    assert answer.python is None
    assert answer.notes == ("LLM(...) starts no data-parallel replicas: serve them",)


def test_sglang() -> None:
    """Parsed by SGLang itself in ``tests/parity/test_launch_lines.py``."""
    plan = a_plan("sglang", parallel=Parallel(tp=4), host_cache_bytes=40 * 10**9, eager=True)
    assert launch("sglang", plan).command == (
        "python -m sglang.launch_server --model-path meta-llama/Llama-3.1-8B --kv-cache-dtype fp8_e4m3 --tp-size 4 "
        "--context-length 32768 --max-running-requests 8 --disable-prefill-cuda-graph --disable-decode-cuda-graph "
        "--enable-hierarchical-cache --hicache-size 10"
    )
    assert '    engine = sglang.Engine(\n        model_path="meta-llama/Llama-3.1-8B",\n' in python_of(plan)


@pytest.mark.parametrize(
    ("engine", "word", "flags"),
    [
        ("vllm", "bf16", ("--kv-cache-dtype", "bfloat16")),
        ("vllm", "INT8-per-token-head", ("--kv-cache-dtype", "int8_per_token_head")),
        ("sglang", "fp16", ()),
        ("llamacpp", "fp32", ("-ctk", "f32", "-ctv", "f32", "-ngl", "all")),
    ],
)
def test_kvplans_names_become_the_engines_words(engine: str, word: str, flags: tuple[str, ...]) -> None:
    answer = launch(engine, LaunchPlan(model=MODEL, engine=engine, cache_word=word))
    assert answer.argv[answer.argv.index(MODEL) + 1 :] == flags


def test_trtllm() -> None:
    """Fields of ``KvCacheConfig`` and options of trtllm-serve: the documentation of 1.4.0rc1."""
    plan = a_plan("trtllm", parallel=Parallel(tp=2), memory_utilization=0.85, prefix_caching=False, block_tokens=64)
    answer = launch("trtllm", plan)
    assert answer.command == (
        "trtllm-serve meta-llama/Llama-3.1-8B --tp_size 2 --max_batch_size 8 --max_seq_len 32768 "
        "--extra_llm_api_options kv_cache.yaml"
    )
    assert answer.files["kv_cache.yaml"] == (
        "kv_cache_config:\n  dtype: fp8\n  free_gpu_memory_fraction: 0.85\n  tokens_per_block: 64\n"
        "  enable_block_reuse: false\n"
    )
    assert 'kv_cache_config=KvCacheConfig(\n        dtype="fp8",\n' in python_of(plan)


def test_llamacpp_counts_the_context_of_all_slots() -> None:
    """Parsed by llama.cpp itself in ``tests/parity/test_launch_lines.py``."""
    assert launch("llamacpp", a_plan("llamacpp", model="llama.gguf")).command == (
        "llama-server -m llama.gguf -c 262144 -np 8 -fa on -ctk q8_0 -ctv q8_0 -ngl all"
    )
    keys = a_plan("llamacpp", cache_word="q8_0/f16", max_num_seqs=None)
    assert launch("llamacpp", keys).command == ("llama-server -hf meta-llama/Llama-3.1-8B -c 32768 -ctk q8_0 -ngl all")


def test_llamacpp_needs_a_length_for_its_slots() -> None:
    with pytest.raises(UsageError, match="shares one context among all slots"):
        launch("llamacpp", a_plan("llamacpp", max_model_len=None))


def test_ollama() -> None:
    """``envconfig/config.go`` at fb307609; the context is that of one request."""
    answer = launch("ollama", a_plan("ollama", model="llama3.1:8b"))
    assert answer.command == (
        "OLLAMA_FLASH_ATTENTION=1 OLLAMA_KV_CACHE_TYPE=q8_0 OLLAMA_CONTEXT_LENGTH=32768 OLLAMA_NUM_PARALLEL=8 "
        "ollama serve"
    )
    assert answer.notes[-1] == "then: ollama run llama3.1:8b"


@pytest.mark.parametrize(
    ("engine", "word", "expected"),
    [
        ("transformers", "quanto4", {"cache_implementation": "quantized", "cache_config": ("quanto", 4)}),
        ("transformers", "hqq:bits=8,residual=127", {"cache_implementation": "quantized", "cache_config": ("hqq", 8)}),
        ("transformers", "fp8", {"cache_implementation": "quantized", "cache_config": ("fp8", None)}),
        ("transformers:cache=static", "auto", {"cache_implementation": "static"}),
        ("transformers", "bf16", {}),
    ],
)
def test_transformers(engine: str, word: str, expected: dict[str, Any]) -> None:
    """``generate`` and ``QuantizedCache`` of transformers 5.23.0; run in ``tests/parity/test_launch_lines.py``."""
    text = launch("transformers", a_plan("transformers", engine=engine, cache_word=word)).python
    assert text is not None
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    (generate,) = [call for call in calls if ast.unparse(call.func) == "model.generate"]
    given = {item.arg: ast.literal_eval(item.value) for item in generate.keywords if item.arg}
    del given["max_new_tokens"]
    if config := given.get("cache_config"):
        given["cache_config"] = (config["backend"], config.get("nbits"))
    assert given == expected
    assert ("dtype=torch.bfloat16" in text) == (word == "bf16")


def test_lmdeploy() -> None:
    """Flags of 0.18.0 ``cli/utils.py``; fields of ``PytorchEngineConfig``."""
    plan = a_plan("lmdeploy", parallel=Parallel(tp=2), prefix_caching=True, block_tokens=32, memory_utilization=0.7)
    assert launch("lmdeploy", plan).command == (
        "lmdeploy serve api_server meta-llama/Llama-3.1-8B --backend pytorch --quant-policy 8 --tp 2 "
        "--session-len 32768 --max-batch-size 8 --cache-max-entry-count 0.7 --cache-block-seq-len 32 "
        "--enable-prefix-caching"
    )
    assert "        block_size=32,\n" in python_of(plan)


def test_mlx() -> None:
    """Flags of 0.32.2 ``server.py``; a quantized cache is served one request at a time."""
    answer = launch("mlx", a_plan("mlx"))
    assert answer.command == "mlx_lm.server --model meta-llama/Llama-3.1-8B --kv-bits 8"
    assert "with --kv-bits the server takes one request at a time" in answer.notes
    plain = launch("mlx", a_plan("mlx", cache_word="auto"))
    assert plain.command == "mlx_lm.server --model meta-llama/Llama-3.1-8B --decode-concurrency 8"


def test_exllamav3_has_one_pool_of_whole_pages_for_all_jobs() -> None:
    """``Cache`` of 1.6.5 (``cache/cache.py``); pages of 256 tokens."""
    text = python_of(a_plan("exllamav3", cache_word="6,5", max_model_len=1000))
    assert "    max_num_tokens=8192,\n" in text
    assert "    layer_type=CacheLayer_quant,\n    k_bits=6,\n    v_bits=5,\n" in text


@pytest.mark.parametrize(("engine", "port"), [("vllm", 8000), ("sglang", 30000)])
def test_kubernetes_starts_what_the_engines_own_target_starts(engine: str, port: int) -> None:
    """Validated against Kubernetes' schema in ``tests/parity/test_launch_lines.py``."""
    plan = a_plan(engine, parallel=Parallel(tp=4), engine_version="0.33.0")
    answer, own = launch("k8s", plan), launch(engine, plan)
    assert answer.command == "kubectl apply -f deployment.yaml"
    deployment, service = yaml.safe_load_all(answer.files["deployment.yaml"])
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    extra = ["--host", "0.0.0.0"] if engine == "sglang" else []
    assert container["command"] == [*("python3" if word == "python" else word for word in own.argv), *extra]
    assert container["image"].endswith(":v0.33.0")
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 4}
    assert container["ports"] == [{"name": "http", "containerPort": port}]
    assert service["spec"]["ports"][0]["port"] == port
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
    assert pod["volumes"] == [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    assert container["volumeMounts"] == [{"name": "shm", "mountPath": "/dev/shm"}]


@pytest.mark.parametrize("model", [MODEL, "/models/Qwen3 32B_v2.1", "a/" + "x" * 80, "Org/Ünïcode-7B"])
def test_kubernetes_names_are_dns_labels(model: str) -> None:
    deployment, service = yaml.safe_load_all(launch("k8s", a_plan("vllm", model=model)).files["deployment.yaml"])
    name = service["metadata"]["name"]
    assert deployment["metadata"]["name"] == name
    assert len(name) <= 63
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name)


def test_kubernetes_mounts_a_folder_and_refuses_what_a_pod_cannot_find() -> None:
    answer = launch("k8s", a_plan("vllm", model="/models/llama"))
    deployment, _ = yaml.safe_load_all(answer.files["deployment.yaml"])
    assert {"name": "model", "hostPath": {"path": "/models/llama", "type": "Directory"}} in (
        deployment["spec"]["template"]["spec"]["volumes"]
    )
    for relative in ("./llama", "~/llama"):
        with pytest.raises(UsageError, match="a pod cannot find"):
            launch("k8s", a_plan("vllm", model=relative))


def test_kubernetes_is_for_nvidia_alone() -> None:
    with pytest.raises(UnsupportedError, match="for NVIDIA GPUs alone, not for MI300X"):
        launch("k8s", a_plan("vllm", vendor="amd", device="MI300X"))
