"""A recommendation for the terminal, 80 columns wide, and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from kvplan.core.advice import ClassicCheck, ClassicRule, MatrixRow
from kvplan.core.launch import Launch
from kvplan.planning.recommendation import Recommendation
from kvplan.reports.recommend_rows import (
    ALTERNATIVE_HEADER,
    CHANGE_HEADER,
    MATRIX_HEADER,
    advice_sentence,
    alternative_rows,
    change_rows,
    classic_lines,
    matrix_rows,
    quality_lines,
    recommend_headline,
    speed_lines,
)
from kvplan.reports.to_markdown import markdown_table
from kvplan.reports.to_table import grid

HOW_TO_ASK = "kvplan recommend --model llama-8b --gpu h100 --ctx 32k --concurrency 16"
RULE_HEADER = ("compression", "when")
CLASSIC_HEADER = (*RULE_HEADER, "here")


def print_recommendation(answer: Recommendation, matrix: Sequence[MatrixRow], launch: Launch, console: Console) -> None:
    """The advice, before and after, why, the classic row, what else there is, and the launch line."""
    console.print(Text(recommend_headline(answer), style="bold"))
    console.print()
    console.print(Text(advice_sentence(answer), style="bold green" if answer.final.fits else "bold red"))
    console.print()
    console.print(grid(CHANGE_HEADER, change_rows(answer), left_columns=1))
    console.print()
    for line in why_lines(answer):
        console.print(Text(line))
    console.print()
    console.print(grid(MATRIX_HEADER, matrix_rows(matrix, answer.matrix.row), left_columns=5))
    for line in matrix_lines(answer):
        console.print(Text(line, style="dim"))
    if rows := alternative_rows(answer):
        console.print()
        console.print(grid(ALTERNATIVE_HEADER, rows, left_columns=1))
    if answer.rejected:
        console.print()
        for entry in answer.rejected:
            console.print(Text(f"not {entry.option}: {entry.reason}", style="dim"))
    console.print()
    print_launch(launch, console)


def why_lines(answer: Recommendation) -> list[str]:
    """The rule that decided with its numbers, what to do besides, speed and quality."""
    lines = []
    if answer.native.result.missing_bytes:
        lines.append("Why: no cache helps while the weights do not fit.")
    else:
        rule = answer.decision.rule
        lines += [f"Why: {rule.reason}", f"  because {answer.decision.shown}", f"  source: {rule.sources[0]}"]
    if (there := answer.decision_there) is not None:
        lines += [f"There: {there.rule.reason}", f"  because {there.shown}"]
    lines += [f"Also: {line}" for line in answer.actions]
    return [*lines, *speed_lines(answer), *quality_lines(answer)]


def matrix_lines(answer: Recommendation) -> list[str]:
    """Where the row does not fit exactly, and where the evidence says otherwise."""
    lines = [] if answer.matrix.exact else [f"{answer.matrix.reason}."]
    return lines + ([f"Evidence differs: {answer.differs}"] if answer.differs else [])


def print_launch(launch: Launch, console: Console) -> None:
    """The command, its files, and the same in Python."""
    for line in launch_lines(launch):
        console.print(Text(line), soft_wrap=True)


def launch_lines(launch: Launch) -> list[str]:
    """What to run: ready to be copied."""
    lines = launch.wrapped_command.splitlines()
    for name, text in launch.files.items():
        lines += ["", f"# {name}", *text.rstrip().splitlines()]
    if launch.python is not None:
        lines += [*([""] if lines else []), *launch.python.rstrip().splitlines()]
    return lines + [f"# {note}" for note in launch.notes]


def print_matrix(matrix: Sequence[MatrixRow], rules: Sequence[ClassicRule], console: Console) -> None:
    """The classic matrix with its rules, and how to ask about a case."""
    console.print(Text("Compress the KV cache? The classic matrix:", style="bold"))
    console.print()
    console.print(grid(MATRIX_HEADER[1:], [row[1:] for row in matrix_rows(matrix, None)], left_columns=4))
    console.print()
    console.print(grid(RULE_HEADER, rule_rows(rules), left_columns=2))
    console.print()
    console.print(Text(f"For your case, with the evidence: {HOW_TO_ASK}", style="dim"))


def rule_rows(rules: Sequence[ClassicRule]) -> list[tuple[str, str]]:
    """The rules beside the matrix in words."""
    return [(rule.side, rule.text) for rule in rules]


def matrix_markdown(matrix: Sequence[MatrixRow], rules: Sequence[ClassicRule]) -> str:
    """The classic matrix and its rules as Markdown."""
    table = markdown_table(MATRIX_HEADER[1:], [row[1:] for row in matrix_rows(matrix, None)])
    return "\n\n".join((table, markdown_table(RULE_HEADER, rule_rows(rules))))


def print_classic(checks: Sequence[ClassicCheck], console: Console) -> None:
    """``--explain``: every classic rule with the numbers of the case."""
    console.print(grid(CLASSIC_HEADER, classic_lines(checks), left_columns=3))


def recommend_markdown(answer: Recommendation, matrix: Sequence[MatrixRow], launch: Launch) -> str:
    """The same as Markdown."""
    pieces = [f"**{recommend_headline(answer)}**", advice_sentence(answer)]
    pieces.append(markdown_table(CHANGE_HEADER, change_rows(answer)))
    pieces += why_lines(answer)
    pieces.append(markdown_table(MATRIX_HEADER, matrix_rows(matrix, answer.matrix.row)))
    pieces += matrix_lines(answer)
    if rows := alternative_rows(answer):
        pieces.append(markdown_table(ALTERNATIVE_HEADER, rows))
    pieces += ["\n".join(f"* not {entry.option}: {entry.reason}" for entry in answer.rejected)]
    pieces.append("```bash\n" + "\n".join(launch_lines(launch)) + "\n```")
    return "\n\n".join(piece for piece in pieces if piece)
