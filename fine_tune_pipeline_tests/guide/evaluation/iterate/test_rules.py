"""Every rule on both sides of its threshold, and every patch in a use case that people wrote."""

from pathlib import Path
from typing import Any

import pytest

from fine_tune_pipeline.guide.evaluation.analysis.slices import WEAKER
from fine_tune_pipeline.guide.evaluation.iterate.apply import applied
from fine_tune_pipeline.guide.evaluation.iterate.findings import Findings
from fine_tune_pipeline.guide.evaluation.iterate.rules import RULES, next_steps
from fine_tune_pipeline.guide.evaluation.iterate.steps import Change, NextStep
from fine_tune_pipeline.spec.evaluation import EvaluationSpec
from fine_tune_pipeline.spec.fields import value_at
from fine_tune_pipeline.spec.reading import read_use_case
from fine_tune_pipeline_tests.guide.evaluation.iterate.reports import (
    BANK,
    LARGER,
    MORTGAGE,
    ROOT,
    TRIAGE,
    class_line,
    figure,
    findings,
    gain,
    training,
    use_case,
    verdict,
)


def ids(**changes: Any) -> list[str]:
    return [step.id for step in next_steps(findings(**changes))]


def only(**changes: Any) -> NextStep:
    (step,) = next_steps(findings(**changes))
    return step


def losses(*pairs: tuple[int, float], **changes: Any) -> dict[str, Any]:
    return training(validation_losses=[list(pair) for pair in pairs], **changes)


def looked_up(right: float) -> dict[str, Any]:
    return {
        "fine_tuned": {"valid_json": figure(1.0)},
        "base_few_shot": {"exact_match": figure(0.3)},
        "base_retrieval": {"exact_match": figure(right)},
    }


def lacks(*systems: str) -> dict[str, Any]:
    """Systems that miss a criterion, which all others meet."""
    return {"recommendation": {"seen": [{"system": name, "missing": ["follows_style at least 0.8"]} for name in systems]}}


def with_context() -> dict[str, Any]:
    dataset = use_case(TRIAGE).dataset.model_dump(by_alias=True, exclude_unset=True)
    return {"dataset": {**dataset, "format": {"context": "retrieved"}}}


CURVE = {"of": "the plain classifier", "metric": "exact_match", "detectable_gain": 0.1, "answer": "yes"}
DOUBLING = {"rows": 3000, "estimate": 0.15, "low": 0.12, "high": 0.2, "n": 200}
MISSED = {"verdicts": [verdict("not met")]}
WEAK = {"slice": "channel = mail", "rows": 60, "findings": [WEAKER], "fine_tuned": figure(0.5, 60)}
GAP = losses((0, 3.0), (376, 0.9))
THIN = {"classes": [class_line("fees", 0.5, training_rows=90), class_line("refund", 1.0)]}
WEAK_CLASS = {"classes": [class_line("fees", 0.2), class_line("refund", 1.0)]}
LABELS = {"systems": {"fine_tuned": {"valid_label": figure(0.9)}}}
ROOM = {"verdicts": [verdict("met", bound=0.81)]}


def test_nothing_is_proposed_when_nothing_stands_out():
    assert next_steps(findings()) == []


