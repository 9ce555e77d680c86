"""Detection on made-up machines: a fake driver, a fake module, fake commands on an otherwise empty PATH."""

from __future__ import annotations

import ctypes
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from kvplan.core.errors import UsageError
from kvplan.core.units import GIB, MIB
from kvplan.specs import detect_accelerator
from kvplan.specs.detect_accelerator import detect, detect_cuda, detect_nvidia, load_cuda

H100_RUNTIME = 85017493504  # cuDeviceTotalMem of a real card, driver 580.159.04
H100_SMI_MIB = 81559  # nvidia-smi on the same card


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any accelerator and with 64 GiB; commands are put into its folder ``bin``."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "meminfo").write_text(f"MemTotal:       {64 * 1024**2} kB\nMemFree:  1 kB\n")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(detect_accelerator, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(detect_accelerator, "load_cuda", lambda: None)
    monkeypatch.setattr(detect_accelerator.platform, "system", lambda: "Linux")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    return tmp_path


def command(machine: Path, name: str, script: str) -> None:
    path = machine / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def printing(text: str) -> str:
    return f"/bin/cat <<'END'\n{text}\nEND"


class FakeCuda:
    """The five calls of the CUDA driver that are made; each device is (name, bytes, major, minor)."""

    def __init__(self, *devices: tuple[str, int, int, int], status: int = 0, broken: bool = False) -> None:
        self.devices, self.status, self.broken = devices, status, broken

    def cuInit(self, flags: int) -> int:  # noqa: N802 - the driver's own names
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self.devices)
        return 0

    def cuDeviceGet(self, handle: Any, index: int) -> int:  # noqa: N802
        handle._obj.value = index
        return 0

    def cuDeviceGetName(self, buffer: Any, size: int, handle: ctypes.c_int) -> int:  # noqa: N802
        buffer.value = self.devices[handle.value][0].encode()
        return 0

    def cuDeviceTotalMem_v2(self, total: Any, handle: ctypes.c_int) -> int:  # noqa: N802
        total._obj.value = self.devices[handle.value][1]
        return 999 if self.broken else 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, handle: ctypes.c_int) -> int:  # noqa: N802
        value._obj.value = self.devices[handle.value][{75: 2, 76: 3}[attribute]]
        return 0


def test_the_cuda_driver_tells_what_programs_see() -> None:
    found = detect_cuda(FakeCuda(*[("NVIDIA H100 80GB HBM3", H100_RUNTIME, 9, 0)] * 2))
    assert found is not None
    assert [device.name for device in found] == ["h100-sxm", "h100-sxm"]
    assert found[0].memory_bytes == H100_RUNTIME
    assert (found[0].memory_reading, found[0].management_bytes) == ("measured", None)
    assert found[0].peak_flops["bf16"] == 989e12
    assert "this machine" in found[0].sources["memory_bytes"]


def test_a_device_that_kvplan_does_not_know_is_what_was_measured() -> None:
    found = detect_cuda(FakeCuda(("NVIDIA H100 80GB HBM3 MIG 3g.40gb", 42 * GIB, 9, 0)))
    assert found is not None
    (device,) = found
    assert (device.name, device.vendor) == ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", "nvidia")
    assert (device.memory_bytes, device.compute_capability, device.peak_flops) == (42 * GIB, (9, 0), {})


@pytest.mark.parametrize("cuda", [None, FakeCuda(status=803), FakeCuda(("x", 1, 9, 0), broken=True)])
def test_a_driver_that_does_not_answer_is_passed_over(cuda: FakeCuda | None) -> None:
    assert detect_cuda(cuda) is None


def test_a_missing_library_is_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect_accelerator, "CUDA_LIBRARIES", ("libno-such-library.so.1",))
    assert load_cuda() is None


