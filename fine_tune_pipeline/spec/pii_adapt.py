"""Part of section `dataset.pii`: the NER of the package index, trained further on own templates and on what people reviewed."""

from pydantic import Field

from fine_tune_pipeline.spec.base import Section


class ReviewedTexts(Section):
    """Texts in which people marked all personal data: rows of `text` and `findings`, or a file that `scrub` read beside its findings."""

    path: str = Field(
        description='JSON Lines of {"text", "findings": [{"start", "end", "entity"}]}, relative to the YAML file; positions in characters. '
        'Rows of one "document", if they name one, are judged or trained on together.'
    )
    findings: str | None = Field(
        default=None,
        description="Findings beside `path`, as `fine-tune-pipeline scrub --findings` writes them, put right by people: then `path` is the "
        "file that it read, and every text of it counts as reviewed.",
    )
    entities: list[str] = Field(
        default=["LOCATION", "PERSON"],
        min_length=1,
        description="Entities that people looked for; of others the packaged NER is believed.",
    )


class AdaptSpec(Section):
    """Trains the packaged NER further before anything is scrubbed; the asset `pii_ner_adapt` does it, in about two CPU minutes."""

    reviewed: list[ReviewedTexts] = Field(default=[], description="Texts of your own; without any, own templates are learnt from alone.")
    texts: int = Field(default=9000, ge=10, le=100_000, description="Texts made of templates; time grows with them.")
    rounds: int = Field(default=3, ge=1, le=20, description="Passes over all texts.")
    lean: float = Field(
        default=2.0, ge=0, le=8, description="How far the NER leans towards taking a word for a name: more is found, and more that is none."
    )
    seed: int = 0
