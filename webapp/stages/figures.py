"""Small figures as SVG text, drawn on the server so that they work without scripts.

The idea: a figure is numbers in, markup out. Positions are attributes, looks come from the style
sheet's `fig-*` and `stage-*` classes (the content policy allows no inline style), every text is
escaped, and each figure carries a title and a description for readers who cannot see it. The page
puts the same numbers in a table beside it.

Simplification: linear axes only, ticks at round numbers. Names stand above what they name, never beside it: on
a phone the style sheet makes letters half as large again, and a margin would cut them off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

WIDTH, HEIGHT = 560, 270
LEFT, RIGHT, TOP, BOTTOM = 66, 24, 28, 44
"""Margins: tick labels on the left, half of the last one on the right, the line's name above, axis title below."""
LINE = 20
"""Height of a line of letters at their largest."""

DENSE = 40
"""Points from which on a line is drawn whole: dashes on one that goes up and down all the time are a scribble."""

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line. `stage` picks its colour and dash; a `faint` line is the raw one behind another."""

    name: str
    points: Sequence[Point]
    stage: str
    faint: bool = False


@dataclass(frozen=True, kw_only=True)
class Level:
    """A horizontal line to compare with: chance, a compressor, a target."""

    name: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Bar:
    name: str
    value: float
    stage: str
    text: str
    """The value as people read it, with its unit."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its confidence interval; `low == high == value` draws a dot alone."""

    name: str
    value: float
    low: float
    high: float
    stage: str
    text: str


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """About `wanted` round numbers inside [low, high]."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    raw = (high - low) / wanted
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(magnitude * factor for factor in (1, 2, 2.5, 5, 10) if magnitude * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def number(value: float) -> str:
    """A tick or table value, short: 1 234 567 → 1.23M, 0.250 → 0.25."""
    for limit, letter in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e6 if letter == 'M' else 1e3):.3g}{letter}"
    return f"{value:.4g}"


def percent(value: float) -> str:
    return f"{100 * value:.0f}\u00a0%"  # the space does not break


@dataclass(frozen=True)
class _Scale:
    """Maps data to pixels along one axis."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> str:
        span = (self.high - self.low) or 1.0
        return f"{self.start + (value - self.low) / span * (self.end - self.start):.1f}"


