"""Plots of two numbers against each other and a table in colour, as inline SVG beside the bars of `charts.py`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 640
LEFT, BOTTOM, EDGE = 52, 36, 12
LABEL_CHARACTERS = 22
CELL = 22
NAMES = 170
"""Room for the names of a matrix's rows."""


@dataclass(frozen=True)
class Point:
    """A point with the interval of its height; `weight` from 0 to 1 is how large it is drawn."""

    x: float
    y: float
    low: float
    high: float
    weight: float = 0.3


@dataclass(frozen=True)
class Frame:
    """What part of the plane is shown: x from 0 to `right`, y from `bottom` to `top`, and what both are."""

    right: float
    bottom: float
    top: float
    x_name: str
    height: int = 280

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - EDGE) * value / self.right

    def y(self, value: float) -> float:
        inside = min(max((value - self.bottom) / (self.top - self.bottom), 0.0), 1.0)
        return EDGE + (self.height - BOTTOM - EDGE) * (1 - inside)


def reliability_chart(points: Sequence[Point], *, title: str) -> str:
    """Share right by probability, with the line on which both are the same. Empty without points."""
    if not points:
        return ""
    frame = Frame(right=1.0, bottom=0.0, top=1.0, x_name="probability that the model gave to its answer")
    line = f'<path class="line" d="M{frame.x(0):.1f} {frame.y(0):.1f}L{frame.x(1):.1f} {frame.y(1):.1f}"/>'
    return _svg([*_axes(frame, "{:.2f}".format), line, *_points(points, frame)], height=frame.height, title=title)


def curve_chart(points: Sequence[Point], curve: Sequence[Point], *, x_name: str, title: str) -> str:
    """Measured points, and a curve with its band that may go on beyond them. Empty with fewer than two points."""
    if len(points) < 2:
        return ""
    every = [*points, *curve]
    lowest, highest = min(point.low for point in every), max(point.high for point in every)
    room = 0.05 * (highest - lowest) or 0.05
    frame = Frame(right=max(point.x for point in every), bottom=lowest - room, top=highest + room, x_name=x_name)
    drawn = _axes(frame, "{:,.0f}".format)
    if curve:
        there = "L".join(f"{frame.x(point.x):.1f} {frame.y(point.low):.1f}" for point in curve)
        back = "L".join(f"{frame.x(point.x):.1f} {frame.y(point.high):.1f}" for point in reversed(curve))
        drawn.append(f'<path class="bar" fill-opacity="0.35" d="M{there}L{back}Z"/>')
        middle = "L".join(f"{frame.x(point.x):.1f} {frame.y(point.y):.1f}" for point in curve)
        drawn.append(f'<path class="line own" d="M{middle}"/>')
    return _svg([*drawn, *_points(points, frame)], height=frame.height, title=title)


def matrix_chart(rows: Sequence[str], columns: Sequence[str], counts: Sequence[Sequence[int]], *, title: str) -> str:
    """Counts as a table in colour, each row by its own sum: what is right in one colour, what is not in another. Empty without rows.

    The columns begin with the rows' names in their order; columns are numbered, and the numbers stand before the rows' names.
    """
    if not rows:
        return ""
    drawn = []
    for number, name in enumerate(columns):
        x = NAMES + CELL * number + CELL / 2
        short = str(number + 1) if number < len(rows) else "?" if name.startswith("(not") else "…"
        drawn.append(f'<text class="number" x="{x:.1f}" y="14" text-anchor="middle"><title>{escape(name)}</title>{short}</text>')
    for place, (name, line) in enumerate(zip(rows, counts, strict=True)):
        y, whole = 20 + CELL * place, max(1, sum(line))
        drawn.append(f'<text class="label" x="{NAMES - 8}" y="{y + 15}" text-anchor="end">{escape(_cut(name))} {place + 1}</text>')
        for number, count in enumerate(line):
            if count:
                x, kind = NAMES + CELL * number, "kept" if number == place else "gone"
                drawn.append(
                    f'<rect class="{kind}" fill-opacity="{0.12 + 0.6 * count / whole:.2f}" x="{x}" y="{y}" width="{CELL - 1}" '
                    f'height="{CELL - 1}"><title>{escape(name)} as {escape(columns[number])}: {count} of {sum(line)}</title></rect>'
                )
                drawn.append(f'<text x="{x + CELL / 2:.1f}" y="{y + 15}" text-anchor="middle">{count}</text>')
    return _svg(drawn, height=26 + CELL * len(rows), title=title, width=max(WIDTH, NAMES + CELL * len(columns) + EDGE))


def _axes(frame: Frame, x_number: Callable[[float], str]) -> list[str]:
    low = frame.height - BOTTOM
    parts = [f'<path class="axis" d="M{LEFT} {EDGE}V{low}H{WIDTH - EDGE}"/>']
    for quarter in range(5):
        part = quarter / 4
        y, x = frame.y(frame.bottom + part * (frame.top - frame.bottom)), frame.x(part * frame.right)
        said = frame.bottom + part * (frame.top - frame.bottom)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - EDGE}"/>')
        parts.append(f'<text class="number" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{said:.2f}</text>')
        anchor = "end" if quarter == 4 else "middle"
        parts.append(f'<text class="number" x="{x:.1f}" y="{low + 16}" text-anchor="{anchor}">{x_number(part * frame.right)}</text>')
    parts.append(f'<text class="label" x="{WIDTH - EDGE}" y="{frame.height - 3}" text-anchor="end">{escape(frame.x_name)}</text>')
    return parts


def _points(points: Sequence[Point], frame: Frame) -> list[str]:
    parts = []
    for point in points:
        x, low, high = frame.x(point.x), frame.y(point.low), frame.y(point.high)
        parts.append(f'<path class="whisker" d="M{x:.1f} {low:.1f}V{high:.1f}M{x - 4:.1f} {low:.1f}h8M{x - 4:.1f} {high:.1f}h8"/>')
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{frame.y(point.y):.1f}" r="{3 + 4 * point.weight:.1f}"/>')
    return parts


def _cut(label: str) -> str:
    return label if len(label) <= LABEL_CHARACTERS else label[: LABEL_CHARACTERS - 1] + "…"


def _svg(parts: Sequence[str], *, height: int, title: str, width: int = WIDTH) -> str:
    said = escape(title)
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{said}"><title>{said}</title>{"".join(parts)}</svg>'
