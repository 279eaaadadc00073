"""Rules about the rows: too few, wrongly labelled, or thin where the model is weak."""

from collections.abc import Iterator, Mapping
from typing import Any

from fine_tune_pipeline.guide.evaluation.analysis.slices import WEAKER
from fine_tune_pipeline.guide.evaluation.errors import INVALID
from fine_tune_pipeline.guide.evaluation.iterate.findings import LEVEL, Findings, share, told
from fine_tune_pipeline.guide.evaluation.iterate.steps import Change, NextStep
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED
from fine_tune_pipeline.spec.fields import value_at

FLAGGED, FEWEST_FLAGGED = 0.02, 3
"""Share of doubted test rows above which labels come first, and rows below which it may be chance: a detector doubts some right labels."""

FEWEST_ROWS = 5
"""Test rows of a class below which nothing is said of it."""

WORST = 3
"""Classes and slices that are named."""

THIN = 0.5
"""Of the training rows of the largest class: a class with fewer is thin, and balancing comes before making variants."""

CONFUSED = 3
"""Rows in which one value is taken for another; two are chance."""

LARGEST_TEST = 0.4
"""Of all rows: beyond, too few are left to learn from."""


def data_limited(found: Findings) -> Iterator[NextStep]:
    """The learning curve still rises: the lower end of the gain of doubling is above what the test rows can show."""
    curve = found.part("learning_curve")
    if curve.get("answer") != "yes" or not curve.get("doubling"):
        return
    gain, rows, metric = curve["doubling"], found.training["rows"], curve.get("metric", found.metric)
    patch = _larger_samples(found, "sources")
    yield NextStep(
        "data_limited", "Take more of the rows that there are" if patch else "Collect more training rows",
        f"twice the rows would bring {curve.get('of', 'a cheap learner')} {told(gain, found.report['n'])} of {metric}; "
        f"{curve.get('detectable_gain', 0):.3f} can be seen on these test rows",
        patch, f"a gain of {gain['low']:.3f} or more in {metric}, if the fine-tuned model learns like it",
        f"{rows:,} more labelled rows, and a training of about {max(2 * found.minutes, 0.1):.3g} minutes",
    )  # fmt: skip


def label_noise(found: Findings) -> Iterator[NextStep]:
    """More than 2 % of the test labels are doubted, so those of the training rows, which come from the same hands, are too."""
    doubted = found.part("label_errors")
    flagged = doubted.get("flagged") or {}
    count = round(flagged.get("estimate", 0) * flagged.get("n", 0))
    if count < FEWEST_FLAGGED or flagged["estimate"] <= FLAGGED:
        return
    changed = doubted.get("changed") or 0
    verdicts = f"; without them {changed} verdict{'s' * (changed != 1)} would be another" if changed else ""
    policy = found.spec.dataset.review.policy
    yield NextStep(
        "label_noise", "Have experts look at the labels first",
        f"the labels of {told(flagged, found.report['n'])} of the test rows are doubted{verdicts}",
        (found.change("dataset.review.policy", "experts"),) if policy != "experts" else (),
        "labels that mean the same in training and test; a figure that can be believed",
        f"people: {found.spec.dataset.review.share:.0%} of the rows, those in doubt, and {count} test rows",
    )  # fmt: skip


def weak_slices(found: Findings) -> Iterator[NextStep]:
    """Classes that are found less often than all together, beyond chance among so many, and slices that are weaker than the rest."""
    yield from _weak_classes(found)
    lines = [line for line in found.part("slices").get("lines", []) if WEAKER in line.get("findings", [])]
    if lines:
        said = ", ".join(f"{line['slice']} ({told(line['fine_tuned'], line['rows'])})" for line in lines[:WORST])
        yield NextStep(
            "weak_slices", "Collect rows like those of the weak slices",
            f"{found.part('slices').get('metric', found.metric)} is lower there than on the rest, also among so many slices (Holm): {said}",
            (), "slices that are as good as the rest", f"people: labelled rows like those of {lines[0]['slice']}",
        )  # fmt: skip


def confused_values(found: Findings) -> Iterator[NextStep]:
    """One value is often answered for another: either the rule that tells them apart is not clear, or the rows do not keep to it."""
    pairs = [pair for pair in found.report["confusions"] if pair["given"] != INVALID]
    if pairs and pairs[0]["rows"] >= CONFUSED:
        top, rows = pairs[0], found.report["n"]
        yield NextStep(
            "confused_values", f"Check that the labelling rule separates {top['wanted']} and {top['given']}",
            f"{top['field']} {top['wanted']} is answered as {top['given']} in {told(share(top['rows'], rows), rows)} of the test rows",
            (), "fewer of these confusions, once rows keep to one rule", "people: the rows of both values, read once",
        )  # fmt: skip


