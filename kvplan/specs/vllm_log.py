"""vLLM's start-up log, from 0.6 to 0.33; the words changed often, so most figures have several rules."""

from __future__ import annotations

from typing import Any

from kvplan.core.measured import FIGURES, MeasuredStart, RefusedStart, StartArguments
from kvplan.specs.log_lines import (
    OUT_OF_MEMORY,
    Amount,
    Sightings,
    argument,
    figures,
    first,
    flag,
    number,
    rank_of,
    ratio,
    refusal,
    refused,
    rule,
    whole,
)

RULES = (
    # who starts, and with what
    rule(
        "LLM engine", r"Initializing an? (?:V\d )?LLM engine (?:\(v(?P<version>[^)]+)\) )?with config: (?P<config>.*)"
    ),
    rule("API server version", r"vLLM API server version (?P<version>\d\S*)"),
    rule("vLLM server version", r"vLLM server version (?P<version>\d[^\s,]*)(?:, serving model (?P<model>\S+))?"),
    rule("version", r"█\s+version (?P<version>\d\S*)"),  # beside the logo, from 0.17
    rule("model", r"█\s+model\s+(?P<model>\S+)"),
    rule("non-default args", r"non-default args: (?P<asked>\{.*)"),
    rule("Namespace(", r"args: (?P<asked>Namespace\(.*)"),  # before 0.9
    rule("max_num_batched_tokens", r"Chunked prefill is enabled with max_num_batched_tokens=(?P<batched>\d+)"),
    rule("max_num_batched_tokens", r"Defaulting max_num_batched_tokens to (?P<batched>\d+)"),
    rule("max_num_seqs", r"Defaulting max_num_seqs to (?P<max_num_seqs>\d+)"),
    rule("attention block size", r"Setting attention block size to (?P<block_tokens>\d+) tokens"),
    rule("cache block size", r"Setting kv cache block size to (?P<block_tokens>\d+)"),
    # the device
    rule("Initial free memory", r"Initial free memory:? (?P<free_bytes>{amount}) GiB"),
    rule("Free memory on device", r"\((?P<free_bytes>{amount})/(?P<total_bytes>{amount}) GiB\) on startup"),
    rule("total_gpu_memory", r"total_gpu_memory(?: \(|=|\s+)(?P<total_bytes>{amount})GiB"),
    rule("Requested memory", r"Requested memory: (?P<utilization>[\d.]+) \(util\), (?P<requested_bytes>{amount}) GiB"),
    rule("Desired GPU memory", r"utilization is \((?P<utilization>[\d.]+), (?P<requested_bytes>{amount}) GiB\)"),
    rule("desired GPU memory", r"utilization \((?P<utilization>[\d.]+), (?P<requested_bytes>{amount}) GiB\)"),
    rule("instance can use", r"gpu_memory_utilization \((?P<utilization>[\d.]+)\) = (?P<requested_bytes>{amount})GiB"),
    rule("instance can use", r"instance can use\s+(?P<requested_bytes>{amount})GiB"),
    rule("gpu_memory_utilization", r"worker\S*\] gpu_memory_utilization\s+(?P<utilization>[\d.]+)"),
    rule("gpu_memory_utilization", r"kv_cache_size=\S+ gpu_memory_utilization=(?P<utilization>[\d.]+)"),
    rule("gpu-memory-utilization", r"current --gpu-memory-utilization=(?P<utilization>[\d.]+)"),
    # what is not the cache
    rule("Model loading took", r"Model loading took (?P<weights_bytes>{amount}) Gi?B"),
    rule("model weights took", r"Loading model weights took (?P<weights_bytes>{amount}) GB"),
    rule("model weights take", r"model weights take\s+(?P<weights_bytes>{amount})GiB"),
    rule("weights memory", r"weights memory: (?P<weights_bytes>{amount})GiB"),
    rule("for weight", r"usage is (?P<weights_bytes>{amount}) GiB for weight"),
    rule("peak memory increase", r"torch peak memory increase: (?P<activation_bytes>{amount})GiB"),
    rule("activation peak memory", r"PyTorch activation peak memory(?: takes)?\s+(?P<activation_bytes>{amount})GiB"),
    rule("for peak activation", r"(?P<activation_bytes>{amount}) GiB for peak activation"),
    rule("for peak activation", r"consumed memory .*?(?P<peak_bytes>{amount}) GiB for peak activation"),  # 0.33
    rule("peak_torch_memory", r"results: .*peak_torch_memory=(?P<peak_torch_bytes>{amount})GiB"),  # 0.6.4
    rule("non-torch forward", r"non-torch forward increase memory: (?P<non_torch_bytes>{amount})GiB"),
    rule("non_torch_memory", r"non_torch_memory takes (?P<non_torch_bytes>{amount})GiB"),
    rule("non_torch_memory", r"non_torch_memory\s+(?P<non_torch_bytes>{amount})GiB"),
    rule("non_torch_memory", r"results: .*non_torch_memory=(?P<non_torch_bytes>{amount})GiB"),
    rule("non-torch memory", r"(?P<non_torch_bytes>{amount}) GiB for non-torch memory"),
    rule("total consumed", r"total consumed \(from mem_get_info\): (?P<consumed_bytes>{amount})GiB"),  # 0.33
    rule("consumed memory", r"usage is (?P<consumed_bytes>{amount}) GiB for consumed memory"),
    rule("non KV cache memory", r"Total non KV cache memory: (?P<outside_bytes>{amount})GiB"),
    rule("Estimated CUDA graph", r"Estimated CUDA graph memory: (?P<cuda_graph_estimate_bytes>{amount}) GiB"),
    rule("Graph capturing", r"Graph capturing finished in .* took (?P<cuda_graph_bytes>{amount}) GiB"),
    rule("CUDA graph pool", r"CUDA graph pool memory: (?P<cuda_graph_bytes>{amount}) GiB \(actual\)"),
    rule("CUDAGraph memory", r"(?P<cuda_graph_bytes>{amount}) GiB for CUDAGraph memory"),
    rule("graph memory profiling", r"CUDA graph memory profiling is (?P<estimate_applied>enabled|disabled)"),
    # the cache
    rule("cache memory reduced", r"KV cache memory reduced to (?P<kv_cache_bytes>{amount}) GiB"),
    rule("Available KV cache", r"Available KV cache memory: (?P<kv_cache_bytes>{amount}) GiB"),
    rule("reserved for KV", r"memory reserved for KV Cache is (?P<kv_cache_bytes>{amount})GiB"),
    rule("kv_cache_size", r"results: .*kv_cache_size=(?P<kv_cache_bytes>{amount})GiB"),
    rule("available_kv_cache", r"available_kv_cache_memory\s+(?P<kv_cache_bytes>{amount})GiB"),
    rule("memory for KV", r"reserved (?P<kv_cache_bytes>{amount}) GiB memory for KV Cache as specified"),
    rule("for KV cache on node", r"\((?P<kv_cache_bytes>{amount})/(?P<total_bytes>{amount})\) GiB for KV cache"),  # CPU
    rule("cache memory in use", r"Current kv cache memory in use is (?P<kv_cache_bytes>{amount}) GiB"),
    rule("KV cache size", r"KV cache size: (?P<capacity_tokens>[\d,]+) tokens"),
    rule("Maximum concurrency", r"concurrency for (?P<longest>[\d,]+) tokens per request: (?P<concurrency>[\d.]+)x"),
    rule("blocks: ", r"(?:GPU|CUDA|cuda|rocm|xpu|hpu|cpu|tpu|neuron) blocks: (?P<num_blocks>\d+)"),
)
"""The best words of a figure first."""

