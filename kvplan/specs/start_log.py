"""The start-up log of vLLM, SGLang or llama.cpp as a measurement."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kvplan.core.errors import FileError
from kvplan.core.measured import MeasuredStart
from kvplan.specs.llamacpp_log import LlamacppLog
from kvplan.specs.log_lines import LogReader, clean, log_lines
from kvplan.specs.sglang_log import SglangLog
from kvplan.specs.vllm_log import VllmLog

READ = "start-up logs of vLLM (0.6 and later), SGLang and llama.cpp are read"


def read_start_log(path: Path) -> MeasuredStart:
    """What the engine whose log this is said of its memory. Raises FileError for anything but such a log."""
    return _measure(log_lines(path), str(path))


def parse_start_log(lines: Iterable[str], source: str = "the log") -> MeasuredStart:
    """The same of lines in memory, coloured or not. Raises FileError."""
    return _measure((clean(line) for line in lines), source)


def _measure(lines: Iterable[str], source: str) -> MeasuredStart:
    readers: tuple[LogReader, ...] = (VllmLog(), SglangLog(), LlamacppLog())
    for line in lines:
        for reader in readers:
            reader.read(line)
    best = max(readers, key=lambda reader: reader.score)
    if best.score == 0:
        raise FileError(f"{source}: holds no words of an engine's start", READ)
    return best.finish()
