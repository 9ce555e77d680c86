"""``kvplan fit``: will it start on this hardware, what does it hold, where does every byte go."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kvplan.cli.options import (
    AttentionBackendOption,
    BlockSizeOption,
    CalibrationOption,
    CheckOption,
    ConcurrencyOption,
    ContextOption,
    CountOption,
    DcpOption,
    DistributionOption,
    EagerOption,
    EncoderTokensOption,
    EngineOption,
    ExpertParallelOption,
    ExplainOption,
    FittedModelOption,
    FormatOption,
    FromLogOption,
    GpuMemoryOption,
    GpuOption,
    JsonOption,
    KvDtypeOption,
    MaxModelLenOption,
    MaxNumBatchedTokensOption,
    MaxNumSeqsOption,
    MtpOption,
    MultimodalOption,
    NoPrefixCachingOption,
    OptionalDecodeTimeOption,
    OptionalDpOption,
    OptionalPpOption,
    OptionalPrefillRateOption,
    OptionalTpOption,
    OutputFormat,
    PlotOption,
    RateOption,
    SearchOption,
    SkipLayersOption,
    SpeculativeTokensOption,
    TraceOption,
    UsageOption,
    UtilizationOption,
    VerifyOption,
    WeightsOption,
    chosen_format,
)

if TYPE_CHECKING:
    from kvplan.core.engine import Engine
    from kvplan.core.fit import FitResult
    from kvplan.core.measured import MeasuredStart
    from kvplan.core.verification import Verification
    from kvplan.planning.fit_request import FitWords
    from kvplan.planning.suggestion import Suggestion
    from kvplan.planning.workload_fit import WorkloadFit

DOES_NOT_FIT = 3
"""Exit code of ``--check``."""


class Extras(NamedTuple):
    """What is asked besides one placement; ``speeds`` are rate, prefill rate and decode time in words.

    ``verify`` are the options that were given, where the answer is to be checked.
    """

    search: bool
    from_log: str | None
    calibration: str
    trace: str | None
    distribution: str | None
    speeds: tuple[str | None, ...]
    plot: str | None
    verify: dict[str, str] | None


class Answer(NamedTuple):
    """Everything that the report writes."""

    result: "FitResult"
    engine: "Engine"
    suggestions: "tuple[Suggestion, ...]"
    start: "MeasuredStart | None"
    workload: "WorkloadFit | None"
    notes: tuple[str, ...]
    verified: "tuple[Verification, ...]" = ()


class Output(NamedTuple):
    """How the answer is written, and whether a misfit is an error."""

    output: OutputFormat
    explain: bool
    check: bool


def fit(
    model: FittedModelOption = None,
    gpu: GpuOption = None,
    count: CountOption = None,
    gpu_memory: GpuMemoryOption = None,
    engine: EngineOption = "vllm",
    ctx: ContextOption = None,
    concurrency: ConcurrencyOption = 1,
    kv_dtype: KvDtypeOption = "auto",
    kv_dtype_skip_layers: SkipLayersOption = None,
    encoder_tokens: EncoderTokensOption = None,
    mtp: MtpOption = False,
    tp: OptionalTpOption = None,
    pp: OptionalPpOption = None,
    dp: OptionalDpOption = None,
    dcp: DcpOption = 1,
    enable_expert_parallel: ExpertParallelOption = False,
    weights: WeightsOption = None,
    max_model_len: MaxModelLenOption = None,
    max_num_batched_tokens: MaxNumBatchedTokensOption = None,
    max_num_seqs: MaxNumSeqsOption = None,
    gpu_memory_utilization: UtilizationOption = None,
    block_size: BlockSizeOption = None,
    attention_backend: AttentionBackendOption = None,
    no_prefix_caching: NoPrefixCachingOption = False,
    num_speculative_tokens: SpeculativeTokensOption = None,
    enforce_eager: EagerOption = False,
    usage: UsageOption = "serve",
    multimodal: MultimodalOption = False,
    search: SearchOption = False,
    from_log: FromLogOption = None,
    calibration: CalibrationOption = "on",
    trace: TraceOption = None,
    distribution: DistributionOption = None,
    rate: RateOption = "1",
    prefill_rate: OptionalPrefillRateOption = None,
    decode_time: OptionalDecodeTimeOption = None,
    plot: PlotOption = None,
    verify: VerifyOption = False,
    check: CheckOption = False,
    explain: ExplainOption = False,
    output: FormatOption = OutputFormat.table,
    as_json: JsonOption = False,
) -> None:
    """Will it start on this hardware, how much does it hold, and where does every byte go?"""
    given = dict(locals())
    from kvplan.planning.fit_request import FitWords

    stated = {name: value for name, value in given.items() if name in FitWords.__annotations__}
    speeds = (rate, prefill_rate, decode_time)
    asked = _asked(given) if verify else None
    extras = Extras(search, from_log, calibration, trace, distribution, speeds, plot, asked)
    _answer(FitWords(**stated), extras, Output(chosen_format(output, as_json), explain, check))


def _asked(given: dict[str, Any]) -> dict[str, str]:
    """The options in words that ``kvplan verify`` has too."""
    from kvplan.cli.verify import verify
    from kvplan.cli.verify_run import stated_options

    known = {name.replace("_", "-") for name in verify.__annotations__}
    return {name: text for name, text in stated_options(fit, given).items() if name in known}


def _answer(words: "FitWords", extras: Extras, output: Output) -> None:
    if extras.plot not in (None, "-"):
        from kvplan.reports.plot import check_plot_path

        check_plot_path(extras.plot)
    if extras.search:
        from kvplan.cli.fit_search import search
        from kvplan.core.errors import UsageError

        if extras.verify is not None:
            raise UsageError("--verify checks one placement, and --search finds many", "leave one of them out")

        if not search(words, output) and output.check:
            sys.exit(DOES_NOT_FIT)
        return
    answer = _fit(words, extras)
    if extras.verify is not None:
        from kvplan.cli.verify_run import verify_fit

        answer = answer._replace(verified=(verify_fit(answer.result, answer.engine, extras.verify),))
    _write(answer, output)
    if extras.plot is not None:
        from kvplan.cli.fit_extras import draw

        draw(answer.result, answer.engine, extras.plot)
    if answer.verified:
        from kvplan.cli.verify_output import exit_on_mismatch

        exit_on_mismatch(answer.verified)
    if output.check and not answer.result.fits:
        sys.exit(DOES_NOT_FIT)


def _fit(words: "FitWords", extras: Extras) -> Answer:
    from kvplan.cli.fit_extras import known_correction, learn_from, run_workload
    from kvplan.core.errors import UsageError
    from kvplan.engines import get_engine
    from kvplan.planning.fit import fit_model
    from kvplan.planning.fit_request import build_fit_request
    from kvplan.planning.suggest import suggest
    from kvplan.specs.reference import resolve_model

    start: MeasuredStart | None = None
    notes: tuple[str, ...] = ()
    if extras.from_log is not None:
        start, words, notes = _read_log(extras.from_log, words)
    if words.model is None:
        raise UsageError("--model is missing", "name a model, or give --from-log")
    model, engine = resolve_model(words.model), get_engine(words.engine)
    request = build_fit_request(model, words, engine)
    correction = known_correction(engine, request.accelerator.name, extras.calibration)
    result = fit_model(model, request, engine, correction)
    if start is not None and start.error is None:
        learn_from(start, fit_model(model, request, engine))
    workload = None
    if extras.trace is not None or extras.distribution is not None:
        workload = run_workload(result, engine, extras.trace, extras.distribution, extras.speeds)
    suggestions = () if result.fits or start is not None else suggest(result, engine)
    return Answer(result, engine, suggestions, start, workload, (*result.notes, *notes))


def _read_log(path: str, words: "FitWords") -> "tuple[MeasuredStart, FitWords, tuple[str, ...]]":
    from kvplan.planning.from_log import words_from_log
    from kvplan.specs.start_log import read_start_log

    start = read_start_log(Path(path))
    words, notes = words_from_log(start, words)
    return start, words, (*start.notes, *notes)


def _write(answer: Answer, output: Output) -> None:
    if output.output is OutputFormat.json:
        _write_json(answer, output.explain)
        return
    if output.output is OutputFormat.csv:
        from kvplan.reports.fit_json import fit_csv

        print(fit_csv(answer.result))
    elif output.output is OutputFormat.markdown:
        from kvplan.reports.fit_table import fit_markdown

        print(fit_markdown(answer.result, answer.suggestions))
    else:
        _write_table(answer)
    if output.explain:
        from kvplan.reports.fit_rows import fit_lines

        print("\n" + "\n".join(fit_lines(answer.result)))
    if answer.verified and output.output is not OutputFormat.csv:
        from kvplan.cli.verify_output import print_verifications

        print_verifications(answer.verified, output.output is OutputFormat.markdown)
    for note in answer.notes:
        print(f"note: {note}", file=sys.stderr)


def _write_table(answer: Answer) -> None:
    from kvplan.reports.fit_table import print_fit, print_measured, print_workload
    from kvplan.reports.to_table import stdout_console

    console = stdout_console()
    print_fit(answer.result, answer.suggestions, console)
    if answer.start is not None:
        from kvplan.planning.from_log import measured_fields, predicted_fields

        print_measured(measured_fields(answer.start), predicted_fields(answer.result), answer.start, console)
    if answer.workload is not None:
        print_workload(answer.workload, answer.result, console)


def _write_json(answer: Answer, explain: bool) -> None:
    from kvplan.planning.from_log import measured_fields
    from kvplan.reports.fit_json import fit_fields, workload_fields
    from kvplan.reports.fit_rows import fit_lines
    from kvplan.reports.to_json import render_success

    fields = fit_fields(answer.result) | {"suggestions": [entry.fields() for entry in answer.suggestions]}
    if answer.start is not None:
        fields["measured"] = measured_fields(answer.start)
        fields["measured_error"] = answer.start.error.message if answer.start.error else None
    if answer.workload is not None:
        fields["workload"] = workload_fields(answer.workload)
    if explain:
        fields["explanation"] = list(fit_lines(answer.result))
    for found in answer.verified:
        from kvplan.reports.verify_json import verify_fields

        fields["verify"] = verify_fields(found)
    print(render_success("fit", fields, answer.notes))
