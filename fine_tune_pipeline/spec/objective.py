"""Section `objective` (step 1): what the model must achieve, and how one would know."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from fine_tune_pipeline.spec.base import Section, unset
from fine_tune_pipeline.spec.evaluation import TAKEN

SYSTEMS = ("base_zero_shot", "base_few_shot", "base_retrieval", "word_classifier", "classifier", "majority")
"""What the fine-tuned model can be compared with."""

System = Literal["base_zero_shot", "base_few_shot", "base_retrieval", "word_classifier", "classifier", "majority"]

CHAMPION = "champion"
"""The version that answers now, which what is trained next can be held against."""

Rival = Literal["base", "champion", "base_zero_shot", "base_few_shot", "base_retrieval", "word_classifier", "classifier", "majority"]

USUAL_SLICE = 50
"""A slice of 50 rows shows a share to about 12 points."""

DEMANDS = ("at_least", "at_most", "beats", "versus")


class Classification(Section):
    """One label out of a closed list."""

    type: Literal["classification"]
    labels: list[str] | str = Field(description="The labels, or a JSON file that lists them.")


class Extraction(Section):
    """A JSON object after a JSON Schema."""

    type: Literal["extraction"]
    schema_: str = Field(alias="schema", description="JSON Schema file of the answer, relative to the use case's folder.")


class QuestionAnswering(Section):
    """A short free answer that is right or wrong."""

    type: Literal["question_answering"]


class Generation(Section):
    """A longer free text, judged by overlap with a reference and by people."""

    type: Literal["generation"]


class Preference(Section):
    """A free answer that people compared with another one: sources with `layout: preference`, in the test set too."""

    type: Literal["preference"]


Task = Annotated[Classification | Extraction | QuestionAnswering | Generation | Preference, Field(discriminator="type")]


class Slice(Section):
    """Some of the rows: those whose metadata has these values."""

    where: dict[str, str | list[str]] = Field(
        min_length=1, description="Column of `metadata` and the value that counts, or a list of values; a row must fit all columns."
    )

    def holds(self, metadata: Mapping[str, str]) -> bool:
        """Whether a row with this metadata is one of them."""
        return all(metadata.get(column) in ([wanted] if isinstance(wanted, str) else wanted) for column, wanted in self.where.items())

    def __str__(self) -> str:
        """Such as `channel email, language de or fr`."""
        return ", ".join(f"{name} {wanted if isinstance(wanted, str) else ' or '.join(wanted)}" for name, wanted in self.where.items())


class Criterion(Section):
    """One measurable demand. Exactly one of `at_least`, `at_most`, `beats`, `versus` is given; the metric fixes the direction."""

    metric: str = Field(
        description="A metric of the task, such as exact_match; of one field: field_match.intent; of one label: recall.refund."
    )
    at_least: float | None = None
    at_most: float | None = None
    beats: System | None = Field(default=None, description="The system that the fine-tuned model must beat.")
    by: float = Field(default=0.0, ge=0, description="Margin of `beats`, in the metric's own unit.")
    versus: Rival | None = Field(
        default=None, exclude_if=unset, description="The system than which the fine-tuned model must not be worse; base is the base model, "
        "with worked examples if it was asked with some; champion: the version that "
        "answers now; met while there is none.",
    )  # fmt: skip
    margin: float = Field(
        default=0.0, ge=0, exclude_if=unset, description="So much worse than `versus` is still taken, in the metric's own unit."
    )
    slice: Slice | None = Field(default=None, exclude_if=unset, description="Only these rows are looked at.")

    @model_validator(mode="after")
    def one_demand(self) -> "Criterion":
        given = [name for name in DEMANDS if getattr(self, name) is not None]
        if len(given) != 1:
            seen = ", ".join(given) or "none"
            raise ValueError(f"a criterion needs exactly one of {', '.join(DEMANDS)}; got {seen}")
        for size, demand in (("by", "beats"), ("margin", "versus")):
            if getattr(self, size) and getattr(self, demand) is None:
                raise ValueError(f"`{size}` is the margin of `{demand}`; give `{demand}` too, or leave `{size}` out")
        return self


class StyleRule(Section):
    """A rule of how answers are written. Each demand that is given must hold; case matters in patterns only."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="The metric rule.<name> is the share of answers that keep it.")
    never: list[str] = Field(default=[], description="Words or phrases that must not stand in an answer.")
    always: list[str] = Field(default=[], description="Phrases that must all stand in every answer.")
    one_of: list[str] = Field(default=[], description="Phrases of which at least one must stand in every answer.")
    never_matches: str | None = Field(default=None, description="A regular expression that must not be found.")
    always_matches: str | None = Field(default=None, description="A regular expression that must be found.")
    fewest_words: int | None = Field(default=None, ge=1)
    most_words: int | None = Field(default=None, ge=1)
    most_sentences: int | None = Field(default=None, ge=1)

    @field_validator("never_matches", "always_matches")
    @classmethod
    def compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"got {pattern!r}, want a regular expression: {error}") from error
        return pattern

    @model_validator(mode="after")
    def demands_something(self) -> "StyleRule":
        if not any(getattr(self, name) for name in type(self).model_fields if name != "name"):
            raise ValueError(
                f"rule {self.name} demands nothing; give one of {', '.join(name for name in type(self).model_fields if name != 'name')}"
            )
        if self.fewest_words is not None and self.most_words is not None and self.fewest_words > self.most_words:
            raise ValueError(f"rule {self.name}: fewest_words {self.fewest_words} is above most_words {self.most_words}")
        return self