def test_hidden_devices_stay_hidden(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With CUDA_VISIBLE_DEVICES empty the driver has no device, although nvidia-smi still shows them."""
    command(machine, "nvidia-smi", printing(f"NVIDIA H100 80GB HBM3, {H100_SMI_MIB}, 9.0"))
    monkeypatch.setattr(detect_accelerator, "load_cuda", lambda: FakeCuda(status=100))
    assert detect_nvidia() == ()
    assert [device.name for device in detect()] == ["cpu"]


def test_nvidia_smi_names_the_device_and_the_runtimes_total_stands(machine: Path) -> None:
    command(machine, "nvidia-smi", printing("\n".join([f"NVIDIA H100 80GB HBM3, {H100_SMI_MIB}, 9.0"] * 8)))
    found = detect()
    assert [device.name for device in found] == ["h100-sxm"] * 8
    assert (found[0].memory_bytes, found[0].memory_reading) == (H100_RUNTIME, "runtime")
    assert found[0].management_bytes == H100_SMI_MIB * MIB


def test_another_total_than_the_packaged_one_is_kept_as_measured(machine: Path) -> None:
    command(machine, "nvidia-smi", printing("NVIDIA H100 80GB HBM3, 81000, 9.0\nNVIDIA New GPU, 1000, 13.1"))
    h100, new = detect()
    assert (h100.name, h100.memory_bytes, h100.memory_reading) == ("h100-sxm", 81000 * MIB, "management")
    assert (new.name, new.memory_bytes, new.compute_capability) == ("NVIDIA New GPU", 1000 * MIB, (13, 1))


def test_nvidia_smi_is_asked_for_exactly_what_it_understands(machine: Path) -> None:
    command(machine, "nvidia-smi", f'echo "$@" > {machine}/asked')
    detect()
    asked = (machine / "asked").read_text().split()
    assert asked == ["--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]


@pytest.mark.parametrize(
    "script",
    ["exit 9", printing("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."),
     printing("NVIDIA H100, [N/A], [N/A]"), "exec /bin/sleep 30", r"printf '\377\376'"],
)  # fmt: skip
def test_a_broken_nvidia_smi_finds_nothing(machine: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(detect_accelerator, "TIMEOUT_SECONDS", 0.3)
    command(machine, "nvidia-smi", script)
    assert [device.name for device in detect()] == ["cpu"]


def fake_nvml(name: str | bytes, total: int) -> types.ModuleType:
    module: Any = types.ModuleType("pynvml")
    module.nvmlInit = module.nvmlShutdown = lambda: None
    module.nvmlDeviceGetCount = lambda: 2
    module.nvmlDeviceGetHandleByIndex = lambda index: index
    module.nvmlDeviceGetName = lambda handle: name
    module.nvmlDeviceGetCudaComputeCapability = lambda handle: (9, 0)
    module.nvmlDeviceGetMemoryInfo = lambda handle: types.SimpleNamespace(total=total)
    return module  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["NVIDIA H200", b"NVIDIA H200"])  # bytes from old releases
def test_nvml_comes_before_nvidia_smi(machine: Path, monkeypatch: pytest.MonkeyPatch, name: str | bytes) -> None:
    command(machine, "nvidia-smi", "exit 1")
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(name, 143771 * MIB))
    found = detect()
    assert [device.name for device in found] == ["h200-sxm"] * 2
    assert found[0].memory_bytes == 150109880320  # the runtime's total that belongs to 143771 MiB


def test_nvml_without_a_driver_finds_nothing(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = fake_nvml("x", 1)

    def no_driver() -> None:
        raise RuntimeError("NVML Shared Library Not Found")

    module.nvmlInit = no_driver
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert [device.name for device in detect()] == ["cpu"]


ROCM_SMI = """{"card0": {"Card Series": "AMD Instinct MI300X", "GFX Version": "gfx942",
 "VRAM Total Memory (B)": "206141652992", "VRAM Total Used Memory (B)": "297611264"},
 "card1": {"Card series": "Some APU", "VRAM Total Memory (B)": "2147483648"}, "system": {"Driver version": "6.10.5"}}"""


def test_rocm_smi_names_amd_devices(machine: Path) -> None:
    command(machine, "rocm-smi", printing(ROCM_SMI))
    mi300x, apu = detect()
    assert (mi300x.name, mi300x.memory_bytes, mi300x.gfx_target) == ("mi300x", 206141652992, "gfx942")
    assert (apu.name, apu.vendor, apu.memory_bytes) == ("Some APU", "amd", 2 * GIB)


@pytest.mark.parametrize("text", ["WARNING: no GPU", "[]", '{"card0": 1}', '{"card0": {"Card Series": "x"}}'])
def test_an_unusual_answer_of_rocm_smi_finds_nothing(machine: Path, text: str) -> None:
    command(machine, "rocm-smi", printing(text))
    assert [device.name for device in detect()] == ["cpu"]


def sysctl(chip: str, total_bytes: int, limit: str) -> str:
    return (
        f'case "$2" in machdep.cpu.brand_string) echo "{chip}";; hw.memsize) echo {total_bytes};;'
        f" iogpu.wired_limit_mb) {limit};; esac"
    )


@pytest.mark.parametrize(
    ("total", "limit", "usable"),
    [
        (64 * GIB, "echo 0", 48 * GIB),
        (64 * GIB, "exit 1", 48 * GIB),  # before macOS 14
        (64 * GIB, "echo 57344", 56 * GIB),
        (24 * GIB, "echo 0", 16 * GIB),
    ],
)
def test_an_apple_gpu_may_use_its_share_of_the_memory(
    machine: Path, monkeypatch: pytest.MonkeyPatch, total: int, limit: str, usable: int
) -> None:
    monkeypatch.setattr(detect_accelerator.platform, "system", lambda: "Darwin")
    command(machine, "sysctl", sysctl("Apple M3 Max", total, limit))
    (device,) = detect()
    assert (device.name, device.memory_bytes, device.unified_memory) == ("m3-max", usable, True)
    assert device.bandwidth_bytes_per_second == 400 * 10**9


def test_an_intel_mac_has_its_host_memory_only(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect_accelerator.platform, "system", lambda: "Darwin")
    command(machine, "sysctl", sysctl("Intel(R) Core(TM) i9", 64 * GIB, "exit 1"))
    assert [device.name for device in detect()] == ["cpu"]


def test_a_machine_without_accelerators_has_its_own_memory(machine: Path) -> None:
    (device,) = detect()
    assert (device.name, device.memory_bytes, device.unified_memory) == ("cpu", 64 * GIB, True)


def test_without_meminfo_the_system_is_asked(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "meminfo").unlink()
    monkeypatch.setattr(detect_accelerator.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}.__getitem__)
    assert detect()[0].memory_bytes == 4096000


def test_nothing_at_all_is_an_error_that_says_what_to_do(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "meminfo").write_text("nothing\n")

    def unknown(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(detect_accelerator.os, "sysconf", unknown)
    with pytest.raises(UsageError, match="no accelerator was found") as caught:
        detect()
    assert caught.value.hint
