"""Pictures of a search: well-formed, to scale, and safe with any name."""

import base64
from xml.etree import ElementTree

import pytest

from fine_tune_pipeline.pages.coordinates import HEIGHT, MARGIN, WIDTH, Axis, Line, importance_bars, markdown_image, parallel_coordinates

SVG = "{http://www.w3.org/2000/svg}"
AXES = (Axis("rate", log=True), Axis("rank", (8, 16, 32)), Axis("<score>"))


def drawn(svg: str) -> dict[str, list[tuple[float, float]]]:
    """Label of a line -> its points."""
    lines = ElementTree.fromstring(svg).iter(f"{SVG}polyline")
    return {
        line.findtext(f"{SVG}title") or "": [(float(x), float(y)) for x, y in (point.split(",") for point in line.attrib["points"].split())]
        for line in lines
    }


def test_lines_are_placed_to_scale_by_size_by_factor_and_by_the_order_of_a_list():
    lines = [Line("a", (1e-4, 8, 0.0)), Line("b", (1e-3, 16, 0.25), "first"), Line("c", (1e-2, 32, 1.0), "chosen")]
    found = drawn(parallel_coordinates(AXES, lines, title="trials"))
    low, high = HEIGHT - MARGIN, MARGIN
    assert [x for x, _ in found["a"]] == [MARGIN, WIDTH / 2, WIDTH - MARGIN]
    assert [y for _, y in found["a"]] == [low] * 3
    assert [y for _, y in found["c"]] == [high] * 3
    assert [y for _, y in found["b"]] == pytest.approx([HEIGHT / 2, HEIGHT / 2, low - (low - high) / 4])
    assert list(found) == ["a", "b", "c"]


def test_the_chosen_line_is_drawn_over_the_others_and_a_trial_without_score_ends_before_it():
    lines = [Line("taken", (1e-3, 8, 1.0), "chosen"), Line("failed", (1e-4, 16, None))]
    found = drawn(parallel_coordinates(AXES, lines, title="trials"))
    assert list(found) == ["failed", "taken"]
    assert len(found["failed"]) == 2


def test_names_cannot_become_markup_and_equal_values_stand_in_the_middle():
    svg = parallel_coordinates(AXES, [Line("<b>", (1e-3, 8, 0.5)), Line("&", (1e-3, 8, 0.5))], title="a < b")
    assert {y for points in drawn(svg).values() for _, y in (points[0], points[2])} == {HEIGHT / 2}
    assert "<score>" not in svg
    assert set(drawn(svg)) == {"<b>", "&"}


def test_bars_are_as_long_as_their_shares_the_longest_first():
    root = ElementTree.fromstring(importance_bars({"rank": 0.25, "rate": 0.75}, title="what matters"))
    widths = [float(bar.attrib["width"]) for bar in root.iter(f"{SVG}rect")][1:]
    assert widths[0] == pytest.approx(3 * widths[1], rel=1e-3)
    assert [text.text for text in root.iter(f"{SVG}text")] == ["rate", "75%", "rank", "25%"]


def test_without_anything_to_draw_there_is_no_picture():
    assert parallel_coordinates(AXES, [], title="") == importance_bars({}, title="") == markdown_image("", title="nothing") == ""
    image = markdown_image("<svg/>", title="one")
    assert base64.b64decode(image.partition("base64,")[2].rstrip(")")) == b"<svg/>"
