"""Charts as inline SVG: no script, no font, no file beside the page; colours come from the page's style, so dark and print work."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH = 640
LABEL = 150
LABEL_CHARACTERS = 22
"""So much of a name fits before its bar."""

LINE = 30
PAD = 34
LABEL_HEIGHT = 14
"""Between two names that stand one above the other."""

NOTE = 190
"""Room behind the longest bar of `stacked_chart`."""


@dataclass(frozen=True)
class Bar:
    """One bar with its interval; `own` sets it apart."""

    label: str
    value: float
    low: float
    high: float
    own: bool = False


@dataclass(frozen=True)
class Interval:
    """An estimate between two ends."""

    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Point:
    """How good something is, between two ends, and what it costs; `own` sets it apart."""

    label: str
    cost: float
    value: float
    low: float
    high: float
    own: bool = False


@dataclass(frozen=True)
class Stack:
    """One bar made of several parts, in the order of the chart's kinds; `note` stands behind it."""

    label: str
    values: tuple[float, ...]
    note: str = ""


def bar_chart(bars: Sequence[Bar], *, title: str, top: float = 1.0) -> str:
    """Horizontal bars from 0 to `top` with intervals as whiskers."""
    height = LINE * len(bars) + PAD

    def x(value: float) -> float:
        return LABEL + (WIDTH - LABEL - 60) * min(max(value / top, 0.0), 1.0)

    parts = [_axis(x, top=top, height=height)]
    for place, bar in enumerate(bars):
        middle = LINE * place + LINE / 2
        kind = "bar own" if bar.own else "bar"
        parts += [
            f'<text class="label" x="{LABEL - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(bar.label)}</text>',
            f'<rect class="{kind}" x="{LABEL}" y="{middle - 9:.1f}" width="{x(bar.value) - LABEL:.1f}" height="18"/>',
            f'<path class="whisker" d="M{x(bar.low):.1f} {middle:.1f}H{x(bar.high):.1f}M{x(bar.low):.1f} {middle - 5:.1f}v10'
            f'M{x(bar.high):.1f} {middle - 5:.1f}v10"/>',
            f'<text class="number" x="{x(max(bar.value, bar.high)) + 6:.1f}" y="{middle + 4:.1f}">{bar.value:.3f}</text>',
        ]
    return _svg(parts, height=height, title=title)


def forest_chart(lines: Sequence[Interval], *, wanted: float | None, title: str) -> str:
    """Gains with their intervals around a line at 0; a dashed line is the gain that is asked for. Empty if there is nothing to draw.

    Args:
        wanted: None when none is asked for.
    """
    if not lines:
        return ""
    ends = [0.0, *(end for line in lines for end in (line.low, line.value, line.high)), *([] if wanted is None else [wanted])]
    first, span = min(ends), (max(ends) - min(ends)) or 1.0
    height = LINE * len(lines) + PAD

    def x(value: float) -> float:
        return LABEL + 8 + (WIDTH - LABEL - 90) * (value - first) / span

    parts = [f'<path class="axis" d="M{x(0):.1f} 0V{height - PAD + 4}"/>', _tick(x(0), height, "0")]
    if wanted is not None:
        parts += [f'<path class="wanted" d="M{x(wanted):.1f} 0V{height - PAD + 4}"/>']
        # A label on top of the 0 would hide it.
        parts += [_tick(x(wanted), height, f"{wanted:g}")] if abs(x(wanted) - x(0)) > 24 else []
    for place, line in enumerate(lines):
        middle = LINE * place + LINE / 2
        parts += [
            f'<text class="label" x="{LABEL - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(_cut(line.label))}</text>',
            f'<path class="whisker" d="M{x(line.low):.1f} {middle:.1f}H{x(line.high):.1f}M{x(line.low):.1f} {middle - 5:.1f}v10'
            f'M{x(line.high):.1f} {middle - 5:.1f}v10"/>',
            f'<circle class="dot" cx="{x(line.value):.1f}" cy="{middle:.1f}" r="4.5"/>',
            f'<text class="number" x="{x(max(line.value, line.high)) + 8:.1f}" y="{middle + 4:.1f}">{line.value:+.3f}</text>',
        ]
    return _svg(parts, height=height, title=title)


