from pathlib import Path

import pytest
import torch

from fine_tune_pipeline.programs.models import load_tokenizer
from fine_tune_pipeline.programs.preference import Preference
from fine_tune_pipeline.programs.requests import Hyperparameters, Placement, Technique
from fine_tune_pipeline.programs.training.batches import Row
from fine_tune_pipeline.programs.training.preemption import Interrupted, Preemption
from fine_tune_pipeline.programs.training.sharding import NotInParts
from fine_tune_pipeline.programs.training.team import ALONE, NotTogether, Pass, Team, check_together
from fine_tune_pipeline.programs.training.together import not_together
from fine_tune_pipeline.programs.training.trainer import build_trainer
from fine_tune_pipeline_tests.small_training import train_request, write_rows
from fine_tune_pipeline_tests.tiny import tiny_model


@pytest.mark.parametrize("rows", [1, 2, 5, 8])
@pytest.mark.parametrize("parts", [False, True])
def test_every_row_of_a_step_is_in_the_passes_of_exactly_one_process(rows: int, parts: bool):
    teams = [Team(rank, 3, sharded=parts) for rank in range(3)]
    passes = [team.passes(range(rows), 2) for team in teams]
    counted = [row for own in passes for each in own if each.counts for row in each.rows]
    assert sorted(counted) == list(range(rows))
    assert all(len(each.rows) <= 2 for own in passes for each in own)


def test_processes_of_a_model_in_parts_make_the_same_number_of_passes():
    assert [len(Team(rank, 3, sharded=True).passes([0, 1, 2, 3], 1)) for rank in range(3)] == [2, 2, 2]
    assert Team(2, 3, sharded=True).passes([0, 1, 2, 3], 1) == [Pass([2]), Pass([3], counts=False)]
    assert [len(Team(rank, 3).passes([0, 1, 2, 3], 1)) for rank in range(3)] == [2, 1, 1]


def test_alone_there_is_nothing_to_tell():
    gradient = torch.ones(3)
    ALONE.add([gradient])
    assert gradient.tolist() == [1, 1, 1]
    assert ALONE.everyone("x") == ["x"]
    assert ALONE.from_first(lambda: 7) == 7
    assert ALONE.own(Placement(device="cuda", threads=8)) == Placement(device="cuda", threads=8)


def test_alone_a_signal_and_an_error_come_as_they_are():
    def broken_off() -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        ALONE.together(broken_off, preemption=Preemption(), shared=ValueError)


def test_a_process_has_its_own_device_and_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert Team(5, 8).own(Placement(device="cuda")).device == "cuda:1"
    assert Team(5, 8).own(Placement(threads=6)).threads == 1


NUMBERS = Hyperparameters(learning_rate=1e-3, epochs=1, effective_batch=8, max_length=64)


def test_what_one_process_alone_knows_is_refused_by_name():
    wanted = NUMBERS.model_copy(update={"range_test": True, "neftune_alpha": 5.0})
    check_together(wanted, ALONE)
    with pytest.raises(NotTogether, match=r"^range_test: not known to several processes yet; .*launcher: plain"):
        check_together(wanted, Team(0, 2))
    with pytest.raises(NotTogether, match=r"^range_test, neftune_alpha: not known to several processes with fsdp2 yet"):
        check_together(wanted, Team(0, 2, sharded=True))


@pytest.mark.parametrize(
    ("setting", "value"), [("preference", Preference(type="dpo")), ("preference", Preference(type="kto")), ("neftune_alpha", 5.0)]
)
def test_what_needs_the_whole_model_is_refused_where_it_lies_in_parts(setting: str, value: object):
    wanted = NUMBERS.model_copy(update={setting: value})
    check_together(wanted, Team(0, 2))
    with pytest.raises(NotTogether, match=rf"^{setting}: not known to several processes with fsdp2 yet; .*compute.place.parallel: ddp$"):
        check_together(wanted, Team(0, 2, sharded=True))


def test_odds_need_no_reference_and_may_lie_in_parts():
    wanted = NUMBERS.model_copy(update={"preference": Preference(type="orpo")})
    assert not_together(wanted, in_parts=True) is None
    check_together(wanted, Team(0, 2, sharded=True))


def test_nf4_weights_are_not_cut(tmp_path: Path):
    (tmp_path / "model").mkdir()
    model, data = tiny_model(tmp_path / "model"), write_rows(tmp_path / "train.jsonl")
    request = train_request(tmp_path / "output", model=model, train=data, technique=Technique(type="qlora", rank=4))
    with pytest.raises(NotInParts, match=r"qlora: nf4 weights cannot be cut .* compute.place.parallel: ddp"):
        build_trainer(request, rows=[Row("a", [2, 3], [2, 3])], tokenizer=load_tokenizer(model), team=Team(0, 2, sharded=True))
