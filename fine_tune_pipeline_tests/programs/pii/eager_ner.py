"""An NER that takes nearly everything for a name: what it scrubs tells whether it was asked."""

from pathlib import Path

from fine_tune_pipeline.programs.pii import ner_weights
from fine_tune_pipeline.programs.pii.ner_weights import AboutNer
from fine_tune_pipeline.programs.pii.scrubbing import NER_SHA256, packaged_ner

TEXT = "Bring Apples and Pears to the Kitchen Table"
SCRUBBED = "<PERSON> and Pears to the Kitchen Table"
"""What is left of the text when this NER was asked; the packaged one finds no person in it."""


def eager_ner(folder: Path) -> Path:
    """The packaged weights, leaning far out, as a folder."""
    nlp = packaged_ner()
    about = AboutNer(base="test", base_sha256=NER_SHA256, weights_sha256="", licence="MIT", attribution="test")
    ner_weights.write(folder, ner_weights.leaning(nlp, ner_weights.weights(nlp), 12.0), about)
    return folder
