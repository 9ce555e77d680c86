"""The JSON contract of ``kvplan verify``; a key may be added, never renamed. ``--report`` writes the same."""

from __future__ import annotations

from typing import Any

from kvplan.core.verification import Check, DeviceFacts, Verification
from kvplan.planning.verify_diff import VerificationDiff
from kvplan.reports.to_csv import render_csv
from kvplan.reports.verify_rows import verdict

CSV_HEADER = ("subject", "group", "what", "predicted_bytes", "measured_bytes", "difference_bytes", "passed")


def verify_fields(found: Verification) -> dict[str, Any]:
    """The ``result``; ``kvplan.specs.verify_report`` reads it back."""
    return {
        "device": found.device.kind,
        "device_facts": _device_fields(found.device),
        "request": dict(found.request),
        "verdict": verdict(found),
        "passed": found.passed,
        "num_checks": len(found.checks),
        "num_failed": sum(not check.passed for check in found.checks),
        "checks": [check_fields(check) for check in found.checks],
        "skipped": list(found.skipped),
        "notes": list(found.notes),
        "versions": dict(found.versions),
        "shares": dict(found.shares),
    }


def check_fields(check: Check) -> dict[str, Any]:
    """One check."""
    return {
        "group": check.group,
        "subject": check.subject,
        "what": check.what,
        "predicted_bytes": check.predicted_bytes,
        "measured_bytes": check.measured_bytes,
        "difference_bytes": check.difference_bytes,
        "allowed_bytes": check.allowed_bytes,
        "passed": check.passed,
        "detail": check.detail,
    }


def diff_fields(diff: VerificationDiff) -> dict[str, Any]:
    """What changed since another report."""
    return {
        "source": diff.source,
        "same": diff.same,
        "num_same": diff.num_same,
        "passed_to_failed": [check_fields(check) for check in diff.broken],
        "failed_to_passed": [check_fields(check) for check in diff.mended],
        "changed": [{"old": check_fields(old), "new": check_fields(new)} for old, new in diff.changed],
        "new": [check_fields(check) for check in diff.new],
        "gone": [check_fields(check) for check in diff.gone],
        "around": [{"name": name, "old": old, "new": new} for name, old, new in diff.around],
    }


def verify_csv(found: Verification) -> str:
    """One line for each check."""
    rows = [[check_fields(check)[name] for name in CSV_HEADER] for check in found.checks]
    return render_csv(CSV_HEADER, rows)


def _device_fields(device: DeviceFacts) -> dict[str, Any]:
    capability = device.compute_capability
    return {
        "name": device.name,
        "kind": device.kind,
        "total_bytes": device.total_bytes,
        "free_bytes": device.free_bytes,
        "driver": device.driver,
        "compute_capability": None if capability is None else list(capability),
    }
