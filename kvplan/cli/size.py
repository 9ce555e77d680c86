"""``kvplan size``: how large is the cache.

Annotations are not postponed here: ``quick_start`` and typer read them, and would have to compile each one again.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kvplan.cli.options import (
    AttentionBackendOption,
    BlockSizeOption,
    ConcurrencyOption,
    ContextsOption,
    DcpOption,
    DpOption,
    EncoderTokensOption,
    EnginesOption,
    ExplainOption,
    FormatOption,
    GpuOption,
    JsonOption,
    KvDtypeOption,
    KvMemoryOption,
    MaxModelLenOption,
    MaxNumBatchedTokensOption,
    MaxNumSeqsOption,
    ModelsOption,
    MtpOption,
    NoPrefixCachingOption,
    OutputFormat,
    PolicyOption,
    PpOption,
    SkipLayersOption,
    SpeculativeTokensOption,
    TpOption,
    VerifyOption,
    WeightsOption,
    chosen_format,
)

if TYPE_CHECKING:
    from kvplan.core.model import Model
    from kvplan.core.request import SizeResult
    from kvplan.core.verification import Verification
    from kvplan.planning.compare import EngineComparison, Refusal
    from kvplan.planning.request import RequestWords

DEFAULT_CONTEXTS = (8192, 32768, 131072)
"""Shown side by side when no context is given: a length must be chosen by the user, never assumed."""


def size(
    model: ModelsOption,
    ctx: ContextsOption = None,
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
    engine: EnginesOption = None,
    gpu: GpuOption = None,
    kv_memory: KvMemoryOption = None,
    max_model_len: MaxModelLenOption = None,
    max_num_batched_tokens: MaxNumBatchedTokensOption = None,
    max_num_seqs: MaxNumSeqsOption = None,
    block_size: BlockSizeOption = None,
    attention_backend: AttentionBackendOption = None,
    no_prefix_caching: NoPrefixCachingOption = False,
    num_speculative_tokens: SpeculativeTokensOption = None,
    verify: VerifyOption = False,
    explain: ExplainOption = False,
    output: FormatOption = OutputFormat.table,
    as_json: JsonOption = False,
) -> None:
    """How large is the KV cache of a model at a context: exact bytes, by kind of layer."""
    given = dict(locals())
    engines = engine or ["none"]
    answer = _size_all(model, ctx, read_words(given), engines, weights)
    output = chosen_format(output, as_json)
    if not verify:
        _write(answer, output, explain, engines[0])
        return
    from kvplan.cli.verify_output import exit_on_mismatch
    from kvplan.cli.verify_run import stated_options, verify_requests

    found = verify_requests(answer.results, stated_options(size, given))
    _write(answer, output, explain, engines[0], found)
    exit_on_mismatch(found)


def read_words(given: Mapping[str, Any]) -> "RequestWords":
    """The request that a command's options describe, by their names. Raises UsageError or UnknownNameError."""
    from kvplan.core.parallel import Parallel
    from kvplan.planning.request import RequestWords
    from kvplan.planning.settings import SettingWords, read_settings

    return RequestWords(
        concurrency=given["concurrency"],
        kv_dtype=given["kv_dtype"],
        policy=given["policy"],
        skip_layers=given["kv_dtype_skip_layers"],
        encoder_tokens=given["encoder_tokens"],
        include_draft=given["mtp"],
        parallel=Parallel(tp=given["tp"], pp=given["pp"], dp=given["dp"], dcp=given["dcp"]),
        settings=read_settings(
            SettingWords(
                gpu=given["gpu"],
                kv_memory=given["kv_memory"],
                block_size=given["block_size"],
                attention_backend=given["attention_backend"],
                prefix_caching=False if given["no_prefix_caching"] else None,
                max_model_len=given["max_model_len"],
                max_num_batched_tokens=given["max_num_batched_tokens"],
                max_num_seqs=given["max_num_seqs"],
                num_speculative_tokens=given["num_speculative_tokens"],
            )
        ),
    )