class RubricItem(Section):
    """A question about an answer that no rule can decide: asked of people, and of a judge if there is one, where
    `evaluation.human.questions` asks nothing else."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")
    ask: str = Field(min_length=1, description="Such as: Is the tone warm and professional?")

    @field_validator("name")
    @classmethod
    def is_free(cls, name: str) -> str:
        if name in TAKEN:
            raise ValueError(f"{name} is a column of every verdict; give the question another name")
        return name


class Voice(Section):
    """How answers should sound: what rules can check, and what people are asked."""

    rules: list[StyleRule] = Field(default=[], description="Checked in every answer; the metric follows_style says that all are kept.")
    rubric: list[RubricItem] = Field(default=[], description="Asked of people, and of a judge if there is one.")

    @model_validator(mode="after")
    def distinct(self) -> "Voice":
        names = [rule.name for rule in self.rules] + [item.name for item in self.rubric]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands there twice; give each rule and each question a name of its own")
        return self


class OwnMetric(Section):
    """A metric of yours: `metrics/<name>/<name>.py` beside the YAML, with `score_one(prediction, reference, example) -> float`."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Of the folder, of its Python file, and in criteria.")
    low: float = Field(default=0.0, description="The lowest score that it can give.")
    high: float = Field(default=1.0, description="The highest.")
    better: Literal["higher", "lower", "neither"] = Field(description="Which scores are better.")
    binary: bool = Field(default=False, description="Every score is 0 or 1, so exact intervals for shares apply.")
    about: str = Field(min_length=1, description="What a score says, in a few words, for tables.")

    @model_validator(mode="after")
    def has_a_range(self) -> "OwnMetric":
        if not self.low < self.high:
            raise ValueError(f"{self.name}: got low {self.low:g} and high {self.high:g}, want low below high")
        if self.binary and (self.low, self.high) != (0, 1):
            raise ValueError(f"{self.name}: a binary metric is 0 or 1; leave low and high out, or binary")
        return self


class Limits(Section):
    """What the answers may cost."""

    p95_latency_seconds: float | None = Field(default=None, gt=0)
    cost_per_1000: float | None = Field(
        default=None,
        gt=0,
        exclude_if=unset,
        description="Money for 1,000 answers, in the currency of environment.prices or the provider's.",
    )
    memory_gib: float | None = Field(default=None, gt=0)


def _usual_slice(rows: int) -> bool:
    """Left out of what is written down, as in artifacts from before the field was there."""
    return rows == USUAL_SLICE


class Evidence(Section):
    """How sure the verdict must be."""

    level: float = Field(default=0.95, gt=0.5, lt=1, description="Confidence of each one-sided bound.")
    power: float = Field(default=0.8, gt=0.5, lt=1, description="Chance of seeing `smallest_gain` if it is there.")
    smallest_gain: float = Field(default=0.10, gt=0, lt=1, description="The gain that the test set must be able to show.")
    cluster_by: str | None = Field(
        default=None,
        exclude_if=unset,
        description="Column of `metadata` that names what rows share (a document, a customer): their errors go together.",
    )
    minimum_slice: int = Field(
        default=USUAL_SLICE, ge=1, exclude_if=_usual_slice, description="Test rows below which a slice is not judged."
    )


class ObjectiveSpec(Section):
    """The business goal and the numbers that say whether it is met."""

    goal: str = Field(min_length=1, description="The business goal in a sentence or two.")
    task: Task
    success: list[Criterion] = Field(min_length=1, description="All must hold.")
    guards: list[Criterion] = Field(default=[], description="What must not be lost on the way; all must hold too.")
    limits: Limits = Limits()
    evidence: Evidence = Evidence()
    voice: Voice | None = Field(default=None, exclude_if=unset, description="Style rules and a rubric, for answers in a brand's voice.")
    metrics: list[OwnMetric] = Field(default=[], exclude_if=unset, description="Metrics of your own, beside those of the task.")

    @model_validator(mode="after")
    def metrics_are_distinct(self) -> "ObjectiveSpec":
        names = [metric.name for metric in self.metrics]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"metrics: {', '.join(twice)} stands there twice; keep one")
        return self
