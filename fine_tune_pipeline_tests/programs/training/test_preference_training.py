"""Trainings that compare answers: what they learn, and that they endure what the others do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file

from fine_tune_pipeline.artifacts.comparisons import NoComparisons
from fine_tune_pipeline.programs import preflight, train
from fine_tune_pipeline.programs.models import load_model
from fine_tune_pipeline.programs.preference import Preference
from fine_tune_pipeline.programs.requests import Placement, Technique, TrainRequest, TrainResult
from fine_tune_pipeline.programs.training import attempt, preference_loss
from fine_tune_pipeline.programs.training.batches import NoLabelledTokens, RowsTooLong
from fine_tune_pipeline.programs.training.preemption import Preempted, Preemption
from fine_tune_pipeline.programs.training.trainer import CompletionTrainer
from fine_tune_pipeline_tests.comparisons import write_pairs
from fine_tune_pipeline_tests.programs.training.test_endurance import EndsAfter, learned
from fine_tune_pipeline_tests.small_training import Recorder, preflight_request, train_request, write_rows

Type = Literal["dpo", "orpo", "kto"]
TYPES: tuple[Type, ...] = ("dpo", "orpo", "kto")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("data") / "train.jsonl")


@pytest.fixture
def ask(model: Path, data: Path, tmp_path: Path) -> Callable[..., TrainRequest]:
    def request(name: str, type: Type, *, technique: Technique | None = None, **numbers: Any) -> TrainRequest:
        usual = {"learning_rate": 3e-3, "preference": Preference(type=type)}
        technique = technique or Technique(type="lora", rank=8)
        placement = Placement(micro_batch=4, threads=1)
        return train_request(tmp_path / name, model=model, train=data, technique=technique, placement=placement, **usual | numbers)

    return request


@pytest.mark.parametrize("technique", [Technique(type="lora", rank=8), Technique(type="full")], ids=["lora", "full"])
@pytest.mark.parametrize("type", TYPES)
def test_the_loss_falls_and_what_is_kept_is_what_was_trained(
    type: Type, technique: Technique, ask: Callable[..., TrainRequest], model: Path, monkeypatch: pytest.MonkeyPatch
):
    made: list[CompletionTrainer] = []
    build = attempt.build_trainer

    def keep(*arguments: Any, **options: Any) -> CompletionTrainer:
        made.append(build(*arguments, **options))
        return made[0]

    monkeypatch.setattr(attempt, "build_trainer", keep)
    result = train.run(ask("out", type, technique=technique, epochs=4.0), Recorder())
    before, after = result.validation_losses[0][1], result.validation_losses[-1][1]
    assert after < 0.8 * before
    assert result.final_loss is not None
    assert result.first_loss is not None
    assert result.final_loss < result.first_loss
    # Which of two made-up answers a random model prefers is chance; at the end it is the one that people prefer.
    assert result.validation_figures[-1][1]["reward_accuracy"] > 0.9
    assert result.validation_figures[-1][1]["reward_margin"] > result.validation_figures[0][1]["reward_margin"]
    network = made[0].trained.eval()
    (network if technique.type == "full" else network.get_base_model()).set_attn_implementation("sdpa")
    ids = torch.tensor([[2, 40, 50, 60, 70]])
    with torch.no_grad():
        torch.testing.assert_close(load_model(model, adapter=result.adapter)(ids).logits, network(ids).logits, rtol=0, atol=0)
    if technique.type == "lora":
        base = load_file(model / "model.safetensors")
        kept = {name.removeprefix("base_model.model.").replace(".base_layer", ""): part for name, part in network.state_dict().items()}
        assert all(torch.equal(kept[name], part) for name, part in base.items() if name in kept)
        adapter = load_file(Path(result.adapter) / "adapter_model.safetensors")
        assert {name.rpartition(".lora_")[2].partition(".")[0] for name in adapter} == {"A", "B"}
        assert all(bool(part.any()) for name, part in adapter.items())


def test_a_quantised_base_is_its_own_reference(ask: Callable[..., TrainRequest]):
    result = train.run(ask("out", "dpo", technique=Technique(type="qlora", rank=4), epochs=3.0), Recorder())
    assert result.validation_losses[0][1] == pytest.approx(0.6931, abs=1e-3)
    assert result.validation_losses[-1][1] < 0.8 * result.validation_losses[0][1]


def test_every_point_says_who_wins(ask: Callable[..., TrainRequest]):
    recorder = Recorder()
    result = train.run(ask("out", "dpo"), recorder)
    points = [json.loads(line) for line in Path(result.curve).read_text(encoding="utf-8").splitlines()]
    assert all(0 <= point["reward_accuracy"] <= 1 for point in points)
    # The untrained model is its own reference: nobody wins.
    assert (points[0]["reward_accuracy"], points[0]["reward_margin"]) == (0, pytest.approx(0, abs=1e-5))
    assert points[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert points[-1]["reward_margin"] > 0
    assert recorder.steps[-1][3]["reward_margin"] == points[-1]["reward_margin"]
    assert recorder.lines[-1].startswith("validation loss 0.")
    assert "nats per comparison, reward accuracy" in recorder.lines[-1]


def test_pairs_count_as_two_answers(ask: Callable[..., TrainRequest]):
    pairs, single = (train.run(ask(type, type, epochs=1.0), Recorder()) for type in ("dpo", "kto"))
    assert (pairs.rows, single.rows) == (24, 48)
    assert pairs.tokens == single.tokens
    assert pairs.labelled_tokens == single.labelled_tokens


@pytest.mark.parametrize("type", ["dpo", "kto"])
def test_a_preempted_training_goes_on_bit_by_bit_with_the_same_reference(
    type: Type, ask: Callable[..., TrainRequest], monkeypatch: pytest.MonkeyPatch
):
    dropping = Technique(type="lora", rank=8, dropout=0.1)
    whole = train.run(ask("whole", type, technique=dropping), Recorder())
    request, preemption = ask("broken", type, technique=dropping), Preemption()
    with pytest.raises(Preempted):
        train.run(request, EndsAfter(2, preemption), preemption)
    monkeypatch.setattr(preference_loss, "computed", None)  # The second try must not compute it again.
    result = train.run(request, Recorder())
    assert result.continued_from == (2,)
    assert learned(result) == learned(whole)


@pytest.mark.parametrize("type", TYPES)
def test_smaller_passes_change_no_number(type: Type, ask: Callable[..., TrainRequest]):
    results: list[TrainResult] = []
    for name, rows in (("large", 8), ("small", 1)):
        request = ask(name, type)
        results.append(train.run(request.model_copy(update={"placement": Placement(micro_batch=rows, threads=1)}), Recorder()))
    large, small = results
    assert small.final_loss == pytest.approx(large.final_loss, rel=1e-3)
    assert small.validation_losses[-1][1] == pytest.approx(large.validation_losses[-1][1], rel=1e-3)


def test_single_answers_are_named_in_the_result(ask: Callable[..., TrainRequest], tmp_path: Path):
    recorder, request = Recorder(), ask("out", "orpo", epochs=1.0)
    some = write_pairs(tmp_path / "some.jsonl", single=2)
    result = train.run(request.model_copy(update={"train": str(some)}), recorder)
    assert (result.rows, result.without_comparison) == (22, ("row3-4", "row3-5"))
    assert "2 rows have no rejected answer" in recorder.lines[0]


def test_data_without_comparisons_is_refused(ask: Callable[..., TrainRequest], tmp_path: Path):
    plain = write_rows(tmp_path / "plain.jsonl")
    with pytest.raises(NoComparisons, match="none of 24 rows"):
        train.run(ask("out", "dpo").model_copy(update={"train": str(plain)}), Recorder())


def test_a_rejected_answer_without_words_is_refused(ask: Callable[..., TrainRequest], data: Path, tmp_path: Path):
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    rows[3]["rejected"] = "  "
    blank = tmp_path / "blank.jsonl"
    blank.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(NoLabelledTokens, match=r"1 of 48 rows have no token to learn from.*row0-3"):
        train.run(ask("out", "dpo").model_copy(update={"train": str(blank)}), Recorder())


def test_a_rejected_answer_that_is_too_long_is_too_long(ask: Callable[..., TrainRequest], data: Path, tmp_path: Path):
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    rows[3]["rejected"] = "word " * 300
    long = tmp_path / "long.jsonl"
    long.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(RowsTooLong, match=r"1 of 24 rows are longer .*: row0-3"):
        train.run(ask("out", "dpo").model_copy(update={"train": str(long)}), Recorder())


@pytest.mark.parametrize("type", TYPES)
def test_preflight_tries_the_same_steps(type: Type, ask: Callable[..., TrainRequest]):
    result = preflight.run(preflight_request(ask("out", type)), Recorder())
    assert result.problems == ()
    assert [check.id for check in result.mistakes if check.passed is False] == []
    named = {check.id: check for check in result.mistakes}
    assert named["gradient_accumulation"].passed
    assert named["checkpoint_not_resumable"].passed
    sides = ("wanted", "unwanted") if type == "kto" else ("preferred", "rejected")
    assert {row.answer for row in result.preview} == set(sides)
    for chosen, other in zip(result.preview[::2], result.preview[1::2], strict=True):
        assert (chosen.id, chosen.answer, other.answer, chosen.prompt) == (other.id, *sides, other.prompt)
        assert chosen.completion != other.completion
        assert "learned against" in other.title
