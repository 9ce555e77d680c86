"""What ``kvplan evaluate --json`` wrote becomes an Evaluation again: the evidence of ``kvplan recommend``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from kvplan.core.errors import FileError
from kvplan.core.evaluation import VERDICTS, Estimate, Evaluation, Gate, MethodReport, Thresholds
from kvplan.specs.json_file import load_json_object

MAX_EVIDENCE_BYTES = 64 * 1024**2
_HOW = "write it with kvplan evaluate --json > quality.json"

_ESTIMATES = tuple(
    name for name, hint in MethodReport.__annotations__.items() if "Estimate" in str(hint)
)  # as evaluate_json writes them


class _Strict(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class _Estimate(_Strict):
    value: float
    interval: tuple[float, float]
    count: int

    def estimate(self) -> Estimate:
        return Estimate(value=self.value, low=self.interval[0], high=self.interval[1], count=self.count)


class _Gate(_Estimate):
    name: str
    threshold: float
    verdict: str
    needed_count: int | None = None


class _Cell(_Strict):
    length_tokens: int
    depth_ratio: float
    recall_ratio: float


class _Method(_Strict):
    method: str
    estimates: dict[str, _Estimate]
    kld_p99: float | None = None
    kld_max: float | None = None
    memory_ratio: float | None = None
    steady_bytes: int | None = None
    peak_bytes: int | None = None
    needle_grid: list[_Cell] = []
    thresholds: dict[str, float | None] = {}
    gates: list[_Gate] = []
    verdict: str
    reason: str = ""

    @model_validator(mode="before")
    @classmethod
    def gather(cls, values: Any) -> Any:
        """Three keys of the file for each estimate as one."""
        if not isinstance(values, dict) or values.get("verdict") not in VERDICTS:
            raise ValueError(f"a method needs a verdict: {', '.join(VERDICTS)}")
        found = {
            name: {
                "value": values[name],
                "interval": values.get(f"{name}_interval"),
                "count": values.get(f"{name}_count"),
            }
            for name in _ESTIMATES
            if values.get(name) is not None
        }
        return {**values, "estimates": found}


class _Result(_Strict):
    model: str
    device: str
    versions: dict[str, str] = {}
    settings: dict[str, Any] = {}
    baseline: _Method
    methods: list[_Method]
    notes: list[str] = []


def read_evaluation(path: Path) -> Evaluation:
    """The Evaluation in a JSON file of ``kvplan evaluate``; unknown keys are left aside. Raises FileError."""
    envelope = load_json_object(path, "the JSON of kvplan evaluate", MAX_EVIDENCE_BYTES)
    if envelope.get("command") != "evaluate" or not isinstance(envelope.get("result"), dict):
        raise FileError(f"{path}: is not the answer of kvplan evaluate", _HOW)
    try:
        result = _Result.model_validate(envelope["result"])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise FileError(f"{path}: result.{where}: {first['msg'].lower()}", _HOW) from None
    return Evaluation(
        model=result.model,
        device=result.device,
        versions=result.versions,
        settings=result.settings,
        baseline=_report(result.baseline),
        methods=tuple(map(_report, result.methods)),
        notes=tuple(result.notes),
    )


def _report(found: _Method) -> MethodReport:
    estimates = {name: value.estimate() for name, value in found.estimates.items()}
    thresholds = {name: limit for name, limit in found.thresholds.items() if name in Thresholds.__annotations__}
    return MethodReport(
        method=found.method,
        kld_p99=found.kld_p99,
        kld_max=found.kld_max,
        memory_ratio=found.memory_ratio,
        steady_bytes=found.steady_bytes,
        peak_bytes=found.peak_bytes,
        needle_grid={(cell.length_tokens, cell.depth_ratio): cell.recall_ratio for cell in found.needle_grid},
        thresholds=Thresholds(**thresholds),
        gates=tuple(
            Gate(
                name=gate.name,
                threshold=gate.threshold,
                estimate=gate.estimate(),
                verdict=gate.verdict,
                needed_count=gate.needed_count,
            )
            for gate in found.gates
        ),
        verdict=found.verdict,
        reason=found.reason,
        **estimates,
    )
