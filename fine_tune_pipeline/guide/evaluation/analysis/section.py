"""The error analysis as sections of the report: nothing here is computed."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fine_tune_pipeline.guide.dataset.cleaning.suspects import agreements
from fine_tune_pipeline.guide.evaluation.advice import NAMES
from fine_tune_pipeline.guide.evaluation.analysis.learning_curve import OPTIMISM
from fine_tune_pipeline.guide.evaluation.cells import interval, number, short, shown_of
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED
from fine_tune_pipeline.pages.document import Row, Section
from fine_tune_pipeline.pages.plots import Point, curve_chart, matrix_chart, reliability_chart

SHOWN_SLICES = 5
SHOWN_PAIRS = 10
SHOWN_LABELS = 15

Part = Mapping[str, Any]


def analysis_sections(report: Mapping[str, Any]) -> Iterator[Section]:
    """A section for each part; one that had nothing to work on says so. Nothing for a report without an analysis."""
    for name, (title, made) in _PARTS.items():
        part = report.get("analysis", {}).get(name)
        if part is None:
            continue
        if part["available"]:
            yield from made(title, part)
        else:
            yield Section(title, f"Not available: {part['why']}.")


def _slices(title: str, part: Part) -> Iterator[Section]:
    lines = part["lines"][:SHOWN_SLICES]
    weak = [line["slice"] for line in part["lines"] if line["findings"]]
    said = f"Shown to be weak: {', '.join(weak)}." if weak else "No slice is shown to be weak."
    notes = f" Also: {'; '.join(part['notes'])}." if part["notes"] else ""
    text = (
        f"{said} {part['metric']} by metadata and by topic of the prompt (clusters of meaning, named by their most telling words), the "
        f"weakest of at least {part['minimum']} rows first. Each of {part['tests']} tests asks whether the fine-tuned model loses to "
        f"{NAMES[part['base']]} there, or is weaker than on all other rows; p is Holm's: of all findings together one is false with a "
        f"chance of at most {1 - part['level']:.0%}. Brackets: two-sided {part['level']:.0%} intervals.{notes}"
    )
    columns = ("slice", "rows", part["base"], FINE_TUNED, "gain", "p of the gain", "against the rest", "p against the rest", "found")
    examples = tuple(
        f"{line['slice']}: “{short(row['prompt'])}” wants {short(row['wanted'])}, got {short(row[FINE_TUNED])}"
        for line in lines
        for row in line["examples"]
    )
    more = shown_of(len(lines), len(part["lines"]), "the weakest")
    yield Section(title, text + more, columns, tuple(map(_slice_row, lines)), items=examples)


def _slice_row(line: Part) -> Row:
    cells = (
        line["slice"],
        str(line["rows"]),
        *(interval(line[name]) for name in ("base", FINE_TUNED, "gain")),
        number(line["gain_p_holm"]),
        interval(line["rest"]),
        number(line["rest_p_holm"]),
        "; ".join(line["findings"]) or "not shown to be weak",
    )
    return Row(cells, "own" if line["findings"] else "")


def _confusion(title: str, part: Part) -> Iterator[Section]:
    pairs, matrix = part["pairs"], part["matrix"]
    rows = [
        Row((pair["field"], pair["wanted"], pair["given"], str(pair["rows"]), str(pair["share"]["n"]), interval(pair["share"])))
        for pair in pairs[:SHOWN_PAIRS]
    ]
    shown = len(matrix["rows"])
    which = f" The picture shows {matrix['field']}, {shown} of {matrix['classes']} values; columns are numbered as the rows are" + (
        ", “…” are other values, “?” answers that are none." if len(matrix["columns"]) > shown else "."
    )
    none = "" if pairs else "The fine-tuned model took no value for another."
    text = f"{none or 'Of the fine-tuned model; the share is of the rows that should have had the right value.'}{which}"
    columns = ("field", "right", "answered", "rows", "of", "share (95 %)")
    chart = matrix_chart(
        matrix["rows"], matrix["columns"], matrix["counts"], title=f"{matrix['field']}: right values in rows, answers in columns"
    )
    yield Section(
        title, text + shown_of(len(rows), len(pairs), "the most frequent"), columns, tuple(rows), charts=(chart,) if chart else ()
    )


def _hardest(title: str, part: Part) -> Iterator[Section]:
    lines = [("nobody right", line) for line in part["nobody_rows"]] + [("sure and wrong", line) for line in part["wrong_sure_rows"]]
    rows = tuple(Row((kind, *_texts(line), number(line["best_score"]), number(line["probability"]))) for kind, line in lines)
    sure = part["wrong_sure"]
    text = (
        f"No system is faultless ({part['metric']}) in a share of {_with_rows(part['nobody'])}; those the model was least sure of come "
        "first."
    )
    text += (
        "" if sure is None else f" Sure (probability at least {part['sure']:g}) and wrong: {_with_rows(sure)}; look at their labels first."
    )
    yield Section(title, text, ("", "prompt", "right answer", FINE_TUNED, "best score of all", "probability"), rows)


def _texts(line: Part) -> tuple[str, str, str]:
    return short(line["prompt"]), short(line["wanted"]), short(line[FINE_TUNED])


def _labels(title: str, part: Part) -> Iterator[Section]:
    lines, what_if = part["lines"], part["what_if"]
    rows = [
        Row((line["id"], short(line["prompt"]), line["field"], line["given"], line["suggested"], number(line["probability"])))
        for line in lines[:SHOWN_LABELS]
    ]
    text = (
        f"Doubted: {_with_rows(part['flagged'])}, by cleanlab over {part['by']} of like rows. The probability is that of the label as it "
        "is given. A doubt is a reason to look, and no row is dropped." + shown_of(len(rows), len(lines), "the least likely")
    )
    if unseen := part.get("unseen"):
        text += f" Not judged: {agreements(unseen)} (share of the labels that like rows have too; too small to doubt others by)."
    yield Section(title, text, ("row", "prompt", "field", "label", "like rows say", "probability"), tuple(rows))
    if what_if:
        changed = f"{part['changed']} of {len(what_if)} verdicts would change" if part["changed"] else "no verdict would change"
        said = (
            f"What if the doubted rows were left out: {changed}. The verdict stays as it is: rows with doubted labels are also rows that "
            "any model finds hard, so these figures flatter. The rows are the same, so this is no new look at them."
        )
        columns = ("criterion", "seen", "bound", "rows", "verdict", "seen without", "bound without", "rows without", "what if")
        yield Section("What if doubted labels were left out?", said, columns, tuple(map(_what_if_row, what_if)))


def _what_if_row(line: Part) -> Row:
    def cells(prefix: str) -> tuple[str, str, str]:
        rows = line[f"{prefix}n"]
        return number(line[f"{prefix}estimate"]), number(line[f"{prefix}bound"]), "–" if rows is None else str(rows)

    return Row((line["criterion"], *cells(""), line["verdict"], *cells("without_"), line["without"]), line["verdict"])


def _calibration(title: str, part: Part) -> Iterator[Section]:
    found = part["systems"]
    lines = "; ".join(
        f"{NAMES.get(system, system)}: distance {interval(one['ece'])}, probability minus share right {interval(one['overconfidence'])}, "
        f"{one['ece']['n']} rows"
        for system, one in found.items()
    )
    text = (
        f"Probability of the whole answer beside the share that is right ({part['metric']}), in bins of equally many rows; distance is the "
        f"expected calibration error. Two-sided {part['level']:.0%} intervals. {lines}."
    )
    bins = found[FINE_TUNED]["bins"] if FINE_TUNED in found else []
    rows = [
        Row((f"{one['from']:.3f} – {one['to']:.3f}", str(one["right"]["n"]), number(one["probability"]), interval(one["right"])))
        for one in bins
    ]
    most = max((one["right"]["n"] for one in bins), default=1)
    points = [_point(one["right"], x=one["probability"], weight=one["right"]["n"] / most) for one in bins]
    chart = reliability_chart(points, title="Share right by probability of the fine-tuned model's answer; on the line both are the same")
    columns = ("probability of the fine-tuned answer", "rows", "mean probability", "share right (95 %)")
    yield Section(title, text, columns, tuple(rows), charts=(chart,) if chart else ())


def _curve(title: str, part: Part) -> Iterator[Section]:
    answer = {"yes": "Yes", "no": "No", "cannot tell": "Cannot tell"}[part["answer"]]
    text = (
        f"{answer}: {part['why']}. Measured with {part['of']} on nested parts of the training set, in {part['seeds']} orders; the "
        f"fine-tuned model may learn faster or slower. The curve is a − b · n^−c with its {part['level']:.0%} band. Such forecasts "
        f"are optimistic: by {OPTIMISM:g} on banking77."
    )
    rows = [Row((f"{point['rows']:,}", interval(point), str(point["n"]))) for point in part["points"]]
    points, curve = ([_point(one, x=one["rows"]) for one in part[name]] for name in ("points", "curve"))
    chart = curve_chart(points, curve, x_name="training rows", title=f"{part['metric']} by training rows")
    yield Section(title, text, ("training rows", f"{part['metric']} (95 %)", "test rows"), tuple(rows), charts=(chart,) if chart else ())


def _point(found: Part, *, x: float, weight: float = 0.3) -> Point:
    low, high = (found["estimate"] if found[end] is None else found[end] for end in ("low", "high"))
    return Point(x, found["estimate"], low, high, weight)


def _with_rows(found: Part) -> str:
    return f"{interval(found)} of {found['n']} rows"


_PARTS: Mapping[str, tuple[str, Callable[[str, Part], Iterator[Section]]]] = {
    "slices": ("Where it is weak", _slices),
    "confusion": ("What is taken for what", _confusion),
    "hardest": ("The hardest rows", _hardest),
    "label_errors": ("Labels of the test set that look wrong", _labels),
    "calibration": ("Does it know when it is wrong?", _calibration),
    "learning_curve": ("Would more data help?", _curve),
}
