"""Charts as inline SVG: no script, no font, no file beside the page; colours come from the page's style, so dark and print work."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 640
LABEL = 150
LABEL_CHARACTERS = 22
"""So much of a name fits before its bar."""

LINE = 30
PAD = 34
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
