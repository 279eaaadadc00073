"""The data card for people: the same content as `card.json`, as Markdown and as one HTML file with pictures."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fine_tune_pipeline.guide.dataset.publishing.card import OPEN
from fine_tune_pipeline.guide.dataset.publishing.split import PARTS
from fine_tune_pipeline.pages.charts import Stack, histogram, stacked_chart
from fine_tune_pipeline.pages.document import Page, Section, table

DRAWN_CLASSES = 40
"""So many classes are drawn, the largest; all of them are in the table."""

LENGTHS = ("rows", "total", "p50", "p90", "p99", "longest")

Content = Mapping[str, Any]


def card_page(content: Content) -> Page:
    """All that the card has to say, in reading order."""
    rows = ", ".join(f"{rows:,} {name}" for name, rows in content["rows"].items())
    return Page(
        title=f"Data card of {content['use_case']}",
        advice=_plain(content["review"]["said"]),
        about=f"Rows: {rows}.",
        sections=_all(content),
    )


def _all(content: Content) -> list[Section]:
    made = (
        _limits,
        _sources,
        _funnel,
        _quarantined,
        _duplicates,
        _personal_data,
        _review,
        _split,
        _benchmarks,
        _classes,
        _languages,
        _lengths,
    )
    return [section for make in made for section in make(content)]


def _limits(content: Content) -> Iterator[Section]:
    yield Section("Known limits", items=tuple(content["limits"]))


def _sources(content: Content) -> Iterator[Section]:
    kept = content["rows_by_source"]
    yield table("Sources", [{**line, "in the dataset": kept.get(line["source"], 0)} for line in content["sources"]])
    yield table("Licences", [{"licence": name, "rows": rows} for name, rows in content["rows_by_licence"].items()])


def _funnel(content: Content) -> Iterator[Section]:
    stacks = [
        Stack(step["step"], (step["kept"], step["quarantined"]), f"{step['kept']:,} kept, {step['quarantined']:,} out")
        for step in content["steps"]
    ]
    picture = stacked_chart(stacks, kinds={"kept": "kept", "taken out": "gone"}, title="Rows after each step")
    yield table("Steps", content["steps"], text="What one step kept came into the next.", charts=(picture,))


def _quarantined(content: Content) -> Iterator[Section]:
    reasons = [(step, reason, rows) for step, found in content["quarantined"].items() for reason, rows in found.items()]
    bars = [Stack(reason, (rows,), f"{rows:,} by {step}") for step, reason, rows in reasons]
    picture = stacked_chart(bars, kinds={"taken out": "gone"}, title="Rows taken out, by reason")
    yield table("Taken out", [{"step": step, "reason": reason, "rows": rows} for step, reason, rows in reasons], charts=(picture,))
    if content["quarantine_examples"]:
        text = (
            "The first rows of each reason, without personal data; where a row may have left because of it, nothing is quoted. All "
            "rows are in `quarantine.jsonl` of the asset of the step."
        )
        yield table("Rows that were taken out", content["quarantine_examples"], text=text)


def _duplicates(content: Content) -> Iterator[Section]:
    found = content["duplicates"]
    text = (
        f"Left: {found['clusters_left']:,} groups of like prompts with different answers, {found['rows_in_clusters']:,} rows in all; "
        "each group is within one part."
    )
    yield table("Duplicates", [{"reason": reason, "rows": rows} for reason, rows in found["taken_out"].items()], text=text)


def _personal_data(content: Content) -> Iterator[Section]:
    records = [{"entity": entity, "replacements": count} for entity, count in content["personal_data"].items()]
    text = f"{content['rows_with_personal_data']:,} rows held some. Found by {content['personal_data_detector']}."
    bars = [Stack(row["entity"], (row["replacements"],), f"{row['replacements']:,}") for row in records]
    picture = stacked_chart(bars, kinds={"replacements": "other"}, title="Personal data replaced, by entity")
    yield table("Personal data replaced", records, text=text, charts=(picture,))


def _review(content: Content) -> Iterator[Section]:
    review = content["review"]
    text = f"{_plain(review['said'])} Steps marked {content['marked_for_review']:,} examples as worth a look."
    yield table("Review", [{"verdict": verdict, "rows": rows} for verdict, rows in review.get("verdicts", {}).items()], text=text)
    if agreement := review.get("agreement"):
        yield _agreement(agreement)


def _plain(text: str) -> str:
    """The sentence is made for Markdown; a page escapes what it gets."""
    return text.replace("**", "")


def _agreement(agreement: Any) -> Section:
    """Whatever the review says about its agreement: a sentence, named numbers, or a table."""
    title = "Agreement of reviewers"
    if isinstance(agreement, Mapping):
        return table(title, [{"measure": name, "value": value} for name, value in agreement.items()])
    return table(title, agreement) if isinstance(agreement, list) else Section(title, str(agreement))


def _split(content: Content) -> Iterator[Section]:
    rows, made = content["rows"], content["synthetic"]
    records = [{"part": name, "rows": rows[name], "synthetic": made[name]} for name in rows]
    yield table("Split", records, text=content["split"]["said"])
    if content["made_rows"]:
        records = [{"kind": kind, "training rows": rows} for kind, rows in content["made_rows"].items()]
        yield table("Made rows, and rows labelled by rules", records, text="For training only, beside the rows that they were made from.")


def _benchmarks(content: Content) -> Iterator[Section]:
    if content["benchmarks"]:
        text = "Rows that are like a text of one of these, or share a run of words with one, were taken out before the split."
        yield table("Benchmarks", content["benchmarks"], text=text)
    else:
        yield Section("Benchmarks", "None was given (`dataset.benchmarks`), so none was looked for.")


def _classes(content: Content) -> Iterator[Section]:
    if list(content["classes"]) == [OPEN]:
        yield Section("Classes", "The task is open: any answer may be right, so there are no classes to cover.")
        return
    records = [{"class": name, **counts} for name, counts in content["classes"].items()]
    largest = sorted(records, key=lambda row: -sum(row[part] for part in PARTS))[:DRAWN_CLASSES]
    stacks = [Stack(row["class"], tuple(row[part] for part in PARTS), f"{sum(row[part] for part in PARTS):,}") for row in largest]
    kinds = dict(zip(PARTS, ("kept", "other", "third"), strict=True))
    picture = stacked_chart(stacks, kinds=kinds, title="Rows of each class, by part")
    empty = sum(not row["train"] for row in records)
    text = f"{len(records) - empty} of the {len(records)} classes of the objective have training rows." + (
        f" Drawn: the {len(largest)} largest." if len(largest) < len(records) else ""
    )
    yield table("Classes", records, text=text, charts=(picture,))


def _languages(content: Content) -> Iterator[Section]:
    found, total = content["languages"]["rows"], content["languages"]["looked_at"]
    records = [{"language": name, "rows": rows, "share": f"{rows / total:.1%}"} for name, rows in found.items()]
    text = f"Of {total:,} prompts, identified by py3langid where its probability is at least 0.9; short texts are often unsure."
    yield table("Languages", records, text=text)


def _lengths(content: Content) -> Iterator[Section]:
    found = content["characters"]
    records = [
        {"part": part, "text": text, **{name: values[name] for name in LENGTHS}}
        for part, texts in found.items()
        for text, values in texts.items()
    ]
    pictures = [_histogram(text, values, unit="characters") for text, values in found["train"].items()]
    yield table("Lengths in characters", records, text="Drawn: the training rows.", charts=tuple(pictures))


def _histogram(text: str, values: Mapping[str, Any], *, unit: str) -> str:
    counts: Sequence[int] = values["counts"]
    return histogram(counts, width=values["width"], title=f"Lengths of each {text}", unit=f"{unit} of the {text}")
