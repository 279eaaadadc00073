"""Against a reference that shares no code: plain logits, one sequence at a time, nothing padded."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fine_tune_pipeline.programs.decoding import PromptTooLong
from fine_tune_pipeline.programs.likelihood import run
from fine_tune_pipeline.programs.likelihood_requests import LikelihoodJob, LikelihoodRequest, LikelihoodResult, Weighed
from fine_tune_pipeline.programs.models import load_model, load_tokenizer
from fine_tune_pipeline.programs.prompts import encode
from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.requests import PromptFormat, Shot
from fine_tune_pipeline.programs.rows import BadRows
from fine_tune_pipeline_tests.comparisons import write_pairs
from fine_tune_pipeline_tests.programs.launching import launch
from fine_tune_pipeline_tests.tiny import Architecture, random_adapter, tiny_model

PLAIN = PromptFormat(instruction="Name the intent of the customer's message.")
SHOTS = (Shot(prompt="where can I see the fees", completion="fees"),)


@pytest.fixture(scope="module", params=["gemma3", "llama"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    architecture: Architecture = request.param
    return tiny_model(tmp_path_factory.mktemp("base"), architecture=architecture)


def job(folder: Path, name: str, **fields: Any) -> LikelihoodJob:
    return LikelihoodJob(name=name, rows=str(folder / "pairs.jsonl"), output=str(folder / f"{name}.jsonl"), format=PLAIN, **fields)


def asked(folder: Path, base: Path, *jobs: LikelihoodJob) -> LikelihoodRequest:
    return LikelihoodRequest(output=str(folder), model=str(base), jobs=jobs, batch_rows=3, threads=1)


def found(job: LikelihoodJob) -> list[Weighed]:
    return [Weighed.model_validate_json(line) for line in Path(job.output).read_text(encoding="utf-8").splitlines()]


@torch.no_grad()
def by_hand(base: Path, job: LikelihoodJob, row: dict[str, Any], answer: str) -> tuple[float, int]:
    """Log-probability of the answer's tokens by the whole logits of one forward pass, and how many there are."""
    encoded = encode(row["prompt"], answer, tokenizer=load_tokenizer(base), format=job.format, shots=job.shots)
    ids = torch.tensor([encoded.prompt_ids + encoded.completion_ids])
    logps = load_model(base, adapter=job.adapter)(input_ids=ids).logits[0].double().log_softmax(dim=-1)
    places = range(len(encoded.prompt_ids), ids.shape[1])
    return sum(float(logps[place - 1, ids[0, place]]) for place in places), len(places)


def test_answers_are_as_likely_as_by_plain_logits_for_every_system_in_its_own_prompt(base: Path, tmp_path: Path):
    rows = [json.loads(line) for line in write_pairs(tmp_path / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    adapter = str(random_adapter(tmp_path / "adapter", base=base))
    jobs = (job(tmp_path, "zero"), job(tmp_path, "tuned", adapter=adapter), job(tmp_path, "few", shots=SHOTS))
    result = run(asked(tmp_path, base, *jobs), Reporter(None))
    assert result.rows == {"zero": len(rows), "tuned": len(rows), "few": len(rows)}
    first = {}
    for one in jobs:
        weighed = found(one)
        assert [each.id for each in weighed] == [row["id"] for row in rows]
        first[one.name] = weighed[0].preferred_logprob
        for each, row in list(zip(weighed, rows, strict=True))[:4]:
            preferred, rejected = by_hand(base, one, row, row["completion"]), by_hand(base, one, row, row["rejected"])
            assert (each.preferred_logprob, each.rejected_logprob) == pytest.approx((preferred[0], rejected[0]), abs=1e-3)
            assert (each.preferred_tokens, each.rejected_tokens) == (preferred[1], rejected[1])
    assert len({round(value, 3) for value in first.values()}) == 3


def test_the_program_itself_writes_the_same(tmp_path: Path):
    base = tiny_model(tmp_path / "base")
    write_pairs(tmp_path / "pairs.jsonl")
    request = asked(tmp_path, base, job(tmp_path, "zero"))
    run(request, Reporter(None))
    here = found(request.jobs[0])
    Path(request.jobs[0].output).unlink()
    assert LikelihoodResult.read(launch(request)).rows == {"zero": len(here)}
    there = found(request.jobs[0])
    assert [each.preferred_logprob for each in there] == pytest.approx([each.preferred_logprob for each in here], abs=1e-4)


def test_a_row_with_one_answer_and_one_that_is_too_long_are_named(tmp_path: Path):
    base = tiny_model(tmp_path / "base")
    (tmp_path / "pairs.jsonl").write_text('{"id": "a", "prompt": "p", "completion": "c"}\n', encoding="utf-8")
    with pytest.raises(BadRows, match=r"pairs.jsonl:1: want rejected as text"):
        run(asked(tmp_path, base, job(tmp_path, "zero")), Reporter(None))
    row = {"id": "b", "prompt": "long " * 2000, "completion": "c", "rejected": "d"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(PromptTooLong, match="prompt and answer of 'b' of"):
        run(asked(tmp_path, base, job(tmp_path, "zero")), Reporter(None))
    assert not (tmp_path / "zero.jsonl").exists()
