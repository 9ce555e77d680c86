"""llama.cpp's start-up log (llama-server, llama-cli, programs that embed it), from 2024 to build 10256."""

from __future__ import annotations

import re
from typing import Any

from kvplan.core.measured import MeasuredStart, RefusedStart, StartArguments
from kvplan.core.units import MIB
from kvplan.specs.log_lines import Amount, Sightings, amount, figures, first, refusal, refused, rule, total, whole

_CONTEXT = r"(?:llama_context|llama_new_context_with_model|llama_init_from_model)"

RULES = (
    rule("build", r"\bbuild:? (?P<build>\d+) \([0-9a-f]+\)"),
    rule("build_info", r"build_info: b(?P<build>\d+)-"),
    rule("(build ", r"\(build (?P<build>\d+), commit"),
    rule("loaded meta data", r"loaded meta data with .* tensors from (?P<model>.+?) \(version GGUF"),
    rule(
        "using device",
        r"using device \S+ \((?P<accelerator>.*?)\)(?: \([^)]*\))? - (?P<free_bytes>\d+) MiB free",
        "MiB",
    ),
    rule("VRAM: ", r"Device \d+: (?P<accelerator>.*?), .*VRAM: (?P<total_bytes>\d+) MiB", "MiB"),
    rule("compute capability", r"Device \d+: (?P<accelerator>.*?), compute capability"),
    rule("n_ctx_seq", rf"{_CONTEXT}: n_ctx_seq\s+= (?P<max_seq_len>\d+)"),
    rule("n_ctx_per_seq", rf"{_CONTEXT}: n_ctx_per_seq\s+= (?P<max_seq_len>\d+)"),
    rule("n_ctx", rf"{_CONTEXT}: n_ctx\s+= (?P<capacity_tokens>\d+)"),
    rule("n_ubatch", rf"{_CONTEXT}: n_ubatch\s+= (?P<batched>\d+)"),
    rule("n_seq_max", rf"{_CONTEXT}: n_seq_max\s+= (?P<max_num_seqs>\d+)"),
    rule("K (", r"K \((?P<key_type>\w+)\):.*V \((?P<value_type>\w+)\):"),
)
BUFFER = re.compile(
    r"(?P<what>load_tensors:|llama_\w+:|sched_reserve:)\s+(?P<device>\S+)"
    r" (?P<kind>model buffer|buffer|KV buffer|RS buffer|DSV4 \S+ state buffer|compute buffer) size\s*=\s*"
    r"(?P<size>[\d.]+) MiB"
)
REFUSALS = (
    refusal(
        "out_of_memory",
        "out of memory",
        r"allocating (?P<needed_bytes>{amount}) (?P<unit>MiB) on device \d+: cudaMalloc failed: out of memory",
    ),
    refusal(
        "out_of_memory", "failed to allocate", r"failed to allocate (?:compute (?:pp |tg )?buffers|buffer for kv cache)"
    ),
    refusal("out_of_memory", "unable to allocate", r"unable to allocate \S+ buffer"),
)
_LINES = {"buffer": "weights", "model buffer": "weights", "compute buffer": "activation"}
"""Lines of the budget by the kind of buffer; every other kind is the cache."""

Buffers = dict[str, dict[str, list[Amount]]]
"""Sizes by line of the budget and by device."""


class LlamacppLog:
    """Reads llama.cpp's words line by line; a second model in the log (a draft, a projector) is left out."""

    engine = "llamacpp"

    def __init__(self) -> None:
        self._words = Sightings(RULES)
        self._buffers: Buffers = {"weights": {}, "cache": {}, "activation": {}}
        self._error: RefusedStart | None = None
        self._second = False

    @property
    def score(self) -> int:
        """How much of the log are words of llama.cpp."""
        if not any(self._buffers.values()) and self._words.text("model") is None:
            return 0
        return self._words.count(without=("accelerator",)) + sum(map(bool, self._buffers.values()))

    def read(self, line: str) -> None:
        """Take in a line."""
        if "loaded meta data" in line and self._buffers["activation"]:
            self._second = True
        if self._second:
            return
        self._words.read(line)
        if "buffer size" in line and (match := BUFFER.search(line)):
            self._take(match)
        if self._error is None and not self._buffers["activation"]:
            self._error = refused(line, REFUSALS)

    def finish(self) -> MeasuredStart:
        """What the log says."""
        words, build = self._words, self._words.text("build")
        return MeasuredStart(
            engine=self.engine,
            version=f"b{build}" if build and build != "0" else None,
            model=words.text("model"),
            accelerator=words.text("accelerator"),
            arguments=StartArguments(**self._arguments()),
            capacity_tokens=words.number("capacity_tokens"),
            error=self._error,
            notes=self._notes(),
            **figures(
                total_bytes=words.sum("total_bytes"),
                free_bytes=words.sum("free_bytes"),
                weights_bytes=self._on_devices("weights"),
                activation_bytes=self._on_devices("activation"),
                kv_cache_bytes=self._on_devices("cache"),
            ),
        )

    def _take(self, match: re.Match[str]) -> None:
        size = amount(match["size"], MIB)
        if size is None or (match["kind"] == "buffer" and match["what"] != "load_tensors:"):
            return
        line = _LINES.get(match["kind"], "cache")
        sizes = self._buffers[line].setdefault(match["device"], [])
        if line == "activation" and sizes:  # reserved again: only the larger one stays
            sizes[0] = max(sizes[0], size, key=lambda each: each.size_bytes)
        else:
            sizes.append(size)

    def _arguments(self) -> dict[str, Any]:
        words = self._words
        key, value = words.text("key_type"), words.text("value_type")
        return {
            "max_seq_len": whole(first(words.text("max_seq_len"), words.text("capacity_tokens"))),
            "kv_cache_dtype": key if key == value else f"{key}/{value}",
            "max_num_batched_tokens": words.number("batched"),
            "max_num_seqs": words.number("max_num_seqs"),
        }

    def _devices(self) -> set[str]:
        """Accelerators among the buffers' devices; the host's own buffers where there is none."""
        every = {device for sizes in self._buffers.values() for device in sizes}
        return {device for device in every if not on_host(device)} or every

    def _on_devices(self, line: str) -> Amount | None:
        devices = self._devices()
        return total([size for device, sizes in self._buffers[line].items() if device in devices for size in sizes])

    def _notes(self) -> tuple[str, ...]:
        devices, notes = self._devices(), []
        if len(devices) > 1 and not all(map(on_host, devices)):
            notes.append(f"the figures are of {len(devices)} devices together: {', '.join(sorted(devices))}")
        if any(device not in devices for device in self._buffers["cache"]):
            notes.append("a part of the cache is in the host's memory, which is not counted")
        if self._second:
            notes.append("the log holds more than one model; the first is read")
        return tuple(notes)


def on_host(device: str) -> bool:
    """Whether a buffer of this name is in the host's memory (``CPU``, ``CPU_Mapped``, ``CUDA_Host``)."""
    return device.startswith(("CPU", "AMX", "BLAS")) or device.endswith("_Host")
