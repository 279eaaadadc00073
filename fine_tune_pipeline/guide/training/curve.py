"""A curve as a picture that Markdown can hold: SVG inside a data URI, so that nothing has to be served beside it."""

import base64
from collections.abc import Mapping, Sequence
from html import escape

Point = tuple[float, float]

WIDTH, HEIGHT = 640, 320
MARGIN = 48
COLOURS = ("#4f46e5", "#d97706", "#059669", "#dc2626")

MAXIMUM_POINTS = 400
"""Of one line: more cannot be seen at this width, and the picture must stay below the 50 KB that a UI shows well."""


def markdown_picture(curves: Mapping[str, Sequence[Point]], *, title: str, across: str) -> str:
    """The curves as one Markdown image.

    Args:
        curves: name -> points (x, y), each with at least one.
        across: what x is, such as `step`.
    """
    encoded = base64.b64encode(svg(curves, title=title, across=across).encode("utf-8")).decode("ascii")
    return f"![{title}](data:image/svg+xml;base64,{encoded})"


def svg(curves: Mapping[str, Sequence[Point]], *, title: str, across: str) -> str:
    """The curves as an SVG document with axes, their ends labelled, and a legend."""
    xs = [x for points in curves.values() for x, _ in points]
    ys = [y for points in curves.values() for _, y in points]
    box = (min(xs), max(xs), min(ys), max(ys))
    lines = [_line(thinned(points), COLOURS[number % len(COLOURS)], box) for number, points in enumerate(curves.values())]
    legend = [
        _text(WIDTH - MARGIN, MARGIN + 18 * number, name, anchor="end", colour=COLOURS[number % len(COLOURS)])
        for number, name in enumerate(curves)
    ]
    bottom, right = HEIGHT - MARGIN, WIDTH - MARGIN
    ends = [
        _text(MARGIN, bottom + 18, f"{box[0]:g}"),
        _text(right, bottom + 18, f"{box[1]:g} {across}", anchor="end"),
        _text(MARGIN - 6, bottom, f"{box[2]:.3g}", anchor="end"),
        _text(MARGIN - 6, MARGIN, f"{box[3]:.3g}", anchor="end"),
        _text(MARGIN, MARGIN - 20, title),
    ]
    axes = f'<path d="M{MARGIN} {MARGIN}V{bottom}H{right}" fill="none" stroke="#9ca3af"/>'
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">'
    return "".join([head, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>', axes, *lines, *ends, *legend, "</svg>"])


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most `MAXIMUM_POINTS` of the points, evenly chosen, the last always among them."""
    step = -(-len(points) // MAXIMUM_POINTS)
    kept = list(points[::step])
    return kept if kept[-1] == points[-1] else [*kept[: MAXIMUM_POINTS - 1], points[-1]]


def _line(points: Sequence[Point], colour: str, box: tuple[float, float, float, float]) -> str:
    left, right, low, high = box
    # A single point, or a flat line, has no extent of its own.
    across, up = (WIDTH - 2 * MARGIN) / ((right - left) or 1), (HEIGHT - 2 * MARGIN) / ((high - low) or 1)
    placed = " ".join(f"{MARGIN + (x - left) * across:.1f},{HEIGHT - MARGIN - (y - low) * up:.1f}" for x, y in points)
    return f'<polyline points="{placed}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", colour: str = "#111827") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'
