"""The one registry of metrics: what each number means, its range, its direction, the tasks it is for, and the score of one answer.

No torch here: what a program must measure first (`needs`) comes with the answer, and `programs/score.py` averages the same scores with
Hugging Face `evaluate`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from types import MappingProxyType
from typing import Any, Literal, get_args

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.objective.measures import labels, numbers, objects, rules, texts
from fine_tune_pipeline.guide.objective.measures.chrf import chrf, chrf_of_one, nearer_to_preferred
from fine_tune_pipeline.guide.objective.measures.item import Corpus, Item, Score
from fine_tune_pipeline.guide.objective.model_metrics import MODEL_METRICS, of_no_answer
from fine_tune_pipeline.guide.objective.own_metrics import OwnScore
from fine_tune_pipeline.guide.objective.proposals import proposal_for
from fine_tune_pipeline.guide.objective.task import OPEN, ExtractionTask, Task, TaskType, normalised_label, task_of

Better = Literal["higher", "lower", "neither"]

Need = Literal["row", "confidence", "similarity", "model"]
"""What a score looks at beside answer and reference: the whole row, or a number that a program measures."""

FIELD_MATCH, RECALL, RULE = "field_match", "recall", "rule"
"""Families: `field_match.<field>` of an object, `recall.<label>` of a class, `rule.<name>` of a style."""


class UnknownMetric(ValueError):
    """The metric does not exist, or not for this task; the message lists those that do."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a number means.

    `low` and `high` bound a single score (`high` may be infinite). `binary` scores are 0 or 1, so exact intervals for shares apply.
    `validity` says that it looks at the form of an answer only: it can guard, but a wrong answer may have it. A metric of all rows
    together has a `corpus`, and its score of one answer only says how much that answer took part. `counts` says which rows count at all.
    One that is not `usual` is computed only when a criterion asks for it.
    """

    name: str
    tasks: tuple[TaskType, ...]
    about: str
    score: Score
    low: float = 0
    high: float = 1
    better: Better = "higher"
    binary: bool = False
    validity: bool = False
    usual: bool = True
    needs: tuple[Need, ...] = ()
    corpus: Corpus | None = None
    counts: Callable[[Example], bool] | None = None

    @property
    def averaged(self) -> bool:
        """Whether it is the mean of a score that every row has, without anything that a program measures."""
        return self.corpus is None and self.counts is None and not set(self.needs) - {"row"}

    @property
    def of_model(self) -> bool:
        """Whether it is measured of the model beside the test rows, so that only a guard of its own can ask for it."""
        return "model" in self.needs

    @property
    def plain(self) -> bool:
        """Whether it is the mean of scores of answer and reference alone, as while training."""
        return self.averaged and not self.needs

    def counted(self, row: Example) -> bool:
        """Whether a row counts for it."""
        return self.counts is None or self.counts(row)


def metric_named(name: str, task: Task) -> Metric:
    """The metric of that name, for that task; `field_match.<field>` names a field of the answer, nested ones by dots.

    Raises:
        UnknownMetric: lists the metrics of the task, and says what to take instead of names that are known elsewhere.
    """
    family, _, member = name.partition(".")
    own = next((one for one in task.own if one.declared.name == name), None)
    if own is not None:
        return _own(own, task)
    if name in OF_THE_MODEL:
        return OF_THE_MODEL[name]
    metric = METRICS.get(family)
    if metric is None or task.type not in metric.tasks or ("." in name) != (family in _FAMILIES):
        raise UnknownMetric(
            f"metric {name!r} is not one of a {task.type} task; want one of {_listed(task)}{proposal_for(name, allowed_metrics(task))}"
        )
    return _FAMILIES[family](metric, member, task) if family in _FAMILIES else metric


def allowed_metrics(task: Task) -> list[str]:
    """Names that a criterion of this task may use, the most telling first, without those of single labels."""
    names = [name for name, metric in METRICS.items() if task.type in metric.tasks and name not in _FAMILIES]
    fields = [f"{FIELD_MATCH}.{name}" for name in task.properties] if isinstance(task, ExtractionTask) else []
    kept = names if task.rules else [name for name in names if name != "follows_style"]
    style = [f"{RULE}.{rule.name}" for rule in task.rules]
    return [*kept[:1], *fields, *kept[1:], *style, *(own.declared.name for own in task.own)]


def score_one(
    prediction: str,
    reference: str,
    *,
    task: Task,
    metrics: Sequence[str],
    example: Example | None = None,
    measured: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, float]:
    """Scores of one prediction, by metric name.

    Args:
        example: the row that was answered; some metrics look at its prompt, and those of the user at all of it.
        measured: numbers that a program found for this answer.

    Raises:
        UnknownMetric: a name is not one of the task.
        NotMeasured: a metric needs `example`, or a number that is not in `measured`.
    """
    item = Item(prediction, reference, task, example, measured)
    return {name: metric_named(name, task).score(item) for name in metrics}


def scorer(settings: Mapping[str, Any]) -> Callable[[str, str], float]:
    """A function of prediction and reference, from settings that fit into JSON: what a program is given to score with.

    Args:
        settings: `task` as `Task.described` says it, and the name of a `metric`.

    Raises:
        UnknownMetric: it is not one of the task.
    """
    task = task_of(settings["task"])
    metric = metric_named(settings["metric"], task)
    return lambda prediction, reference: metric.score(Item(prediction, reference, task))


def corpus_value(settings: Mapping[str, Any]) -> Callable[[Any], float]:
    """The value of a metric of all rows together, as a function of the array of their numbers; for programs, by the metric's name."""
    corpus = METRICS[settings["metric"]].corpus
    assert corpus is not None
    return corpus.value


