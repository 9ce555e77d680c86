"""``kvplan size``: how large is the cache.

Annotations are not postponed here: ``quick_start`` and typer read them, and would have to compile each one again.
"""

import sys
from typing import TYPE_CHECKING, Annotated

from kvplan.cli.options import ExplainOption, FormatOption, JsonOption, OutputFormat, chosen_format, option

if TYPE_CHECKING:
    from kvplan.core.model import Model
    from kvplan.core.request import SizeResult
    from kvplan.planning.request import RequestWords

DEFAULT_CONTEXTS = (8192, 32768, 131072)
"""Shown side by side when no context is given: a length must be chosen by the user, never assumed."""


def size(
    model: Annotated[
        list[str],
        option("--model", "-m", help="Name, spec, config.json, folder, .gguf or Hub id; repeat to compare."),
    ],
    ctx: Annotated[
        list[str] | None,
        option("--ctx", "-c", help="Context in tokens: 8192, 32k, 1M; repeat or separate by commas."),
    ] = None,
    concurrency: Annotated[int, option("--concurrency", "-n", help="Sequences held at the same time.")] = 1,
    kv_dtype: Annotated[str, option("--kv-dtype", "-d", help="Cache format, or K/V as in q8_0/q4_0.")] = "auto",
    kv_dtype_skip_layers: Annotated[
        str | None,
        option("--kv-dtype-skip-layers", help="Layers left in the model's dtype: 0,1,-1 or sliding_window."),
    ] = None,
    policy: Annotated[
        str, option("--policy", "-p", help="Retention: none, window:4096,sinks=4, h2o:keep=0.2, tiers:…")
    ] = "none",
    encoder_tokens: Annotated[
        str | None, option("--encoder-tokens", help="Encoder length of models with cross-attention.")
    ] = None,
    mtp: Annotated[bool, option("--mtp", help="Count the draft (multi-token prediction) layers too.")] = False,
    tp: Annotated[int, option("--tp", help="Tensor-parallel size.")] = 1,
    pp: Annotated[int, option("--pp", help="Pipeline-parallel size.")] = 1,
    dp: Annotated[int, option("--dp", help="Data-parallel replicas.")] = 1,
    dcp: Annotated[int, option("--dcp", help="Decode-context-parallel size, inside tp.")] = 1,
    weights: Annotated[
        str | None, option("--weights", help="Weight format: bf16, fp8, int4-awq, gguf-q4_k_m, …")
    ] = None,
    engine: Annotated[str, option("--engine", "-e", help="Engine whose allocation is counted.")] = "none",
    explain: ExplainOption = False,
    output: FormatOption = OutputFormat.table,
    as_json: JsonOption = False,
) -> None:
    """How large is the KV cache of a model at a context: exact bytes, by kind of layer."""
    from kvplan.core.parallel import Parallel
    from kvplan.planning.request import RequestWords

    words = RequestWords(
        concurrency=concurrency,
        kv_dtype=kv_dtype,
        policy=policy,
        skip_layers=kv_dtype_skip_layers,
        encoder_tokens=encoder_tokens,
        include_draft=mtp,
        parallel=Parallel(tp=tp, pp=pp, dp=dp, dcp=dcp),
    )
    results = _size_all(model, ctx, words, engine, weights)
    _write(results, chosen_format(output, as_json), explain)


def _size_all(
    references: list[str], contexts: list[str] | None, words: "RequestWords", engine_name: str, weights: str | None
) -> "list[SizeResult]":
    from kvplan.core.errors import UsageError
    from kvplan.engines import get_engine
    from kvplan.planning.request import build_request
    from kvplan.planning.size import choose_weight_format, size_model
    from kvplan.specs.reference import resolve_model

    engine = get_engine(engine_name)
    results = []
    for reference in references:
        model = resolve_model(reference)
        weight_format = choose_weight_format(model, weights)
        for context in _contexts(model, contexts):
            results.append(size_model(model, build_request(model, context, words, engine), engine, weight_format))
    if not results:
        raise UsageError("--model and --ctx name nothing to size")
    return results


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


def _write(results: "list[SizeResult]", output: OutputFormat, explain: bool) -> None:
    if output is OutputFormat.json:
        _write_json(results, explain)
    elif output is OutputFormat.csv:
        from kvplan.reports.to_csv import size_csv

        print(size_csv(results))
    elif output is OutputFormat.markdown:
        from kvplan.reports.to_markdown import size_markdown

        print(size_markdown(results))
    else:
        _write_table(results)
    if output is not OutputFormat.json:
        if explain:
            _write_explanation(results)
        for warning in _warnings(results):
            print(f"note: {warning}", file=sys.stderr)


def _write_json(results: "list[SizeResult]", explain: bool) -> None:
    from kvplan.reports.to_json import render_success, size_fields

    fields = [size_fields(result) for result in results]
    if explain:
        from kvplan.reports.explain import explain_size

        for entry, result in zip(fields, results):
            entry["explanation"] = explain_size(result)
    answer = fields[0] if len(fields) == 1 else {"results": fields}
    print(render_success("size", answer, _warnings(results)))


def _write_table(results: "list[SizeResult]") -> None:
    from kvplan.planning.next_steps import next_steps
    from kvplan.reports.to_table import print_comparison, print_size, stdout_console

    if len(results) == 1:
        print_size(results[0], next_steps(results[0]), stdout_console())
    else:
        print_comparison(results, stdout_console())


def _write_explanation(results: "list[SizeResult]") -> None:
    from kvplan.reports.explain import explain_size

    for result in results:
        print("\n" + "\n".join(explain_size(result)))


def _warnings(results: "list[SizeResult]") -> tuple[str, ...]:
    return tuple(dict.fromkeys(warning for result in results for warning in result.warnings))
