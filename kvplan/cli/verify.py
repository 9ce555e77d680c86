"""``kvplan verify``: predicted against measured, on the device at hand."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvplan.cli.options import (
    AgainstOption,
    AttentionBackendOption,
    BlockSizeOption,
    ConcurrencyOption,
    ContextOption,
    DcpOption,
    DeviceOption,
    DiffOption,
    DpOption,
    EncoderTokensOption,
    EngineOption,
    EnginePythonOption,
    ExplainOption,
    FittedModelOption,
    FormatOption,
    FrontierOption,
    GpuOption,
    JsonOption,
    KvDtypeOption,
    KvMemoryOption,
    MaxModelLenOption,
    MaxNumBatchedTokensOption,
    MaxNumSeqsOption,
    MtpOption,
    NoPrefixCachingOption,
    OutputFormat,
    PolicyOption,
    PpOption,
    ReportOption,
    SkipLayersOption,
    SpeculativeTokensOption,
    TpOption,
    WeightsOption,
    chosen_format,
)
from kvplan.cli.verify_output import Output, answer, report_path

if TYPE_CHECKING:
    from kvplan.core.fit import FitResult
    from kvplan.core.request import SizeResult
    from kvplan.core.verification import Verification
    from kvplan.planning.verify_diff import VerificationDiff
    from kvplan.runtime.verify.run import Case

DEFAULT_CONTEXT_TOKENS = 8192
"""Enough to fill most windows, and little enough for any device; a model's own maximum where that is less."""

FRONTIER_ENGINE = "vllm"
"""Whose budget is held beside the cache where no engine is named: plain geometry has none."""


def verify(
    model: FittedModelOption = None,
    device: DeviceOption = "auto",
    ctx: ContextOption = None,
    concurrency: ConcurrencyOption = 1,
    kv_dtype: KvDtypeOption = "auto",
    kv_dtype_skip_layers: SkipLayersOption = None,
    policy: PolicyOption = "none",
    encoder_tokens: EncoderTokensOption = None,
    mtp: MtpOption = False,
    tp: TpOption = 1,
    pp: PpOption = 1,
    dp: DpOption = 1,
    dcp: DcpOption = 1,
    weights: WeightsOption = None,
    engine: EngineOption = "none",
    gpu: GpuOption = None,
    kv_memory: KvMemoryOption = None,
    max_model_len: MaxModelLenOption = None,
    max_num_batched_tokens: MaxNumBatchedTokensOption = None,
    max_num_seqs: MaxNumSeqsOption = None,
    block_size: BlockSizeOption = None,
    attention_backend: AttentionBackendOption = None,
    no_prefix_caching: NoPrefixCachingOption = False,
    num_speculative_tokens: SpeculativeTokensOption = None,
    frontier: FrontierOption = False,
    against: AgainstOption = None,
    engine_python: EnginePythonOption = None,
    report: ReportOption = None,
    diff: DiffOption = None,
    explain: ExplainOption = False,
    output: FormatOption = OutputFormat.table,
    as_json: JsonOption = False,
) -> None:
    """Are the predicted bytes true? Real tensors, real model code and real engines. Alone: a standard set."""
    words = dict(locals())
    written = Output(chosen_format(output, as_json), explain, report_path(report))
    earlier = [_read_report(path) for path in diff or ()]
    if len(earlier) > 1:
        _write_diff_of_reports(earlier, diff or [], written)
        return
    if earlier and model is None:
        words = _words_of(earlier[0], words)
    found = _verify(words)
    if found is not None:
        answer(found, _difference(earlier, diff, found), written)


def _verify(words: dict[str, Any]) -> "Verification | None":
    """What all processes found, on the one that reports; None on the others."""
    from kvplan.cli.verify_run import require_torch, stated_options, verify_on_device

    require_torch()
    from kvplan.runtime.verify.ranks import launched_rank

    request = stated_options(verify, words)
    rank = launched_rank()
    if rank is not None:
        from kvplan.cli.verify_run import verify_rank

        own = {**words, "device": rank.device_word(words["device"])}
        return verify_rank(rank, lambda: _case(own), request, words["device"])
    if words["model"] is None:
        from kvplan.runtime.verify.standard import standard_cases

        _refuse_without_model(request)
        return verify_on_device(standard_cases(), request, words["device"])
    return verify_on_device([_case(words)], request, words["device"])


