"""Every packaged accelerator: well-formed, sourced, and within what physics and the vendors allow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import kvplan.accelerators
from kvplan.core.accelerator import Accelerator, apple_gpu_bytes
from kvplan.core.units import GIB, MIB
from kvplan.specs.accelerator import accelerator_names, aliases_in, find_accelerator, load_accelerator
from kvplan.specs.accelerator_schema import check_accelerator
from kvplan.specs.yaml_file import load_yaml_file

FOLDER = Path(kvplan.accelerators.__file__).parent
PATHS = sorted(FOLDER.glob("*.yaml"))
VENDORS = {"nvidia", "amd", "intel", "google", "apple"}
WITHOUT_SOURCE = {"name", "title", "vendor", "aliases", "memory_reading", "sources", "notes"}


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    result: Path = request.param
    return result


@pytest.fixture
def values(path: Path) -> dict[str, Any]:
    return load_yaml_file(path)


@pytest.fixture
def device(path: Path) -> Accelerator:
    return load_accelerator(path.stem)


def test_the_catalogue_has_the_devices_that_people_serve_models_on() -> None:
    assert len(PATHS) >= 59
    assert {"h100-sxm", "h200-sxm", "b200", "a100-80gb-sxm", "l40s", "rtx-4090", "mi300x", "tpu-v5e", "m3-max"} <= set(
        accelerator_names()
    )


def test_a_file_has_no_mistakes_and_is_called_like_its_device(path: Path, values: dict[str, Any]) -> None:
    assert check_accelerator(values) == []
    assert values["name"] == path.stem
    assert values["vendor"] in VENDORS
    assert values["title"]


def test_every_value_has_a_source_and_every_source_a_value(values: dict[str, Any]) -> None:
    assert set(values["sources"]) == set(values) - WITHOUT_SOURCE
    assert not any("recalled" in source or "unchecked" in source for source in values["sources"].values())


def test_the_quick_reading_of_the_aliases_is_the_slow_one(path: Path, values: dict[str, Any]) -> None:
    assert aliases_in(path) == values.get("aliases", [])


def test_names_and_aliases_lead_to_their_own_device_only() -> None:
    seen: dict[str, str] = {}
    for path in PATHS:
        for name in (path.stem, *aliases_in(path)):
            found = find_accelerator(name)
            assert found is not None
            assert found.name == path.stem, name
            plain = "".join(filter(str.isalnum, name.lower()))
            assert plain not in seen, f"{name} is in {path.name} and in {seen[plain]}"
            seen[plain] = path.name


def test_memory_lies_between_the_figure_on_the_box_in_decimal_and_in_binary_units(device: Accelerator) -> None:
    """Of 80 GB on the box no runtime reports more than 80 GiB, and none far below 80 * 10^9 bytes."""
    if device.unified_memory:
        return
    assert device.nominal_gigabytes is not None
    most = device.management_bytes or device.memory_bytes
    assert 0.98 * device.nominal_gigabytes * 10**9 <= device.memory_bytes <= most <= device.nominal_gigabytes * GIB


def test_the_runtime_reports_up_to_two_percent_less_than_the_management_tool(device: Accelerator) -> None:
    if device.management_bytes is None:
        return
    assert 0.98 * device.management_bytes <= device.memory_bytes <= device.management_bytes
    if device.memory_reading == "management":
        assert device.memory_bytes == device.management_bytes


def test_an_apple_gpu_gets_its_share_of_the_memory(device: Accelerator) -> None:
    assert device.unified_memory == (device.vendor == "apple") == (device.memory_reading == "rule")
    if device.vendor == "apple":
        assert device.nominal_gigabytes is not None
        assert device.memory_bytes == apple_gpu_bytes(device.nominal_gigabytes * GIB)


def test_units_are_sane(device: Accelerator) -> None:
    """From an M1 (68 GB/s) to a Rubin: a slip of a thousand in any unit falls outside."""
    if device.bandwidth_bytes_per_second is not None:
        assert 50 * 10**9 <= device.bandwidth_bytes_per_second <= 30_000 * 10**9
    if device.link_bytes_per_second is not None:
        assert 16 * 10**9 <= device.link_bytes_per_second <= 2000 * 10**9
        assert device.link is not None
    assert all(50 * 10**12 <= rate <= 40_000 * 10**12 for rate in device.peak_flops.values())


def test_the_whole_memory_is_read_in_between_a_hundredth_of_a_second_and_a_second(device: Accelerator) -> None:
    if device.bandwidth_bytes_per_second is not None:
        assert 0.01 <= device.memory_bytes / device.bandwidth_bytes_per_second <= 1


def test_narrower_dtypes_are_not_slower(device: Accelerator) -> None:
    rates = device.peak_flops
    sixteen = rates.get("bf16", rates.get("fp16", 0))
    assert rates.get("fp8", sixteen) >= sixteen
    assert rates.get("fp4", rates.get("fp8", 0)) >= rates.get("fp8", 0)


def test_a_vendor_states_its_own_kind_of_architecture(device: Accelerator) -> None:
    assert device.compute_capability is None or device.vendor == "nvidia"
    assert device.gfx_target is None or device.vendor == "amd"


def test_fp8_rates_start_with_compute_capability_8_9_and_fp4_rates_with_10(device: Accelerator) -> None:
    """The columns of NVIDIA's table: https://nvidia.github.io/TransformerEngine/support_matrix.html."""
    if device.compute_capability is not None:
        assert "fp8" not in device.peak_flops or device.compute_capability >= (8, 9)
        assert "fp4" not in device.peak_flops or device.compute_capability >= (10, 0)


READ = [
    # vLLM 0.25.1 at start-up on a real card; nvidia-smi on it shows 143771 MiB
    ("h200", 150109880320, 143771, 4800, 989),
    # cuDeviceTotalMem, torch.cuda.mem_get_info and NVML on a real card, driver 580.159.04
    ("h100", 85017493504, 81559, 3350, 989),
    # deviceQuery in bottlerocket pull request 3873; nvidia-smi in modal-client pull request 2797
    ("a100-40gb", 42298834944, 40960, 1555, 312),
    # nvidia-smi in modal-client pull request 2797; aiconfigurator l4.yaml
    ("l4", 23034 * MIB, 23034, 300, 121),
    # nvidia-smi in TensorRT-LLM issue 10278; the bus width in torchao pull request 4002
    ("b200", 183359 * MIB, 183359, 7672, 2250),
]


@pytest.mark.parametrize(("name", "memory_bytes", "smi_mib", "gigabytes", "tflops"), READ)
def test_devices_are_as_they_were_read(name: str, memory_bytes: int, smi_mib: int, gigabytes: int, tflops: int) -> None:
    device = load_accelerator(name)
    assert device.memory_bytes == memory_bytes
    assert device.management_bytes == smi_mib * MIB
    assert device.bandwidth_bytes_per_second == gigabytes * 10**9
    assert device.peak_flops["bf16"] == tflops * 10**12


def test_metal_reports_144_of_192_gib() -> None:
    """apache/tvm pull request 16398: ``tvm.metal().total_global_memory``."""
    assert load_accelerator("m2-ultra").memory_bytes == 154618822656