def scatter_chart(points: Sequence[Point], *, title: str, unit: str) -> str:
    """Quality upwards, with intervals, against what it costs, by powers of ten. Empty if there is nothing to draw.

    Args:
        points: those that cost nothing have no place on such an axis and are left out.
        unit: of the costs.
    """
    points = [point for point in points if point.cost > 0]
    if not points:
        return ""
    height, left, bottom, right = 300, 46, 42, 120
    low, high = min(0.0, *(point.low for point in points)), max(1.0, *(point.high for point in points))
    first, last = floor(log10(min(point.cost for point in points))), ceil(log10(max(point.cost for point in points)))
    decades = max(1, last - first)

    def x(cost: float) -> float:
        return left + 12 + (WIDTH - left - right) * (log10(cost) - first) / decades

    def y(value: float) -> float:
        return 10 + (height - bottom - 10) * (1 - (value - low) / (high - low))

    parts = [f'<path class="axis" d="M{left} 10V{height - bottom}H{WIDTH - 10}"/>']
    parts += [f'<text class="number" x="{left - 6}" y="{y(end) + 4:.1f}" text-anchor="end">{end:g}</text>' for end in (low, high)]
    parts += [_tick(x(10.0**power), height - bottom + PAD - 4, f"{10.0**power:g}") for power in range(first, first + decades + 1)]
    heights = _apart([y(point.value) for point in points])
    for point, beside in zip(points, heights, strict=True):
        across = x(point.cost)
        parts += [
            f'<path class="whisker" d="M{across:.1f} {y(point.low):.1f}V{y(point.high):.1f}M{across - 5:.1f} {y(point.low):.1f}h10'
            f'M{across - 5:.1f} {y(point.high):.1f}h10"/>',
            f'<circle class="{"dot" if point.own else "dot other"}" cx="{across:.1f}" cy="{y(point.value):.1f}" r="5"/>',
            f'<text class="label" x="{across + 10:.1f}" y="{beside + 4:.1f}">{escape(_cut(point.label))}</text>',
        ]
    parts.append(f'<text class="label" x="{WIDTH - 10}" y="{height - 4}" text-anchor="end">{escape(unit)}</text>')
    return _svg(parts, height=height, title=title)


def stacked_chart(stacks: Sequence[Stack], *, kinds: Mapping[str, str], title: str) -> str:
    """Horizontal bars of comparable length, each cut into parts. Empty if there is nothing to draw.

    Args:
        kinds: name of a part -> its class in the page's style: kept, gone, other, third; it is the legend too.
    """
    longest = max((sum(stack.values) for stack in stacks), default=0)
    if not longest:
        return ""
    room = WIDTH - LABEL - NOTE
    parts = _legend(kinds)
    for place, stack in enumerate(stacks):
        middle, x = LINE * (place + 1) + LINE / 2, float(LABEL)
        parts.append(f'<text class="label" x="{LABEL - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(_cut(stack.label))}</text>')
        for kind, value in zip(kinds.values(), stack.values, strict=True):
            width = room * value / longest
            parts.append(f'<rect class="{kind}" x="{x:.1f}" y="{middle - 9:.1f}" width="{width:.1f}" height="18"/>')
            x += width
        parts.append(f'<text class="number" x="{x + 6:.1f}" y="{middle + 4:.1f}">{escape(stack.note)}</text>')
    return _svg(parts, height=LINE * (len(stacks) + 1) + 6, title=title)


