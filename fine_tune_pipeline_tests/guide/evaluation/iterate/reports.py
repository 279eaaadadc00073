"""Reports of an evaluation that went as it should, from which tests take away or to which they add."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import fine_tune_pipeline
from fine_tune_pipeline.guide.evaluation.iterate.findings import Findings
from fine_tune_pipeline.spec.reading import read_use_case
from fine_tune_pipeline.spec.use_case import UseCaseSpec

ROOT = Path(fine_tune_pipeline.__file__).parents[1]
TRIAGE = ROOT / "fine_tune_pipeline" / "defs" / "support_triage" / "defs.yaml"
BANK = ROOT / "examples" / "bank_intents.yaml"
MORTGAGE = ROOT / "examples" / "mortgage_support" / "defs.yaml"

PLANNED = {"technique": {"type": "lora", "rank": 16}, "training": {"epochs": 2.0, "learning_rate": 0.001}}
LARGER = {"id": "qwen3-0.6b", "kind": "larger", "reason": "2.2 times the parameters", "candidate": False}


@cache
def use_case(path: Path = TRIAGE) -> UseCaseSpec:
    return read_use_case(path, files=False)


def figure(estimate: float, n: int = 200) -> dict[str, Any]:
    return {"estimate": estimate, "low": estimate - 0.05, "high": estimate + 0.05, "method": "wilson", "n": n}


def gain(over: str, estimate: float, *, half: float = 0.05) -> dict[str, Any]:
    low, high = estimate - half, estimate + half
    return {
        "metric": "exact_match", "over": over, "estimate": estimate, "low": low, "high": high, "lower": low, "upper": high, "level": 0.97,
    }  # fmt: skip


def verdict(answer: str, *, bound: float = 0.7, criterion: str = "exact_match at least 0.65") -> dict[str, Any]:
    return {
        "kind": "success", "criterion": criterion, "metric": "exact_match", "estimate": 0.8, "bound": bound, "verdict": answer,
        "reason": "0.800 on 200 rows", "rows": 200,
    }  # fmt: skip


def class_line(name: str, found: float, *, rows: int = 50, training_rows: int = 200) -> dict[str, Any]:
    return {"name": name, "rows": rows, "training_rows": training_rows, "found": {"fine_tuned": found}}


def report(**changes: Any) -> dict[str, Any]:
    """Nothing stands out in it."""
    whole: dict[str, Any] = {
        "use_case": "support_triage", "n": 200, "primary_metric": "exact_match", "compared_base": "base_few_shot",
        "metrics": {"exact_match": {"better": "higher"}},
        "verdicts": [verdict("met")], "systems": {"fine_tuned": {"exact_match": figure(0.8), "valid_json": figure(0.99)}},
        "gains": [gain("base_few_shot", 0.4)], "classes": [class_line("refund", 0.9), class_line("fees", 0.88)], "confusions": [],
        "unfinished": figure(0.0), "training": training(),
    }  # fmt: skip
    return {**whole, **changes}


def training(**changes: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "rows": 1500, "steps": 376, "seconds": 600.0, "first_loss": 3.0, "final_loss": 0.3, "best_step": None,
        "validation_losses": [[0, 3.1], [188, 0.41], [376, 0.4]], "trainable_parameters": 4_000_000, "labelled_tokens": 60_000,
        "passes_rows": 3000,
    }  # fmt: skip
    return {**facts, **changes}


def findings(
    *,
    path: Path = TRIAGE,
    spec: Mapping[str, Any] | None = None,
    planned: Mapping[str, Any] | None = None,
    other_bases: Sequence[Mapping[str, Any]] = (),
    **changes: Any,
) -> Findings:
    """Of `report(**changes)`; `spec` replaces sections of the use case of `path`."""
    wanted = use_case(path)
    if spec:
        wanted = type(wanted).model_validate({**wanted.model_dump(by_alias=True, exclude_unset=True), **spec}).at(wanted.folder)
    return Findings(report(**changes), wanted, planned=PLANNED if planned is None else planned, other_bases=other_bases)
