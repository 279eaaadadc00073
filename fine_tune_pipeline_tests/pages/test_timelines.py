from xml.etree import ElementTree

from fine_tune_pipeline.pages.timelines import Level, Series, levels, timeline

SVG = "{http://www.w3.org/2000/svg}"


def test_a_line_goes_through_its_values_with_a_gap_where_one_is_missing():
    root = ElementTree.fromstring(timeline([Series("a<b", [0.0, 0.5, None, 1.0, 0.0])], title="x", first="old", last="new"))
    paths = [path.attrib["d"] for path in root.findall(f"{SVG}path") if "L" in path.attrib["d"]]
    assert len(paths) == 2
    heights = [float(point.split()[1]) for path in paths for point in path.removeprefix("M").split("L")]
    assert abs((heights[0] - heights[1]) * 2 - (heights[0] - heights[2])) < 0.3
    assert {"● a<b", "old", "new"} <= {text.text for text in root.findall(f"{SVG}text")}


def test_marked_values_are_red():
    drawn = timeline([Series("far", [0.1, 0.4], [False, True])], title="x")
    root = ElementTree.fromstring(drawn)
    assert [circle.attrib["fill"] for circle in root.findall(f"{SVG}circle")].count("#b3261e") == 1


def test_bars_are_as_long_as_their_values_and_the_limit_is_where_it_belongs():
    shown = [Level("a", 1.0, "p 0.1"), Level("b", 2.0, "p 0.01", bad=True)]
    root = ElementTree.fromstring(levels(shown, limit=1.5, title="x", limit_name="alarm"))
    bars = [bar for bar in root.findall(f"{SVG}rect") if "x" in bar.attrib]
    first, second = (float(bar.attrib["width"]) for bar in bars)
    assert abs(second - 2 * first) < 0.2
    line = root.find(f"{SVG}path")
    assert line is not None
    assert abs(float(line.attrib["d"].removeprefix("M").split()[0]) - (150 + 1.5 * first)) < 0.2


def test_nothing_is_drawn_of_nothing():
    assert timeline([Series("a", [None])], title="x") == levels([], limit=1.0, title="x", limit_name="y") == ""
