"""What llama.cpp 0.5.0 allocated for 182 published models, to the byte, and logged for skeletons under other options.

Vectors: ``llamacpp_0.5.json`` and ``llamacpp_python_0.3.36.json`` (by ``tests/parity/llamacpp_skeletons.py``).
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kvplan.core.engine import EngineSettings
from kvplan.core.errors import UnsupportedError
from kvplan.core.model import Architecture, Model
from kvplan.core.request import SizeResult
from kvplan.engines import get_engine
from kvplan.planning.request import RequestWords, build_request
from kvplan.planning.size import size_model
from kvplan.specs.catalogue import load_packaged
from kvplan.specs.config_json import read_config
from kvplan.specs.spec_yaml import build_kind

TESTS = Path(__file__).parent.parent
ROWS = json.loads((TESTS / "vectors" / "llamacpp_0.5.json").read_text(encoding="utf-8"))["rows"]
CONTEXTS = [(row, context) for row in ROWS for context in row["contexts"]]
ALLOCATED = [(row, context) for row, context in CONTEXTS if "context_bytes" in context]
REFUSED = [(row, context) for row, context in CONTEXTS if "error" in context]
LINE = re.compile(
    r"(\w+): size = +([\d.]+) MiB \( *(\d+) cells, +(\d+) layers, +(\d+)(?:/(\d+))? seqs[^)]*\), "
    r"[KR] \(\w+\): +([\d.]+) MiB, [VS] \(\w+\): +([\d.]+) MiB"
)


@cache
def load(name: str) -> Model:
    path = TESTS / "assets" / "configs" / f"{name}.json"
    if not path.is_file():
        return load_packaged(name.replace("__", "/", 1))
    return read_config(json.loads(path.read_text(encoding="utf-8")), path.name, name)


def size(row: dict[str, Any], context: dict[str, Any]) -> SizeResult:
    fa = {"auto": "auto", "0": "off", "1": "on"}[str(context["fa"])]
    flags = f"swa_full={context['swa_full']},unified={context['unified']},flash_attention={fa}"
    engine = get_engine(f"llamacpp:{flags},ubatch={context['n_ubatch']}")
    sequences = context["n_seq_max"]
    words = RequestWords(concurrency=sequences, kv_dtype=f"{context['type_k']}/{context['type_v']}")
    model = load(row["config"])
    return size_model(model, build_request(model, context["n_ctx"] // sequences, words, engine), engine)


def name_of(case: Any) -> str:
    return case["config"] if "config" in case else f"{case['n_ctx']}x{case['n_seq_max']}-{case['type_k']}"


def test_there_are_rows_of_every_kind() -> None:
    assert len({row["config"] for row, _ in ALLOCATED}) == 182
    assert len(ALLOCATED) == 542
    assert len(REFUSED) == 1


@pytest.mark.parametrize(("row", "context"), ALLOCATED, ids=name_of)
def test_the_caches_have_the_bytes_and_the_lines_that_llamacpp_logged(
    row: dict[str, Any], context: dict[str, Any]
) -> None:
    result = size(row, context)
    assert result.allocated_bytes == context["context_bytes"]
    logged = sorted(tuple(line) for line in context["lines"] if any(line[5:]))
    found = sorted(
        (who, int(cells), int(layers), int(seqs), int(streams or 0), float(first), float(last))
        for who, _, cells, layers, seqs, streams, first, last in LINE.findall(result.allocation.log_line or "")
    )
    assert len(found) == len(logged)
    for mine, theirs in zip(found, logged):
        assert mine[:5] == theirs[:5]
        assert mine[5:] == pytest.approx(theirs[5:], abs=0.011)


@pytest.mark.parametrize(("row", "context"), REFUSED, ids=name_of)
def test_what_llamacpp_refuses_is_refused(row: dict[str, Any], context: dict[str, Any]) -> None:
    assert "does not divide n_embd_head_k=80" in context["error"]
    with pytest.raises(UnsupportedError, match="does not divide a key of 80"):
        size(row, context)


SKELETONS = json.loads((TESTS / "vectors" / "llamacpp_python_0.3.36.json").read_text(encoding="utf-8"))["rows"]
RUNS = [(row, run) for row in SKELETONS for run in row["runs"]]


def skeleton(row: dict[str, Any]) -> Model:
    layers, draft = (
        tuple(tuple(build_kind(fields) for fields in layer) for layer in row[name])
        for name in ("layers", "draft_layers")
    )
    architecture = Architecture(
        layers=layers, draft_layers=draft, hidden_size=128, num_heads=None, max_context_tokens=65536
    )
    return Model(name=row["name"], source="", family=row["family"], dtype="fp16", architecture=architecture)


def predicted_lines(row: dict[str, Any], options: dict[str, Any]) -> list[str]:
    """kvplan's lines of one context; those of the draft context follow the main one's."""
    model = skeleton(row)
    flags = {"swa_full": options.get("swa_full", False), "unified": options.get("unified", False)}
    flags |= {"flash_attention": options.get("flash_attention", "auto"), "ubatch": options.get("ubatch", 512)}
    engine = get_engine("llamacpp:" + ",".join(f"{name}={value}" for name, value in flags.items()))
    words = RequestWords(
        concurrency=options["sequences"],
        kv_dtype=f"{options['type_k']}/{options['type_v']}",
        include_draft="draft" in options,
        settings=EngineSettings(num_speculative_tokens=options.get("speculative")),
    )
    result = size_model(model, build_request(model, options["context"], words, engine), engine)
    lines = (result.allocation.log_line or "").splitlines()
    if "draft" not in options:
        return lines
    main = predicted_lines(row, {name: value for name, value in options.items() if name != "draft"})
    assert lines[: len(main)] == main
    return lines[len(main) :]


def comparable(lines: list[str]) -> list[str]:
    """Without caches of no layers, and without the names that llama.cpp gives DeepSeek-V4's compressors."""
    lines = [re.sub(r"comp_state: .*?state = ", "comp_state: state = ", line) for line in lines]
    return sorted(line for line in lines if ",   0 layers" not in line)


