from xml.etree import ElementTree

from fine_tune_pipeline.pages.plots import Point, curve_chart, matrix_chart, reliability_chart


def circles(chart: str) -> list[tuple[float, float]]:
    return [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in ElementTree.fromstring(chart).findall("circle")]


def test_points_of_the_reliability_plot_stand_on_the_line_where_both_shares_are_the_same():
    chart = reliability_chart([Point(0.0, 0.0, 0.0, 0.1), Point(0.5, 0.5, 0.4, 0.6), Point(1.0, 1.0, 0.9, 1.0)], title="<x>")
    (x0, y0), (x1, y1), (x2, y2) = circles(chart)
    line = next(path for path in ElementTree.fromstring(chart).findall("path") if path.attrib["class"] == "line")
    assert line.attrib["d"] == f"M{x0:.1f} {y0:.1f}L{x2:.1f} {y2:.1f}"
    assert (2 * x1, 2 * y1) == (x0 + x2, y0 + y2)


def test_the_curve_and_its_band_go_on_beyond_the_points():
    points = [Point(100, 0.5, 0.4, 0.6), Point(200, 0.6, 0.5, 0.7)]
    curve = [*points, Point(400, 0.65, 0.5, 0.8)]
    root = ElementTree.fromstring(curve_chart(points, curve, x_name="training rows", title="x"))
    band, line = (path for path in root.findall("path") if path.attrib["class"] in ("bar", "line own"))
    assert band.attrib["d"].count("L") == 2 * len(curve) - 1
    assert line.attrib["d"].count("L") == len(curve) - 1
    assert float(line.attrib["d"].split("L")[-1].split()[0]) > circles(curve_chart(points, curve, x_name="r", title="x"))[-1][0]


def test_cells_of_the_matrix_say_their_counts_and_what_is_right_has_a_colour_of_its_own():
    root = ElementTree.fromstring(matrix_chart(["a<b", "c"], ["a<b", "c", "(not a valid answer)"], [[8, 2, 0], [0, 5, 5]], title="x"))
    cells = root.findall("rect")
    assert [cell.attrib["class"] for cell in cells] == ["kept", "gone", "kept", "gone"]
    assert cells[1].find("title").text == "a<b as c: 2 of 10"
    assert {"8", "2", "5", "a<b 1", "?"} <= {text.text or text[0].tail for text in root.findall("text")}


def test_nothing_to_plot_draws_nothing():
    assert reliability_chart([], title="x") == matrix_chart([], [], [], title="x") == curve_chart([], [], x_name="r", title="x") == ""


def test_points_of_one_height_are_drawn_too():
    flat = [Point(1, 0.5, 0.5, 0.5), Point(2, 0.5, 0.5, 0.5)]
    assert len(circles(curve_chart(flat, [], x_name="r", title="x"))) == 2
