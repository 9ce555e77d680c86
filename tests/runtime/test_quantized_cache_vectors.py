"""What quanto 0.2.7 and hqq 0.2.8 hold in transformers' QuantizedCache, against kvplan's groups of the same rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from grouped_rows import grouped_rows  # noqa: E402

from kvplan.core.format import GroupFormat  # noqa: E402
from kvplan.formats import get_format  # noqa: E402
from kvplan.runtime.codec import nbytes  # noqa: E402
from kvplan.runtime.group_store import GroupStore  # noqa: E402

VECTORS = Path(__file__).parents[1] / "vectors" / "quantized_caches_5.23.json"
CASES: list[dict[str, Any]] = json.loads(VECTORS.read_text(encoding="utf-8"))["cases"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def name_of(case: dict[str, Any]) -> str:
    return "-".join(str(case[field]) for field in ("backend", "bits", "axis", "dtype", "offset"))


def format_of(case: dict[str, Any], name: str) -> GroupFormat:
    found = get_format(name)
    assert isinstance(found, GroupFormat)
    found = replace(found, group=64, residual=0, bits=case["bits"], key_per_channel=case["axis"] == "channel")
    return replace(found, scale_bytes=8, native_bytes=4) if case["dtype"] == "fp32" else found


def order_of_tokens(case: dict[str, Any]) -> torch.Tensor:
    """hqq's groups of one channel are every eighth of its 512 tokens; 64 in a row otherwise."""
    tokens = case["shape"][2]
    strided = case["backend"] == "hqq" and case["axis"] == "channel"
    return torch.arange(tokens).reshape(64, tokens // 64).T.flatten() if strided else torch.arange(tokens)


def stored(case: dict[str, Any], name: str) -> tuple[GroupStore, torch.Tensor, torch.Tensor]:
    """The store, the rows and how they come back."""
    rows = grouped_rows(tuple(case["shape"]), case["offset"]).to(DTYPES[case["dtype"]])
    order = order_of_tokens(case)
    store = GroupStore(format_of(case, name), "key", case["shape"][3])
    store.append(rows[:, :, order])
    decoded = torch.empty(rows.shape)
    decoded[:, :, order] = store.read(torch.float32)
    return store, rows.float(), decoded


def rmse(rows: torch.Tensor, decoded: torch.Tensor) -> float:
    return float((rows - decoded).double().square().mean().sqrt())


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_codes_scales_and_zero_points_take_the_bytes_of_the_package(case: dict[str, Any]) -> None:
    tensors = stored(case, case["backend"])[0].tensors()
    zero = "zero" if case["backend"] == "hqq" else "minimum"
    assert [nbytes({name: tensors[name]}) for name in ("codes", "scale", zero)] == case["bytes"]
    assert nbytes(tensors) == sum(case["bytes"])


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_the_error_is_that_of_the_package_within_two_percent(case: dict[str, Any]) -> None:
    """hqq subtracts its zero point in the model's dtype, so 8 bits of bfloat16 lose a quarter or more to that."""
    _, rows, decoded = stored(case, case["backend"])
    ratio = rmse(rows, decoded) / case["rmse"]
    loses_in_bfloat16 = case["backend"] == "hqq" and case["bits"] == 8 and case["dtype"] == "bf16"
    assert ratio < 1.02
    assert ratio > (0.4 if loses_in_bfloat16 else 0.98)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case["backend"] == "quanto" and case["dtype"] == "fp32"], ids=name_of
)
def test_decoded_values_in_float32_are_quantos_own(case: dict[str, Any]) -> None:
    _, rows, decoded = stored(case, "quanto")
    assert decoded[0, 0, 0, : len(case["first"])].tolist() == pytest.approx(case["first"], rel=1e-6, abs=1e-6)
    assert rmse(rows, decoded) == pytest.approx(case["rmse"], rel=1e-5)


@pytest.mark.parametrize("name", ["int_group", "kivi"])
@pytest.mark.parametrize("case", [case for case in CASES if case["backend"] == "quanto"], ids=name_of)
def test_plain_groups_hold_what_quanto_holds(case: dict[str, Any], name: str) -> None:
    theirs, ours = stored(case, "quanto")[0].tensors(), stored(case, name)[0].tensors()
    assert all(torch.equal(ours[field], theirs[field]) for field in theirs)
