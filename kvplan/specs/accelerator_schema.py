"""The strict frame of an accelerator's file, in pydantic: imported only when a user's file is checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from kvplan.core.accelerator import READINGS
from kvplan.specs.schema import Size, Text, field_problems

DTYPES = ("fp16", "bf16", "fp8", "int8", "fp4")
"""Those whose rates planning asks for."""

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class AcceleratorFile(BaseModel):
    """Every field of a file; ``kvplan/accelerators/__init__.py`` explains them."""

    model_config = ConfigDict(strict=True, extra="forbid")
    name: Text
    title: Text = "-"
    vendor: Text = "unknown"
    aliases: list[Text] = []
    nominal_gigabytes: Size | None = None
    memory_bytes: Size
    memory_reading: Literal[tuple(READINGS)] = "given"  # type: ignore[valid-type]
    management_bytes: Size | None = None
    unified_memory: bool = False
    compute_capability: Annotated[list[Annotated[int, Field(ge=0, le=99)]], Field(min_length=2, max_length=2)] = [0, 0]
    gfx_target: Annotated[str, Field(pattern=r"^gfx[0-9a-f]{3,4}$")] = "gfx000"
    bandwidth_gigabytes_per_second: Rate = 1.0
    peak_tflops: dict[Literal[DTYPES], Rate] = {}  # type: ignore[valid-type]
    link: Text = "-"
    link_gigabytes_per_second: Rate = 1.0
    sources: dict[str, Text] = {}
    notes: list[Text] = []


def check_accelerator(mapping: Mapping[str, Any]) -> list[str]:
    """Every problem of a file's fields, each with its path. A file without problems can be built."""
    problems = field_problems(AcceleratorFile, mapping)
    sources = mapping.get("sources")
    for name in sources if isinstance(sources, Mapping) else ():
        if name not in mapping:
            problems.append(f"sources.{name}: there is no such value in the file")
    return problems
