import json
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from fine_tune_pipeline.artifacts.documents import Chunk, write_chunks
from fine_tune_pipeline.artifacts.examples import Example, read_examples, write_examples
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.technique.assets import baselines, retrieval_index
from fine_tune_pipeline.guide.technique.index import Entry, Index, learned_from, read_index, room_for
from fine_tune_pipeline.guide.technique.workload import most_tokens, workload
from fine_tune_pipeline.programs.prompts import plain_prompt
from fine_tune_pipeline_tests.guide.technique.stand_ins import (
    RuleCompute,
    artifact_store,
    examples,
    kept,
    kept_base_model,
    kept_dataset,
    upstream_assets,
    use_case,
)
from fine_tune_pipeline_tests.tiny import tiny_model

TRAIN, VALIDATION = examples(copies=2), examples(copies=1, prefix="validation")
CHUNKS = [
    Chunk("a", "A lost card is blocked at once.", "guide", "guide.md", "0", 0, 31, heading="Cards"),
    Chunk("b", "Cash from machines comes in notes.", "guide", "guide.md", "0", 32, 60),
]
RETRIEVED = {"sources": [{"type": "jsonl", "path": "messages.jsonl"}], "format": {"context": "retrieved", "passages": 2}}


def run(folder: Path, asset: dg.AssetsDefinition) -> dg.ExecuteInProcessResult:
    others = [name for name in ("objective", "base_model", "dataset", "retrieval_index") if [name] != [asset.key.path[-1]]]
    compute = RuleCompute(record=str(folder / "record"))
    return dg.materialize([asset, *upstream_assets(*others)], resources={"store": artifact_store(folder), "compute": compute})


def current(folder: Path) -> Artifact:
    return artifact_store(folder).current("triage", "retrieval_index")


def given_documents(folder: Path) -> None:
    def write(place: Path) -> None:
        for part, rows in {"train": TRAIN, "validation": VALIDATION, "test": VALIDATION}.items():
            write_examples(place / f"{part}.jsonl", rows)
        write_chunks(place, CHUNKS)

    kept(artifact_store(folder), "dataset", write)


def test_without_documents_the_training_rows_are_looked_up_and_nothing_else(tmp_path):
    kept_dataset(artifact_store(tmp_path), TRAIN, VALIDATION)
    run(tmp_path, retrieval_index(use_case(tmp_path)))
    artifact = current(tmp_path)
    index = read_index(artifact)
    assert [entry.id for entry in index.entries] == [row.id for row in TRAIN]
    assert index.entries[0].passage == {"prompt": TRAIN[0].prompt, "completion": TRAIN[0].completion}
    assert index.train_vectors is index.vectors
    assert set(artifact.manifest.files) == {"chunks.jsonl", "vectors.npy", "index.json"}
    assert (artifact.metadata["source"], artifact.metadata["chunks"]) == ("training answers", 16)
    assert artifact.metadata["searches_per_second"] > 0
    assert "validation" not in artifact.file("chunks.jsonl").read_text()


def test_the_share_of_rows_whose_nearest_has_their_class_is_counted(tmp_path):
    kept_dataset(artifact_store(tmp_path), TRAIN, VALIDATION)
    run(tmp_path, retrieval_index(use_case(tmp_path)))
    nearest = {row.question.rsplit(" ", 1)[0]: row for row in TRAIN}
    same = [nearest[row.question.rsplit(" ", 1)[0]].completion == row.completion for row in VALIDATION]
    assert current(tmp_path).metadata["nearest_class_share"] == pytest.approx(sum(same) / len(same))


def test_documents_are_looked_up_instead_of_rows_with_their_headings(tmp_path):
    given_documents(tmp_path)
    run(tmp_path, retrieval_index(use_case(tmp_path)))
    artifact = current(tmp_path)
    index = read_index(artifact)
    assert [entry.passage for entry in index.entries] == [{"text": "Cards\nA lost card is blocked at once."}, {"text": CHUNKS[1].text}]
    assert index.train_vectors is not None
    assert index.train_vectors.shape == (16, index.vectors.shape[1])
    assert "nearest_class_share" not in artifact.metadata


