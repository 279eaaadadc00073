from xml.etree import ElementTree

import pytest

from fine_tune_pipeline.pages.charts import (
    Bar,
    Interval,
    Point,
    Stack,
    bar_chart,
    forest_chart,
    histogram,
    line_chart,
    scatter_chart,
    stacked_chart,
)


def number(element: ElementTree.Element, name: str) -> float:
    return float(element.attrib[name])


def test_bars_are_as_long_as_their_values_and_texts_are_escaped():
    root = ElementTree.fromstring(bar_chart([Bar("<a&b>", 0.25, 0.2, 0.3), Bar("own", 0.5, 0.4, 0.6, own=True)], title="x"))
    small, large = root.findall("rect")
    assert abs(number(large, "width") - 2 * number(small, "width")) < 0.2
    assert large.attrib["class"] == "bar own"
    assert "<a&b>" in [text.text for text in root.findall("text")]


def test_curve_goes_from_the_first_to_the_last_step_and_down_with_the_loss():
    root = ElementTree.fromstring(line_chart([(0, 4.0), (10, 1.0)], [(0, 4.0), (10, 2.0)], title="x"))
    start, end = root.findall("path")[1].attrib["d"].removeprefix("M").split("L")
    (x0, y0), (x1, y1) = (map(float, point.split()) for point in (start, end))
    assert x0 < x1
    assert y0 < y1, "y grows downwards in SVG"
    assert len(root.findall("circle")) == 2


def test_nothing_to_draw_draws_nothing():
    assert line_chart([], [], title="x") == ""
    assert line_chart([(1, 2.0)], [], title="x") == ""
    assert forest_chart([], wanted=0.1, title="x") == ""
    assert scatter_chart([Point("free", 0.0, 0.5, 0.4, 0.6)], title="x", unit="s") == ""
    assert histogram([], width=1, title="x", unit="characters") == ""
    assert stacked_chart([Stack("a", (0, 0))], kinds={"in": "kept", "out": "gone"}, title="x") == ""


def test_parts_of_a_bar_stand_one_behind_the_other_and_are_as_long_as_their_values():
    kinds = {"kept": "kept", "taken out": "gone"}
    root = ElementTree.fromstring(stacked_chart([Stack("clean", (60, 40), "<40 out>"), Stack("split", (60, 0))], kinds=kinds, title="x"))
    kept, gone, later, nothing = [rect for rect in root.findall("rect") if rect.attrib["height"] == "18"]
    assert [kept.attrib["class"], gone.attrib["class"]] == ["kept", "gone"]
    assert number(kept, "width") == number(later, "width") == 1.5 * number(gone, "width")
    assert number(gone, "x") == number(kept, "x") + number(kept, "width")
    assert number(nothing, "width") == 0
    assert {"clean", "<40 out>", "taken out"} <= {text.text for text in root.findall("text")}


def test_columns_of_a_histogram_are_as_tall_as_their_counts_and_the_axis_says_the_range():
    root = ElementTree.fromstring(histogram([0, 3, 1, 0, 6], width=10, title="x", unit="characters"))
    heights = [number(rect, "height") for rect in root.findall("rect")]
    assert [round(height / max(heights) * 6) for height in heights] == [0, 3, 1, 0, 6]
    assert {"0", "25", "50", "6", "characters"} <= {text.text for text in root.findall("text")}


def test_gains_stand_right_of_the_zero_line_when_positive_and_the_wanted_gain_is_dashed():
    lines = [Interval("over <a>", 0.2, 0.1, 0.3), Interval("over b", -0.1, -0.2, 0.0)]
    root = ElementTree.fromstring(forest_chart(lines, wanted=0.1, title="x"))
    axis, dashed = (root.find(f"path[@class='{kind}']") for kind in ("axis", "wanted"))
    assert axis is not None
    assert dashed is not None
    zero, wanted = (float(path.attrib["d"].removeprefix("M").split(" ")[0]) for path in (axis, dashed))
    better, worse = (number(dot, "cx") for dot in root.findall("circle"))
    assert worse < zero < wanted < better
    assert better - zero == pytest.approx(2 * (wanted - zero), abs=0.2)
    assert {"over <a>", "+0.200", "-0.100", "0.1"} <= {text.text for text in root.findall("text")}


def test_gains_without_a_wanted_one_have_no_dashed_line():
    assert "wanted" not in forest_chart([Interval("a", 0.0, 0.0, 0.0)], wanted=None, title="x")


def test_cheap_points_stand_left_good_ones_high_and_names_do_not_cover_each_other():
    points = [Point("cheap", 1, 0.9, 0.8, 1.0), Point("dear", 1000, 0.9, 0.85, 0.95, own=True), Point("middle", 31.6, 0.2, 0.1, 0.3)]
    root = ElementTree.fromstring(scatter_chart([*points, Point("free", 0, 1, 1, 1)], title="x", unit="seconds"))
    cheap, dear, middle = root.findall("circle")
    assert number(cheap, "cx") < number(middle, "cx") < number(dear, "cx")
    assert number(middle, "cx") == pytest.approx((number(cheap, "cx") + number(dear, "cx")) / 2, abs=0.5)
    assert number(cheap, "cy") < number(middle, "cy")
    names = {text.text: number(text, "y") for text in root.findall("text") if text.text in ("cheap", "dear", "middle", "free")}
    assert "free" not in names
    assert abs(names["cheap"] - names["dear"]) >= 14
    assert {"1", "10", "100", "1000", "seconds"} <= {text.text for text in root.findall("text")}
