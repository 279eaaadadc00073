"""Weights of the NER as a folder: `ner.safetensors`, and `ner.json`, which says what they are. Nothing in it can run."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from spacy.language import Language

from fine_tune_pipeline.programs.pii.ner_requests import BadNerFolder
from fine_tune_pipeline.programs.requests import Contract

WEIGHTS = "ner.safetensors"
ABOUT = "ner.json"

Weights = dict[str, NDArray[np.float32]]
"""Node and parameter of the network -> values."""


class AboutNer(Contract):
    """What an adapted NER is, beside its weights."""

    format: int = 1
    base: str = Field(description="Package and version whose NER was trained further.")
    base_sha256: str
    weights_sha256: str = Field(description="Of the file ner.safetensors.")
    licence: str
    attribution: str
    made_of: dict[str, int] = Field(default={}, description="Texts that it was trained on, by kind.")


def weights(nlp: Language) -> Weights:
    """A copy of the NER's weights."""
    nodes = enumerate(nlp.get_pipe("ner").model.walk())
    return {
        f"{number}.{node.name}.{name}": np.array(node.get_param(name), dtype=np.float32)
        for number, node in nodes
        for name in node.param_names
        if node.has_param(name)
    }


def put(nlp: Language, new: Weights) -> None:
    """Give the NER these weights.

    Raises:
        BadNerFolder: they are of another network.
    """
    there = {name: values.shape for name, values in weights(nlp).items()}
    if there != {name: values.shape for name, values in new.items()}:
        raise BadNerFolder(f"{WEIGHTS}: these weights are of another network than the packaged NER; adapt it anew")
    for number, node in enumerate(nlp.get_pipe("ner").model.walk()):
        for name in node.param_names:
            if node.has_param(name):
                node.set_param(name, new[f"{number}.{node.name}.{name}"])


def between(base: Weights, adapted: Weights, share: float) -> Weights:
    """Weights on the straight line from `base` (share 0) to `adapted` (1).

    Part of the way forgets less than all of it, and keeps most of what was learnt.
    Source: M. Wortsman and others, Robust fine-tuning of zero-shot models, CVPR 2022.
    """
    return {name: (values + np.float32(share) * (adapted[name] - values)).astype(np.float32) for name, values in base.items()}


def leaning(nlp: Language, of: Weights, by: float) -> Weights:
    """Weights with which the NER of `nlp` says "no name" less readily: `by` is taken from that score at every word.

    It is greedy and has no threshold; this is one. More is found, and more that is none.
    """
    pipe = nlp.get_pipe("ner")
    outside = [pipe.moves.get_class_name(number) for number in range(pipe.moves.n_moves)].index("O")
    upper = pipe.model.get_ref("upper")
    place = next(number for number, node in enumerate(pipe.model.walk()) if node is upper)
    biases = of[f"{place}.{upper.name}.b"].copy()
    biases[outside] -= by
    return {**of, f"{place}.{upper.name}.b": biases}


def write(folder: Path, new: Weights, about: AboutNer) -> AboutNer:
    """Write the folder; the same weights give the same bytes. Returns `about` with the file's hash."""
    from safetensors.numpy import save

    data = save({name: np.ascontiguousarray(values) for name, values in sorted(new.items())})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(data)
    told = about.model_copy(update={"weights_sha256": hashlib.sha256(data).hexdigest()})
    told.write(folder / ABOUT)
    return told


def about(folder: Path) -> AboutNer:
    """What `ner.json` says.

    Raises:
        BadNerFolder: there is none, or it is not readable.
    """
    path = folder / ABOUT
    if not path.is_file():
        raise BadNerFolder(f"{folder}: there is no {ABOUT}; want the folder `ner` within an artifact of pii_ner_adapt")
    try:
        return AboutNer.read(path)
    except ValidationError as error:
        raise BadNerFolder(f"{path}: not readable: {error.errors()[0]['msg']}; want the folder of the asset pii_ner_adapt") from error


def read(folder: Path, *, base_sha256: str) -> Weights:
    """The weights of a folder.

    Raises:
        BadNerFolder: the weights are missing, damaged, or not made of the packaged NER with this hash.
    """
    from safetensors.numpy import load

    told, path = about(folder), folder / WEIGHTS
    if told.base_sha256 != base_sha256:
        raise BadNerFolder(f"{folder}: made of an NER with SHA-256 {told.base_sha256[:8]}…, the installed one has {base_sha256[:8]}…")
    data = path.read_bytes() if path.is_file() else b""
    seen = hashlib.sha256(data).hexdigest()
    if seen != told.weights_sha256:
        raise BadNerFolder(f"{path}: SHA-256 is {seen[:8]}…, {ABOUT} says {told.weights_sha256[:8]}…; the file is missing or damaged")
    return load(data)