def test_baselines_ask_the_base_model_with_parts_of_documents(tmp_path):
    given_documents(tmp_path)
    kept_base_model(artifact_store(tmp_path), tiny_model(tmp_path / "model"))
    spec = use_case(tmp_path, evaluation={"few_shot": [2], "passages": [1]})
    run(tmp_path, retrieval_index(spec))
    run(tmp_path, baselines(spec))
    compute = RuleCompute(record=str(tmp_path / "record"))
    [asked] = compute.asked("predict")
    assert [job["name"] for job in asked["jobs"]] == ["base_zero_shot", "base_few_shot_2", "base_retrieval_1"]
    assert artifact_store(tmp_path).current("triage", "baselines").json("baselines.json")["looked_up_in"] == "documents"


def test_rows_of_a_model_that_is_trained_with_context_have_it_but_never_their_own_row(tmp_path):
    kept_dataset(artifact_store(tmp_path), TRAIN, VALIDATION)
    kept_base_model(artifact_store(tmp_path), tiny_model(tmp_path / "model"))
    spec = use_case(tmp_path, dataset=RETRIEVED)
    run(tmp_path, retrieval_index(spec))
    assert (learned_from(spec), learned_from(use_case(tmp_path))) == ("retrieval_index", "dataset")
    for part, rows in {"train": TRAIN, "validation": VALIDATION}.items():
        found = read_examples(current(tmp_path).file(f"{part}.jsonl"))
        assert [(row.id, row.prompt, row.completion) for row in found] == [(row.id, row.prompt, row.completion) for row in rows]
        assert {len(row.context) for row in found} == {2}
    train = read_examples(current(tmp_path).file("train.jsonl"))
    assert [row.id for row in train if any(passage["prompt"] == row.prompt for passage in row.context)] == []


def index_of(texts: list[str]) -> Index:
    entries = [Entry(str(place), text, {"text": text}) for place, text in enumerate(texts)]
    return Index("documents", entries, np.eye(len(texts), dtype=np.float32))


def test_the_nearest_passage_stands_last_next_to_the_question():
    index = index_of(["fees are low", "cards are blue", "cards are lost"])
    [row] = index.looked_up([Example("1", "lost cards", "x")], np.array([[0, 0.4, 0.9]], dtype=np.float32), k=2, room=1000)
    assert [passage["text"] for passage in row.context] == ["cards are blue", "cards are lost"]
    prompt = plain_prompt(row.asked, instruction="Answer.")
    assert prompt == "Answer.\n\nContext: cards are blue\n\nContext: cards are lost\n\nInput: lost cards\nOutput:"


def test_passages_that_do_not_fit_are_left_out_the_farthest_first():
    index = index_of(["x" * 400, "cards are blue"])
    question = Example("1", "lost cards", "x")
    vector = np.array([[0.1, 0.9]], dtype=np.float32)
    both = [400 / 2 + 8, most_tokens("cards are blue") + 8, most_tokens(question.question)]
    for room, fitting in ((sum(both), 2), (sum(both) - 1, 1), (12, 0)):
        [row] = index.looked_up([question], vector, k=2, room=int(room))
        assert len(row.context) == fitting


def test_the_room_leaves_place_for_instruction_and_answer(tmp_path):
    from fine_tune_pipeline.guide.objective.task import read_task

    spec = use_case(tmp_path)
    small, large = (room_for(spec, read_task(spec), TRAIN, context_tokens=tokens) for tokens in (1000, 3000))
    assert large - small == 2000
    assert 0 < small < 1000 - max(most_tokens(row.completion) for row in TRAIN)


def test_what_is_looked_up_counts_as_tokens_of_a_training_row():
    plain = [Example("1", "lost cards", "x")]
    context: list[dict[str, Any]] = [{"text": "cards are lost " * 10}]
    longer = [Example("1", "lost cards", "x", context=context)]
    more = workload(longer).tokens - workload(plain).tokens
    assert more == pytest.approx(len("Context: " + "cards are lost " * 10 + "\n\nInput: \nOutput:") / 3.5, abs=2)


def test_rows_without_context_are_written_as_before():
    assert "context" not in json.dumps(Example("1", "p", "c").row()) + json.dumps(Example("1", "p", "c").without_answer())
