"""Pictures: what has to be on them, and that nothing on them overlaps, leaves the page or needs another file."""

from __future__ import annotations

import io
import re
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from itertools import combinations, pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from kvplan.core.errors import UsageError
from kvplan.core.units import GIB, format_bytes
from kvplan.reports.axes import linear_byte_scale, memory_scale, token_scale
from kvplan.reports.drawing import draw
from kvplan.reports.figures import (
    BudgetBar,
    BudgetFigure,
    CurveFigure,
    Figure,
    Mark,
    Point,
    Segment,
    Series,
    rest_words,
)
from kvplan.reports.label_placement import spread
from kvplan.reports.plot import check_plot_path, write_figure
from kvplan.reports.scene import DASHES, HATCHES, MARKERS, Circle, Polyline, Rect
from kvplan.reports.to_html import render_html
from kvplan.reports.to_svg import render_svg
from kvplan.reports.to_terminal_plot import ASCII, BRAILLE, print_plot, terminal_plot

GOLDENS = Path(__file__).parent.parent / "goldens"
H100_BYTES = 85_017_493_504
"""What CUDA reports on an H100 80GB HBM3 (kvplan/accelerators/h100-sxm.yaml)."""

# Llama-3.1-70B by hand: 80 layers x 8 KV heads x (K + V) of 128 values, in 2 bytes, 1 byte, or half a byte and a scale.
LLAMA_ROWS = {
    "bf16": 2 * 80 * 8 * 128 * 2,
    "fp8_e4m3": 2 * 80 * 8 * 128,
    "int4_per_token_head": 2 * 80 * 8 * (64 + 4),
}


def curves(rows: dict[str, int], base_bytes: int = 0, marks: tuple[Mark, ...] = ()) -> CurveFigure:
    contexts = [2**power for power in range(12, 21)]
    series = tuple(
        Series(name, tuple(Point(tokens, base_bytes + row * tokens) for tokens in contexts))
        for name, row in rows.items()
    )
    title = "Llama-3.1-70B: KV cache against context"
    return CurveFigure(title, "1 sequence, geometry", series, H100_BYTES, "H100 80 GB", marks)