def histogram(counts: Sequence[int], *, width: int, title: str, unit: str) -> str:
    """Columns: how many values lie in each range of `width`, the first one from 0. Empty if there is nothing to draw."""
    if not any(counts):
        return ""
    height, left, bottom = 200, 52, 34
    step, tall = (WIDTH - left - 10) / len(counts), height - bottom - 14
    parts = [f'<path class="axis" d="M{left} 10V{height - bottom}H{WIDTH - 10}"/>']
    parts += [f'<text class="number" x="{left - 6}" y="{height - bottom - tall + 4}" text-anchor="end">{max(counts):,}</text>']
    for place, count in enumerate(counts):
        column = tall * count / max(counts)
        parts.append(
            f'<rect class="kept" x="{left + step * place:.1f}" y="{height - bottom - column:.1f}" width="{step * 0.9:.1f}" '
            f'height="{column:.1f}"/>'
        )
    for share, anchor in ((0.0, "middle"), (0.5, "middle"), (1.0, "end")):
        x = left + step * len(counts) * share
        parts.append(
            f'<text class="number" x="{x:.1f}" y="{height - bottom + 16}" text-anchor="{anchor}">{width * len(counts) * share:,.0f}</text>'
        )
    parts.append(f'<text class="label" x="{WIDTH - 10}" y="{height - 3}" text-anchor="end">{escape(unit)}</text>')
    return _svg(parts, height=height, title=title)


def line_chart(training: Sequence[tuple[float, float]], validation: Sequence[tuple[float, float]], *, title: str) -> str:
    """Loss by step: a line for training, points joined by a line for validation. Empty if there is nothing to draw."""
    points = [*training, *validation]
    if len(points) < 2:
        return ""
    last, highest = max(step for step, _ in points) or 1.0, max(loss for _, loss in points) or 1.0
    height, left, bottom = 240, 46, 30

    def place(point: tuple[float, float]) -> tuple[float, float]:
        return left + (WIDTH - left - 10) * point[0] / last, 10 + (height - bottom - 10) * (1 - point[1] / highest)

    def path(line: Sequence[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in map(place, line))

    parts = [f'<path class="axis" d="M{left} 10V{height - bottom}H{WIDTH - 10}"/>']
    for share in (0.0, 0.5, 1.0):
        x, y = place((last * share, highest * share))
        parts.append(f'<text class="number" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{highest * share:.2f}</text>')
        parts.append(f'<text class="number" x="{x:.1f}" y="{height - bottom + 16}" text-anchor="middle">{last * share:.0f}</text>')
    if training:
        parts.append(f'<path class="line" d="{path(training)}"/>')
    if validation:
        parts.append(f'<path class="line own" d="{path(validation)}"/>')
        parts += [f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in map(place, validation)]
    parts.append(f'<text class="label" x="{WIDTH - 10}" y="{height - 2}" text-anchor="end">optimizer step</text>')
    return _svg(parts, height=height, title=title)


def _legend(kinds: Mapping[str, str]) -> list[str]:
    parts, x = [], float(LABEL)
    for name, kind in kinds.items():
        parts.append(f'<rect class="{kind}" x="{x:.1f}" y="8" width="12" height="12"/>')
        parts.append(f'<text class="number" x="{x + 17:.1f}" y="18">{escape(name)}</text>')
        x += 40 + 7 * len(name)
    return parts


def _cut(label: str) -> str:
    return label if len(label) <= LABEL_CHARACTERS else label[: LABEL_CHARACTERS - 1] + "…"


def _tick(x: float, height: float, text: str) -> str:
    return f'<text class="number" x="{x:.1f}" y="{height - PAD + 20:.1f}" text-anchor="middle">{text}</text>'


def _apart(heights: Sequence[float]) -> list[float]:
    """The same places, the lower ones moved down as far as it takes to read all names."""
    moved: dict[int, float] = {}
    above = float("-inf")
    for place in sorted(range(len(heights)), key=lambda place: heights[place]):
        above = moved[place] = max(heights[place], above + LABEL_HEIGHT)
    return [moved[place] for place in range(len(heights))]


def _axis(x: Callable[[float], float], *, top: float, height: int) -> str:
    ticks = [top * quarter / 4 for quarter in range(5)]
    lines = "".join(f"M{x(tick):.1f} 0V{height - PAD + 4}" for tick in ticks)
    labels = "".join(
        f'<text class="number" x="{x(tick):.1f}" y="{height - PAD + 20}" text-anchor="middle">{tick:g}</text>' for tick in ticks
    )
    return f'<path class="grid" d="{lines}"/>{labels}'


def _svg(parts: Sequence[str], *, height: int, title: str) -> str:
    body = "".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>{body}</svg>'
