"""Values one after the other, and values against a limit, as SVG that stands alone: in a page, or as an image in Markdown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 240
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 34, 34
LINE = 28
LABEL = 150
COLOURS = ("#1f6f8b", "#d97706", "#6b7280", "#7c3aed")
BAD, TEXT, AXIS = "#b3261e", "#111827", "#d5dae0"


@dataclass(frozen=True)
class Series:
    """A named line; None leaves a gap. `marked` places get a large red dot."""

    name: str
    values: Sequence[float | None]
    marked: Sequence[bool] = ()


@dataclass(frozen=True)
class Level:
    """A bar, and what stands behind it; `bad` ones are red."""

    label: str
    value: float
    note: str
    bad: bool = False


def timeline(series: Sequence[Series], *, title: str, first: str = "", last: str = "", limit: float | None = None) -> str:
    """Lines from the oldest value to the newest. Empty if there is nothing to draw.

    Args:
        first: written below the oldest value.
        last: below the newest.
        limit: a dashed line.
    """
    seen = [value for line in series for value in line.values if value is not None]
    if not seen:
        return ""
    top = max([*seen, 0.0 if limit is None else limit, 1e-9]) * 1.1
    count = max(len(line.values) for line in series)

    def x(place: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (place / (count - 1) if count > 1 else 0.5)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - max(value, 0.0) / top)

    parts = [_tick(y(top * quarter / 4), f"{top * quarter / 4:.3g}") for quarter in range(5)]
    if limit is not None:
        parts.append(f'<path d="M{LEFT} {y(limit):.1f}H{WIDTH - RIGHT}" stroke="{BAD}" stroke-dasharray="5 4" fill="none"/>')
    for number, line in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        parts.append(_text(LEFT + 170 * number, 18, f"● {line.name}", colour=colour))
        parts += [f'<path d="{path}" stroke="{colour}" stroke-width="2" fill="none"/>' for path in _paths(line.values, x, y)]
        parts += [_dot(x(place), y(value), colour) for place, value in enumerate(line.values) if value is not None and count <= 60]
        marked = [place for place, bad in enumerate(line.marked) if bad]
        parts += [_dot(x(place), y(value), BAD, size=6) for place in marked if (value := line.values[place]) is not None]
    parts += [_text(LEFT, HEIGHT - 10, first), _text(WIDTH - RIGHT, HEIGHT - 10, last, anchor="end")]
    return _svg(parts, height=HEIGHT, title=title)


def levels(bars: Sequence[Level], *, limit: float, title: str, limit_name: str) -> str:
    """Horizontal bars from 0, with a line at the limit. Empty if there is nothing to draw."""
    if not bars:
        return ""
    top = max([limit, *(bar.value for bar in bars)]) * 1.05
    room = WIDTH - LABEL - 130

    def x(value: float) -> float:
        return LABEL + room * value / top

    height = LINE * len(bars) + 30
    parts = []
    for place, bar in enumerate(bars):
        middle = LINE * place + LINE / 2
        colour = BAD if bar.bad else COLOURS[0]
        parts += [
            _text(LABEL - 8, middle + 4, bar.label, anchor="end"),
            f'<rect x="{LABEL}" y="{middle - 8:.1f}" width="{max(x(bar.value) - LABEL, 1):.1f}" height="16" fill="{colour}"/>',
            _text(x(bar.value) + 6, middle + 4, bar.note),
        ]
    parts.append(f'<path d="M{x(limit):.1f} 0V{height - 22}" stroke="{BAD}" stroke-dasharray="5 4" fill="none"/>')
    parts.append(_text(x(limit), height - 8, limit_name, anchor="middle", colour=BAD))
    return _svg(parts, height=height, title=title)


def _paths(values: Sequence[float | None], x: Callable[[int], float], y: Callable[[float], float]) -> list[str]:
    """One path for each stretch without a gap."""
    stretches: list[list[str]] = [[]]
    for place, value in enumerate(values):
        if value is None:
            stretches.append([])
        else:
            stretches[-1].append(f"{x(place):.1f} {y(value):.1f}")
    return ["M" + "L".join(stretch) for stretch in stretches if len(stretch) > 1]


def _tick(y: float, said: str) -> str:
    return f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{AXIS}" fill="none"/>' + _text(LEFT - 6, y + 4, said, anchor="end")


def _dot(x: float, y: float, colour: str, *, size: float = 3) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="{colour}"/>'


def _text(x: float, y: float, said: str, *, anchor: str = "start", colour: str = TEXT) -> str:
    # As a style, which the page's own for texts does not overrule: the ground is white in the dark too.
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="fill:{colour}">{escape(said)}</text>'


def _svg(parts: Sequence[str], *, height: int, title: str) -> str:
    said = escape(title)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{said}" font-family="sans-serif" font-size="12">'
    )
    return "".join([head, f"<title>{said}</title>", f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>', *parts, "</svg>"])
