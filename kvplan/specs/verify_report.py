"""A report of ``kvplan verify`` (``--report out.json``, or its ``--json``) becomes a Verification again."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kvplan.core.errors import FileError
from kvplan.core.verification import Check, DeviceFacts, Verification
from kvplan.specs.json_file import load_json_object

MAX_REPORT_BYTES = 64 * 1024**2
"""A check takes about 300 bytes; the largest models have a few thousand."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Check(_Strict):
    group: str
    subject: str = ""
    what: str
    predicted_bytes: int
    measured_bytes: int
    allowed_bytes: int = 0
    detail: str = ""


class _Device(_Strict):
    name: str
    kind: str
    total_bytes: int
    free_bytes: int
    driver: str | None = None
    compute_capability: tuple[int, int] | None = Field(default=None, strict=False)


class _Report(_Strict):
    device_facts: _Device
    request: dict[str, str]
    checks: list[_Check]
    versions: dict[str, str] = {}
    skipped: list[str] = []
    notes: list[str] = []
    shares: dict[str, str] = {}


def read_verification(path: Path) -> Verification:
    """The Verification in a report's JSON; keys that are not known are left aside. Raises FileError."""
    if path.suffix.lower() == ".md":
        raise FileError(f"{path}: a report for people, which is not read back", "--report out.json writes one that is")
    envelope = load_json_object(path, "a report of kvplan verify", MAX_REPORT_BYTES)
    if envelope.get("command") != "verify" or not isinstance(envelope.get("result"), dict):
        raise FileError(f"{path}: is not a report of kvplan verify", "write one with kvplan verify --report out.json")
    try:
        report = _Report.model_validate(envelope["result"])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise FileError(f"{path}: result.{where}: {first['msg'].lower()}") from None
    return Verification(
        device=DeviceFacts(**report.device_facts.model_dump()),
        request=report.request,
        checks=tuple(Check(**check.model_dump()) for check in report.checks),
        versions=report.versions,
        skipped=tuple(report.skipped),
        notes=tuple(report.notes),
        shares=report.shares,
    )
