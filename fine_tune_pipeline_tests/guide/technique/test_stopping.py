import pytest

from fine_tune_pipeline.artifacts.fingerprint import payload
from fine_tune_pipeline.guide.base_model.catalogue import model_named
from fine_tune_pipeline.guide.objective.metrics import UnknownMetric, scorer
from fine_tune_pipeline.guide.objective.task import Task, classification
from fine_tune_pipeline.guide.technique.rules import resolve
from fine_tune_pipeline.guide.technique.stopping import answer_scoring, check_stopping, stops_on_answers
from fine_tune_pipeline.guide.technique.systems import max_new_tokens
from fine_tune_pipeline.guide.technique.workload import Workload
from fine_tune_pipeline.programs.named_work import named
from fine_tune_pipeline.programs.requests import Technique
from fine_tune_pipeline.spec.training import EarlyStopping, TrainingSpec

TASK = classification(["refund", "card lost"])


def test_a_metric_that_is_not_the_tasks_is_refused_before_anything_is_trained():
    check_stopping(EarlyStopping(), TASK)
    check_stopping(EarlyStopping(metric="accuracy"), TASK)
    check_stopping(None, TASK)
    with pytest.raises(UnknownMetric, match=r"training.early_stopping.metric: metric 'rouge_l' is not one.*accuracy.*; or validation_loss"):
        check_stopping(EarlyStopping(metric="rouge_l"), TASK)
    with pytest.raises(UnknownMetric, match=r"length_ratio, of which neither more nor less is better"):
        check_stopping(EarlyStopping(metric="length_ratio"), Task(type="generation"))
    for name, task in (("macro_f1", TASK), ("recall.refund", TASK), ("similarity", Task(type="generation"))):
        with pytest.raises(
            UnknownMetric, match=f"got {name}, which needs more than single answers .* take (accuracy|token_f1) or validation_loss"
        ):
            check_stopping(EarlyStopping(metric=name), task)


def test_the_validation_loss_needs_no_answers():
    assert answer_scoring(EarlyStopping(), TASK, ["refund"]) is None
    assert answer_scoring(None, TASK, ["refund"]) is None
    assert not stops_on_answers(EarlyStopping())


@pytest.mark.parametrize(("metric", "higher"), [("accuracy", True), ("edit_rate", False)])
def test_the_program_is_given_what_it_scores_with(metric, higher):
    task = TASK if metric == "accuracy" else Task(type="generation")
    found = answer_scoring(EarlyStopping(metric=metric), task, ["refund", "card lost"])
    assert found is not None
    assert (found.higher_is_better, found.max_new_tokens) == (higher, max_new_tokens(["card lost"]))
    score = named(found.function)(found.settings)
    assert score("refund", "refund") == (1.0 if higher else 0.0)
    assert score("card lost", "refund") == scorer(found.settings)("card lost", "refund") != score("refund", "refund")


WORK = Workload(rows=500, tokens=10_000, labelled_tokens=5000, longest_tokens=75, longest_bound=150)


def hashed(spec: TrainingSpec) -> dict:
    found = resolve(spec, Technique(type="lora"), model_named("gemma-3-270m").architecture, WORK, context=32768)
    return payload(asset="adapter", version=1, what={"training": found.hyperparameters}, upstream={})["what"]["training"]


def test_options_that_are_off_leave_fingerprints_as_they_were_before_there_were_any():
    before = {
        "learning_rate", "epochs", "effective_batch", "max_length", "warmup_share", "schedule", "weight_decay", "max_grad_norm",
        "loss_on", "seed",
    }  # fmt: skip
    assert set(hashed(TrainingSpec())) == before
    assert set(hashed(TrainingSpec(neftune_alpha=5.0, early_stopping=EarlyStopping()))) == before | {"neftune_alpha", "early_stopping"}
    assert set(hashed(TrainingSpec(label_smoothing=0.1))) == before | {"label_smoothing"}
    assert not {"label_smoothing", "neftune_alpha", "early_stopping"} & set(TrainingSpec().model_dump())
