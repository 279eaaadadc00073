"""A prediction that is broken off goes on where it was, and gives what an unbroken one gives."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fine_tune_pipeline.programs.answering import Answering
from fine_tune_pipeline.programs.kept_answers import KeptAnswers
from fine_tune_pipeline.programs.predict import run
from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.requests import Prediction, PredictJob, PredictRequest, PredictResult, PromptFormat
from fine_tune_pipeline_tests.programs.test_predict import messages, restless_model, shots, write_prompts
from fine_tune_pipeline_tests.tiny import random_adapter
from fine_tune_pipeline_tests.waiting import wait_until

PLAIN = PromptFormat(instruction="Name the intent.")
ROWS = 9


class Broken(Exception):
    """What ends a run in the middle."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return restless_model(tmp_path_factory.mktemp("base"), architecture="gemma3")


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_adapter(tmp_path_factory.mktemp("adapter"), base=model)


def asked(folder: Path, model: Path, adapter: Path, *, parts: Path | None, **changes: Any) -> PredictRequest:
    """A new try: prompts and answers lie elsewhere, as in the draft of another run."""
    folder.mkdir(exist_ok=True)
    prompts = write_prompts(folder / "prompts.jsonl", messages(ROWS))
    common: dict[str, Any] = {"prompts": prompts, "format": PLAIN, "max_new_tokens": 6, **changes}
    jobs = (
        PredictJob(name="few_shot", output=str(folder / "few.jsonl"), shots=shots(3), **common),
        PredictJob(name="tuned", output=str(folder / "tuned.jsonl"), adapter=str(adapter), **common),
    )
    kept = None if parts is None else str(parts)
    return PredictRequest(output=str(folder), model=str(model), jobs=jobs, batch_rows=2, threads=1, parts=kept)


def answers(request: PredictRequest) -> list[list[tuple[str, str, int, bool]]]:
    files = [Path(job.output).read_text(encoding="utf-8").splitlines() for job in request.jobs]
    read = [[Prediction.model_validate_json(line) for line in lines] for lines in files]
    return [[(answer.id, answer.text, answer.tokens, answer.finished) for answer in found] for found in read]