ARGUMENTS = ("config", "asked", "version", "model", "batched", "max_num_seqs", "block_tokens", "utilization")
"""Fields that a second start in the same log replaces, where all others are forgotten."""

REFUSALS = (
    refusal(
        "kv_cache",
        "is needed, which is larger",
        r"To serve at least one request with the models?'s max seq len \((?P<max_seq_len>\d+)\), "
        r"\(?(?P<needed_bytes>{amount}) (?P<unit>GiB|GB) KV cache is needed, which is larger than the available "
        r"KV cache memory \((?P<available_bytes>{amount}) Gi?B\)\.?"
        r"(?: Based on the available memory, the estimated maximum model length is (?P<estimated>\d+))?",
    ),
    refusal(
        "kv_cache",
        "that can be stored in KV cache",
        r"The model's max seq len \((?P<max_seq_len>\d+)\) is larger than the maximum number of tokens that can be "
        r"stored in KV cache \((?P<estimated>\d+)\)",
    ),
    refusal("no_cache_memory", "No available memory", r"No available memory for the cache blocks"),
    refusal(
        "free_memory",
        "desired GPU memory",
        r"Free memory on device [^(]*\([\d./]+ GiB\) on startup is less than desired GPU memory utilization \([^)]+\)",
    ),
    OUT_OF_MEMORY,
)
STARTED = "Application startup complete"
DEFAULT_BLOCK_TOKENS = 16
"""Of vLLM before 0.8 on CUDA (``CacheConfig.block_size``)."""