def _refuse_without_model(request: dict[str, str]) -> None:
    """Options of one request say nothing of a set. Raises UsageError."""
    from kvplan.core.errors import UsageError

    if given := [name for name in request if name != "device"]:
        raise UsageError(f"--{given[0]} says nothing without --model", "without options, a standard set is checked")


def _case(words: dict[str, Any]) -> "Case":
    """The one request; what was asked for by name is not left out silently."""
    from kvplan.core.errors import UsageError
    from kvplan.runtime.verify.run import USUAL_GROUPS, Case

    if words["engine_python"] and not words["against"]:
        raise UsageError("--engine-python says nothing without --against", "--against vllm, for example")
    asked = {"frontier": words["frontier"], "engine": words["against"]}
    extra = tuple(group for group, wanted in asked.items() if wanted)
    return Case(
        result=_size(words),
        groups=(*USUAL_GROUPS, *extra),
        demanded=frozenset(("allocation", *extra)),
        fit=_fit(words) if words["frontier"] else None,
        against=tuple(filter(None, (words["against"] or "").split(","))),
        engine_python=words["engine_python"],
    )


def _size(words: dict[str, Any]) -> "SizeResult":
    """The prediction. Raises KvplanError for what ``kvplan size`` refuses."""
    from kvplan.cli.size import read_words
    from kvplan.core.errors import UsageError
    from kvplan.engines import get_engine
    from kvplan.planning.request import build_request
    from kvplan.planning.size import choose_weight_format, size_model
    from kvplan.specs.reference import resolve_model

    if words["model"] is None:
        raise UsageError("--model is missing", "several processes check one model: name it")
    model, engine = resolve_model(words["model"]), get_engine(words["engine"])
    longest = model.architecture.max_context_tokens or DEFAULT_CONTEXT_TOKENS
    context = words["ctx"] or min(DEFAULT_CONTEXT_TOKENS, longest)
    request = build_request(model, context, read_words(words), engine)
    return size_model(model, request, engine, choose_weight_format(model, words["weights"]))


def _fit(words: dict[str, Any]) -> "FitResult":
    """The placement on the device at hand, or on the one that is named. Raises KvplanError as ``kvplan fit`` does."""
    from kvplan.core.errors import UsageError
    from kvplan.engines import get_engine
    from kvplan.planning.fit import fit_model
    from kvplan.planning.fit_request import FitWords, build_fit_request
    from kvplan.runtime.verify.device import choose_device, total_and_free
    from kvplan.specs.reference import resolve_model

    if words["policy"] != "none":
        raise UsageError("the engines that kvplan fit knows drop no tokens", "leave --policy or --frontier out")
    device = choose_device(words["device"])
    asked = {name: value for name, value in words.items() if name in FitWords.__annotations__}
    asked["engine"] = FRONTIER_ENGINE if words["engine"] == "none" else words["engine"]
    if words["gpu"] is None and device.type != "cuda":
        asked["gpu_memory"] = str(total_and_free(device)[0])
    model, engine = resolve_model(words["model"]), get_engine(asked["engine"])
    return fit_model(model, build_fit_request(model, FitWords(**asked), engine), engine)


def _read_report(path: str) -> "Verification":
    from kvplan.specs.verify_report import read_verification

    return read_verification(Path(path).expanduser())


def _words_of(earlier: "Verification", words: dict[str, Any]) -> dict[str, Any]:
    """The words of this command with the request of an earlier report."""
    from kvplan.cli.quick_start import quick_arguments
    from kvplan.core.errors import UsageError

    spelled = [piece for name, value in earlier.request.items() for piece in (f"--{name}", value) if piece]
    asked = quick_arguments(verify, spelled)
    if asked is None:
        raise UsageError("the report's request is none of this release", "name the model again, with --model")
    return {**words, **asked}


def _difference(
    earlier: "list[Verification]", paths: list[str] | None, found: "Verification"
) -> "VerificationDiff | None":
    from kvplan.planning.verify_diff import diff_verifications

    return diff_verifications(earlier[0], found, paths[0]) if earlier and paths else None


def _write_diff_of_reports(earlier: "list[Verification]", paths: list[str], written: Output) -> None:
    """Two reports side by side; nothing runs."""
    from kvplan.core.errors import UsageError

    if len(earlier) > 2:
        raise UsageError(f"--diff compares two reports, not {len(earlier)}")
    answer(earlier[1], _difference(earlier[:1], paths, earlier[1]), written)
