"""Part of section `dataset.pii`: further detectors of personal data, beside Presidio and the NER of the package index."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from fine_tune_pipeline.spec.base import Section

_HUB_AT_COMMIT = re.compile(r"[^/@\s]+/[^/@\s]+@[0-9a-f]{40}")
_FOLDER = re.compile(r"[./$~]|[A-Za-z]:")
_CLASS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

RuleGroup = Literal["addresses", "fields", "known_names", "known_places", "phrases", "repairs"]
"""Rules beside Presidio and the model that a use case may skip."""


class _Model(Section):
    """Weights from a folder or from the Hugging Face Hub at a commit."""

    model: str = Field(description="Folder that begins with ./, / or ${NAME}, relative to the YAML file; or owner/name@commit of the Hub.")

    @field_validator("model")
    @classmethod
    def pinned(cls, model: str) -> str:
        if not _FOLDER.match(model) and not _HUB_AT_COMMIT.fullmatch(model):
            raise ValueError(
                f"got {model!r}, want a folder that begins with ./ or /, or owner/name@commit with the 40 hexadecimal digits of a commit: "
                "what a branch or tag names can change"
            )
        return model

    @property
    def is_folder(self) -> bool:
        """Whether the weights lie in a folder."""
        return bool(_FOLDER.match(self.model))


class TransformersDetector(_Model):
    """A token-classification model of Hugging Face transformers."""

    type: Literal["transformers"]
    labels: dict[str, str] = Field(
        default={}, description="Label of the model -> entity, such as {PER: PERSON}; PER, LOC, ORG and the like are known."
    )


class GlinerDetector(_Model):
    """A GLiNER model; needs the package gliner."""

    type: Literal["gliner"]
    labels: dict[str, str] = Field(min_length=1, description="What the model is asked for -> entity, such as {person: PERSON}.")


class LlmDetector(Section):
    """A language model behind an OpenAI-compatible endpoint. It sees the texts as they are: choose one that may."""

    type: Literal["llm"]
    url: str = Field(pattern=r"^https?://", description="Up to /v1, such as http://localhost:8000/v1.")
    model: str
    key_variable: str | None = Field(default=None, description="Name of the environment variable that holds the key; never the key itself.")
    ask_for: list[str] = Field(default=["PERSON", "LOCATION"], min_length=1, description="Entities that the model is asked for.")
    score: float = Field(default=0.8, ge=0, lt=1, description="Score of its findings: it gives none itself.")
    timeout_seconds: float = Field(default=60, gt=0)


class PythonDetector(Section):
    """A class of your own that is a Presidio EntityRecognizer."""

    type: Literal["python"]
    recognizer: str = Field(description="module:Class; the module must be importable where the step runs.")
    options: dict[str, Any] = Field(default={}, description="Keyword arguments of the class.")

    @field_validator("recognizer")
    @classmethod
    def named(cls, recognizer: str) -> str:
        if not _CLASS.fullmatch(recognizer):
            raise ValueError(f"got {recognizer!r}, want module:Class, such as acme.pii:BadgeRecognizer")
        return recognizer


PiiDetector = Annotated[TransformersDetector | GlinerDetector | LlmDetector | PythonDetector, Field(discriminator="type")]
