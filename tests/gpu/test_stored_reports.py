"""What was measured on GPUs, as stored: every byte that was asked for is the predicted one, and the README says so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from stored_reports import (
    VECTORS,
    device_folders,
    models_of,
    read_parts,
    requested,
    subjects_of,
    summary_table,
)

from kvplan.core.verification import Verification
from kvplan.specs.catalogue import load_packaged, spec_files
from kvplan.specs.reference import resolve_model

README = Path(__file__).parents[2] / "README.md"
REPORTS = {(folder.name, name): found for folder in device_folders() for name, found in read_parts(folder).items()}
KINDS = (
    *("full_attention", "sliding_window", "chunked_local", "latent", "cross_attention"),
    *("mamba1", "mamba2", "gated_delta_net", "kda", "short_conv"),
)


def of_part(name: str) -> list[Verification]:
    """The reports of one part, of every device that has it."""
    found = [report for (_, part), report in REPORTS.items() if part == name]
    if not found:
        pytest.skip(f"no {name}.json is stored yet")
    return found


@pytest.mark.parametrize(("device", "name"), REPORTS)
def test_a_report_names_its_device_and_versions_and_passes(device: str, name: str) -> None:
    found = REPORTS[device, name]
    assert found.device.kind == "cuda"
    assert found.device.driver
    assert found.device.total_bytes > found.device.free_bytes > 0
    assert set(found.versions) >= {"kvplan", "python", "torch", "cuda"}
    assert [check.what for check in found.checks if not check.passed] == []


def test_an_h200_has_been_asked() -> None:
    assert REPORTS["verify_h200", "allocation"].device.name == "NVIDIA H200"


def test_every_requested_byte_is_the_predicted_one() -> None:
    for found in of_part("allocation"):
        checks = requested(found.checks)
        assert {check.subject for check in checks} == set(subjects_of(found))
        assert {check.difference_bytes for check in checks} == {0}
        assert {check.allowed_bytes for check in checks} == {0}


def test_25_models_over_all_kinds_of_layers_and_5_formats_are_allocated() -> None:
    for found in of_part("allocation"):
        assert len(models_of(found)) >= 25
        assert len({subject.split()[1] for subject in subjects_of(found)}) >= 5
        assert len({resolve_model(name).family for name in models_of(found)}) >= 25
        words = " ".join(check.what for check in found.checks)
        assert [kind for kind in KINDS if kind not in words] == []


def test_70b_at_128k_in_fp8_fills_the_device() -> None:
    for found in of_part("allocation"):
        (total,) = (check for check in requested(found.checks) if check.subject.startswith("llama-3.1-70b fp8 131072 "))
        match = re.fullmatch(r"llama-3\.1-70b fp8 131072 x (\d+)", total.subject)
        assert match
        sequences = int(match[1])
        # 80 layers of K and V, 8 heads of 128, one byte each
        one = 131072 * 80 * 2 * 8 * 128
        assert total.measured_bytes == sequences * one
        assert total.measured_bytes + one > 0.94 * found.device.free_bytes


def test_a_frontier_is_within_one_block_and_leaves_the_device_usable() -> None:
    for found in of_part("frontier"):
        assert any(subject.startswith("llama-3.1-70b fp8 128k") for subject in subjects_of(found))
        for subject in subjects_of(found):
            own = {check.what: check for check in found.checks if check.subject == subject}
            (frontier,) = (check for what, check in own.items() if re.match("(block|request)s within ", what))
            assert "the next one failed (torch.OutOfMemoryError)" in frontier.detail
            assert abs(frontier.difference_bytes) <= frontier.allowed_bytes < frontier.predicted_bytes
            assert own["usable after the failure"].difference_bytes == 0
            assert own["still reserved afterwards"].difference_bytes == 0


def test_the_code_of_15_architectures_ran_with_its_own_cache_and_a_compressed_one() -> None:
    for found in of_part("model_code"):
        plain = {check.subject for check in found.checks if check.detail.startswith("DynamicCache")}
        compressed = {check.subject for check in found.checks if check.detail.startswith("CompressedCache")}
        assert len({load_packaged(name).architecture_class for name in plain}) >= 15
        assert len({load_packaged(name).family for name in compressed}) >= 10
        assert all(check.difference_bytes == 0 for check in found.checks)


def test_the_next_run_covers_every_family_with_a_spec() -> None:
    verify_many = pytest.importorskip("verify_many")  # it imports torch
    names = (*verify_many.MODELS, *verify_many.OTHER_FAMILIES)
    families = {load_packaged(name).family for name in names}
    stated = (re.search(r"^family: (\w+)$", path.read_text(encoding="utf-8"), re.M) for path in spec_files())
    assert families == {match[1] for match in stated if match}


def test_the_readme_has_the_table_of_what_is_stored() -> None:
    assert summary_table() in README.read_text(encoding="utf-8")


def test_every_stored_file_is_read() -> None:
    stored = {(path.parent.name, path.stem) for path in VECTORS.glob("verify_*/*.json")}
    assert stored == set(REPORTS)
