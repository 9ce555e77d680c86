"""SGLang's start-up log, from 0.4 to 0.5.23; its GB are binary (``memory_pool.py``: ``GB = 1024**3``)."""

from __future__ import annotations

import re
from typing import Any

from kvplan.core.measured import MeasuredStart, RefusedStart, StartArguments
from kvplan.core.units import GIB
from kvplan.specs.log_lines import (
    OUT_OF_MEMORY,
    Amount,
    Sightings,
    amount,
    argument,
    figures,
    first,
    flag,
    ratio,
    refusal,
    refused,
    rule,
    total,
    whole,
)

RULES = (
    rule("server_args=", r"server_args=(?P<asked>(?:ServerArgs\(|\{).*model_path.*)"),
    rule("KV cache dtype", r"Using KV cache dtype: (?:torch\.)?(?P<cache_dtype>\w+)"),
    rule("Load weight begin", r"Load weight begin\. avail mem=(?P<free_bytes>{amount}) GB"),
    rule("Load weight end", r"Load weight end\..*mem usage=(?P<weights_bytes>{amount}) GB"),
    rule("Load weight end", r"Load weight end\..*avail mem=(?P<left_bytes>{amount}) GB"),
    rule("distributed ends", r"Init torch distributed ends\..*?mem usage=(?P<non_torch_bytes>{amount}) GB"),
    rule("Memory baseline taken", r"Memory baseline taken\. mem usage=(?P<non_torch_bytes>{amount}) GB"),
    rule("KV Cache is allocated", r"K size: (?P<keys_bytes>{amount}) GB, V size: (?P<values_bytes>{amount}) GB"),
    rule("KV Cache is allocated", r"KV size: (?P<latents_bytes>{amount}) GB"),
    rule("KV cache allocated", r"Post-capture KV sizing: .*KV size: (?P<resized_bytes>{amount}) GB"),
    rule("Mamba Cache is allocated", r"Mamba Cache is allocated\.(?P<states>.*)"),
    rule("memory for KV cache is", r"The available memory for KV cache is (?P<available_bytes>{amount}) GB"),
    rule("Capture", r"Capture .*graph end\..*?mem usage=(?P<cuda_graph_bytes>{amount}) GB"),
    rule("max_total_num_tokens=", r"max_total_num_tokens=(?P<capacity_tokens>\d+), "),
    rule("chunked_prefill_size=", r"max_total_num_tokens=.* chunked_prefill_size=(?P<batched>\d+)"),
    rule("max_running_requests=", r"max_total_num_tokens=.* max_running_requests=(?P<max_num_seqs>\d+)"),
    rule("context_len=", r"max_total_num_tokens=.* context_len=(?P<max_seq_len>\d+)"),
)
REFUSALS = (
    refusal(
        "no_cache_memory",
        "Not enough memory",
        r"Not enough memory\. Please try to (?:increase|decrease) --mem-fraction",
    ),
    OUT_OF_MEMORY,
)
STARTED = "The server is fired up"
_STATE = re.compile(r"size: ([\d.]+) ?GB")


class SglangLog:
    """Reads SGLang's words line by line."""

    engine = "sglang"

    def __init__(self) -> None:
        self._words = Sightings(RULES)
        self._error: RefusedStart | None = None
        self._started = False

    @property
    def score(self) -> int:
        """How much of the log are words of SGLang."""
        return self._words.count(without=())

    def read(self, line: str) -> None:
        """Take in a line."""
        self._words.read(line)
        self._started = self._started or STARTED in line
        if self._error is None and not self._started:
            self._error = refused(line, REFUSALS)

    def finish(self) -> MeasuredStart:
        """What the log says."""
        words = self._words
        asked = words.text("asked")
        capacity = [size for each in words.everyone("capacity_tokens") if (size := whole(each.text)) is not None]
        return MeasuredStart(
            engine=self.engine,
            version=None,  # SGLang does not log it
            model=argument(asked, "model_path"),
            arguments=StartArguments(**self._arguments(asked)),
            capacity_tokens=min(capacity, default=None),
            error=self._error,
            notes=self._notes(),
            **figures(
                free_bytes=words.amount("free_bytes"),
                weights_bytes=self._weights(),
                non_torch_bytes=words.amount("non_torch_bytes"),
                cuda_graph_bytes=words.sum("cuda_graph_bytes"),
                kv_cache_bytes=self._cache(),
            ),
        )

    def _arguments(self, asked: str | None) -> dict[str, Any]:
        words = self._words
        no_graphs, no_prefixes = (
            flag(argument(asked, "disable_cuda_graph")),
            flag(argument(asked, "disable_radix_cache")),
        )
        return {
            "tp": whole(argument(asked, "tp_size")),
            "pp": whole(argument(asked, "pp_size")),
            "dp": whole(argument(asked, "dp_size")),
            "dcp": whole(argument(asked, "dcp_size")),
            "max_seq_len": whole(first(words.text("max_seq_len"), argument(asked, "context_length"))),
            "kv_cache_dtype": first(argument(asked, "kv_cache_dtype"), words.text("cache_dtype")),
            "gpu_memory_utilization": ratio(argument(asked, "mem_fraction_static")),
            "max_num_batched_tokens": whole(first(words.text("batched"), argument(asked, "chunked_prefill_size"))),
            "max_num_seqs": whole(first(words.text("max_num_seqs"), argument(asked, "max_running_requests"))),
            "enforce_eager": no_graphs,
            "prefix_caching": None if no_prefixes is None else not no_prefixes,
            "block_tokens": whole(argument(asked, "page_size")),
        }

    def _weights(self) -> Amount | None:
        """As logged; before 0.4.3 the difference of what is free."""
        words = self._words
        before, after = words.amount("free_bytes"), words.amount("left_bytes")
        return words.amount("weights_bytes") or (before.minus(after) if before and after else None)

    def _cache(self) -> Amount | None:
        """All pools together: keys and values or latents, of windowed and of full layers, and the states.

        The pools of a rank are alike on all ranks, so the first rank's are read.
        """
        words = self._words
        pools = [words.sum("resized_bytes") or total(self._pools()), self._states()]
        known = [each for each in pools if each is not None]
        return total(known) or words.least("available_bytes")

    def _pools(self) -> list[Amount]:
        names = ("keys_bytes", "values_bytes", "latents_bytes")
        return [size for name in names if (size := self._words.sum(name)) is not None]

    def _states(self) -> Amount | None:
        found = [text for each in self._words.seen("states") for text in _STATE.findall(each.text)]
        return total([size for text in found if (size := amount(text, GIB)) is not None])

    def _notes(self) -> tuple[str, ...]:
        if self._words.amount("non_torch_bytes") is None:
            return ()
        return ("SGLang logs what starting its communication takes; that is read as non-torch memory",)