LLAMA = curves(LLAMA_ROWS, marks=(Mark("asked: 128k", 131072, 131072 * LLAMA_ROWS["bf16"]),))
CROWDED = curves({f"format number {index}": 20_000 + 900 * (index // 3) for index in range(12)}, base_bytes=60 * GIB)
BARE = CurveFigure("One point, no limit", "", (Series("state", (Point(5000, 0),)),))
BUDGET = BudgetFigure(
    "Llama-3.1-70B on 8 × H100",
    tuple(
        BudgetBar(
            f"rank {rank}",
            (
                Segment("weights", 17_680_000_000 + rank, "exact"),
                Segment("activation peak", 1_610_612_736, "estimate ± 10 %"),
                Segment("CUDA graphs", 1_288_490_188, "estimate ± 20 %"),
                Segment("KV cache", 45_000_000_000, "rule of vllm 0.25.1"),
            ),
            H100_BYTES,
        )
        for rank in range(8)
    ),
    "vllm 0.25.1",
)
TOO_MUCH = BudgetFigure(
    "Does not fit", (BudgetBar("rank 0", (Segment("weights", 3 * GIB, "exact"),), 2 * GIB), BudgetBar("bare", (), GIB))
)
HOSTILE = CurveFigure('<b>&"\x00', "]]>", (Series("</svg>", (Point(1, 1), Point(2, 2))),), 3, "<&>")
FIGURES = {"llama": LLAMA, "crowded": CROWDED, "bare": BARE, "budget": BUDGET, "too_much": TOO_MUCH, "hostile": HOSTILE}
CURVES = [name for name, figure in FIGURES.items() if isinstance(figure, CurveFigure)]


class Written(NamedTuple):
    """A line of text on a picture: its box in pixels."""

    text: str
    left: float
    top: float
    right: float
    bottom: float


def root_of(figure: Figure) -> ET.Element:
    return ET.fromstring(render_svg([draw(figure)]))


def tag(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def written(root: ET.Element) -> list[Written]:
    """Every text with its box; 0.56 em is more than the mean width of a letter in Arial."""
    texts = []
    for element in root.iter():
        if tag(element) == "text" and element.text:
            size, x, y = (float(element.attrib[name]) for name in ("font-size", "x", "y"))
            width = 0.56 * size * len(element.text)
            left = x - width * {"start": 0, "middle": 0.5, "end": 1}[element.get("text-anchor", "start")]
            texts.append(Written(element.text, left, y - 0.75 * size, left + width, y + 0.2 * size))
    return texts


def words_of(root: ET.Element) -> str:
    return "\n".join(root.itertext())


@pytest.mark.parametrize("name", FIGURES)
def test_svg_is_well_formed_and_described(name: str) -> None:
    root = root_of(FIGURES[name])
    assert root.get("viewBox", "").startswith("0 0 900 ")
    assert [tag(child) for child in root][:2] == ["title", "desc"]
    assert root[0].text
    assert root[1].text


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_leaves_the_view_box(name: str) -> None:
    root = root_of(FIGURES[name])
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    for text in written(root):
        assert text.left >= 0, text
        assert text.right <= width, text
        assert text.top >= 0, text
        assert text.bottom <= height, text


@pytest.mark.parametrize("name", FIGURES)
def test_no_two_texts_overlap(name: str) -> None:
    for one, two in combinations(written(root_of(FIGURES[name])), 2):
        apart = one.right <= two.left or two.right <= one.left or one.bottom <= two.top or two.bottom <= one.top
        assert apart, (one, two)


def test_scenes_below_each_other_do_not_overlap() -> None:
    one, two = draw(LLAMA), draw(BUDGET)
    root = ET.fromstring(render_svg([one, two]))
    assert float(root.attrib["height"]) == one.height + two.height
    moved = [element.get("transform") for element in root if tag(element) == "g"]
    assert moved == ["translate(0,0)", f"translate(0,{one.height:g})"]


@pytest.mark.parametrize("name", CURVES)
def test_curve_svg_has_every_label_and_value(name: str) -> None:
    figure = FIGURES[name]
    assert isinstance(figure, CurveFigure)
    words = words_of(root_of(figure))
    assert figure.title.replace("\x00", "\N{REPLACEMENT CHARACTER}") in words
    assert figure.limit_words() in words
    for series in figure.series:
        assert series.label in words
        assert format_bytes(series.points[-1].size_bytes) in words
        assert all(f"{point.size_bytes:,} bytes" in words for point in series.points)
    assert all(mark.label in words for mark in figure.marks)


def test_budget_svg_has_every_label_value_and_certainty() -> None:
    words = words_of(root_of(BUDGET))
    for row in BUDGET.rows:
        assert row.label in words
        assert rest_words(row) in words
        for label, size, certainty in row.segments:
            assert f"{label}: {format_bytes(size)} ({size:,} bytes), {certainty}" in words


def test_a_point_at_the_limit_lies_on_the_line_of_the_limit() -> None:
    figure = curves(LLAMA_ROWS, marks=(Mark("full", 259_452, H100_BYTES),))
    shapes = draw(figure).shapes
    (ring,) = [shape for shape in shapes if isinstance(shape, Circle) and shape.fill == "paper"]
    (limit,) = [shape for shape in shapes if isinstance(shape, Polyline) and shape.width == 2]
    (shade,) = [shape for shape in shapes if isinstance(shape, Rect) and shape.fill == "shade"]
    assert ring.y == limit.points[0][1] == limit.points[1][1] == pytest.approx(shade.y + shade.height)


def test_twice_the_context_is_a_straight_line_on_logarithmic_axes() -> None:
    (line, *_) = [shape for shape in draw(LLAMA).shapes if isinstance(shape, Polyline) and shape.stroke == "hue0"]
    steps = [(x1 - x0, y1 - y0) for (x0, y0), (x1, y1) in pairwise(line.points)]
    assert len(steps) == 8
    assert all(step == pytest.approx(steps[0]) for step in steps)
    assert steps[0][1] < 0 < steps[0][0]


def test_segments_are_as_wide_as_their_bytes() -> None:
    row = BUDGET.rows[0]
    rects = [shape for shape in draw(BUDGET).shapes if isinstance(shape, Rect) and shape.stroke == "paper"][:4]
    per_byte = rects[0].width / row.segments[0].size_bytes
    for rect, segment in zip(rects, row.segments):
        assert rect.width == pytest.approx(per_byte * segment.size_bytes)
    assert [right.x - left.x for left, right in pairwise(rects)] == pytest.approx([rect.width for rect in rects[:-1]])


def test_what_does_not_fit_says_by_how_much() -> None:
    assert "1.00 GiB too much" in words_of(root_of(TOO_MUCH))
    assert "1.00 GiB too much" in render_html([TOO_MUCH])


def test_series_and_segments_differ_without_colour() -> None:
    lines = [shape for shape in draw(CROWDED).shapes if isinstance(shape, Polyline) and shape.width > 2]
    assert len({line.dash for line in lines}) == len(DASHES) == 7
    assert len(set(MARKERS)) == 6
    assert len({hatch.path for hatch in HATCHES}) == len({hatch.letters for hatch in HATCHES}) == 8
    bar = [shape for shape in draw(BUDGET).shapes if isinstance(shape, Rect) and shape.stroke == "paper"][:4]
    assert len({rect.hatch for rect in bar}) == 4


class Outline(HTMLParser):
    """The tags of a page, and whether each is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_closed_and_refers_to_nothing_outside_itself() -> None:
    page = render_html(list(FIGURES.values()))
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    names = {name for name, _ in outline.attributes}
    assert not names & {"src", "href", "xlink:href", "srcset", "data", "action"}
    assert re.findall(r"url\((?!#)", page) == []
    assert "//" not in page
    assert "@import" not in page
    assert "<script" not in page
    ids = [value for name, value in outline.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(ids)


def test_html_follows_the_scheme_of_the_reader_and_has_the_exact_bytes() -> None:
    page = render_html([LLAMA, BUDGET])
    assert "prefers-color-scheme: dark" in page
    assert '<data value="42949672960" title="42,949,672,960 bytes">40.00 GiB</data>' in page  # 128k tokens in bf16
    assert page.count('<td class="over">') == 3 + 2 + 1  # bf16 from 256k, fp8 from 512k, int4 at 1M
    assert '<data value="17680000007"' in page


@pytest.mark.parametrize("glyphs", [BRAILLE, ASCII], ids=["braille", "ascii"])
@pytest.mark.parametrize("name", CURVES)
def test_terminal_plot_fits_80_columns(name: str, glyphs: object) -> None:
    figure = FIGURES[name]
    assert isinstance(figure, CurveFigure)
    lines = terminal_plot(figure, ASCII if glyphs is ASCII else BRAILLE).plain.split("\n")
    assert max(map(cell_len, lines)) <= 80
    assert len(lines) <= 20
    assert figure.series[0].label in "\n".join(lines)


# After a change that is meant: write what the test shows into the file, and look at it.
@pytest.mark.parametrize(("glyphs", "golden"), [(BRAILLE, "curve_braille.txt"), (ASCII, "curve_ascii.txt")])
def test_terminal_plot_looks_as_it_did(glyphs: object, golden: str) -> None:
    drawn = terminal_plot(LLAMA, ASCII if glyphs is ASCII else BRAILLE).plain
    lines = "".join(f"{line.rstrip()}\n" for line in drawn.split("\n"))
    assert lines == (GOLDENS / golden).read_text(encoding="utf-8")


@pytest.mark.parametrize(("encoding", "first"), [("utf-8", "●"), ("ascii", "o")])
def test_a_console_gets_what_its_encoding_can_write(encoding: str, first: str) -> None:
    written_bytes = io.BytesIO()
    stream = io.TextIOWrapper(written_bytes, encoding=encoding)
    print_plot(LLAMA, Console(file=stream, width=100, color_system=None))
    stream.flush()
    assert f"{first} bf16 320.00 GiB" in written_bytes.getvalue().decode(encoding)


@pytest.mark.parametrize(
    ("figure", "labels"),
    [
        (LLAMA, ("256 MiB", "512 MiB", "1 GiB", "2 GiB", "4 GiB", "8 GiB", "16 GiB", "32 GiB", "64 GiB", "128 GiB")),
        (CROWDED, ("0", "10 GiB", "20 GiB", "30 GiB", "40 GiB", "50 GiB")),
        (BARE, ("0", "1 B")),
    ],
    ids=["logarithmic", "linear", "nothing"],
)
def test_memory_ticks_are_round(figure: CurveFigure, labels: tuple[str, ...]) -> None:
    assert memory_scale(figure, max_ticks=12).labels[: len(labels)] == labels


def test_context_ticks_are_powers_of_two() -> None:
    assert token_scale([4096, 131072], max_ticks=12).labels == ("4k", "8k", "16k", "32k", "64k", "128k")
    assert token_scale([4096, 1048576], max_ticks=5).labels == ("4k", "16k", "64k", "256k", "1M")
    assert token_scale([5000], max_ticks=12).labels == ("5,000",)


@given(st.integers(1, 2**50), st.integers(2, 12))
def test_linear_ticks_reach_the_top_and_are_few(top: int, most: int) -> None:
    scale = linear_byte_scale(top, most)
    assert scale.ticks[0] == 0
    assert scale.ticks[-1] >= top
    assert 2 <= len(scale.ticks) <= most + 1
    assert len(set(scale.labels)) == len(scale.ticks)
    assert scale.place(scale.high) == 1


@given(st.lists(st.floats(0, 400), min_size=1, max_size=12))
def test_labels_are_spread_in_order_and_apart(wanted: list[float]) -> None:
    places = spread(wanted, distance=30, low=0, high=400)
    assert all(-1e-6 <= place <= 400 + 1e-6 for place in places)
    ranked = [place for _, place in sorted(zip(wanted, places))]
    assert all(later - earlier >= 30 - 1e-6 for earlier, later in pairwise(sorted(ranked)))
    assert all(places[i] < places[j] for i in range(len(wanted)) for j in range(len(wanted)) if wanted[i] < wanted[j])


def test_labels_with_room_stay_where_they_are() -> None:
    assert spread([100.0, 10.0, 200.0], distance=30, low=0, high=400) == [100.0, 10.0, 200.0]


@pytest.mark.parametrize("ending", ["svg", "html", "SVG"])
def test_the_ending_chooses_what_is_written(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"plan.{ending}"
    write_figure(path, [LLAMA, BUDGET])
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>" if ending == "html" else "<?xml")
    assert LLAMA.title in text
    assert BUDGET.title in text


def test_png_is_twice_as_large_as_its_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    path = tmp_path / "plan.png"
    write_figure(path, list(FIGURES.values()))
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    height = sum(draw(figure).height for figure in FIGURES.values())
    assert int.from_bytes(head[16:20], "big") == 1800
    assert int.from_bytes(head[20:24], "big") == pytest.approx(2 * height, abs=2)


def test_png_without_matplotlib_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match="matplotlib") as caught:
        write_figure(tmp_path / "plan.png", [LLAMA])
    assert "'.[plot]'" in (caught.value.hint or "")
    assert not (tmp_path / "plan.png").exists()


@pytest.mark.parametrize("name", ["plan.pdf", "plan", "plan.svg.gz", "-"])
def test_another_ending_is_refused_with_those_allowed(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        check_plot_path(tmp_path / name)
    assert ".svg, .png or .html" in (caught.value.hint or "")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.svg").mkdir()
    with pytest.raises(UsageError, match="it is a folder"):
        write_figure(tmp_path / "plan.svg", [LLAMA])
    with pytest.raises(UsageError, match="there is no folder"):
        write_figure(tmp_path / "missing" / "plan.svg", [LLAMA])


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, data: bytes) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(UsageError) as caught:
        write_figure(tmp_path / "plan.svg", [LLAMA])
    assert caught.value.message == f"cannot write '{tmp_path / 'plan.svg'}': Permission denied"


def test_points_out_of_order_are_no_series() -> None:
    with pytest.raises(ValueError, match="growing"):
        Series("bf16", (Point(2, 1), Point(1, 1)))
    with pytest.raises(ValueError, match="growing"):
        Series("bf16", ())