def _size_all(
    references: list[str], contexts: list[str] | None, words: "RequestWords", engines: list[str], weights: str | None
) -> "EngineComparison":
    from kvplan.core.errors import UsageError
    from kvplan.engines import get_engine
    from kvplan.planning.compare import EngineComparison, compare_engines
    from kvplan.planning.request import build_request
    from kvplan.planning.size import choose_weight_format, size_model
    from kvplan.specs.reference import resolve_model

    results: list[SizeResult] = []
    refusals: list[Refusal] = []
    for reference in references:
        model = resolve_model(reference)
        weight_format = choose_weight_format(model, weights)
        for context in _contexts(model, contexts):
            if "all" in engines:
                compared = compare_engines(model, context, words, weight_format)
                results += compared.results
                refusals += compared.refusals
                continue
            for engine in map(get_engine, engines):
                asked = words.for_geometry() if engine.name == "none" and len(engines) > 1 else words
                results.append(size_model(model, build_request(model, context, asked, engine), engine, weight_format))
    if not results:
        raise UsageError("--model and --ctx name nothing to size")
    return EngineComparison(tuple(results), tuple(refusals))


def _contexts(model: "Model", contexts: list[str] | None) -> list[str]:
    if contexts is not None:
        return [piece for text in contexts for piece in _split(text)]
    longest = model.architecture.max_context_tokens or DEFAULT_CONTEXTS[-1]
    return [str(tokens) for tokens in DEFAULT_CONTEXTS if tokens <= longest] or [str(longest)]


def _split(text: str) -> list[str]:
    """Commas separate contexts, except inside a number with thousands separators such as 131,072."""
    pieces = [piece.strip() for piece in text.split(",")]
    thousands = len(pieces) > 1 and all(piece.isdigit() for piece in pieces) and all(len(p) == 3 for p in pieces[1:])
    return [text] if thousands and len(pieces[0]) <= 3 else [piece for piece in pieces if piece]


def _write(
    answer: "EngineComparison",
    output: OutputFormat,
    explain: bool,
    engine: str,
    verified: "Sequence[Verification]" = (),
) -> None:
    if output is OutputFormat.json:
        _write_json(answer, explain, verified)
        return
    if output is OutputFormat.csv:
        from kvplan.reports.to_csv import size_csv

        print(size_csv(answer.results))
    elif output is OutputFormat.markdown:
        from kvplan.reports.to_markdown import size_markdown

        print(size_markdown(answer.results))
    else:
        _write_table(answer, engine)
    if explain:
        _write_explanation(answer)
    if verified and output is not OutputFormat.csv:
        from kvplan.cli.verify_output import print_verifications

        print_verifications(verified, output is OutputFormat.markdown)
    for warning in _warnings(answer):
        print(f"note: {warning}", file=sys.stderr)


def _write_json(answer: "EngineComparison", explain: bool, verified: "Sequence[Verification]") -> None:
    from kvplan.reports.to_json import refusal_fields, render_success, size_fields

    fields = [size_fields(result) for result in answer.results]
    if explain:
        from kvplan.reports.explain import explain_size

        for entry, result in zip(fields, answer.results):
            entry["explanation"] = explain_size(result)
    if verified:
        from kvplan.reports.verify_json import verify_fields

        for entry, found in zip(fields, verified):
            entry["verify"] = verify_fields(found)
    if len(fields) == 1:
        print(render_success("size", fields[0], _warnings(answer)))
        return
    refused = [refusal_fields(refusal) for refusal in answer.refusals]
    print(render_success("size", {"results": fields, "refused": refused}, _warnings(answer)))


def _write_table(answer: "EngineComparison", engine: str) -> None:
    from kvplan.engines import get_engine
    from kvplan.planning.next_steps import next_steps
    from kvplan.reports.to_table import print_comparison, print_size, stdout_console

    if len(answer.results) == 1:
        print_size(answer.results[0], next_steps(answer.results[0], get_engine(engine)), stdout_console())
    else:
        print_comparison(answer, stdout_console())


def _write_explanation(answer: "EngineComparison") -> None:
    from kvplan.reports.explain import explain_engines, explain_size

    if len({result.engine for result in answer.results}) > 1:
        print("\n" + "\n".join(explain_engines(answer.results)))
        return
    for result in answer.results:
        print("\n" + "\n".join(explain_size(result)))


def _warnings(answer: "EngineComparison") -> tuple[str, ...]:
    """The notes of all results; those of one engine among several carry its name."""
    several = len({result.engine for result in answer.results}) > 1
    found = [
        f"{result.engine}: {warning}" if several and warning in result.allocation.notes else warning
        for result in answer.results
        for warning in result.warnings
    ]
    return tuple(dict.fromkeys(found))