def _finite(points: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _frame(title: str, description: str, body: SafeString, height: float = HEIGHT) -> SafeString:
    return format_html(
        '<svg class="fig" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title><desc>{}</desc>{}</svg>',
        WIDTH,
        f"{height:g}",
        f"{title}. {description}",
        title,
        description,
        body,
    )


def _text(x: str | float, y: str | float, text: str, kind: str = "", anchor: str = "start") -> SafeString:
    return format_html('<text x="{}" y="{}" class="fig-text {}" text-anchor="{}">{}</text>', x, y, kind, anchor, text)


def _line(x1: str, y1: str, x2: str, y2: str, kind: str) -> SafeString:
    return format_html('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"></line>', x1, y1, x2, y2, kind)


def _axes(x: _Scale, y: _Scale, *, x_label: str, y_label: str, as_percent: bool) -> SafeString:
    """Hairlines at the y ticks, numbers on both axes, the axes' names."""
    parts = []
    for value in ticks(y.low, y.high):
        parts.append(_line(f"{x.start:g}", y(value), f"{x.end:g}", y(value), "fig-grid"))
        label = percent(value) if as_percent else number(value)
        parts.append(_text(f"{LEFT - 8}", f"{float(y(value)) + 4:.1f}", label, anchor="end"))
    for value in ticks(x.low, x.high):
        parts.append(_text(x(value), f"{y.start + 18:g}", number(value), anchor="middle"))
    parts.append(_text(f"{x.end:g}", f"{y.start + 36:g}", x_label, "fig-name", "end"))
    parts.append(_text(f"{LEFT}", f"{y.start + 36:g}", y_label, "fig-name"))
    return _join(parts)


def _join(parts: Sequence[SafeString]) -> SafeString:
    return format_html_join("", "{}", ((part,) for part in parts))


def _polyline(points: Sequence[Point], x: _Scale, y: _Scale, kind: str) -> SafeString:
    path = " ".join(f"{x(px)},{y(py)}" for px, py in points)
    return format_html('<polyline points="{}" class="{}"></polyline>', path, kind)


def _dot(x: str, y: str, kind: str, radius: float = 3.5) -> SafeString:
    return format_html('<circle cx="{}" cy="{}" r="{}" class="{}"></circle>', x, y, f"{radius:g}", kind)


def _bounds(values: Sequence[float], *, floor: float | None, ceiling: float | None) -> tuple[float, float]:
    """The axis: the values with some air, or the fixed end that was asked for."""
    low, high = min(values), max(values)
    air = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return (low - air if floor is None else min(floor, low)), (high + air if ceiling is None else max(ceiling, high))


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    description: str,
    x_label: str,
    y_label: str,
    levels: Sequence[Level] = (),
    floor: float | None = None,
    ceiling: float | None = None,
    as_percent: bool = False,
) -> SafeString:
    """Lines over a common x axis. Non-finite points are left out; without a finite point, an empty string."""
    drawn = [(line, points) for line in series if (points := _finite(line.points))]
    if not drawn:
        return SafeString("")
    xs = [px for _, points in drawn for px, _ in points]
    ys = [py for _, points in drawn for _, py in points] + [level.value for level in levels]
    low, high = _bounds(ys, floor=floor, ceiling=ceiling)
    x = _Scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    named = [line for line, _ in drawn if not line.faint]
    top = TOP + LINE * max(0, len(named) - 1)
    y = _Scale(low, high, HEIGHT - BOTTOM, top)
    parts = [_axes(x, y, x_label=x_label, y_label=y_label, as_percent=as_percent)]
    for level in levels:
        at = float(y(level.value))
        parts.append(_line(f"{x.start:g}", y(level.value), f"{x.end:g}", y(level.value), "fig-level"))
        below = at < top + LINE
        parts.append(_text(f"{x.end:g}", f"{at + LINE - 4 if below else at - 6:.1f}", level.name, "fig-name", "end"))
    for row, line in enumerate(named):
        kind = f"fig-stage stage-{line.stage}"
        parts.append(_text(f"{x.end:g}", f"{LINE * (row + 1) - 4:g}", line.name, kind, "end"))
    for line, points in drawn:
        weight = "fig-line fig-faint" if line.faint else "fig-line fig-path" if len(points) > DENSE else "fig-line"
        parts.append(_polyline(points, x, y, f"{weight} stage-{line.stage}"))
        if not line.faint:
            end_x, end_y = points[-1]
            parts.append(_dot(x(end_x), y(end_y), f"fig-dot stage-{line.stage}"))
    return _frame(title, description, _join(parts))


def path_chart(
    points: Sequence[Point],
    *,
    stage: str,
    title: str,
    description: str,
    x_label: str,
    y_label: str,
    start_name: str,
    end_name: str,
) -> SafeString:
    """A path through the plane in the order of the points (reward against KL, step by step): every step faint, as
    rounds of few answers are noisy, and their moving average bold. Both begin and end at the same points."""
    path = _finite(points)
    if not path:
        return SafeString("")
    x_low, x_high = _bounds([px for px, _ in path], floor=None, ceiling=None)
    y_low, y_high = _bounds([py for _, py in path], floor=None, ceiling=None)
    x = _Scale(x_low, x_high, LEFT, WIDTH - RIGHT)
    y = _Scale(y_low, y_high, HEIGHT - BOTTOM, TOP)
    parts = [
        _axes(x, y, x_label=x_label, y_label=y_label, as_percent=False),
        _polyline(path, x, y, f"fig-line fig-faint stage-{stage}"),
        _polyline(_moving_average(path), x, y, f"fig-line fig-path stage-{stage}"),
    ]
    ends = ((start_name, path[0], path[-1], "fig-ring"), (end_name, path[-1], path[0], "fig-dot"))
    for name, (px, py), (_, other), kind in ends:
        # Each on its own side of both, so that they never meet; towards the middle, so that neither leaves the drawing.
        is_upper = py > other or (py == other and kind == "fig-dot")
        at = float(y(py)) + (-12 if is_upper else LINE + 4)
        anchor = "start" if float(x(px)) < (x.start + x.end) / 2 else "end"
        parts.append(_dot(x(px), y(py), f"{kind} stage-{stage}", 4))
        parts.append(_text(x(px), f"{at:.1f}", name, f"fig-stage stage-{stage}", anchor))
    return _frame(title, description, _join(parts))


