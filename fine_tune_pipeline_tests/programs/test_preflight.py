from pathlib import Path

import pytest

from fine_tune_pipeline.programs import machine, preflight, train, trial
from fine_tune_pipeline.programs.machine import Memory
from fine_tune_pipeline.programs.models import load_tokenizer
from fine_tune_pipeline.programs.preflight_requests import PreflightRequest, PreflightResult
from fine_tune_pipeline.programs.prompts import encode
from fine_tune_pipeline.programs.requests import Placement, PromptFormat, Technique
from fine_tune_pipeline.programs.training.batches import Row
from fine_tune_pipeline_tests.programs.launching import launch
from fine_tune_pipeline_tests.small_training import ROWS, Recorder, preflight_request, train_request, write_rows


def request(output: Path, *, model: Path, data: Path, **changes: object) -> PreflightRequest:
    return preflight_request(train_request(output, model=model, train=data, **changes))  # type: ignore[arg-type]


def lengths(model: Path) -> list[int]:
    tokenizer = load_tokenizer(model)
    encoded = [encode(prompt, completion, tokenizer=tokenizer, format=PromptFormat()) for _, prompt, completion in ROWS]
    return sorted(len(row.prompt_ids) + len(row.completion_ids) for row in encoded)


def test_a_training_that_can_start_has_facts_and_no_problem(model: Path, data: Path, tmp_path: Path):
    result = preflight.run(request(tmp_path, model=model, data=data), Recorder())
    sizes = lengths(model)
    assert result.problems == ()
    assert [check.id for check in result.mistakes if check.passed is False] == []
    assert (result.rows, result.longest_tokens, result.tokens_p50) == (24, sizes[-1], sizes[11])
    assert sizes[11] <= result.tokens_p95 <= sizes[-1]
    assert result.batch_rows == 4
    assert result.step_seconds > 0
    assert result.tokens_per_second == pytest.approx(sum(sizes[-8:]) / result.step_seconds)
    assert result.peak_memory_bytes > 50 * 2**20
    assert result.memory_total_bytes >= result.memory_available_bytes > 0
    assert result.bfloat16_speedup > 0
    assert result.versions.keys() >= {"python", "torch", "transformers", "trl", "peft"}
    assert list(tmp_path.iterdir()) == []


def test_its_step_is_the_step_of_the_training(model: Path, data: Path, tmp_path: Path):
    longest = sorted(ROWS, key=lambda row: len(row[1]))[-8:]
    write_rows(tmp_path / "longest.jsonl", tuple(longest))
    wanted = train_request(
        tmp_path / "training", model=model, train=tmp_path / "longest.jsonl", epochs=2.0, schedule="constant", warmup_share=0.0
    )
    trained = train.run(wanted, Recorder())
    measured = preflight.run(preflight_request(wanted), Recorder())
    assert measured.loss == pytest.approx(trained.first_loss, rel=1e-5)


def test_every_part_is_counted_in_tokens_and_only_training_and_validation_must_fit(model: Path, data: Path, tmp_path: Path):
    long = write_rows(tmp_path / "long.jsonl", (("t1", "word " * 200, "lost_card"), ("t2", "short", "lost_card")))
    asked = request(tmp_path / "output", model=model, data=data)
    result = preflight.run(asked.model_copy(update={"validation": str(data), "test": str(long)}), Recorder())
    assert result.rows == 48
    assert result.over_long == ()
    assert [(part.part, part.lengths["whole"].rows, part.over_long) for part in result.parts] == [
        ("train", 24, 0), ("validation", 24, 0), ("test", 2, 1),
    ]  # fmt: skip
    train = result.parts[0].lengths
    sizes = lengths(model)
    assert (train["whole"].total, train["whole"].p50, train["whole"].longest) == (sum(sizes), sizes[11], sizes[-1])
    assert train["prompt"].total + train["completion"].total == train["whole"].total


def test_rows_are_shown_as_the_model_is_given_them(model: Path, data: Path, tmp_path: Path):
    result = preflight.run(request(tmp_path, model=model, data=data), Recorder())
    tokenizer = load_tokenizer(model)
    sizes = lengths(model)
    assert [row.tokens for row in result.preview] == [sizes[0], sizes[12], sizes[-1]]
    by_id = {id: (prompt, completion) for id, prompt, completion in ROWS}
    for row in result.preview:
        prompt, completion = by_id[row.id]
        assert row.prompt == f"{tokenizer.bos_token or ''}Input: {prompt}\nOutput:"
        assert row.completion == f" {completion}{tokenizer.eos_token}"


def test_over_long_rows_are_named_and_the_rest_is_still_measured(model: Path, data: Path, tmp_path: Path):
    result = preflight.run(request(tmp_path, model=model, data=data, max_length=64), Recorder())
    assert result.over_long == ("row0-4", "row1-4", "row2-4", "row3-4")
    # How many may be left out of training is the use case's to say, so they are no problem here.
    assert result.problems == ()
    assert result.step_seconds > 0