class VllmLog:
    """Reads vLLM's words line by line; the last start in a log is the one that counts."""

    engine = "vllm"

    def __init__(self) -> None:
        self._words = Sightings(RULES)
        self._error: RefusedStart | None = None
        self._started = False
        self._restarts = 0

    @property
    def score(self) -> int:
        """How much of the log are words of vLLM."""
        return self._words.count(without=("asked", "model"))

    def read(self, line: str) -> None:
        """Take in a line."""
        if (" LLM engine " in line or "API server version" in line) and self._measured() and not rank_of(line):
            self._words.forget(set(self._words.fields()) - set(ARGUMENTS))
            self._error, self._started, self._restarts = None, False, self._restarts + 1
        self._words.read(line)
        self._started = self._started or STARTED in line
        if self._error is None and not self._started:
            self._error = refused(line, REFUSALS)

    def finish(self) -> MeasuredStart:
        """What the log says."""
        words = self._words
        config, asked = words.text("config"), words.text("asked")
        arguments = self._arguments(config, asked)
        capacity, block_tokens, notes = self._capacity(arguments)
        return MeasuredStart(
            engine=self.engine,
            version=words.text("version"),
            model=first(argument(config, "model"), argument(asked, "model"), words.text("model")),
            arguments=StartArguments(**arguments | {"block_tokens": block_tokens}),
            num_blocks=words.number("num_blocks"),
            capacity_tokens=capacity,
            max_concurrency=number(words.text("concurrency")),
            error=self._error,
            notes=(*self._notes(), *notes),
            **figures(**self._figures(eager=arguments["enforce_eager"] is True)),
        )

    def _measured(self) -> bool:
        return self._error is not None or self._words.amount("weights_bytes") is not None

    def _arguments(self, config: str | None, asked: str | None) -> dict[str, Any]:
        def said(name: str) -> str | None:
            return first(argument(config, name), argument(asked, name))

        words = self._words
        return {
            "tp": whole(said("tensor_parallel_size")),
            "pp": whole(said("pipeline_parallel_size")),
            "dp": whole(said("data_parallel_size")),
            "dcp": whole(said("decode_context_parallel_size")),
            "max_seq_len": whole(first(words.text("longest"), said("max_seq_len"), said("max_model_len"))),
            "kv_cache_dtype": said("kv_cache_dtype"),
            "gpu_memory_utilization": ratio(first(words.text("utilization"), said("gpu_memory_utilization"))),
            "max_num_batched_tokens": whole(first(words.text("batched"), said("max_num_batched_tokens"))),
            "max_num_seqs": whole(first(words.text("max_num_seqs"), said("max_num_seqs"))),
            "enforce_eager": flag(said("enforce_eager")),
            "prefix_caching": flag(said("enable_prefix_caching")),
            "block_tokens": whole(first(words.text("block_tokens"), said("block_size"))),
        }

    def _figures(self, eager: bool) -> dict[str, Amount | None]:
        words = self._words
        found = {name: words.amount(name) for name in FIGURES}
        if eager:
            found["cuda_graph_bytes"] = None  # the last line says 0.0, which measures no graphs
        found["kv_cache_bytes"] = words.least("kv_cache_bytes")
        weights = found["weights_bytes"]
        consumed = words.amount("consumed_bytes")
        if found["non_torch_bytes"] is None and consumed and weights:
            found["non_torch_bytes"] = consumed.minus(weights)  # 0.33 measures the two together
        if consumed:
            found["activation_bytes"] = self._activation(consumed) or found["activation_bytes"]
        peak = words.amount("peak_torch_bytes")
        if found["activation_bytes"] is None and peak and weights:
            found["activation_bytes"] = peak.minus(weights)  # 0.6.4 logs the peak with the weights in it
        return found

    def _activation(self, consumed: Amount) -> Amount | None:
        """The head room that 0.33 adds to what is consumed, without the graphs' estimate that its last line includes.

        ``gpu_worker.py`` ``determine_available_memory``: ``peak_activation_memory = transient_peak_headroom +
        cudagraph_memory_estimate_applied``.
        """
        words = self._words
        if outside := words.amount("outside_bytes"):
            return outside.minus(consumed)
        peak, estimate = words.amount("peak_bytes"), words.amount("cuda_graph_estimate_bytes")
        if peak is None or estimate is None or words.text("estimate_applied") == "disabled":
            return peak
        return peak.minus(estimate)

    def _capacity(self, arguments: dict[str, Any]) -> tuple[int | None, int | None, tuple[str, ...]]:
        """Capacity in tokens, the block's tokens, and how they are known where the log has blocks only."""
        words, block_tokens = self._words, arguments["block_tokens"]
        tokens = [size for each in words.everyone("capacity_tokens") if (size := whole(each.text)) is not None]
        blocks = words.number("num_blocks")
        if tokens or blocks is None:
            return min(tokens, default=None), block_tokens, ()
        notes: tuple[str, ...] = ()
        if block_tokens is None:
            concurrency, longest = number(words.text("concurrency")), arguments["max_seq_len"]
            implied = round(concurrency * longest / blocks) if concurrency and longest and blocks else None
            block_tokens = implied or DEFAULT_BLOCK_TOKENS
            known = "implied by the logged concurrency" if implied else "vLLM's default; the log does not say it"
            notes = (f"the log counts blocks; {block_tokens} tokens in each ({known})",)
        return blocks * block_tokens, block_tokens, notes

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if self._restarts:
            notes.append(f"the log holds {self._restarts + 1} starts; the last is read")
        if self._words.amount("weights_bytes") and self._figures(eager=False)["activation_bytes"] is None:
            notes.append("activation and non-torch memory are logged with VLLM_LOGGING_LEVEL=DEBUG only")
        return tuple(notes)
