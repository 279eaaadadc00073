import math
import socket
from pathlib import Path

import dagster as dg
import pytest

from fine_tune_pipeline.artifacts.examples import Example, write_rows
from fine_tune_pipeline.guide.evaluation.measured import asks_for_similarity, confidences, with_similarity
from fine_tune_pipeline.guide.objective.task import Task
from fine_tune_pipeline.programs import embed
from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.requests import EmbedRequest, EmbedResult
from fine_tune_pipeline_tests.guide.evaluation.world import PretendedCompute

ROWS = [Example("a", "Where is it?", "Your parcel arrives tomorrow."), Example("b", "And mine?", "Please reset your password.")]


class Embedding(PretendedCompute):
    """Embeds with the real program, in this process."""

    def _embed(self, request: EmbedRequest) -> EmbedResult:
        return embed.run(request, Reporter(None))


def test_similarity_is_that_of_meaning_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise OSError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    answers = {
        "same": [row.completion for row in ROWS],
        "near": ["The package will be delivered tomorrow.", "You should change your password."],
        "far": ["Bananas are yellow.", "The match ended in a draw."],
    }
    nothing = {system: [{}, {}] for system in answers}
    context = dg.build_asset_context()
    found = with_similarity(context, Embedding(), tmp_path / "embed", ROWS, answers, nothing)
    same, near, far = ([numbers["similarity"] for numbers in found[system]] for system in answers)
    assert same == pytest.approx([1.0, 1.0], abs=1e-5)
    assert all(one > 0.5 > other + 0.2 for one, other in zip(near, far, strict=True))
    assert not (tmp_path / "embed").exists()


def test_confidence_is_the_probability_of_the_whole_answer(tmp_path: Path):
    path = tmp_path / "fine_tuned.jsonl"
    write_rows(
        path, [{"id": "b", "text": "y", "tokens": 3, "logprob": None}, {"id": "a", "text": "x", "tokens": 3, "logprob": math.log(0.5)}]
    )
    assert confidences(path, ROWS) == [{"confidence": pytest.approx(0.125)}, {}]


def test_confidence_in_one_of_a_closed_list_is_its_share_of_all(tmp_path: Path):
    path = tmp_path / "fine_tuned.jsonl"
    scores = {"x": -700.0, "y": -700.0 + math.log(2), "z": -700.0 + math.log(5)}
    whole = {"tokens": 3, "logprob": -200.0, "label_logprobs": scores}
    write_rows(path, [{"id": "a", "text": "z", **whole}, {"id": "b", "text": "y", **whole}])
    assert confidences(path, ROWS) == [{"confidence": pytest.approx(5 / 8)}, {"confidence": pytest.approx(2 / 8)}]


def test_a_plain_system_gives_no_confidence(tmp_path: Path):
    write_rows(tmp_path / "majority.jsonl", [{"id": "a", "text": "x"}, {"id": "b", "text": "x"}])
    assert confidences(tmp_path / "majority.jsonl", ROWS) == [{}, {}]


def test_texts_are_embedded_only_where_a_metric_needs_it():
    task = Task(type="generation")
    assert asks_for_similarity(["rouge_l", "similarity"], task)
    assert not asks_for_similarity(["rouge_l", "chrf"], task)