def _moving_average(path: Sequence[Point]) -> list[Point]:
    """Means over a quarter of the path, less towards its ends, which stay where they are."""
    last, most = len(path) - 1, len(path) // 8
    smoothed = []
    for index in range(len(path)):
        reach = min(most, index, last - index)
        part = path[index - reach : index + reach + 1]
        smoothed.append((sum(px for px, _ in part) / len(part), sum(py for _, py in part) / len(part)))
    return smoothed


ROW = 48
"""Height of one row of a bar or interval figure: its name, and below it what is drawn."""
DRAWN = 34
"""Where in a row that is."""
EDGE = 24
"""Left of a scale: half of its first number."""
VALUES = 92
"""Width kept for the values on the right."""


def bar_chart(bars: Sequence[Bar], *, title: str, description: str, levels: Sequence[Level] = ()) -> SafeString:
    """Horizontal bars from zero, one per row, the value written at the end."""
    if not bars:
        return SafeString("")
    top = max([bar.value for bar in bars] + [level.value for level in levels]) or 1.0
    x = _Scale(0.0, top, 0.0, WIDTH - VALUES)
    bottom = ROW * len(bars) + 8
    parts = []
    for level in levels:
        parts.append(_line(x(level.value), "0", x(level.value), f"{bottom}", "fig-level"))
        parts.append(_text(x(level.value), f"{bottom + 14}", level.name, "fig-name", "middle"))
    for row, bar in enumerate(bars):
        middle = ROW * row + DRAWN
        kind = f"fig-bar stage-{bar.stage}"
        parts.append(_text(0, f"{middle - 14:g}", bar.name, f"fig-stage stage-{bar.stage}"))
        parts.append(_line("0", f"{middle:g}", x(max(bar.value, 0.0)), f"{middle:g}", kind))
        parts.append(_text(f"{float(x(bar.value)) + 10:.1f}", f"{middle + 4:g}", bar.text))
    return _frame(title, description, _join(parts), bottom + (22 if levels else 2))


def interval_chart(
    intervals: Sequence[Interval],
    *,
    title: str,
    description: str,
    levels: Sequence[Level] = (),
    low: float = 0.0,
    high: float = 1.0,
) -> SafeString:
    """Estimates with their intervals on one percentage axis."""
    if not intervals:
        return SafeString("")
    x = _Scale(low, high, EDGE, WIDTH - VALUES)
    bottom = ROW * len(intervals) + 4
    parts = []
    for tick in ticks(low, high):
        parts.append(_line(x(tick), "0", x(tick), f"{bottom}", "fig-grid"))
        parts.append(_text(x(tick), f"{bottom + 16}", percent(tick), anchor="middle"))
    for level in levels:
        parts.append(_line(x(level.value), "0", x(level.value), f"{bottom}", "fig-level"))
        parts.append(_text(x(level.value), f"{bottom + 34}", level.name, "fig-name", "middle"))
    for row, item in enumerate(intervals):
        middle = f"{ROW * row + DRAWN:g}"
        base = f"{ROW * row + DRAWN + 4:g}"
        parts.append(_text(EDGE, f"{ROW * row + DRAWN - 14:g}", item.name, f"fig-stage stage-{item.stage}"))
        if item.high > item.low:
            parts.append(_line(x(item.low), middle, x(item.high), middle, f"fig-whisker stage-{item.stage}"))
        parts.append(_dot(x(item.value), middle, f"fig-dot stage-{item.stage}", 5))
        parts.append(_text(f"{WIDTH - VALUES + 10}", base, item.text))
    return _frame(title, description, _join(parts), bottom + (40 if levels else 22))
