from xml.etree import ElementTree

from fine_tune_pipeline.pages.charts import Bar, Stack, bar_chart, histogram, line_chart, stacked_chart


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