def test_rows_that_are_all_too_long_leave_nothing_to_measure(model: Path, data: Path, tmp_path: Path):
    result = preflight.run(request(tmp_path, model=model, data=data, max_length=4), Recorder())
    assert (result.step_seconds, result.tokens_per_second) == (0.0, 0.0)
    (found,) = [check for check in result.mistakes if check.passed is False]
    assert found.id == "truncation_share"
    assert found.seen.startswith("24 of 24 rows (100.0%) are longer than max_length 4")


def test_a_missing_device_is_a_problem_and_no_crash(model: Path, data: Path, tmp_path: Path):
    result = preflight.run(request(tmp_path, model=model, data=data, placement=Placement(device="cuda:7", threads=1)), Recorder())
    (problem,) = result.problems
    assert problem.startswith("device cuda:7 is not here (torch sees 0 CUDA devices); use device: cpu")


def test_too_little_memory_is_a_problem_with_what_to_do(model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preflight, "memory", lambda device: Memory(total=2**30, available=2**27))
    (problem,) = preflight.run(request(tmp_path, model=model, data=data), Recorder()).problems
    assert "0.1 GiB were free, too little to be safe; lower placement.micro_batch" in problem


def test_too_little_disk_for_the_weights_is_a_problem(model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preflight, "disk_free_bytes", lambda folder: 2**20)
    (problem,) = preflight.run(request(tmp_path, model=model, data=data), Recorder()).problems
    assert problem.startswith("the output needs 0.20 GiB of disk and 0.00 GiB are free")


def test_a_quantised_step_is_measured_too(model: Path, data: Path, tmp_path: Path):
    result = preflight.run(request(tmp_path, model=model, data=data, technique=Technique(type="qlora", rank=4)), Recorder())
    assert result.problems == ()
    assert result.loss > 0


def test_the_measured_rows_are_the_longest_that_training_would_take(model: Path, data: Path, tmp_path: Path):
    rows = [Row(str(size), [2] * size, [-100] * (size - 1) + [1]) for size in range(1, 60)]
    chosen = trial.longest_rows(rows, request=request(tmp_path, model=model, data=data, max_length=50))
    assert [row.id for row in chosen] == [str(size) for size in range(50, 42, -1)]


def test_a_container_limit_counts_more_than_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "_CONTROL_GROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000000\n", encoding="utf-8")
    (tmp_path / "memory.current").write_text("400000\n", encoding="utf-8")
    assert machine.memory("cpu") == Memory(total=1_000_000, available=600_000)
    (tmp_path / "memory.max").write_text("max\n", encoding="utf-8")
    assert machine.memory("cpu").total > 2**30


def test_the_program_writes_its_result(model: Path, data: Path, tmp_path: Path):
    result = PreflightResult.read(launch(request(tmp_path, model=model, data=data)))
    assert result.problems == ()
    assert len(result.mistakes) == 19
    assert sorted(path.name for path in tmp_path.iterdir()) == ["request.json", "result.json"]


def in_parts(asked: PreflightRequest) -> PreflightRequest:
    return asked.model_copy(update={"processes": 2, "parts": 2})


def test_a_model_in_parts_is_not_tried_on_one_device_and_all_else_is_judged(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def loaded(*args: object, **options: object) -> None:
        raise AssertionError("one device may not have room for the model")

    monkeypatch.setattr(preflight, "try_training", loaded)
    asked = request(tmp_path, model=model, data=data)
    result = preflight.run(in_parts(asked), Recorder())
    assert result.not_tried.startswith("the model lies in parts (fsdp2)")
    assert result.problems == ()
    assert (result.step_seconds, result.answer) == (0.0, None)
    assert result.rows == 24
    verdicts = {check.id: check for check in result.mistakes}
    assert all(verdicts[id].passed for id in ("wrong_tokenizer", "prompt_tokens_in_loss", "eos_never_learned", "truncation_share"))
    assert verdicts["checkpoint_not_resumable"].seen == f"not looked at: {result.not_tried}"
    with pytest.raises(AssertionError, match="room for the model"):
        preflight.run(asked, Recorder())


def test_what_is_wrong_with_the_rows_is_found_for_a_model_in_parts_too(model: Path, data: Path, tmp_path: Path):
    result = preflight.run(in_parts(request(tmp_path, model=model, data=data, max_length=4)), Recorder())
    assert [check.id for check in result.mistakes if check.passed is False] == ["truncation_share"]


def test_more_processes_than_devices_are_a_problem(model: Path, data: Path, tmp_path: Path):
    asked = request(tmp_path, model=model, data=data, placement=Placement(device="cuda", threads=1))
    (problem,) = preflight.run(in_parts(asked), Recorder()).problems
    assert problem.startswith("2 processes want a device each, and torch sees 0 CUDA devices; lower compute.place.processes")


def test_processes_on_a_cpu_need_the_measured_memory_each(model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = request(tmp_path, model=model, data=data)
    peak = preflight.run(asked, Recorder()).peak_memory_bytes
    monkeypatch.setattr(preflight, "memory", lambda device: Memory(total=4 * peak, available=2 * peak))
    assert preflight.run(asked, Recorder()).problems == ()
    (problem,) = preflight.run(asked.model_copy(update={"processes": 2}), Recorder()).problems
    assert "too little to be safe" in problem
