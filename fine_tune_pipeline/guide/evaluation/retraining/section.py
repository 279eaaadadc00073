"""The report's part on a retraining: against the version that answers now, on the old test rows and on fresh ones."""

from collections.abc import Iterator, Mapping
from typing import Any

from fine_tune_pipeline.guide.evaluation.advice import NAMES
from fine_tune_pipeline.guide.evaluation.cells import interval, many
from fine_tune_pipeline.guide.evaluation.retraining.champion import Champion
from fine_tune_pipeline.guide.evaluation.retraining.fresh import FINE_TUNED, SYSTEMS
from fine_tune_pipeline.guide.evaluation.retraining.fresh_scores import fresh_facts
from fine_tune_pipeline.guide.evaluation.scoring import Scores
from fine_tune_pipeline.pages.document import Row, Section


def retraining(champion: Champion | None, fresh: Scores | None) -> dict[str, Any]:
    """What the report keeps: `champion` (name, why it was left out, if so) and `fresh`; nothing where there is neither."""
    if champion is None and fresh is None:
        return {}
    who = None if champion is None else {"name": champion.name, "left_out": champion.left_out}
    return {"retraining": {"champion": who, "fresh": None if fresh is None else fresh_facts(fresh)}}


def retraining_section(report: Mapping[str, Any]) -> Iterator[Section]:
    """Old and fresh test rows side by side; nothing for a first training without production."""
    part = report.get("retraining")
    if part is None:
        return
    metric, fresh = report["primary_metric"], part["fresh"]
    found = {"old": report["systems"], "fresh": {} if fresh is None else fresh["systems"]}
    rows = [
        Row((NAMES[system], *(_cell(found[kind], system, metric) for kind in found)), "own" if system == FINE_TUNED else "")
        for system in SYSTEMS
        if any(system in by_system for by_system in found.values())
    ]
    gains = {"old": report["gains"], "fresh": [] if fresh is None else fresh["gains"]}
    rows += [
        Row((f"gain over {NAMES[system]}", *(_gain(gains[kind], system, metric) for kind in gains)))
        for system in SYSTEMS
        if any(gain["over"] == system for of_kind in gains.values() for gain in of_kind)
    ]
    columns = ("", f"{metric} on {many(report['n'], 'old test row')}", "on no fresh rows" if fresh is None else f"on {fresh['n']} fresh")
    yield Section("Against the version that answers now", _said(part), columns, tuple(rows))


def fresh_figures(report: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers for plots over the versions."""
    fresh = (report.get("retraining") or {}).get("fresh")
    if fresh is None:
        return {}
    metric = report["primary_metric"]
    values = {f"fresh_{metric}/{system}": one[metric]["estimate"] for system, one in fresh["systems"].items() if metric in one}
    return {"fresh_rows": fresh["n"], **values}


def _said(part: Mapping[str, Any]) -> str:
    champion, fresh = part["champion"], part["fresh"]
    if champion is None:
        who = "No other version answers yet."
    elif champion["left_out"]:
        who = f"{champion['name']} answers now and was not asked: {champion['left_out']}."
    else:
        who = f"{champion['name']} answers now and was asked the same rows in the same run."
    rows = "There are no fresh rows: production has given none that people found or made right."
    if fresh is not None:
        rows = f"The {many(fresh['n'], 'fresh row')} came from production; people gave their answers, and no training has ever seen them."
    return f"{who} {rows} In brackets two-sided 95 % intervals; gains are paired by row."


def _cell(systems: Mapping[str, Any], system: str, metric: str) -> str:
    figure = systems.get(system, {}).get(metric)
    return "–" if figure is None else interval(figure)


def _gain(gains: list[dict[str, Any]], system: str, metric: str) -> str:
    return next((interval(gain) for gain in gains if (gain["over"], gain["metric"]) == (system, metric)), "–")
