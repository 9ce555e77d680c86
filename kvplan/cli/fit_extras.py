"""What ``kvplan fit`` does besides one placement: logs, workloads, pictures."""

import datetime
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvplan.core.engine import Engine
    from kvplan.core.fit import FitResult
    from kvplan.core.measured import MeasuredStart
    from kvplan.planning.workload_fit import WorkloadFit
    from kvplan.specs.calibration import Correction

MADE_UP_REQUESTS = 10_000
"""Requests that ``--distribution`` makes up."""


def read_number(text: str | None, what: str) -> float | None:
    """A positive number of an option. Raises UsageError."""
    from kvplan.core.errors import UsageError

    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UsageError(f"{what} {text!r} is not a positive number")
    return value


def known_correction(engine: "Engine", accelerator: str, calibration: str) -> "Correction | None":
    """What earlier logs of this engine on this device taught; None where there are none, or with ``off``."""
    from kvplan.core.errors import UsageError
    from kvplan.specs.calibration import correction

    if calibration not in ("on", "off"):
        raise UsageError(f"--calibration {calibration!r} is none", "allowed: on, off")
    found = correction(engine.name, engine.version or "", accelerator) if calibration == "on" else None
    return found if found and found.num_starts else None


def learn_from(start: "MeasuredStart", result: "FitResult") -> int:
    """Keep what the log shows beyond the uncalibrated prediction; the number of starts known."""
    from kvplan.planning.from_log import measured_fields, predicted_fields
    from kvplan.specs.calibration import LINES, CalibrationRecord, learn

    measured, predicted = measured_fields(start), predicted_fields(result)
    differences: dict[str, Any] = {}
    for line in LINES:
        seen, expected = measured[line], predicted[line]
        differences[line] = None if seen is None or expected is None else int(seen) - int(expected)
    if all(value is None for value in differences.values()):
        return 0
    return learn(
        CalibrationRecord(
            engine=result.engine,
            version=result.engine_version or "",
            accelerator=result.request.accelerator.name,
            model=result.model.name,
            date=datetime.date.today().isoformat(),
            **differences,
        )
    )


def run_workload(
    result: "FitResult", engine: "Engine", trace: str | None, distribution: str | None, speeds: tuple[str | None, ...]
) -> "WorkloadFit":
    """Replay a trace, or requests made up from a distribution; ``speeds`` are rate, prefill rate and decode time."""
    from kvplan.planning.distribution import generate
    from kvplan.planning.workload_fit import replay_workload
    from kvplan.specs.trace_file import read_trace

    rate, prefill, decode = (
        read_number(text, what) for text, what in zip(speeds, ("--rate", "--prefill-rate", "--decode-time"))
    )
    workload = read_trace(Path(trace)) if trace else generate(distribution or "", rate or 1.0, MADE_UP_REQUESTS)
    for note in workload.notes:
        print(f"note: {note}", file=sys.stderr)
    return replay_workload(result, engine, workload, prefill, decode)


def draw(result: "FitResult", engine: "Engine", target: str) -> None:
    """Write the pictures to a file, or the curve to the terminal for ``-``."""
    from kvplan.planning.fit_figures import memory_curves
    from kvplan.reports.fit_pictures import budget_figure, curve_figure

    curve = curve_figure(result, memory_curves(result, engine))
    if target == "-":
        from kvplan.reports.to_table import stdout_console
        from kvplan.reports.to_terminal_plot import print_plot

        print_plot(curve, stdout_console())
        return
    from kvplan.reports.plot import write_figure

    write_figure(target, (curve, budget_figure(result)))
    print(f"wrote {target}", file=sys.stderr)