@pytest.mark.parametrize(
    ("id", "fires", "does_not"),
    [
        ("overfit", {"training": losses((0, 3.0), (188, 0.40), (376, 0.43))}, {"training": losses((0, 3.0), (188, 0.40), (376, 0.419))}),
        ("overfit", {"training": losses((0, 3.0), (376, 0.61))}, {"training": losses((0, 3.0), (376, 0.59))}),
        (
            "overfit",
            {"training": losses((0, 3.0), (376, 0.11), final_loss=0.05)},
            {"training": losses((0, 3), (376, 0.09), final_loss=0.041)},
        ),
        (
            "overfit",
            {"training": losses((0, 3.0), (188, 0.4), (376, 0.6))},
            {"training": losses((0, 3.0), (188, 0.4), (376, 0.6), best_step=188)},
        ),
        ("underfit", {"training": losses((0, 3.0), (188, 0.5), (376, 0.47))}, {"training": losses((0, 3.0), (188, 0.5), (376, 0.48))}),
        ("underfit", {"training": training(final_loss=2.2)}, {"training": training(final_loss=2.0)}),
        (
            "rank_too_small",
            {"training": training(trainable_parameters=29_000), **MISSED},
            {"training": training(trainable_parameters=31_000), **MISSED},
        ),
        (
            "rank_too_small",
            {"training": training(trainable_parameters=1_000), **MISSED},
            {"training": training(trainable_parameters=1_000)},
        ),
        (
            "data_limited",
            {"analysis": {"learning_curve": {**CURVE, "doubling": DOUBLING}}},
            {"analysis": {"learning_curve": {**CURVE, "answer": "cannot tell", "doubling": DOUBLING}}},
        ),
        (
            "data_limited",
            {"analysis": {"learning_curve": {**CURVE, "doubling": DOUBLING}}},
            {"analysis": {"learning_curve": {"why": "none"}}},
        ),
        (
            "label_noise",
            {"analysis": {"label_errors": {"flagged": figure(0.025), "changed": 1}}},
            {"analysis": {"label_errors": {"flagged": figure(0.02)}}},
        ),
        (
            "label_noise",
            {"analysis": {"label_errors": {"flagged": figure(0.06, 50)}}},
            {"analysis": {"label_errors": {"flagged": figure(0.04, 50)}}},
        ),
        (
            "weak_classes",
            {"classes": [class_line("fees", 0.5), class_line("refund", 0.95)]},
            {"classes": [class_line("fees", 0.8), class_line("refund", 0.9)]},
        ),
        (
            "weak_classes",
            {"classes": [class_line("fees", 0.0, rows=5), class_line("refund", 1.0)]},
            {"classes": [class_line("fees", 0.0, rows=4), class_line("refund", 1.0)]},
        ),
        ("weak_slices", {"analysis": {"slices": {"lines": [WEAK]}}}, {"analysis": {"slices": {"lines": [{**WEAK, "findings": []}]}}}),
        (
            "confused_values",
            {"confusions": [{"field": "intent", "wanted": "fees", "given": "refund", "rows": 3}]},
            {"confusions": [{"field": "intent", "wanted": "fees", "given": "refund", "rows": 2}]},
        ),
        (
            "confused_values",
            {"confusions": [{"field": "intent", "wanted": "fees", "given": "refund", "rows": 9}]},
            {"confusions": [{"field": "intent", "wanted": "fees", "given": "(not a valid answer)", "rows": 9}]},
        ),
        ("more_held_out", {"verdicts": [verdict("cannot tell")]}, {"verdicts": [verdict("not met")]}),
        (
            "format_failures",
            {"systems": {"fine_tuned": {"valid_json": figure(0.979)}}},
            {"systems": {"fine_tuned": {"valid_json": figure(0.98)}}},
        ),
        ("answers_cut", {"unfinished": figure(0.015)}, {"unfinished": figure(0.01)}),
        ("classifier_does_it", {"gains": [gain("classifier", 0.0)]}, {"gains": [gain("classifier", 0.01)]}),
        ("retrieval_does_it", {"gains": [gain("base_retrieval", 0.09)]}, {"gains": [gain("base_retrieval", 0.11)]}),
        (
            "retrieval_does_it",
            {"gains": [gain("base_retrieval", 0.09)], **lacks("base_retrieval", "fine_tuned")},
            {"gains": [gain("base_retrieval", 0.09)], **lacks("base_retrieval")},
        ),
        ("retrieval_adds", {"systems": looked_up(0.41), **MISSED}, {"systems": looked_up(0.39), **MISSED}),
        ("retrieval_adds", {"systems": looked_up(0.6), **MISSED}, {"systems": looked_up(0.6)}),
        ("retrieval_adds", {"systems": looked_up(0.6), **MISSED}, {"systems": looked_up(0.6), "spec": with_context(), **MISSED}),
        (
            "retrieval_unused",
            {"gains": [gain("fine_tuned_without_context", 0.04)], "spec": with_context(), **MISSED},
            {"gains": [gain("fine_tuned_without_context", 0.09)], "spec": with_context(), **MISSED},
        ),
        (
            "retrieval_unused",
            {"gains": [gain("fine_tuned_without_context", 0.09)], "spec": with_context()},
            {"gains": [gain("fine_tuned_without_context", 0.11)], "spec": with_context()},
        ),
        ("search", MISSED, {"gains": [gain("base_few_shot", 0.04)], **MISSED}),
        ("search", MISSED, {"spec": {"training": {"search": {"trials": 4}}}, **MISSED}),
        ("other_base", {"other_bases": [LARGER], **MISSED}, {"other_bases": [LARGER]}),
        (
            "capacity_unused",
            {"other_bases": [{**LARGER, "kind": "smaller"}], **ROOM},
            {"other_bases": [{**LARGER, "kind": "smaller"}], "verdicts": [verdict("met", bound=0.79)]},
        ),
        ("cheaper_base_suffices", {"other_bases": [{**LARGER, "kind": "cheaper"}], **ROOM}, {"other_bases": [LARGER], **ROOM}),
    ],
)
def test_a_rule_speaks_on_one_side_of_its_threshold_only(id: str, fires: dict[str, Any], does_not: dict[str, Any]):
    assert (id in ids(**fires), id in ids(**does_not)) == (True, False)
    assert f"`{id}`" in (ROOT / "docs" / "iterate.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"training": losses((0, 3.0), (188, 0.4), (376, 0.6))},
            "rose from 0.400 at step 188 to 0.600 at step 376 (one run on 1,500 training",
        ),
        (
            {"analysis": {"label_errors": {"flagged": figure(0.1), "changed": 1}}},
            "0.100 [0.050, 0.150], n = 200 of the test rows are doubted; ",
        ),
        (
            {"classes": [class_line("fees", 0.5), class_line("refund", 1.0)]},
            "100% of the wrong classes come from fees (0.500 [0.349, 0.651], n",
        ),
        ({"unfinished": figure(0.05)}, "0.050 [0.000, 0.100], n = 200 of the answers were cut"),
        (
            {"gains": [gain("base_retrieval", 0.02)]},
            "tuning gains 0.020 [-0.030, 0.070], n = 200 over retrieval, surely less than the 0.15",
        ),
    ],
)
def test_a_step_says_why_with_rows_and_interval(changes: dict[str, Any], why: str):
    assert why in only(**changes).why


