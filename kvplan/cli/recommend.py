"""``kvplan recommend``: compress or not, with what, why, and the line that starts it."""

import sys
from typing import TYPE_CHECKING, NamedTuple

from kvplan.cli.options import (
    ConcurrencyOption,
    ContextOption,
    CountOption,
    DcpOption,
    EmitOption,
    EngineOption,
    EvidenceModelOption,
    EvidenceOption,
    ExpertParallelOption,
    ExplainOption,
    FittedModelOption,
    FormatOption,
    GpuMemoryOption,
    GpuOption,
    JsonOption,
    MaxModelLenOption,
    MaxNumBatchedTokensOption,
    MaxNumSeqsOption,
    MtpOption,
    MultimodalOption,
    OptionalDpOption,
    OptionalPpOption,
    OptionalTpOption,
    OutputFormat,
    OutputTokensOption,
    QualityOption,
    SharedPrefixesOption,
    TaskOption,
    UtilizationOption,
    WeightsOption,
    chosen_format,
)

if TYPE_CHECKING:
    from kvplan.core.launch import Launch
    from kvplan.core.model import Model
    from kvplan.planning.evidence import Evidence
    from kvplan.planning.fit_request import FitWords
    from kvplan.planning.recommend_case import Wishes
    from kvplan.planning.recommendation import Recommendation


class Output(NamedTuple):
    """How the answer is written; ``emit`` is the target whose launch line is all that is asked for."""

    output: OutputFormat
    explain: bool
    emit: str | None


class Evidenced(NamedTuple):
    """The file of what was measured, and the other model that it may be of."""

    path: str | None
    model: str | None


def recommend(
    model: FittedModelOption = None,
    gpu: GpuOption = None,
    count: CountOption = None,
    gpu_memory: GpuMemoryOption = None,
    engine: EngineOption = "",
    ctx: ContextOption = None,
    concurrency: ConcurrencyOption = 0,
    task: TaskOption = "chat",
    quality: QualityOption = "normal",
    output_tokens: OutputTokensOption = None,
    shared_prefixes: SharedPrefixesOption = False,
    evidence: EvidenceOption = None,
    evidence_model: EvidenceModelOption = None,
    tp: OptionalTpOption = None,
    pp: OptionalPpOption = None,
    dp: OptionalDpOption = None,
    dcp: DcpOption = 1,
    enable_expert_parallel: ExpertParallelOption = False,
    weights: WeightsOption = None,
    mtp: MtpOption = False,
    max_model_len: MaxModelLenOption = None,
    max_num_batched_tokens: MaxNumBatchedTokensOption = None,
    max_num_seqs: MaxNumSeqsOption = None,
    gpu_memory_utilization: UtilizationOption = None,
    multimodal: MultimodalOption = False,
    emit: EmitOption = None,
    explain: ExplainOption = False,
    output: FormatOption = OutputFormat.table,
    as_json: JsonOption = False,
) -> None:
    """Compress the cache or not, with what, and the line that starts it. Alone: the decision matrix."""
    from kvplan.cli.recommend_questions import ask, can_ask
    from kvplan.planning.fit_request import FitWords

    stated = {name: value for name, value in locals().items() if name in FitWords.__annotations__}
    wishes = _wishes(task, quality, output_tokens, shared_prefixes)
    written = Output(chosen_format(output, as_json), explain, emit)
    words = FitWords(**{**stated, "engine": _engine(engine, emit), "concurrency": concurrency or 1})
    if model is None or ctx is None:
        if model is None and not can_ask():
            _write_matrix(written)
            return
        if can_ask() and written.output is OutputFormat.table and emit is None:
            if model is None:
                _write_matrix(written)
            words = ask(words, asks_concurrency=not concurrency)
    _answer(words, wishes, Evidenced(evidence, evidence_model), written)


def _engine(engine: str, emit: str | None) -> str:
    """The engine that is stated, else the one that the target starts, else vLLM."""
    from kvplan.launchers import engine_of

    return engine or (engine_of(emit) if emit else "vllm")


def _wishes(task: str, quality: str, output_tokens: str | None, shared_prefixes: bool) -> "Wishes":
    from kvplan.core.advice import QUALITIES, TASKS
    from kvplan.core.engine import check_name
    from kvplan.core.units import parse_tokens
    from kvplan.planning.recommend_case import Wishes

    return Wishes(
        task=check_name("--task", task, TASKS),
        quality=check_name("--quality", quality, QUALITIES),
        output_tokens=None if output_tokens is None else parse_tokens(output_tokens, "--output-tokens"),
        shared_prefixes=shared_prefixes,
    )


