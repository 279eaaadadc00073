"""Section `dataset.more`: rows that are labelled by rules or made, beside those that the sources hold. Nothing of it happens by default."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from fine_tune_pipeline.spec.base import Section


class ChatModel(Section):
    """A model behind an OpenAI-compatible API. It is sent scrubbed texts only; its answers are kept, so that nothing is asked twice."""

    url: str = Field(description="Base of the API, such as http://localhost:8000/v1.", pattern=r"^https?://")
    model: str = Field(description="Name of the model, as the API knows it.")
    key_variable: str | None = Field(default=None, description="Name of the environment variable that holds the key; never the key itself.")
    temperature: float = Field(default=0.7, ge=0, le=2)
    max_tokens: int = Field(default=500, ge=1, description="Tokens of one answer at most.")
    timeout_seconds: float = Field(default=60, gt=0)
    tries: int = Field(default=3, ge=1, le=10, description="Of a request that fails for reasons that may pass.")
    parallel: int = Field(default=4, ge=1, le=64, description="Requests at a time.")


class LabelRule(Section):
    """A rule that says one label, or nothing."""

    name: str = Field(min_length=1, description="Shown in the table of rules, and in the rows that it labelled.")
    label: str = Field(description="What it says where it holds.")
    field: str | None = Field(
        default=None, description="Of an extraction task, the field that it speaks of; the first with a list by default."
    )
    column: str = Field(
        default="prompt", description="What it looks at: the prompt or a column of `metadata`; `ticket.queue` looks into a column of JSON."
    )
    accuracy: float | None = Field(default=None, gt=0, lt=1, description="How often it is right; estimated on labelled rows by default.")


class Keywords(LabelRule):
    """Holds where one of the words or phrases stands in the text, in any case."""

    type: Literal["keywords"]
    words: list[str] = Field(min_length=1)


class Pattern(LabelRule):
    """Holds where the regular expression is found."""

    type: Literal["regex"]
    pattern: str

    @field_validator("pattern")
    @classmethod
    def compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"got {pattern!r}, want a regular expression: {error}") from error
        return pattern


class Equals(LabelRule):
    """Holds where the column is one of the values."""

    type: Literal["equals"]
    values: list[str] = Field(min_length=1)


class PythonRule(Section):
    """A function of a file beside the YAML: it gets the row's columns, all of them text, and gives a label or None."""

    type: Literal["python"]
    name: str = Field(min_length=1, description="Shown in the table of rules, and in the rows that it labelled.")
    function: str = Field(pattern=r"^[A-Za-z_]\w*:[A-Za-z_]\w*$", description="file:function, such as rules:urgent for rules.py.")
    field: str | None = Field(
        default=None, description="Of an extraction task, the field that it speaks of; the first with a list by default."
    )
    accuracy: float | None = Field(default=None, gt=0, lt=1, description="How often it is right; estimated on labelled rows by default.")


Rule = Annotated[Keywords | Pattern | Equals | PythonRule, Field(discriminator="type")]


class LabellingSpec(Section):
    """Labels rows without an answer (of a source with `completion: ""`) by a weighted vote of rules."""

    rules: list[Rule] = Field(min_length=1)
    sure: float = Field(
        default=0.7, gt=0, le=1, description="Below this probability of the winner a row stays unlabelled: the quarantine takes it."
    )

    @model_validator(mode="after")
    def distinct(self) -> Self:
        names = [rule.name for rule in self.rules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"rules: {', '.join(twice)} stands there twice; give each rule a name of its own")
        return self


class Augmentation(Section):
    """Which rows get variants, and how many."""

    share: float = Field(default=0.2, gt=0, le=1, description="Of the rows, chosen by hash.")
    copies: int = Field(default=1, ge=1, le=10, description="Variants of each.")
    classes: list[str] = Field(default=[], description="Only of these classes; all by default.")
    hard: bool = Field(default=False, description="Only of the slices that `more.hard` finds.")


class Typos(Augmentation):
    """Slips of the fingers: a neighbour on the keyboard, two letters swapped, one missing, one doubled."""

    type: Literal["typos"]
    words: float = Field(default=0.1, gt=0, le=1, description="Of a prompt's words of four letters and more; at least one.")


class Phrases(Augmentation):
    """One of the phrases is said in another way."""

    type: Literal["phrases"]
    phrases: dict[str, list[str]] = Field(min_length=1, description="What stands in prompts: other ways to say it.")


class Templates(Augmentation):
    """The prompt in other clothes, by sandboxed Jinja."""

    type: Literal["templates"]
    templates: list[str] = Field(
        min_length=1, description="Over `prompt` and the columns of `metadata`, such as 'Hi, {{ prompt }} Thanks!'."
    )


class Paraphrases(Augmentation):
    """A model says the prompt in other words."""

    type: Literal["paraphrases"]
    ask: ChatModel


Augment = Annotated[Typos | Phrases | Templates | Paraphrases, Field(discriminator="type")]


class QuestionsSpec(Section):
    """A model writes questions and answers about the documents; only for tasks whose answers are open."""

    ask: ChatModel
    per_chunk: int = Field(default=2, ge=1, le=10, description="Questions about one part of a document.")
    chunks: int = Field(default=100, ge=1, description="Parts that are asked about at most, chosen by hash.")


class BalanceSpec(Section):
    """Brings small and large classes nearer to each other, in training only."""

    by: Literal["repeat", "cap"] = Field(
        default="repeat",
        description="repeat: variants of rows of small classes (by `augment` without models, else typos); cap: fewer rows of large ones.",
    )
    ratio: float = Field(default=0.5, gt=0, le=1, description="Rows of the smallest class over rows of the largest that is aimed at.")


class HardSpec(Section):
    """Slices of the test in which a finished evaluation found the model worse than on the whole."""

    evaluation: str = Field(description="Fingerprint of the evaluation_report; `fine-tune-pipeline hard USE_CASE` tells it and the slices.")
    columns: list[str] = Field(default=[], description="Columns of `metadata` that make slices, beside the classes.")


class MoreSpec(Section):
    """Rows that are made or labelled by rules. They pass the same checks as others and are for training only."""

    most_share: float = Field(
        default=0.3, gt=0, lt=1, description="Of the training rows, made ones at most; those labelled by rules are not made."
    )
    labelling: LabellingSpec | None = None
    augment: list[Augment] = []
    questions: QuestionsSpec | None = None
    balance: BalanceSpec | None = None
    hard: HardSpec | None = None

    @model_validator(mode="after")
    def hard_is_known(self) -> Self:
        if self.hard is None and any(augment.hard for augment in self.augment):
            raise ValueError("augment: hard: true needs dataset.more.hard, which names the evaluation")
        return self
