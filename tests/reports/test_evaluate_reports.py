"""An evaluation as table, Markdown, JSON, CSV and pictures: what is on them, and that nothing overflows or overlaps."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from evaluation_sample import BASELINE, EVALUATION, INT4, INT8, WINDOW, around
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from kvplan.core.errors import FileError
from kvplan.core.evaluation import Evaluation
from kvplan.planning.pareto import pareto_front
from kvplan.reports.axes import decade_scale, ratio_scale
from kvplan.reports.drawing import draw
from kvplan.reports.evaluate_json import evaluate_csv, evaluate_fields
from kvplan.reports.evaluate_pictures import evaluation_figures
from kvplan.reports.evaluate_rows import (
    as_asked,
    broken,
    evaluate_verdict,
    inconclusive_warning,
    next_lines,
    samples_option,
    share,
    small,
    verdict_lines,
)
from kvplan.reports.evaluate_table import evaluate_markdown, print_evaluation
from kvplan.reports.figures import HeatFigure, TradeFigure
from kvplan.reports.scene import WIDTH, Text, heat, text_width
from kvplan.reports.to_html import render_html
from kvplan.reports.to_json import render_success
from kvplan.reports.to_svg import render_svg
from kvplan.reports.to_terminal_evaluate import print_figures
from kvplan.specs.evidence import read_evaluation

CONTRACT = {
    *("method", "perplexity_increase_ratio", "kld_mean", "top1_agreement_ratio", "needle_recall_ratio"),
    *("accuracy_drop_ratio", "latency_ratio", "memory_ratio", "thresholds", "verdict", "reason"),
}


def printed(found: Evaluation, width: int = 80) -> list[str]:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    print_evaluation(found, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def with_methods(*reports: object) -> Evaluation:
    return replace(EVALUATION, methods=reports)  # type: ignore[arg-type]


def test_the_verdict_comes_first_then_what_fails_then_what_is_open() -> None:
    assert printed(EVALUATION, width=140)[:3] == [
        "2 of 4 pass (int8_per_token_head; tiers:1024=bf16,4096=int8,rest=int4), 1 fails, 1 is inconclusive",
        "window:window=512,sinks=4 fails: needle drop 56%, limit 5%; keep more tokens",
        "int4_per_token_head is open: perplexity increase 1.81% (1.41% to 2.21%), limit 2%; "
        "--samples perplexity=640 would decide",
    ]


@pytest.mark.parametrize(
    ("reports", "words"),
    [
        ((INT8,), "int8_per_token_head passes"),
        ((INT8, replace(INT8, method="fp8_e4m3")), "All 2 methods pass"),
        ((WINDOW,), "window:window=512,sinks=4 fails"),
        ((INT4,), "int4_per_token_head is inconclusive"),
        ((WINDOW, INT4), "None of 2 pass, 1 fails, 1 is inconclusive"),
        ((INT8, WINDOW, WINDOW), "1 of 3 passes (int8_per_token_head), 2 fail"),
        ((), "Nothing was compared with the uncompressed cache"),
    ],
)
def test_the_verdict_counts(reports: tuple[object, ...], words: str) -> None:
    assert evaluate_verdict(with_methods(*reports)) == words


@pytest.mark.parametrize(
    ("method", "remedy"),
    [
        ("window:window=512,sinks=4", "keep more tokens"),
        ("int4_per_token_head+h2o:keep=0.5", "keep more tokens"),
        ("press:SnapKVPress:compression_ratio=0.5", "keep more tokens"),
        ("kivi", "take more bits"),
        ("fp8_e4m3", "take int8, or keep the native cache"),
        ("int8_per_token_head", "keep the native cache"),
    ],
)
def test_what_fails_is_told_what_to_do_about_it(method: str, remedy: str) -> None:
    (line,) = verdict_lines(with_methods(replace(WINDOW, method=method)))
    assert line == f"{method} fails: needle drop 56%, limit 5%; {remedy}"


def test_of_several_gates_that_fail_the_one_that_is_most_exceeded_is_told() -> None:
    little = replace(WINDOW.gates[0], name="perplexity_increase_ratio", threshold=0.03, estimate=around(0.04, 0.001))
    (line,) = verdict_lines(with_methods(replace(WINDOW, gates=(little, *WINDOW.gates))))
    assert "needle drop 56%" in line


def test_what_no_sensible_number_of_samples_decides_says_so() -> None:
    (line,) = verdict_lines(with_methods(replace(INT4, gates=(replace(INT4.gates[0], needed_count=None),))))
    assert line.endswith("limit 2%; more than 10,000 samples would be needed")


def test_what_was_not_measured_at_all_is_open_for_its_reason() -> None:
    (line,) = verdict_lines(with_methods(replace(INT4, gates=(), reason="needle drop was not measured (task needle)")))
    assert line == "int4_per_token_head is open: needle drop was not measured (task needle)"


def test_people_read_the_names_that_they_gave() -> None:
    shown = as_asked(EVALUATION, {"int8_per_token_head": "int8", "window:window=512,sinks=4": "window:512"})
    names = [report.method for report in shown.methods]
    assert names == ["int8", "int4_per_token_head", "window:512", "tiers:1024=bf16,4096=int8,rest=int4"]
    assert evaluate_verdict(shown).startswith("2 of 4 pass (int8; tiers")
    assert verdict_lines(shown)[0].startswith("window:512 fails")


def test_the_table_has_80_columns_a_row_for_each_method_and_intervals() -> None:
    lines = printed(EVALUATION)
    assert max(map(cell_len, lines)) <= 80
    header = next(line for line in lines if line.startswith("method"))
    assert header.split() == ["method", "memory", "PPL", "KLD", "top-1", "needle", "qa", "time", "verdict"]
    baseline = next(line for line in lines if line.startswith("none"))
    assert baseline.split() == ["none", "1.00x", "0%", "0", "100%", "100%", "90%", "1.00x", "baseline"]
    text = "\n".join(lines)
    assert re.search(r"int8_per_.* 0\.53x +\+0\.01% +4e-05 +99\.8% +100% +90% +1\.30x +pass", text)
    assert "±0.02%" in text
    assert "±0.4%" in text
    assert "31–59%" in text
    assert "FAIL" in text


def test_what_was_not_measured_has_no_column() -> None:
    bare = replace(BASELINE, needle_recall_ratio=None, accuracy_ratio=None)
    lines = printed(replace(with_methods(replace(INT4, needle_recall_ratio=None)), baseline=bare))
    header = next(line for line in lines if line.startswith("method"))
    assert header.split() == ["method", "memory", "PPL", "KLD", "top-1", "verdict"]


def test_a_wide_terminal_leaves_names_whole() -> None:
    assert any(line.startswith("tiers:1024=bf16,4096=int8,rest=int4 ") for line in printed(EVALUATION, width=120))


@given(st.from_regex(r"[a-z0-9]{1,8}([:,+_][a-z0-9=]{1,9}){0,4}", fullmatch=True), st.integers(10, 40))
def test_a_name_is_broken_behind_its_punctuation_and_nothing_is_lost(name: str, room: int) -> None:
    lines = broken(name, room).split("\n")
    assert "".join(lines) == name
    assert all(line[-1] in ":,+/_" for line in lines[:-1])
    assert all(len(line) <= room for line in lines)


def test_figures_are_short() -> None:
    assert (small(0), small(0.00004), small(0.0012), small(0.21)) == ("0", "4e-05", "0.0012", "0.21")
    assert (share(1), share(0.992), share(0.5)) == ("100%", "99.2%", "50%")


def test_what_is_open_is_a_warning_with_the_samples_that_would_decide() -> None:
    warning = inconclusive_warning(EVALUATION)
    assert warning is not None
    assert "int4_per_token_head" in warning
    assert "about --samples perplexity=640 would decide" in warning
    assert inconclusive_warning(with_methods(INT8, WINDOW)) is None


def test_samples_are_asked_for_by_task_and_enough_for_every_method() -> None:
    def open_at(name: str, count: int) -> object:
        return replace(INT4, gates=(replace(INT4.gates[0], name=name, needed_count=count),))

    reports = [open_at("needle_drop_ratio", 61), open_at("kld_mean", 12), open_at("perplexity_increase_ratio", 9)]
    assert samples_option(reports) == "--samples needle=61,perplexity=12"  # type: ignore[arg-type]
    assert samples_option([]) == ""


def test_the_next_step_names_the_smallest_that_passes() -> None:
    assert next_lines(EVALUATION)[0] == "Smallest that passes: tiers:1024=bf16,4096=int8,rest=int4, 0.40x the memory"
    assert "kvplan recommend" in next_lines(EVALUATION)[-1]
    assert len(next_lines(with_methods(WINDOW))) == 1


def test_markdown_has_a_row_for_each_method() -> None:
    text = evaluate_markdown(EVALUATION)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 5
    assert "| +1.81% (±0.4%) |" in text
    assert "* times are those of Python" in text


def test_json_keeps_the_contract_and_carries_intervals() -> None:
    fields = evaluate_fields(EVALUATION)
    assert {"model", "baseline", "methods"} <= set(fields)
    assert all(set(method) >= CONTRACT for method in [*fields["methods"], fields["baseline"]])
    int4 = fields["methods"][1]
    assert int4["perplexity_increase_ratio"] == 0.0181
    assert int4["perplexity_increase_ratio_interval"] == pytest.approx([0.0141, 0.0221])
    assert int4["perplexity_increase_ratio_count"] == 64
    assert int4["accuracy_drop_ratio"] is None
    assert int4["gates"][0]["needed_count"] == 640
    assert fields["passed"] is False
    assert {"length_tokens": 2048, "depth_ratio": 0.0, "recall_ratio": 0.8} in int4["needle_grid"]
    json.dumps(fields, allow_nan=False)


def test_json_is_read_back_as_the_same_evaluation(tmp_path: Path) -> None:
    path = tmp_path / "quality.json"
    path.write_text(render_success("evaluate", evaluate_fields(EVALUATION)), encoding="utf-8")
    back = read_evaluation(path)
    assert back.methods[0] == INT8
    assert evaluate_fields(back) == evaluate_fields(EVALUATION)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "is not the answer of kvplan evaluate"),
        ("not json", "is not valid JSON"),
        ('{"command": "verify", "result": {}}', "is not the answer of kvplan evaluate"),
        ('{"command": "evaluate", "result": {"model": "m"}}', "result.device: field required"),
        (
            '{"command": "evaluate", "result": {"model": "m", "device": "cpu", "baseline": {"method": "none"}}}',
            "result.baseline: value error, a method needs a verdict",
        ),
    ],
)
def test_another_file_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "quality.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FileError, match=re.escape(message)):
        read_evaluation(path)


def test_csv_has_a_line_for_the_baseline_and_each_method() -> None:
    rows = list(csv.DictReader(io.StringIO(evaluate_csv(EVALUATION))))
    assert [row["method"] for row in rows] == ["none", *(report.method for report in EVALUATION.methods)]
    assert float(rows[2]["perplexity_increase_ratio_high"]) == pytest.approx(0.0221)
    assert rows[3]["verdict"] == "fail"


def test_there_is_a_picture_of_divergence_one_of_needles_lost_and_one_of_where() -> None:
    figures = evaluation_figures(EVALUATION)
    assert [type(figure) for figure in figures] == [TradeFigure, TradeFigure, HeatFigure]
    heat_figure = figures[2]
    assert isinstance(heat_figure, HeatFigure)
    assert [panel.label for panel in heat_figure.panels] == [
        "none", "int8_per_token_head", "int4_per_token_head", "window:window=512,sinks=4",
    ]  # fmt: skip


def test_nothing_measured_is_no_picture() -> None:
    bare = replace(BASELINE, needle_grid={}, memory_ratio=None)
    assert evaluation_figures(replace(EVALUATION, baseline=bare, methods=())) == ()


def test_perplexity_stands_in_where_divergence_was_not_measured() -> None:
    figure = evaluation_figures(with_methods(replace(INT4, kld_mean=None)))[0]
    assert isinstance(figure, TradeFigure)
    assert figure.loss_label == "perplexity increase"


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(offers: list[tuple[float, float]]) -> None:
    front = pareto_front(offers)
    assert any(front)
    for (cost, loss), best in zip(offers, front):
        beaten = any(c <= cost and v <= loss and (c < cost or v < loss) for c, v in offers)
        assert best is not beaten


def test_pictures_are_svg_with_words_and_a_description() -> None:
    scenes = [draw(figure) for figure in evaluation_figures(EVALUATION)]
    root = ET.fromstring(render_svg(scenes))
    words = "".join(root.itertext())
    for name in ("int4_per_token_head", "window:window=512,sinks=4", "Pareto front", "inconclusive", "2k"):
        assert name in words
    assert "0% at 2k tokens and depth 0%" in words


@pytest.mark.parametrize("index", range(3))
def test_no_words_leave_the_page_and_none_overlap(index: int) -> None:
    scene = draw(evaluation_figures(EVALUATION)[index])
    boxes = []
    for shape in scene.shapes:
        if isinstance(shape, Text):
            width = text_width(shape.text, shape.size, shape.bold)
            left = shape.x - {"start": 0.0, "middle": width / 2, "end": width}[shape.anchor]
            assert left >= -0.5, shape.text
            assert left + width <= WIDTH + 0.5, shape.text
            assert 0 <= shape.y <= scene.height
            boxes.append((left, left + width, shape.y - shape.size * 0.75, shape.y, shape.text))
    for at, (left, right, top, bottom, words) in enumerate(boxes):
        for other in boxes[at + 1 :]:
            apart = right <= other[0] or other[1] <= left or bottom <= other[2] or other[3] <= top
            assert apart, (words, other[4])


def test_html_has_the_figures_behind_each_picture() -> None:
    page = render_html(evaluation_figures(EVALUATION))
    assert page.count("<table>") == 3
    assert "<td>0.27x</td><td>0.0041</td><td>inconclusive</td>" in page
    assert '<th scope="row">window:window=512,sinks=4</th><td>0%</td><td>0%</td>' in page


def test_the_terminal_shows_bars_and_maps_in_80_columns() -> None:
    console = Console(width=80, file=io.StringIO(), highlight=False)
    print_figures(evaluation_figures(EVALUATION), console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert any(re.fullmatch(r"int4_per_token_head +0\.27x #{5}\.{15} +0\.0041 \* inconclusive", line) for line in lines)
    assert any(line.startswith("   0%") and " 80 " in line for line in lines)


def test_all_found_and_none_found_have_shades_of_their_own() -> None:
    shades = [heat(found)[0] for found in (0.0, 0.3, 0.5, 0.7, 0.95, 1.0)]
    assert len(set(shades)) == len(shades)


def test_axes_have_round_ticks() -> None:
    assert ratio_scale(1.0, 11).labels == ("0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1")
    scale = decade_scale([0.0, 0.00004, 0.3])
    assert scale.labels == ("1e-05", "0.0001", "0.001", "0.01", "0.1", "1")
    assert scale.place(0.0) == 0
