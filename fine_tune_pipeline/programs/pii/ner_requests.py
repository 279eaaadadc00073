"""What the program that adapts the NER is asked and what it answers. Nothing here imports spaCy."""

from typing import Annotated, Literal

from pydantic import Field

from fine_tune_pipeline.programs.requests import Access, Contract, Request


class BadNerFolder(ValueError):
    """A folder is not one of adapted NER weights, or not one for this package."""


class AdaptNerRequest(Request):
    """Step 3: train the packaged NER further on texts made of templates and on reviewed ones; the weights go to `<output>/ner`."""

    module = "fine_tune_pipeline.programs.adapt_ner"
    reviewed: Annotated[str | None, Access.READS] = Field(default=None, description="JSONL of text, findings, document and looked_for.")
    texts: int
    rounds: int
    lean: float
    seed: int
    held_back: int = Field(default=400, description="Texts made of held-back templates, to judge by.")


class NerScore(Contract):
    """How well names are found in held-back texts of one kind, by characters; `false_names` is the share of nameless texts with a name."""

    kind: str
    ner: Literal["packaged", "adapted"]
    texts: int
    characters: int = Field(description="Of personal data.")
    precision: float
    recall: float
    f2: float
    false_names: float


class NerRound(Contract):
    """One pass over all texts: mean loss per word."""

    round: int
    loss: float
    words: int


class AdaptNerResult(Contract):
    """What the NER learnt, and whether that helped."""

    ner: str
    ner_sha256: str
    curve: tuple[NerRound, ...]
    scores: tuple[NerScore, ...]
    learnt_from: dict[str, int] = Field(description="Texts by kind.")
    seconds: float
    cpu_seconds: float
