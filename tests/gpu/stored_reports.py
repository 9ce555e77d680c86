"""The reports that ``verify_many.py`` left in ``tests/vectors/verify_DEVICE``, and the README's table of them.

python tests/gpu/stored_reports.py
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kvplan.core.units import format_bytes
from kvplan.core.verification import Check, Verification
from kvplan.reports.to_markdown import markdown_table
from kvplan.specs.verify_report import read_verification

VECTORS = Path(__file__).parent.parent / "vectors"
PARTS = {
    "allocation": "real caches",
    "frontier": "the largest that fits, and one more",
    "model_code": "the models' own code",
    "engine": "vLLM, started on skeletons",
    "ranks": "two ranks' shards",
}
"""What ``verify_many.py`` writes, and how the README calls it."""

HEADER = ("on", "torch", "checked", "models", "requests", "checks", "to the byte", "differ", "largest")


def device_folders() -> list[Path]:
    """One folder for each kind of device."""
    return sorted(path for path in VECTORS.glob("verify_*") if path.is_dir())


def read_parts(folder: Path) -> dict[str, Verification]:
    """The parts that a folder holds, by name."""
    paths = {name: folder / f"{name}.json" for name in PARTS}
    return {name: read_verification(path) for name, path in paths.items() if path.is_file()}


def subjects_of(found: Verification) -> list[str]:
    """The requests, each once: ``llama-3.1-70b fp8 131072 x 6``; of model code, the model alone."""
    return list(dict.fromkeys(check.subject for check in found.checks))


def models_of(found: Verification) -> list[str]:
    """The models, each once."""
    return list(dict.fromkeys(subject.split()[0] for subject in subjects_of(found)))


def requested(checks: Iterable[Check]) -> list[Check]:
    """The checks of what all tensors of a request asked for."""
    return [check for check in checks if check.what.endswith("requested by all tensors")]


def summary_row(name: str, found: Verification) -> tuple[str, ...]:
    """The README's row of one part."""
    exact = sum(not check.difference_bytes for check in found.checks)
    differ = sum(not check.passed for check in found.checks)
    counts = (len(models_of(found)), len(subjects_of(found)), len(found.checks), exact)
    largest = format_bytes(max(check.measured_bytes for check in found.checks))
    release = found.versions["torch"].partition("+")[0]
    words = (found.device.name, release, PARTS[name], *(f"{count:,}" for count in counts))
    return (*words, f"{differ:,}" if differ else "none", largest)


def summary_table() -> str:
    """The README's table: a row for each part of each device."""
    parts = [entry for folder in device_folders() for entry in read_parts(folder).items()]
    return markdown_table(HEADER, [summary_row(name, found) for name, found in parts])


if __name__ == "__main__":
    print(summary_table())
