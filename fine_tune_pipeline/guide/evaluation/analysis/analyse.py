"""The error analysis of a finished evaluation, part by part; a part that has nothing to work on says what is missing."""

from collections.abc import Callable, Mapping
from typing import Any

from fine_tune_pipeline.guide.evaluation.analysis.calibration import calibration
from fine_tune_pipeline.guide.evaluation.analysis.confusion import confusion
from fine_tune_pipeline.guide.evaluation.analysis.given import Given, NotAvailable, row_metric
from fine_tune_pipeline.guide.evaluation.analysis.hardest import hardest
from fine_tune_pipeline.guide.evaluation.analysis.label_errors import label_errors
from fine_tune_pipeline.guide.evaluation.analysis.learning_curve import learning_curve
from fine_tune_pipeline.guide.evaluation.analysis.slices import slices
from fine_tune_pipeline.guide.evaluation.measured import Measured
from fine_tune_pipeline.guide.evaluation.predictions import FINE_TUNED
from fine_tune_pipeline.guide.evaluation.report import Material, base_systems, primary_metric
from fine_tune_pipeline.guide.evaluation.vectors import Vectors
from fine_tune_pipeline.guide.objective.evidence import LOOKS

PARTS: Mapping[str, Callable[[Given], dict[str, Any]]] = {
    "slices": slices,
    "confusion": confusion,
    "hardest": hardest,
    "label_errors": label_errors,
    "calibration": calibration,
    "learning_curve": learning_curve,
}
"""In the order of the report."""


def analysis(material: Material, *, measured: Measured, vectors: Vectors | None, detectable_gain: float) -> dict[str, dict[str, Any]]:
    """Part -> what it found, with `available`; or `why` it is not.

    Args:
        measured: what programs measured for the answers of each system.
        detectable_gain: the smallest gain that the test rows can show.
    """
    scores, objective = material.scores, material.spec.objective
    try:
        metric = row_metric(scores, primary_metric(material.task, objective, scores), material.task)
    except NotAvailable as error:
        return {name: {"available": False, "why": str(error)} for name in PARTS}
    sources = (*material.spec.dataset.sources, *material.spec.dataset.held_out)
    given = Given(
        objective=objective,
        task=material.task,
        train=material.train,
        test=material.test,
        answers=material.answers,
        scores=scores,
        measured=measured,
        verdicts=material.verdicts,
        metric=metric,
        base=base_systems(scores)[0],
        columns=frozenset(name for source in sources for name in source.metadata),
        vectors=vectors,
        detectable_gain=detectable_gain,
        worn=material.look.number > LOOKS,
    )
    return all_parts(given)


def all_parts(given: Given) -> dict[str, dict[str, Any]]:
    """Every part, or why it is not available."""
    return {name: _tried(part, given) for name, part in PARTS.items()}


def _tried(part: Callable[[Given], dict[str, Any]], given: Given) -> dict[str, Any]:
    try:
        return {"available": True, **part(given)}
    except NotAvailable as error:
        return {"available": False, "why": str(error)}


def figures(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Numbers that become plots over the versions, for the parts that are there."""
    slices_, labels, sure, curve = (found[name] for name in ("slices", "label_errors", "calibration", "learning_curve"))
    own = sure["systems"].get(FINE_TUNED) if sure["available"] else None
    return {
        **({"weak_slices": slices_["hits"]} if slices_["available"] else {}),
        **({"doubted_test_rows": len({line["id"] for line in labels["lines"]})} if labels["available"] else {}),
        **({"calibration_error": own["ece"]["estimate"]} if own is not None else {}),
        **({"more_data_helps": curve["answer"]} if curve["available"] else {}),
    }
