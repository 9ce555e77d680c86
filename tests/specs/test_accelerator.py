"""Accelerators are found by any of their names, checked where they are a user's, and cheap to load."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from kvplan.core.accelerator import Accelerator
from kvplan.core.errors import FileError, KvplanError, SpecError, UnknownNameError, UsageError
from kvplan.core.units import GIB
from kvplan.specs import accelerator, detect_accelerator
from kvplan.specs.accelerator import custom_accelerator, load_accelerator, parse_accelerator


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("h100", "h100-sxm"),
        ("H100-SXM5", "h100-sxm"),
        ("h100_80gb", "h100-sxm"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),  # as its driver calls it
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200-sxm"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb-sxm"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb-sxm"),
        ("NVIDIA B300 SXM6 AC", "b300"),
        ("NVIDIA GH200 480GB", "gh200-96gb"),
        ("Tesla V100-SXM2-32GB", "v100-32gb"),
        ("Tesla T4", "t4"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("rtx4090", "rtx-4090"),
        ("4090", "rtx-4090"),
        ("NVIDIA RTX A6000", "rtx-a6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000"),
        ("AMD Instinct MI300X", "mi300x"),
        ("AMD Radeon RX 7900 XTX", "rx-7900-xtx"),
        ("Apple M3 Max", "m3-max"),
        ("v5e", "tpu-v5e"),
    ],
)
def test_a_device_is_found_by_what_people_and_drivers_call_it(text: str, name: str) -> None:
    assert load_accelerator(text).name == name


@pytest.mark.parametrize("text", ["h10", "nvidia", "hopper", "H100 MIG 3g.40gb", "../h100-sxm", "sources", "-"])
def test_anything_else_is_refused_and_near_names_are_offered(text: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        load_accelerator(text)
    assert caught.value.hint


def test_a_misspelt_name_is_answered_with_the_right_one() -> None:
    with pytest.raises(UnknownNameError) as caught:
        load_accelerator("mi300xx")
    assert caught.value.hint is not None
    assert "mi300x" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [
        ("h100", "h100-sxm", 1),
        ("8xh100", "h100-sxm", 8),
        ("8x h100", "h100-sxm", 8),
        (" 2 × mi300x ", "mi300x", 2),
        ("4*L40S", "l40s", 4),
        ("H100:8", "h100-sxm", 8),
        ("rtx-3090", "rtx-3090", 1),
        ("2x4090", "rtx-4090", 2),
    ],
)
def test_a_number_of_devices_is_understood(text: str, name: str, count: int) -> None:
    device, number = parse_accelerator(text)
    assert (device.name, number) == (name, count)


@pytest.mark.parametrize("text", ["", "  ", "0xh100", "h100:0", "9999999999xh100", "2x2xh100", "x8", "8x", "-1xh100"])
def test_an_impossible_number_or_name_is_one_clear_line(text: str) -> None:
    with pytest.raises(KvplanError) as caught:
        parse_accelerator(text)
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_only_the_named_file_is_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\nvendor: x\naliases: [{name}-gpu]\nmemory_bytes: 8\n")
    (tmp_path / "broken.yaml").write_text("name: [")
    monkeypatch.setattr(accelerator, "_FOLDER", tmp_path)
    assert load_accelerator("TWO").name == "two"
    assert load_accelerator("one gpu").name == "one"
    assert accelerator.accelerator_names() == ["broken", "one", "two"]


def test_a_packaged_device_costs_milliseconds_and_no_heavy_import() -> None:
    code = (
        "import sys; from kvplan.specs.accelerator import load_accelerator; load_accelerator('h100')\n"
        "heavy = {'pydantic', 'torch', 'rich', 'typer', 'subprocess', 'kvplan.specs.detect_accelerator'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
    accelerator._load_packaged.cache_clear()
    took = []
    for _ in range(5):
        start = time.perf_counter()
        accelerator.find_accelerator("nvidia h100 80gb hbm3")
        took.append(time.perf_counter() - start)
    assert min(took) < 0.05  # a few milliseconds on an idle machine


def test_a_custom_memory_keeps_what_else_is_known() -> None:
    device = custom_accelerator(48 * GIB, load_accelerator("rtx-4090"))
    assert (device.memory_bytes, device.memory_reading, device.management_bytes) == (48 * GIB, "given", None)
    assert device.compute_capability == (8, 9)
    assert "memory_bytes" not in device.sources
    assert "peak_flops" in device.sources
    plain = custom_accelerator(80 * GIB)
    assert (plain.name, plain.memory_bytes, plain.compute_capability, plain.peak_flops) == (
        "custom", 80 * GIB, None, {}
    )  # fmt: skip


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_of_ones_own_needs_a_name_and_a_memory(tmp_path: Path) -> None:
    device = load_accelerator(write(tmp_path / "mine.yaml", "name: mine\nmemory_bytes: 80GiB\n"))
    assert device == Accelerator(name="mine", vendor="unknown", memory_bytes=80 * GIB)
    more = "name: mine\nmemory_bytes: 8\ncompute_capability: [9, 0]\npeak_tflops: {bf16: 100.5}\nlink: cable\n"
    device, count = parse_accelerator("4x" + write(tmp_path / "more.yml", more + "link_gigabytes_per_second: 56.25\n"))
    assert count == 4
    assert (device.compute_capability, device.peak_flops) == ((9, 0), {"bf16": 100.5e12})
    assert device.link_bytes_per_second == 56_250_000_000


def test_every_mistake_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    wrong = (
        "name: ''\nmemory: 80GiB\npeak_tflops: {bf17: 1, fp8: -2}\ncompute_capability: 9.0\nlink:\nsources: {x: y}\n"
    )
    with pytest.raises(SpecError) as caught:
        load_accelerator(write(tmp_path / "wrong.yaml", wrong))
    told = caught.value.message
    for place in ("name", "memory:", "memory_bytes", "bf17", "fp8", "compute_capability", "link", "sources.x"):
        assert place in told, place


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("- a list", FileError),
        ("name: [", FileError),
        ("name: a\nmemory_bytes: lots", UsageError),
        ("name: a\nmemory_bytes: 0", SpecError),
        ("name: a\nmemory_bytes: true", SpecError),
        ("name: a\nmemory_bytes: 8\nbandwidth_gigabytes_per_second: .inf", SpecError),
    ],
)
def test_a_file_that_is_no_accelerator_is_refused(tmp_path: Path, text: str, error: type[KvplanError]) -> None:
    with pytest.raises(error):
        load_accelerator(write(tmp_path / "file.yaml", text))


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(FileError, match="no such file"):
        load_accelerator("nowhere/my.yaml")


def devices(*sizes: int) -> tuple[Accelerator, ...]:
    return tuple(Accelerator(name="some", vendor="x", memory_bytes=size) for size in sizes)


def test_auto_is_every_device_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect_accelerator, "detect", lambda: devices(8, 8))
    assert parse_accelerator("auto") == (devices(8)[0], 2)
    assert parse_accelerator("1xAUTO") == (devices(8)[0], 1)


def test_auto_does_not_choose_among_different_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect_accelerator, "detect", lambda: devices(8 * GIB, 16 * GIB))
    with pytest.raises(UsageError, match=r"different accelerators: some \(16.00 GiB\), some \(8.00 GiB\)"):
        parse_accelerator("auto")
