import base64
import re
from xml.etree import ElementTree

import pytest

from fine_tune_pipeline.guide.training.curve import MAXIMUM_POINTS, markdown_picture, svg, thinned

SVG = "{http://www.w3.org/2000/svg}"


def drawn(curves, **words) -> list[list[tuple[float, float]]]:
    """The points of every line, as pixels."""
    tree = ElementTree.fromstring(svg(curves, title="loss", across="steps", **words))
    return [[tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()] for line in tree.iter(f"{SVG}polyline")]


def test_a_falling_curve_falls_in_the_picture():
    [line] = drawn({"training": [(0, 4.0), (10, 2.0), (20, 1.0)]})
    across, down = zip(*line, strict=True)
    assert list(across) == sorted(across)
    assert list(down) == sorted(down)


def test_all_curves_share_one_scale():
    one, other = drawn({"a": [(0, 1.0), (10, 3.0)], "b": [(5, 2.0)]})
    assert other[0] == (pytest.approx((one[0][0] + one[1][0]) / 2), pytest.approx((one[0][1] + one[1][1]) / 2))


def test_a_flat_line_and_a_single_point_can_be_drawn():
    assert len(drawn({"flat": [(0, 1.0), (1, 1.0)], "point": [(0, 1.0)]})) == 2


def test_names_are_written_as_text_and_never_as_markup():
    tree = ElementTree.fromstring(svg({"<b>": [(0, 1.0)]}, title="a & b", across="steps"))
    texts = [element.text for element in tree.iter(f"{SVG}text")]
    assert "<b>" in texts
    assert "a & b" in texts


def test_long_curves_are_thinned_and_keep_their_ends():
    points = [(float(step), 1 / (step + 1)) for step in range(100_001)]
    kept = thinned(points)
    assert len(kept) <= MAXIMUM_POINTS
    assert (kept[0], kept[-1]) == (points[0], points[-1])


def test_the_picture_is_one_markdown_image_small_enough_for_the_ui():
    points = [(float(step), 1 / (step + 1)) for step in range(10_000)]
    text = markdown_picture({"training": points, "validation": points}, title="loss", across="steps")
    found = re.fullmatch(r"!\[loss\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", text)
    assert found
    assert len(text) < 50_000
    ElementTree.fromstring(base64.b64decode(found.group(1)))