@pytest.mark.parametrize(
    ("changes", "patch"),
    [
        ({"training": losses((0, 3.0), (188, 0.4), (376, 0.6))}, [Change("training.epochs", 2, 1.0)]),
        ({"training": losses((0, 3.0), (50, 0.4), (376, 0.6))}, [Change("training.epochs", 2, 0.25)]),
        ({"training": losses((0, 3.0), (188, 3.4), (376, 3.6))}, [Change("training.learning_rate", "auto", "range_test")]),
        (
            {"training": losses((0, 3.0), (188, 0.4), (376, 0.6), passes_rows=0), "planned": {}},
            [Change("training.early_stopping", None, {"patience": 2})],
        ),
        ({"training": losses((0, 3.0), (376, 0.9))}, [Change("technique", {"type": "auto"}, {"type": "lora", "rank": 8})]),
        (
            {"training": GAP, "spec": {"technique": {"type": "qlora"}}, "planned": {"technique": {"type": "qlora", "rank": 16}}},
            [Change("technique.rank", 16, 8)],
        ),
        ({"training": losses((0, 3.0), (376, 0.9)), "planned": {"technique": {"type": "full"}}}, []),
        ({"training": losses((0, 3.0), (188, 0.5), (376, 0.4))}, [Change("training.epochs", 2, 3.0)]),
        ({"training": training(final_loss=2.9)}, [Change("training.learning_rate", "auto", "range_test")]),
        (THIN, [Change("dataset.more.balance", None, {"by": "repeat", "ratio": 0.5})]),
        (
            {"classes": [class_line("fees", 0.5, training_rows=110), class_line("refund", 1.0)]},
            [Change("dataset.more.augment", None, [{"type": "typos", "share": 1.0, "classes": ["fees"]}])],
        ),
        ({"analysis": {"label_errors": {"flagged": figure(0.1)}}}, [Change("dataset.review.policy", "auto_accept", "experts")]),
        (
            {"other_bases": [{**LARGER, "kind": "smaller"}], **ROOM},
            [Change("base_model.candidates", ["gemma-3-270m"], ["qwen3-0.6b", "gemma-3-270m"])],
        ),
        ({"path": BANK, "verdicts": [verdict("cannot tell")]}, [Change("dataset.held_out.0.sample", 500, 1000)]),
        ({"path": BANK, "analysis": {"learning_curve": {**CURVE, "doubling": DOUBLING}}}, [Change("dataset.sources.0.sample", 748, 1496)]),
        ({"verdicts": [verdict("cannot tell")]}, []),
        (MISSED, [Change("training.search", None, {"trials": 8})]),
    ],
)  # fmt: skip
def test_a_step_gives_the_change_that_tries_it(changes: dict[str, Any], patch: list[Change]):
    assert list(only(**changes).patch) == patch


