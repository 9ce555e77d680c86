"""``kvplan fit``: will it start on this hardware, what does it hold, where does every byte go."""

import sys
from typing import TYPE_CHECKING, NamedTuple

from kvplan.cli.options import (
    AttentionBackendOption,
    BlockSizeOption,
    CheckOption,
    ConcurrencyOption,
    ContextOption,
    CountOption,
    DcpOption,
    EagerOption,
    EncoderTokensOption,
    EngineOption,
    ExpertParallelOption,
    ExplainOption,
    FormatOption,
    GpuMemoryOption,
    GpuOption,
    JsonOption,
    KvDtypeOption,
    MaxModelLenOption,
    MaxNumBatchedTokensOption,
    MaxNumSeqsOption,
    ModelOption,
    MtpOption,
    NoPrefixCachingOption,
    OptionalDpOption,
    OptionalPpOption,
    OptionalTpOption,
    OutputFormat,
    SkipLayersOption,
    SpeculativeTokensOption,
    TextOnlyOption,
    UsageOption,
    UtilizationOption,
    WeightsOption,
    chosen_format,
)

if TYPE_CHECKING:
    from kvplan.core.fit import FitResult
    from kvplan.planning.fit_request import FitWords
    from kvplan.planning.suggest import Suggestion

DOES_NOT_FIT = 3
"""Exit code of ``--check``."""


class Output(NamedTuple):
    """How the answer is written, and whether a misfit is an error."""

    output: OutputFormat
    explain: bool
    check: bool


def fit(
    model: ModelOption,
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
    text_only: TextOnlyOption = False,
    check: CheckOption = False,
    explain: ExplainOption = False,
    output: FormatOption = OutputFormat.table,
    as_json: JsonOption = False,
) -> None:
    """Will it start on this hardware, how much does it hold, and where does every byte go?"""
    from kvplan.planning.fit_request import FitWords

    stated = {name: value for name, value in locals().items() if name in FitWords.__annotations__}
    _answer(FitWords(**stated), Output(chosen_format(output, as_json), explain, check))


def _answer(words: "FitWords", output: Output) -> None:
    from kvplan.engines import get_engine
    from kvplan.planning.fit import fit_model
    from kvplan.planning.fit_request import build_fit_request
    from kvplan.planning.suggest import suggest
    from kvplan.specs.reference import resolve_model

    model, engine = resolve_model(words.model), get_engine(words.engine)
    result = fit_model(model, build_fit_request(model, words, engine), engine)
    suggestions = () if result.fits else suggest(result, engine)
    _write(result, suggestions, output)
    if output.check and not result.fits:
        sys.exit(DOES_NOT_FIT)


def _write(result: "FitResult", suggestions: "tuple[Suggestion, ...]", output: Output) -> None:
    lines = [suggestion.line for suggestion in suggestions]
    if output.output is OutputFormat.json:
        _write_json(result, suggestions, output.explain)
        return
    if output.output is OutputFormat.csv:
        from kvplan.reports.fit_json import fit_csv

        print(fit_csv(result))
    elif output.output is OutputFormat.markdown:
        from kvplan.reports.fit_table import fit_markdown

        print(fit_markdown(result, lines))
    else:
        from kvplan.reports.fit_table import print_fit
        from kvplan.reports.to_table import stdout_console

        print_fit(result, lines, stdout_console())
    if output.explain:
        from kvplan.reports.fit_rows import fit_lines

        print("\n" + "\n".join(fit_lines(result)))
    for note in result.notes:
        print(f"note: {note}", file=sys.stderr)


def _write_json(result: "FitResult", suggestions: "tuple[Suggestion, ...]", explain: bool) -> None:
    from kvplan.reports.fit_json import fit_fields
    from kvplan.reports.fit_rows import fit_lines
    from kvplan.reports.to_json import render_success

    fields = fit_fields(result) | {"suggestions": [suggestion.fields() for suggestion in suggestions]}
    if explain:
        fields["explanation"] = list(fit_lines(result))
    print(render_success("fit", fields, result.notes))