def more_held_out(found: Findings) -> Iterator[NextStep]:
    """Criteria that these test rows cannot decide. A worn test set asks for fresh rows, which no field brings."""
    open_ = [verdict for verdict in found.report["verdicts"] if verdict["verdict"] == "cannot tell"]
    if open_:
        patch = _larger_samples(found, "held_out") or _larger_test(found)
        yield NextStep(
            "more_held_out", "Judge on more held-out rows",
            "; ".join(f"`{verdict['criterion']}` cannot be told: {verdict['reason']}" for verdict in open_),
            patch, "a verdict instead of “cannot tell”",
            "rows that nobody trains on, labelled with care" if not patch else "answers to more rows" + _taken_from_training(patch),
        )  # fmt: skip


def _weak_classes(found: Findings) -> Iterator[NextStep]:
    classes = [line for line in found.report["classes"] if line["rows"] >= FEWEST_ROWS]
    rows = sum(line["rows"] for line in classes)
    if not classes:
        return
    right = {line["name"]: _found(line) * line["rows"] for line in classes}
    overall, level = sum(right.values()) / rows, 1 - (1 - LEVEL) / len(classes)
    shares = {line["name"]: share(right[line["name"]], line["rows"], level) for line in classes}
    weak = [line for line in classes if shares[line["name"]]["high"] < overall]
    if not weak:
        return
    wrong = sum(line["rows"] - right[line["name"]] for line in classes)
    worst = sorted(weak, key=lambda line: right[line["name"]] - line["rows"])[:WORST]
    part = sum(line["rows"] - right[line["name"]] for line in worst) / wrong
    said = ", ".join(f"{line['name']} ({told(shares[line['name']], 0)}; {line['training_rows']} training rows)" for line in worst)
    names = [line["name"] for line in worst]
    patch = _more_of(found, names, thin=min(line["training_rows"] for line in worst))
    yield NextStep(
        "weak_classes", f"Give the model more of {', '.join(names)}",
        f"{part:.0%} of the wrong classes come from {said}; all classes together {overall:.3f}, n = {rows}",
        patch, "classes that are found as often as the others; variants bring less than rows that people collect",
        f"people: examples of {', '.join(names)}" + (f"; a training of about {max(found.minutes * 1.2, 0.1):.3g} minutes" if patch else ""),
    )  # fmt: skip


def _found(line: Mapping[str, Any]) -> float:
    value = line["found"][FINE_TUNED]
    return value["estimate"] if isinstance(value, Mapping) else value


def _more_of(found: Findings, names: list[str], *, thin: int) -> tuple[Change, ...]:
    """Thin classes are balanced; others get variants with slips of the fingers, which need no model. Neither twice."""
    largest = max(line["training_rows"] for line in found.report["classes"])
    if thin < THIN * largest:
        path = "dataset.more.balance"
        return (found.change(path, {"by": "repeat", "ratio": THIN}),) if value_at(found.spec, path) is None else ()
    path = "dataset.more.augment"
    before = value_at(found.spec, path) or []
    if any(set(names) <= set(one["classes"]) for one in before):
        return ()
    return (found.change(path, [*before, {"type": "typos", "share": 1.0, "classes": names}]),)


def _larger_samples(found: Findings, kind: str) -> tuple[Change, ...]:
    """Sources of which a part is taken give twice as much."""
    sources = getattr(found.spec.dataset, kind)
    places = [place for place, source in enumerate(sources) if getattr(source, "sample", None)]
    return tuple(found.change(f"dataset.{kind}.{place}.sample", 2 * sources[place].sample) for place in places)


def _larger_test(found: Findings) -> tuple[Change, ...]:
    """A larger part is split off, where the test rows are split off at all."""
    now = found.spec.dataset.split.test
    after = min(LARGEST_TEST, round(1.5 * now, 2))
    return (found.change("dataset.split.test", after),) if not found.spec.dataset.held_out and 0 < now < after else ()


def _taken_from_training(patch: tuple[Change, ...]) -> str:
    return ", which are taken from training" if patch[0].path == "dataset.split.test" else ""
