"""``kvplan evaluate``: what compression costs in quality, time and memory, on a real model."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kvplan.cli.options import (
    ContextOption,
    DemoOption,
    DeviceOption,
    DtypeOption,
    EvaluatedModelOption,
    EvaluationPlotOption,
    FormatOption,
    JsonOption,
    MethodsOption,
    OutputFormat,
    PressOption,
    QuestionAwareOption,
    QuestionsOption,
    ResultsOption,
    SamplesOption,
    SeedOption,
    TasksOption,
    TextOption,
    ThresholdsOption,
    chosen_format,
)

if TYPE_CHECKING:
    from kvplan.core.evaluation import Evaluation

GATE_FAILED = 4
"""Exit code where a method fails a gate; 0 where all pass or are inconclusive, of which a warning tells."""

DEFAULT_TASKS = "perplexity,needle,latency,memory"
"""Besides these, qa where there are questions."""


class Output(NamedTuple):
    """How the answer is written; ``plot`` is a file of pictures, or ``-`` for the terminal."""

    output: OutputFormat
    plot: str | None


def evaluate(
    model: EvaluatedModelOption = None,
    methods: MethodsOption = None,
    tasks: TasksOption = "",
    text: TextOption = None,
    questions: QuestionsOption = None,
    ctx: ContextOption = None,
    samples: SamplesOption = None,
    question_aware: QuestionAwareOption = "on",
    press: PressOption = None,
    thresholds: ThresholdsOption = None,
    results: ResultsOption = None,
    plot: EvaluationPlotOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    seed: SeedOption = 0,
    demo: DemoOption = False,
    output: FormatOption = OutputFormat.table,
    as_json: JsonOption = False,
) -> None:
    """What does compression cost this model in quality, time and memory? Exits with 4 where a gate fails."""
    words = dict(locals())
    written = Output(chosen_format(output, as_json), plot)
    _check(words)
    from kvplan.cli.evaluate_run import asked_methods, run_evaluation

    found = run_evaluation(words)
    if found is not None:
        _answer(found, {method.text: word for method, word in asked_methods(words).items()}, written)


def _check(words: dict[str, Any]) -> None:
    """What can be refused before anything heavy is imported. Raises UsageError or UnsupportedError."""
    from kvplan.cli.evaluate_run import split_samples
    from kvplan.core.errors import UsageError
    from kvplan.reports.plot import check_plot_path

    if words["demo"] and words["model"] is not None:
        raise UsageError("--demo has a model of its own", "leave --model or --demo out")
    if not words["demo"] and words["model"] is None:
        raise UsageError("--model is missing", "name a folder or a Hub id, or try --demo")
    if words["seed"] < 0:
        raise UsageError(f"--seed must be at least 0, not {words['seed']}")
    split_samples(words["samples"])
    if words["plot"] is not None and words["plot"] != "-":
        check_plot_path(words["plot"])
    _require_packages()


def _require_packages() -> None:
    """Raise UnsupportedError where torch or transformers is not installed."""
    from importlib.util import find_spec

    from kvplan.core.errors import UnsupportedError

    if missing := [name for name in ("torch", "transformers") if find_spec(name) is None]:
        raise UnsupportedError(
            f"a model is run, and {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed: "
            "in a checkout: pip install '.[transformers]'"
        )


def _answer(found: "Evaluation", words: Mapping[str, str], written: Output) -> None:
    """Write the answer, the pictures and the warnings; exit with 4 where a gate fails.

    People read the ``words`` that methods were asked for by, programs their canonical names.
    """
    from kvplan.reports.evaluate_rows import as_asked, inconclusive_warning

    shown = as_asked(found, words)
    if written.output in (OutputFormat.json, OutputFormat.csv):
        _write_data(found, written.output)
    else:
        _write_text(shown, written.output)
    if written.plot is not None:
        _draw(shown, written.plot)
    for note in found.notes if written.output is not OutputFormat.markdown else ():
        print(f"note: {note}", file=sys.stderr)
    if (warning := inconclusive_warning(shown)) is not None:
        print(f"warning: {warning}", file=sys.stderr)
    if not found.passed:
        sys.exit(GATE_FAILED)


def _write_data(found: "Evaluation", output: OutputFormat) -> None:
    from kvplan.reports.evaluate_json import evaluate_csv, evaluate_fields
    from kvplan.reports.evaluate_rows import inconclusive_warning
    from kvplan.reports.to_json import render_success

    if output is OutputFormat.json:
        warning = inconclusive_warning(found)
        print(render_success("evaluate", evaluate_fields(found), (warning,) if warning else ()))
    else:
        print(evaluate_csv(found))


def _write_text(found: "Evaluation", output: OutputFormat) -> None:
    from kvplan.reports.evaluate_table import evaluate_markdown, print_evaluation
    from kvplan.reports.to_table import stdout_console

    if output is OutputFormat.markdown:
        print(evaluate_markdown(found))
    else:
        print_evaluation(found, stdout_console())


def _draw(found: "Evaluation", target: str) -> None:
    """The pictures into a file, or into the terminal. Raises UsageError where nothing can be drawn."""
    from kvplan.core.errors import UsageError
    from kvplan.reports.evaluate_pictures import evaluation_figures

    figures = evaluation_figures(found)
    if not figures:
        raise UsageError("--plot: nothing that was measured can be drawn", "measure needle, or perplexity and memory")
    if target == "-":
        from kvplan.reports.to_table import stdout_console
        from kvplan.reports.to_terminal_evaluate import print_figures

        print()
        print_figures(figures, stdout_console())
        return
    from kvplan.reports.plot import write_figure

    write_figure(Path(target), figures)
    print(f"wrote {target}", file=sys.stderr)
