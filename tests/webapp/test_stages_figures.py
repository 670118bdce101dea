"""Figures: right positions, escaped text, nothing a strict content policy would refuse."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from webapp.stages import figures
from webapp.stages.figures import Bar, Interval, Level, Series

HOSTILE = '"><script>alert(1)</script>'


def parse(svg: str) -> ElementTree.Element:
    """Well-formed XML, or the test fails here."""
    return ElementTree.fromstring(svg)


def line(points: list[tuple[float, float]], **options: object) -> str:
    return figures.line_chart(
        [Series(name="loss", points=points, stage="sft")],
        title="Loss",
        description="It falls.",
        x_label="step",
        y_label="nats",
        **options,  # type: ignore[arg-type]
    )


def path(points: list[tuple[float, float]]) -> str:
    return figures.path_chart(
        points, stage="ppo", title="Path", description="On.", x_label="KL", y_label="score",
        start_name="start", end_name="end",
    )  # fmt: skip


def polyline(svg: str) -> list[tuple[float, float]]:
    found = parse(svg).find("polyline")
    assert found is not None
    return [tuple(map(float, point.split(","))) for point in found.attrib["points"].split()]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (0, 100, [0, 25, 50, 75, 100]),
        (1.3, 4.2, [2, 3, 4]),
        (-0.2, 0.2, [-0.2, -0.1, 0, 0.1, 0.2]),
        (5, 5, [5]),
        (0, float("inf"), [0]),
    ],
)
def test_it_ticks_at_round_numbers(low: float, high: float, expected: list[float]) -> None:
    assert figures.ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.25, "0.25"), (1200, "1200"), (12_000, "12k"), (2_100_000, "2.1M"), (139_584, "140k"), (0.123456, "0.1235")],
)
def test_it_writes_numbers_short(value: float, text: str) -> None:
    assert figures.number(value) == text


def test_it_maps_a_share_axis_onto_the_drawing() -> None:
    points = polyline(line([(0, 0.0), (10, 1.0)], floor=0.0, ceiling=1.0))

    left, right = figures.LEFT, figures.WIDTH - figures.RIGHT
    top, bottom = figures.TOP, figures.HEIGHT - figures.BOTTOM
    assert points == [(left, bottom), (right, top)]


def test_it_leaves_out_points_that_are_not_finite() -> None:
    assert len(polyline(line([(0, 1.0), (1, float("nan")), (2, float("inf")), (3, 2.0)]))) == 2


def test_it_draws_a_single_point_and_a_flat_line_inside_the_frame() -> None:
    for points in ([(5, 2.0)], [(0, 3.0), (9, 3.0)], [(0, 0.0), (9, 0.0)]):
        for x, y in polyline(line(points)):
            assert 0 <= x <= figures.WIDTH
            assert 0 <= y <= figures.HEIGHT


@pytest.mark.parametrize("points", [[], [(0, float("nan"))]])
def test_it_draws_nothing_without_a_finite_point(points: list[tuple[float, float]]) -> None:
    assert line(points) == ""


def test_it_says_in_words_what_it_shows() -> None:
    svg = parse(line([(0, 1.0), (1, 2.0)]))

    assert svg.attrib["role"] == "img"
    assert svg.attrib["aria-label"] == "Loss. It falls."
    assert svg.findtext("title") == "Loss"


def test_it_keeps_a_level_inside_the_axis() -> None:
    svg = parse(line([(0, 1.0), (1, 2.0)], levels=[Level(name="xz", value=9.0)]))

    level = next(node for node in svg.iter("line") if node.attrib["class"] == "fig-level")
    assert figures.TOP <= float(level.attrib["y1"]) <= figures.HEIGHT - figures.BOTTOM


def test_bars_start_at_zero_and_are_proportional() -> None:
    svg = parse(
        figures.bar_chart(
            [Bar(name="one", value=2.0, stage="init", text="2"), Bar(name="two", value=1.0, stage="sft", text="1")],
            title="Bars",
            description="Two.",
        )
    )

    lengths = [float(bar.attrib["x2"]) - float(bar.attrib["x1"]) for bar in svg.iter("line")]
    assert lengths[0] == pytest.approx(2 * lengths[1], abs=0.2)


def test_an_interval_spans_its_ends_and_a_point_has_no_whiskers() -> None:
    svg = parse(
        figures.interval_chart(
            [
                Interval(name="model", value=0.8, low=0.7, high=0.9, stage="reward", text="80 %"),
                Interval(name="length", value=0.6, low=0.6, high=0.6, stage="init", text="60 %"),
            ],
            title="Agreement",
            description="80 %",
        )
    )

    whiskers = [node for node in svg.iter("line") if "fig-whisker" in node.attrib["class"]]
    dots = list(svg.iter("circle"))
    assert len(whiskers) == 1
    assert len(dots) == 2
    assert float(whiskers[0].attrib["x1"]) < float(dots[0].attrib["cx"]) < float(whiskers[0].attrib["x2"])


def test_a_path_follows_its_points_in_order_and_marks_both_ends() -> None:
    svg = figures.path_chart(
        [(0.0, 0.0), (2.0, 1.0), (1.0, 2.0)],
        stage="ppo",
        title="Path",
        description="There and back.",
        x_label="KL",
        y_label="score",
        start_name="start",
        end_name="step 3",
    )

    xs = [x for x, _ in polyline(svg)]
    assert xs[0] < xs[2] < xs[1]
    assert len(list(parse(svg).iter("circle"))) == 2


def test_a_noisy_path_is_drawn_faint_and_its_mean_bold_between_the_same_ends() -> None:
    points = [(float(step), float(step % 2)) for step in range(40)]
    faint, bold = parse(path(points)).iter("polyline")

    assert ("fig-faint" in faint.attrib["class"], "fig-path" in bold.attrib["class"]) == (True, True)
    raw, mean = (one.attrib["points"].split() for one in (faint, bold))
    assert (raw[0], raw[-1]) == (mean[0], mean[-1])
    inner = [float(point.split(",")[1]) for point in mean[5:-5]]
    noise = [float(point.split(",")[1]) for point in raw[5:-5]]
    assert max(inner) - min(inner) < (max(noise) - min(noise)) / 3


@pytest.mark.parametrize(("points", "is_whole"), [(10, False), (100, True)])
def test_a_line_with_a_great_many_points_has_no_dashes(points: int, is_whole: bool) -> None:
    drawn = parse(line([(float(step), float(step % 2)) for step in range(points)])).find("polyline")
    assert drawn is not None
    assert ("fig-path" in drawn.attrib["class"]) == is_whole


@pytest.mark.parametrize("end", [(1.0, 1.0), (1.0, 0.9), (0.0, 0.0), (0.2, 1.1)])
def test_the_names_of_a_paths_ends_never_meet(end: tuple[float, float]) -> None:
    first, last = (float(text.attrib["y"]) for text in parse(path([(1.0, 1.0), (0.0, 2.0), end])).iter("text")
                   if "fig-stage" in text.attrib["class"])  # fmt: skip
    assert abs(first - last) > figures.LINE


@pytest.mark.parametrize("values", [[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [2.9, 2.0, 3.0]])
def test_a_lines_name_stands_above_the_drawing_and_clear_of_a_levels(values: list[float]) -> None:
    svg = parse(line(list(enumerate(values)), levels=[Level(name="chance", value=3.0)]))
    loss, chance = (next(text.attrib for text in svg.iter("text") if text.text == name) for name in ("loss", "chance"))

    assert (loss["text-anchor"], chance["text-anchor"]) == ("end", "end")
    assert figures.LINE / 2 < float(loss["y"]) < figures.TOP < float(chance["y"]) - figures.LINE / 2
    assert float(chance["y"]) - float(loss["y"]) >= figures.LINE


def all_kinds(text: str) -> list[str]:
    frame = {"title": text, "description": text}
    return [
        figures.line_chart(
            [Series(name=text, points=[(0, 1), (1, 2)], stage="sft")],
            x_label=text,
            y_label=text,
            levels=[Level(name=text, value=1)],
            **frame,
        ),
        figures.path_chart(
            [(0, 1), (1, 2)], stage="ppo", x_label=text, y_label=text, start_name=text, end_name=text, **frame
        ),
        figures.bar_chart([Bar(name=text, value=1, stage="init", text=text)], **frame),
        figures.interval_chart(
            [Interval(name=text, value=0.5, low=0.4, high=0.6, stage="reward", text=text)],
            levels=[Level(name=text, value=0.5)],
            **frame,
        ),
    ]


def test_it_escapes_every_text() -> None:
    for svg in all_kinds(HOSTILE):
        assert "<script" not in svg
        assert parse(svg).findtext("title") == HOSTILE


def test_it_needs_no_inline_style_or_script() -> None:
    for svg in all_kinds("plain"):
        assert not re.search(r"\sstyle=|\son\w+=|<style|<script", svg)