def test_a_candidate_that_is_there_is_put_first():
    spec = {"base_model": {"candidates": ["gemma-3-270m", "qwen3-0.6b"]}}
    found = next_steps(findings(spec=spec, other_bases=[LARGER], **MISSED))[-1]
    assert found.patch == (Change("base_model.candidates", ["gemma-3-270m", "qwen3-0.6b"], ["qwen3-0.6b", "gemma-3-270m"]),)


@pytest.mark.parametrize(
    ("path", "metric", "wanted"), [(TRIAGE, "valid_json", "json_schema"), (BANK, "valid_label", "labels")], ids=["extraction", "labels"]
)
def test_constrained_decoding_is_a_change_where_the_use_case_can_say_it(path: Path, metric: str, wanted: str):
    patch = only(path=path, systems={"fine_tuned": {metric: figure(0.9)}}).patch
    known = "decoding" in EvaluationSpec.model_fields
    assert patch == ((Change("evaluation.decoding", "greedy", wanted),) if known else ())


def every_step(path: Path) -> list[NextStep]:
    """What all rules propose for a use case when each has its evidence, in several reports since some exclude others."""
    noise = {"label_errors": {"flagged": figure(0.1)}, "learning_curve": {**CURVE, "doubling": DOUBLING}}
    bases = [LARGER, {**LARGER, "kind": "smaller", "id": "smollm2-135m"}, {**LARGER, "kind": "cheaper", "id": "smollm2-360m"}]
    shown: list[dict[str, Any]] = [
        {"training": losses((0, 3.0), (188, 0.4), (376, 0.6)), "verdicts": [verdict("cannot tell")], "analysis": noise, **THIN},
        {"training": losses((0, 3.0), (376, 0.9)), "systems": {"fine_tuned": {"valid_json": figure(0.9)}}, "other_bases": bases, **MISSED},
        {"training": losses((0, 3.0), (188, 0.5), (376, 0.4), trainable_parameters=9), **LABELS, **MISSED},
        {"training": training(final_loss=2.9), "systems": looked_up(0.6), **MISSED, **WEAK_CLASS},
        {"training": losses((0, 3.0), (188, 0.4), (376, 0.6), passes_rows=0), "planned": {}, "other_bases": bases, **ROOM},
    ]  # fmt: skip
    found: dict[str, NextStep] = {}
    for number, changes in enumerate(shown):
        for step in next_steps(findings(path=path, **changes)):
            found[f"{step.id} {number}"] = step
    return [step for step in found.values() if step.patch]


@pytest.mark.parametrize("path", [TRIAGE, BANK, MORTGAGE], ids=["triage", "bank", "mortgage"])
def test_every_patch_can_be_written_into_a_real_use_case_and_read_again(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fine_tune_pipeline.guide.evaluation.iterate.apply.read_use_case", without_files)
    steps = every_step(path)
    assert len({step.id for step in steps}) >= 6
    for step in steps:
        new = read_use_case(path, files=False, text=applied(path, [step]).after)
        assert [value_at(new, change.path) for change in step.patch] == [
            _filled(value_at(new, change.path), change.after) for change in step.patch
        ]


def without_files(path: Path, *, text: str) -> Any:
    """The data of banking77 is not shipped."""
    return read_use_case(path, files=False, text=text)


def _filled(read: Any, wanted: Any) -> Any:
    """What was wanted, with the defaults that reading adds to its mappings."""
    if isinstance(wanted, dict):
        return {**read, **{name: _filled(read[name], value) for name, value in wanted.items()}}
    return [_filled(*pair) for pair in zip(read, wanted, strict=True)] if isinstance(wanted, list) else wanted


def test_every_rule_says_nothing_without_its_evidence():
    bare = Findings(findings().report, findings().spec)
    assert [step for rule in RULES for step in rule(bare)] == []
