"""Pictures of a search: parallel coordinates, and how much each parameter matters. SVG that stands alone, in a page or in Markdown."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, MARGIN = 720, 320, 60
LINE = 28
LABEL = 190
COLOURS = {"chosen": "#d97706", "first": "#4f46e5", "other": "#9ca3af", "text": "#111827", "axis": "#6b7280"}

Place = bool | float | int | str | None


@dataclass(frozen=True)
class Axis:
    """One parameter, or the score: `values` are listed in their order, or numbers from the least to the most are drawn by size."""

    name: str
    values: tuple[Place, ...] = ()
    log: bool = False


@dataclass(frozen=True)
class Line:
    """One trial: a value on each axis, None where it has none. `kind`: chosen, first or other."""

    label: str
    places: tuple[Place, ...]
    kind: str = "other"


def parallel_coordinates(axes: Sequence[Axis], lines: Sequence[Line], *, title: str) -> str:
    """An axis for each parameter, a line for each trial; the chosen one is on top. Empty if there is nothing to draw."""
    if len(axes) < 2 or not lines:
        return ""
    gap = (WIDTH - 2 * MARGIN) / (len(axes) - 1)
    scales = [_Scale(axis, [line.places[place] for line in lines]) for place, axis in enumerate(axes)]
    parts, order = list[str](), {"other": 0, "first": 1, "chosen": 2}
    for line in sorted(lines, key=lambda one: order[one.kind]):
        seen = [
            (MARGIN + gap * place, scale.y(value))
            for place, (scale, value) in enumerate(zip(scales, line.places, strict=True))
            if value is not None
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in seen)
        width = 1.5 if line.kind == "other" else 3
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{COLOURS[line.kind]}" stroke-width="{width}">'
            f"<title>{escape(line.label)}</title></polyline>"
        )
    # Over the lines, so that their numbers can be read.
    parts += [_axis(axis, scale, x=MARGIN + gap * place) for place, (axis, scale) in enumerate(zip(axes, scales, strict=True))]
    legend = [("chosen", "taken"), ("first", "the plan"), ("other", "others")]
    parts += [
        _text(MARGIN + 110 * place, HEIGHT - 14, f"— {said}", colour=COLOURS[kind])
        for place, (kind, said) in enumerate(legend)
        if any(line.kind == kind for line in lines)
    ]
    return _svg(parts, height=HEIGHT, title=title)


def importance_bars(shares: Mapping[str, float], *, title: str) -> str:
    """A bar for each parameter, the longest first. Empty if nothing is known."""
    if not shares:
        return ""
    room, parts = WIDTH - LABEL - 70, []
    for place, (name, share) in enumerate(sorted(shares.items(), key=lambda item: -item[1])):
        middle = LINE * place + LINE
        parts += [
            _text(LABEL - 8, middle + 4, name, anchor="end"),
            f'<rect x="{LABEL}" y="{middle - 8}" width="{room * min(max(share, 0.0), 1.0):.1f}" height="16" fill="{COLOURS["first"]}"/>',
            _text(LABEL + room * min(max(share, 0.0), 1.0) + 6, middle + 4, f"{share:.0%}"),
        ]
    return _svg(parts, height=LINE * (len(shares) + 1), title=title)


def markdown_image(svg: str, *, title: str) -> str:
    """A picture inside Markdown, with no file beside it; nothing of an empty one."""
    return f"![{title}](data:image/svg+xml;base64,{base64.b64encode(svg.encode('utf-8')).decode('ascii')})" if svg else ""


class _Scale:
    """From a value to its height."""

    def __init__(self, axis: Axis, seen: Sequence[Place]) -> None:
        self._axis = axis
        numbers = [float(value) for value in seen if isinstance(value, int | float)]
        self.low, self.high = (min(numbers), max(numbers)) if numbers and not axis.values else (0.0, 1.0)

    def y(self, value: Place) -> float:
        """Of a value on this axis."""
        return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * self._share(value)

    def _share(self, value: Place) -> float:
        if self._axis.values:
            last = len(self._axis.values) - 1
            return self._axis.values.index(value) / last if last else 0.5
        assert isinstance(value, int | float)
        low, high, at = (math.log(each) if self._axis.log else each for each in (self.low, self.high, float(value)))
        return (at - low) / (high - low) if high > low else 0.5


def _axis(axis: Axis, scale: _Scale, *, x: float) -> str:
    ticks = [(scale.y(value), str(value)) for value in axis.values] or [(scale.y(one), f"{one:.3g}") for one in {scale.low, scale.high}]
    marks = [_text(x + 6, y + 4, said) for y, said in ticks]
    line = f'<path d="M{x:.1f} {MARGIN}V{HEIGHT - MARGIN}" stroke="{COLOURS["axis"]}"/>'
    return "".join([line, *marks, _text(x, MARGIN - 24, axis.name, anchor="middle")])


def _text(x: float, y: float, said: str, *, anchor: str = "start", colour: str = COLOURS["text"]) -> str:
    # As a style, which the page's own for texts does not overrule: the ground is white in the dark too.
    style = f"fill:{colour};stroke:#ffffff;stroke-width:3px;paint-order:stroke"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{style}">{escape(said)}</text>'


def _svg(parts: Sequence[str], *, height: int, title: str) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}" font-family="sans-serif" font-size="12">'
    )
    return "".join([head, f"<title>{escape(title)}</title>", f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>', *parts, "</svg>"])
