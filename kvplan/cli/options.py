"""Options that several commands share, each defined once.

A command declares its options as ``Annotated[type, option("--name", "-n", help="…")]``. They are read twice: by
``quick_start`` without importing typer, and by ``app``, which turns them into typer's.
"""

from enum import Enum
from typing import Annotated, NamedTuple


class Option(NamedTuple):
    """The spellings of a command-line option, and what it is for."""

    flags: tuple[str, ...]
    help: str


def option(*flags: str, help: str) -> Option:
    """An option with its spellings, the long one first."""
    return Option(flags, help)


class OutputFormat(str, Enum):
    """How an answer is written to stdout."""

    table = "table"
    json = "json"
    csv = "csv"
    markdown = "markdown"


ModelsOption = Annotated[
    list[str], option("--model", "-m", help="Name, spec, config.json, folder, .gguf or Hub id; repeat to compare.")
]
ContextsOption = Annotated[
    list[str] | None, option("--ctx", "-c", help="Context in tokens: 8192, 32k, 1M; repeat or separate by commas.")
]
ConcurrencyOption = Annotated[int, option("--concurrency", "-n", help="Sequences held at the same time.")]
KvDtypeOption = Annotated[str, option("--kv-dtype", "-d", help="Cache format, or K/V as in q8_0/q4_0.")]
SkipLayersOption = Annotated[
    str | None, option("--kv-dtype-skip-layers", help="Layers left in the model's dtype: 0,1,-1 or sliding_window.")
]
PolicyOption = Annotated[
    str, option("--policy", "-p", help="Retention: none, window:4096,sinks=4, h2o:keep=0.2, tiers:…")
]
EncoderTokensOption = Annotated[
    str | None, option("--encoder-tokens", help="Encoder length of models with cross-attention.")
]
MtpOption = Annotated[bool, option("--mtp", help="Count the draft (multi-token prediction) layers too.")]
TpOption = Annotated[int, option("--tp", help="Tensor-parallel size.")]
PpOption = Annotated[int, option("--pp", help="Pipeline-parallel size.")]
DpOption = Annotated[int, option("--dp", help="Data-parallel replicas.")]
DcpOption = Annotated[int, option("--dcp", help="Decode-context-parallel size, inside tp.")]
OptionalTpOption = Annotated[int | None, option("--tp", help="Tensor-parallel size.")]
OptionalPpOption = Annotated[int | None, option("--pp", help="Pipeline-parallel size.")]
OptionalDpOption = Annotated[int | None, option("--dp", help="Data-parallel replicas.")]
WeightsOption = Annotated[str | None, option("--weights", help="Weight format: bf16, fp8, int4-awq, gguf-q4_k_m, …")]
EnginesOption = Annotated[
    list[str] | None,
    option("--engine", "-e", help="Engine whose allocation is counted: vllm, vllm@0.25, …, all; repeat to compare."),
]
GpuOption = Annotated[
    str | None, option("--gpu", "-g", help="Device that decides kernels and defaults: h100, b200, auto, …")
]
KvMemoryOption = Annotated[
    str | None, option("--kv-memory", help="Memory of a rank's cache, such as 40GiB: shows what it holds.")
]
MaxModelLenOption = Annotated[
    str | None, option("--max-model-len", help="Longest request that the engine is started for; else the context.")
]
MaxNumBatchedTokensOption = Annotated[
    str | None, option("--max-num-batched-tokens", help="Tokens that the engine computes in one step.")
]
MaxNumSeqsOption = Annotated[str | None, option("--max-num-seqs", help="Requests that the engine runs at once.")]
BlockSizeOption = Annotated[str | None, option("--block-size", help="Tokens in a block (a page).")]
AttentionBackendOption = Annotated[
    str | None, option("--attention-backend", help="The engine's attention kernels, such as FLASHINFER.")
]
NoPrefixCachingOption = Annotated[
    bool, option("--no-prefix-caching", help="The engine keeps nothing for shared prefixes.")
]
SpeculativeTokensOption = Annotated[
    str | None, option("--num-speculative-tokens", help="Tokens drafted in each step (with --mtp).")
]
FittedModelOption = Annotated[
    str | None, option("--model", "-m", help="Name, spec, config.json, folder, .gguf or Hub id.")
]
EngineOption = Annotated[str, option("--engine", "-e", help="Engine that is started: vllm, vllm@0.25, sglang, …")]
ContextOption = Annotated[str | None, option("--ctx", "-c", help="Context of a request in tokens: 8192, 32k, 1M.")]
CountOption = Annotated[int | None, option("--count", help="Devices, as 8xh100 says too; split by --tp unless told.")]
GpuMemoryOption = Annotated[
    str | None, option("--gpu-memory", help="Memory of a device of your own, or instead of --gpu's: 80GiB.")
]
UtilizationOption = Annotated[
    str | None, option("--gpu-memory-utilization", help="The engine's own share of the memory: 0.92, 90%.")
]
ExpertParallelOption = Annotated[
    bool, option("--enable-expert-parallel", help="Whole experts on each rank, in place of a slice of each.")
]
EagerOption = Annotated[bool, option("--enforce-eager", help="No compilation and no CUDA graphs.")]
UsageOption = Annotated[
    str, option("--usage", help="serve, or llm: vLLM's offline class, whose default batches are larger.")
]
MultimodalOption = Annotated[
    bool, option("--multimodal", help="Load vision and audio towers too; else only text is served.")
]
SearchOption = Annotated[bool, option("--search", help="The smallest hardware that fits, over all known devices.")]
FromLogOption = Annotated[
    str | None, option("--from-log", help="An engine's start-up log: measured beside predicted, learnt for next time.")
]
CalibrationOption = Annotated[str, option("--calibration", help="on, or off: what earlier logs of this device taught.")]
TraceOption = Annotated[
    str | None, option("--trace", help="Requests to replay: JSONL, or a public trace (Azure, BurstGPT, Mooncake).")
]
DistributionOption = Annotated[
    str | None, option("--distribution", help="Requests to make up: prompt=1024:0.8,output=256:1.0 (median:sigma).")
]
RateOption = Annotated[str, option("--rate", help="Requests a second, with --distribution.")]
OptionalPrefillRateOption = Annotated[
    str | None, option("--prefill-rate", help="Prompt tokens a replica computes in a second.")
]
OptionalDecodeTimeOption = Annotated[str | None, option("--decode-time", help="Seconds of one decode step.")]
PlotOption = Annotated[
    str | None, option("--plot", help="Draw memory against context and the budget: FILE.svg, .png, .html, or -.")
]
TaskOption = Annotated[str, option("--task", help="What is served: chat, reasoning, retrieval, code or batch.")]
QualityOption = Annotated[str, option("--quality", help="How much quality may cost: strict, normal or relaxed.")]
OutputTokensOption = Annotated[
    str | None, option("--output-tokens", help="Tokens of the context that are generated; else at most 1024.")
]
SharedPrefixesOption = Annotated[
    bool, option("--shared-prefixes", help="Requests repeat prefixes: turns of a chat, agents, one system prompt.")
]
EmitOption = Annotated[
    str | None, option("--emit", help="Print the launch line alone: vllm, sglang, trtllm, llamacpp, ollama, k8s, …")
]
CheckOption = Annotated[bool, option("--check", help="Exit with 3 when it does not fit: a guard before a download.")]
FormatOption = Annotated[
    OutputFormat, option("--format", "-f", help="How to write the answer: table, json, csv or markdown.")
]
JsonOption = Annotated[bool, option("--json", help="Short for --format json.")]
ExplainOption = Annotated[bool, option("--explain", help="Write out the equations and their sources.")]
DeviceOption = Annotated[str, option("--device", help="Where checks run: auto, cuda, cuda:1, cpu or mps.")]
FrontierOption = Annotated[
    bool, option("--frontier", help="Allocate the most that fits beside the weights, and one block too many.")
]
AgainstOption = Annotated[
    str | None,
    option("--against", help="Start real engines and ask them: vllm, llamacpp, sglang, or several by commas."),
]
EnginePythonOption = Annotated[
    str | None, option("--engine-python", help="The Python that has the engine, if it is not this one.")
]
ReportOption = Annotated[str | None, option("--report", help="Write a report for a ticket: FILE.json or FILE.md.")]
DiffOption = Annotated[
    list[str] | None, option("--diff", help="What changed since an earlier report; given twice, between the two.")
]
VerifyOption = Annotated[bool, option("--verify", help="Check the answer on this machine: kvplan verify for it.")]
EvaluatedModelOption = Annotated[
    str | None, option("--model", "-m", help="Folder of a transformers model, or its Hub id.")
]
MethodsOption = Annotated[
    str | None,
    option("--methods", help="Formats, policies or both: int8,int4,window:1024,sinks=4,int8+snapkv:keep=0.5."),
]
TasksOption = Annotated[str, option("--tasks", help="perplexity, needle, qa, latency, memory; several by commas.")]
TextOption = Annotated[str | None, option("--text", help="Text whose perplexity is measured; else text of its own.")]
QuestionsOption = Annotated[
    str | None,
    option("--questions", help="Questions as JSONL: question and answer; context and choices where there are some."),
]
DtypeOption = Annotated[str, option("--dtype", help="What the model computes in: auto, float32, bfloat16, float16.")]
DemoOption = Annotated[bool, option("--demo", help="Evaluate the small model that comes with kvplan.")]
ThresholdsOption = Annotated[str | None, option("--thresholds", help="Gates of your own: FILE.yaml.")]
ResultsOption = Annotated[
    str | None, option("--results", help="Keep every sample in FILE.jsonl: a run that was stopped goes on from there.")
]
EvaluationPlotOption = Annotated[
    str | None, option("--plot", help="Draw needles and quality against memory: FILE.svg, .png, .html, or -.")
]
PressOption = Annotated[
    list[str] | None, option("--press", help="A kvpress method beside the others: SnapKVPress:0.5; repeat for more.")
]
SeedOption = Annotated[int, option("--seed", help="Decides texts, needles and questions.")]
SamplesOption = Annotated[
    str | None,
    option("--samples", help="Samples of each task, or perplexity=64,needle=150: more narrow the intervals."),
]
QuestionAwareOption = Annotated[
    str, option("--question-aware", help="on: tokens are dropped after the question was read; off: before.")
]
EvidenceOption = Annotated[
    str | None, option("--evidence", help="Measured quality of this model, from kvplan evaluate --json.")
]
EvidenceModelOption = Annotated[
    str | None, option("--evidence-model", help="Accept evidence of this other model, as --evidence names it.")
]


def chosen_format(output: OutputFormat, as_json: bool) -> OutputFormat:
    """``--json`` wins over ``--format``."""
    return OutputFormat.json if as_json else output