def _exact_match(item: Item) -> float:
    if item.task.type == "classification":
        return labels.label_match(item)
    return objects.same_object(item) if item.task.type == "extraction" else texts.same_words(item)


CLASSES: tuple[TaskType, ...] = ("classification",)
OBJECTS: tuple[TaskType, ...] = ("extraction",)

_REGISTRY = (
    Metric(name="accuracy", tasks=CLASSES, binary=True, about="the label is right", score=labels.label_match),
    Metric(name="exact_match", tasks=(*CLASSES, *OBJECTS, "question_answering"), binary=True, about="the whole answer is right",
           score=_exact_match),
    Metric(name="macro_f1", tasks=CLASSES, about="F1 of each class, averaged over the classes", score=labels.label_match,
           corpus=labels.macro_f1()),
    Metric(name=RECALL, tasks=CLASSES, binary=True, usual=False, about="one class is found", score=labels.label_match),
    Metric(name="ece", tasks=CLASSES, better="lower", usual=False, needs=("confidence",), score=labels.confidence_error,
           corpus=labels.calibration_error(), about="distance of confidence from accuracy (expected calibration error)"),
    Metric(name=FIELD_MATCH, tasks=OBJECTS, binary=True, about="one field of the answer is right", score=objects.field_match(())),
    Metric(name="field_f1", tasks=OBJECTS, about="share of fields that are right (F1)", score=objects.field_f1),
    Metric(name="nearer_to_preferred", tasks=("preference",), needs=("row",), counts=lambda row: row.rejected is not None,
           about="the answer is nearer to the preferred answer than to the rejected one", score=nearer_to_preferred),
    Metric(name="token_f1", tasks=OPEN, about="words shared with the reference (F1)", score=texts.token_f1),
    Metric(name="rouge_l", tasks=OPEN, about="longest common word sequence with the reference (F1)", score=texts.rouge_l),
    Metric(name="chrf", tasks=OPEN, about="character n-grams shared with the reference (chrF)", score=chrf_of_one, corpus=chrf()),
    Metric(name="similarity", tasks=OPEN, low=-1, usual=False, needs=("similarity",), score=texts.similarity,
           about="closeness of meaning to the reference (cosine of MiniLM embeddings)"),
    Metric(name="edit_rate", tasks=OPEN, better="lower", usual=False, about="characters to change to reach the reference",
           score=texts.edit_rate),
    Metric(name="number_match", tasks=(*OBJECTS, *OPEN), usual=False, about="numbers that are right with unit and scale (F1)",
           score=numbers.number_match),
    Metric(name="unsupported_numbers", tasks=(*OBJECTS, *OPEN), better="lower", usual=False, needs=("row",),
           about="share of the answer's numbers that the prompt does not hold", score=numbers.unsupported_numbers),
    Metric(name="valid_json", tasks=OBJECTS, binary=True, validity=True, about="the answer is a JSON object", score=objects.valid_json),
    Metric(name="schema_valid", tasks=OBJECTS, binary=True, validity=True, about="the answer follows the schema",
           score=objects.valid_answer),
    Metric(name="valid_label", tasks=CLASSES, binary=True, validity=True, about="the answer is one of the labels",
           score=objects.valid_answer),
    Metric(name="length_ratio", tasks=OPEN, high=inf, better="neither", validity=True, score=texts.length_ratio,
           about="words of the answer over words of the reference"),
    Metric(name="refusal", tasks=OPEN, better="lower", binary=True, validity=True, score=rules.refusal,
           about="the answer refuses although the reference answers"),
    Metric(name="follows_style", tasks=OPEN, binary=True, validity=True, about="the answer keeps every style rule",
           score=rules.follows_style),
    Metric(name=RULE, tasks=OPEN, binary=True, validity=True, about="the answer keeps one style rule", score=rules.follows_style),
)  # fmt: skip

METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _REGISTRY})
"""Name -> metric, the most telling first. `field_match`, `recall` and `rule` are families: a name goes on after a dot."""

OF_THE_MODEL: Mapping[str, Metric] = MappingProxyType(
    {name: Metric(name=name, tasks=get_args(TaskType), validity=True, usual=False, needs=("model",), score=of_no_answer, **said)
     for name, said in MODEL_METRICS.items()}
)  # fmt: skip
"""Measured of the model as a whole; any task may guard them."""


def _field(metric: Metric, member: str, task: Task) -> Metric:
    path = member.split(".")
    name = f"{FIELD_MATCH}.{member}"
    if not objects.has_field(task, path):
        raise UnknownMetric(f"metric {name!r}: the answer's schema has no field {member!r}; want one of {_listed(task)}")
    return replace(metric, name=name, about=f"{member} is right", score=objects.field_match(path))


def _label(metric: Metric, member: str, task: Task) -> Metric:
    label = task.class_of(member)
    if not label:
        raise UnknownMetric(f"metric {f'{RECALL}.{member}'!r}: {member!r} is not a label of the task; want one of {_listed(task)}")
    return replace(
        metric,
        name=f"{RECALL}.{label}",
        about=f"{label} is found",
        counts=lambda row: normalised_label(row.completion) == normalised_label(label),
    )


def _rule(metric: Metric, member: str, task: Task) -> Metric:
    rule = next((one for one in task.rules if one.name == member), None)
    if rule is None:
        raise UnknownMetric(f"metric {f'{RULE}.{member}'!r}: objective.voice has no rule {member!r}; want one of {_listed(task)}")
    return replace(metric, name=f"{RULE}.{member}", about=f"the answer keeps {member}", score=rules.rule_kept(rule))


_FAMILIES: Mapping[str, Callable[[Metric, str, Task], Metric]] = {FIELD_MATCH: _field, RECALL: _label, RULE: _rule}


def _own(own: OwnScore, task: Task) -> Metric:
    said = own.declared
    return Metric(
        name=said.name, tasks=(task.type,), low=said.low, high=said.high, better=said.better, binary=said.binary, about=said.about,
        needs=("row",), score=lambda item: own.score(item.prediction, item.reference, item.row),
    )  # fmt: skip


def _listed(task: Task) -> str:
    names = [*allowed_metrics(task), *([f"{RECALL}.<label>"] if task.type == "classification" else [])]
    return ", ".join(names)