def _answer(words: "FitWords", wishes: "Wishes", evidence: Evidenced, written: Output) -> None:
    from kvplan.core.errors import UsageError
    from kvplan.engines import get_engine
    from kvplan.launchers import default_target, launch
    from kvplan.planning.fit_request import build_fit_request
    from kvplan.planning.launch_plan import plan_launch
    from kvplan.planning.recommend import recommend as advise
    from kvplan.specs.advice import load_advice
    from kvplan.specs.reference import resolve_model

    if words.model is None:
        raise UsageError("--model is missing", "name a model, or leave everything out to see the decision matrix")
    model, engine = resolve_model(words.model), get_engine(words.engine)
    target = written.emit or default_target(words.engine)
    measured = read_evidence(evidence, model)
    answer = advise(model, build_fit_request(model, words, engine), engine, wishes, load_advice(), measured)
    host_bytes = answer.measures[0].host_bytes if answer.measures else 0
    start = launch(target, plan_launch(answer.final, engine, answer.chosen.option.word, host_bytes))
    _write(answer, start, written)


def read_evidence(evidence: Evidenced, model: "Model") -> "Evidence | None":
    """What was measured on this model, or on the other one that is accepted; None where there is no file.

    Raises FileError, and UsageError for an evaluation of a model that is neither.
    """
    from pathlib import Path

    from kvplan.core.errors import UsageError
    from kvplan.planning.evidence import read_as_evidence
    from kvplan.specs.evidence import read_evaluation

    path, accepted = evidence
    if path is None:
        if accepted is not None:
            raise UsageError("--evidence-model says whose evidence is accepted", "give the file with --evidence")
        return None
    evaluation = read_evaluation(Path(path).expanduser())
    other = _is_other_model(evaluation.model, model)
    if other and evaluation.model != accepted:
        raise UsageError(
            f"--evidence {path} was measured on {evaluation.model}, not on {accepted or model.name}",
            f"kvplan evaluate --model {model.name} measures this one; --evidence-model {evaluation.model} accepts it",
        )
    measured = read_as_evidence(evaluation, path, model.dtype, other)
    if other:
        print(f"note: {path}: {measured.where} than {model.name}: quality differs from model to model", file=sys.stderr)
    if measured.left_aside:
        print(f"note: {path}: no engine's choice, so not weighed: {'; '.join(measured.left_aside)}", file=sys.stderr)
    return measured


def _is_other_model(name: str, model: "Model") -> bool:
    """Whether the evaluated model has other layers than the one asked about; where neither can be read, other names."""
    from kvplan.core.errors import KvplanError
    from kvplan.specs.reference import resolve_model

    if name.rpartition("/")[2].lower() in {known.rpartition("/")[2].lower() for known in (model.name, *model.aliases)}:
        return False
    try:
        return resolve_model(name).architecture.layers != model.architecture.layers
    except KvplanError:
        return True


def _write_matrix(written: Output) -> None:
    """The classic matrix by itself."""
    from kvplan.reports.recommend_json import matrix_fields
    from kvplan.reports.recommend_table import matrix_markdown, print_matrix
    from kvplan.reports.to_csv import render_csv
    from kvplan.reports.to_json import render_success
    from kvplan.reports.to_table import stdout_console
    from kvplan.specs.advice import load_advice

    advice = load_advice()
    if written.output is OutputFormat.json:
        print(render_success("recommend", matrix_fields(advice.matrix, advice.classic)))
    elif written.output is OutputFormat.csv:
        rows = matrix_fields(advice.matrix, advice.classic)["matrix"]
        print(render_csv(list(rows[0]), [list(row.values()) for row in rows]))
    elif written.output is OutputFormat.markdown:
        print(matrix_markdown(advice.matrix, advice.classic))
    else:
        print_matrix(advice.matrix, advice.classic, stdout_console())


def _write(answer: "Recommendation", start: "Launch", written: Output) -> None:
    from kvplan.reports.recommend_json import recommend_csv, recommend_fields
    from kvplan.reports.recommend_table import (
        launch_lines,
        print_classic,
        print_recommendation,
        recommend_markdown,
    )
    from kvplan.reports.to_json import render_success
    from kvplan.reports.to_table import stdout_console
    from kvplan.specs.advice import load_advice

    if written.output is OutputFormat.json:
        print(render_success("recommend", recommend_fields(answer, start), answer.notes))
        return
    if written.output is OutputFormat.csv:
        print(recommend_csv(answer))
    elif written.output is OutputFormat.markdown:
        print(recommend_markdown(answer, load_advice().matrix, start))
    elif written.emit is not None:
        print("\n".join(launch_lines(start)))
    else:
        print_recommendation(answer, load_advice().matrix, start, stdout_console())
    if written.explain and written.output is OutputFormat.table:
        print()
        print_classic(answer.classic, stdout_console())
    for note in answer.notes:
        print(f"note: {note}", file=sys.stderr)