def is_known_difference(row: dict[str, Any], run: dict[str, Any]) -> bool:
    """Without flash attention llama.cpp lets the blocks of a quantized key run over several heads of 80."""
    options = run["options"]
    return row["name"] == "stablelm-3b" and options["type_k"] == "q8_0" and options.get("flash_attention") == "off"


def run_name(case: Any) -> str:
    return case["name"] if "name" in case else "-".join(map(str, case["options"].values()))


def test_the_skeletons_cover_the_cache_types_and_layouts() -> None:
    assert len(SKELETONS) >= 20
    kinds = {kind["kind"] for row in SKELETONS for layer in row["layers"] for kind in layer}
    assert {"full_attention", "sliding_window", "latent", "index_keys", "mamba1", "mamba2", "short_conv"} <= kinds
    assert sum("lines" in run for _, run in RUNS) >= 200


@pytest.mark.parametrize(
    ("row", "run"), [case for case in RUNS if "lines" in case[1] and not is_known_difference(*case)], ids=run_name
)
def test_the_log_is_predicted_word_for_word(row: dict[str, Any], run: dict[str, Any]) -> None:
    assert comparable(predicted_lines(row, run["options"])) == comparable(run["lines"])


@pytest.mark.parametrize(("row", "run"), [case for case in RUNS if "error" in case[1]], ids=run_name)
def test_a_context_that_llamacpp_does_not_make_is_refused(row: dict[str, Any], run: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match=r"llama\.cpp"):
        predicted_lines(row, run["options"])


def test_keys_whose_blocks_run_over_heads_are_refused_though_llamacpp_makes_them() -> None:
    (case,) = [case for case in RUNS if is_known_difference(*case)]
    assert "lines" in case[1]
    with pytest.raises(UnsupportedError, match="does not divide a key row of 80"):
        predicted_lines(case[0], case[1]["options"])