class Counted:
    """Rows of each batch that a model really answered; after `limit` batches the run breaks."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.limit: int | None = None

    def batch(self, rows: int) -> None:
        if self.limit == len(self.rows):
            self.limit = None
            raise Broken
        self.rows.append(rows)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    found, own = Counted(), Answering.answers

    def answer(self: Answering, model: Any, prompts: Any, **how: Any) -> Any:
        found.batch(len(prompts))
        return own(self, model, prompts, **how)

    monkeypatch.setattr(Answering, "answers", answer)
    return found


@pytest.mark.parametrize("after", [0, 1, 4, 5, 8])
def test_a_run_that_breaks_anywhere_goes_on_and_answers_the_same(after: int, model: Path, adapter: Path, tmp_path: Path, counted: Counted):
    whole = asked(tmp_path / "whole", model, adapter, parts=None)
    run(whole, Reporter(None))
    counted.rows, counted.limit = [], after
    with pytest.raises(Broken):
        run(asked(tmp_path / "first", model, adapter, parts=tmp_path / "parts"), Reporter(None))
    second = asked(tmp_path / "second", model, adapter, parts=tmp_path / "parts")
    result = run(second, Reporter(None))
    assert answers(second) == answers(whole)
    assert sum(counted.rows) == 2 * ROWS, "no row is answered twice"
    assert [job.rows for job in result.jobs] == [ROWS, ROWS]
    assert all(job.seconds > 0 for job in result.jobs)


def test_what_is_all_answered_needs_no_model(model: Path, adapter: Path, tmp_path: Path):
    first = asked(tmp_path / "first", model, adapter, parts=tmp_path / "parts")
    took = run(first, Reporter(None))
    second = asked(tmp_path / "second", model, adapter, parts=tmp_path / "parts")
    again = run(second, Reporter(None))
    assert answers(second) == answers(first)
    assert again.load_seconds == 0
    assert [job.seconds for job in again.jobs] == [job.seconds for job in took.jobs], "the price is that of the answers, not of the reading"


def test_a_killed_program_goes_on(model: Path, adapter: Path, tmp_path: Path):
    whole = asked(tmp_path / "whole", model, adapter, parts=None)
    run(whole, Reporter(None))
    request = asked(tmp_path / "first", model, adapter, parts=tmp_path / "parts")
    request.write(tmp_path / "request.json")
    command = [sys.executable, "-m", request.module, "--request", str(tmp_path / "request.json")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as program:
        wait_until(lambda: any((tmp_path / "parts").glob("*.jsonl")), what="the first batch", deadline_seconds=120)
        program.send_signal(signal.SIGKILL)
    second = asked(tmp_path / "second", model, adapter, parts=tmp_path / "parts")
    run(second, Reporter(None))
    assert answers(second) == answers(whole)


@pytest.mark.parametrize("torn", ['{"answers": [{"id": "row-1", "te', "null\n", "\n"], ids=["cut", "no batch", "empty"])
def test_a_torn_last_line_is_cut_off_and_its_rows_are_answered_again(torn: str, model: Path, adapter: Path, tmp_path: Path):
    first = asked(tmp_path / "first", model, adapter, parts=tmp_path / "parts")
    run(first, Reporter(None))
    [few, _] = sorted((tmp_path / "parts").iterdir())
    lines = few.read_text(encoding="utf-8").splitlines(keepends=True)
    few.write_text("".join(lines[:2]) + torn, encoding="utf-8")
    second = asked(tmp_path / "second", model, adapter, parts=tmp_path / "parts")
    run(second, Reporter(None))
    assert answers(second) == answers(first)
    assert [sorted(json.loads(line)) for line in few.read_text(encoding="utf-8").splitlines()] == [["answers", "seconds"]] * len(lines)


@pytest.mark.parametrize("changes", [{"max_new_tokens": 5}, {"format": PromptFormat(instruction="Say something.")}, {"stop": ("\n",)}])
def test_answers_of_other_work_are_never_taken(changes: dict[str, Any], model: Path, adapter: Path, tmp_path: Path):
    run(asked(tmp_path / "first", model, adapter, parts=tmp_path / "parts"), Reporter(None))
    alone, beside = (
        asked(tmp_path / name, model, adapter, parts=parts, **changes) for name, parts in (("a", None), ("b", tmp_path / "parts"))
    )
    run(alone, Reporter(None))
    run(beside, Reporter(None))
    assert answers(beside) == answers(alone)
    assert len(list((tmp_path / "parts").iterdir())) == 4


def test_another_adapter_or_base_at_the_same_path_is_other_work(model: Path, tmp_path: Path):
    base = restless_model(tmp_path / "base", architecture="gemma3")
    adapter = random_adapter(tmp_path / "adapter", base=base)
    run(asked(tmp_path / "first", base, adapter, parts=tmp_path / "parts"), Reporter(None))
    random_adapter(adapter, base=base, seed=1)
    second = asked(tmp_path / "second", base, adapter, parts=tmp_path / "parts")
    run(second, Reporter(None))
    assert len(list((tmp_path / "parts").iterdir())) == 3, "few-shot answers stay, those of the adapter do not"
    alone = asked(tmp_path / "alone", base, adapter, parts=None)
    run(alone, Reporter(None))
    assert answers(second) == answers(alone)


def test_nothing_is_kept_without_a_folder(tmp_path: Path):
    kept = KeptAnswers(None, name="base", mark="0")
    kept.add([Prediction(id="1", text="a", tokens=1, logprob=-1.0, finished=True)], seconds=2.0)
    assert (list(kept.answers), kept.seconds) == (["1"], 2.0)
    assert list(tmp_path.iterdir()) == []


def test_a_request_of_before_reads_as_it_did():
    job = PredictJob(name="a", prompts="p", output="o", format=PLAIN)
    said = PredictRequest(output="o", model="m", jobs=(job,)).model_dump(mode="json")
    assert {"decoding", "stop"}.isdisjoint(said["jobs"][0])
    assert "parts" not in said
    answer = Prediction(id="1", text="a", tokens=1, logprob=-1.0, finished=True)
    assert "label_logprobs" not in answer.model_dump()
    assert PredictResult(jobs=(), load_seconds=0, peak_memory_bytes=0).jobs == ()
