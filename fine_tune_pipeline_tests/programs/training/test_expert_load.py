"""The load of experts is what the router's own scores say, real tokens only."""

from pathlib import Path

import pytest
import torch

from fine_tune_pipeline.programs import train
from fine_tune_pipeline.programs.models import load_model
from fine_tune_pipeline.programs.requests import LayerLoad, Placement, Technique
from fine_tune_pipeline.programs.training import attempt
from fine_tune_pipeline.programs.training.adapters import load_base, with_technique
from fine_tune_pipeline.programs.training.batches import Collate, Row
from fine_tune_pipeline.programs.training.expert_load import NoVisits, expert_shares, loads
from fine_tune_pipeline.programs.training.targets import expert_adapters
from fine_tune_pipeline.programs.training.trainer import fitting_collate
from fine_tune_pipeline_tests.small_training import Recorder, train_request, write_rows
from fine_tune_pipeline_tests.tiny import EXPERTS, tiny_model

ROWS = [Row(str(count), list(range(2, 2 + count)), [-100, *range(3, 2 + count)]) for count in (5, 9, 30, 31, 60)]

LORA = Technique(type="lora", rank=4, expert_rank=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: tiny_model(root / name, architecture=name) for name in ("llama", "mixtral", "qwen2_moe")}


def counted(folder: Path) -> list[torch.Tensor]:
    """Visits by the scores that the model itself gives out, row by row."""
    model = load_model(folder)
    total = None
    for row in ROWS:
        with torch.no_grad():
            scores = model(torch.tensor([row.input_ids]), output_router_logits=True).router_logits
        visits = [torch.bincount(layer.topk(2).indices.flatten(), minlength=EXPERTS) for layer in scores]
        total = visits if total is None else [sum_ + more for sum_, more in zip(total, visits, strict=True)]
    assert total is not None
    return [layer / layer.sum() for layer in total]


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize(("architecture", "layers"), [("mixtral", [0, 1]), ("qwen2_moe", [1])])
def test_shares_are_those_of_the_routers_scores_whatever_the_padding(folders, architecture, layers, flat):
    model = load_base(folders[architecture], technique=LORA, placement=Placement())
    fitting = fitting_collate(model, rows=ROWS, pad_id=0)
    if not flat:
        model.set_attn_implementation("sdpa")
    adapted = with_technique(model, technique=LORA, seed=0)
    found = expert_shares(adapted, ROWS, collate=fitting if flat else Collate(pad_id=0, flat=False), micro_batch=2)
    assert list(found) == layers
    for shares, expected in zip(found.values(), counted(folders[architecture]), strict=True):
        assert shares == pytest.approx(expected.tolist())
        assert sum(shares) == pytest.approx(1)


def test_a_model_without_experts_has_no_load(folders):
    model = load_base(folders["llama"], technique=Technique(type="lora"), placement=Placement())
    assert expert_shares(model, ROWS, collate=Collate(pad_id=0, flat=False), micro_batch=2) == {}


def test_experts_that_should_have_learned_and_did_not_are_named(folders):
    technique = LORA.model_copy(update={"experts": (1, 2, 3)})
    model = with_technique(load_base(folders["mixtral"], technique=technique, placement=Placement()), technique=technique, seed=0)
    for layer, wrapper in expert_adapters(model):
        moved = {1, 2, 3} if layer == 0 else {1}
        with torch.no_grad():
            wrapper.lora_B["default"].weight.view(-1, 2, EXPERTS)[:, :, list(moved)] = 0.1
    shares = {0: (0.25,) * 4, 1: (0.25,) * 4}
    found = loads(model, technique, before=shares, after=shares)
    assert [(load.layer, load.still) for load in found] == [(0, ()), (1, (2, 3))]


def test_experts_that_do_not_say_where_tokens_go_are_named_and_trained_without(folders, tmp_path, monkeypatch):
    model = load_base(folders["mixtral"], technique=LORA, placement=Placement())
    # As in families that give every expert everything.
    experts = model.get_submodule("model.layers.0.mlp.experts")
    experts.register_forward_pre_hook(lambda module, given: (given[0], given[1].float(), given[2]))
    said = "layer 0: MixtralExperts is given 0 tensors of whole numbers, want one"
    with pytest.raises(NoVisits, match=said):
        expert_shares(model, ROWS, collate=Collate(pad_id=0, flat=False), micro_batch=2)

    def unknown(*arguments: object, **options: object) -> None:
        raise NoVisits(said)

    monkeypatch.setattr(attempt, "expert_shares", unknown)
    recorder = Recorder()
    request = train_request(tmp_path / "output", model=folders["mixtral"], train=write_rows(tmp_path / "rows.jsonl"), technique=LORA)
    load = train.run(request, recorder).expert_load
    assert [(layer.layer, layer.before, layer.after, layer.still) for layer in load] == [(0, (), (), ()), (1, (), (), ())]
    assert f"the load of experts is not measured: {said}" in recorder.lines


@pytest.mark.parametrize(("technique", "learning"), [(LORA, True), (Technique(type="full"), True), (Technique(type="lora", rank=4), False)])
def test_a_training_tells_the_load_before_and_after(folders, tmp_path, technique, learning):
    rows = write_rows(tmp_path / "rows.jsonl")
    request = train_request(tmp_path / "output", model=folders["mixtral"], train=rows, technique=technique)
    load = train.run(request, Recorder()).expert_load
    assert [(layer.layer, len(layer.before), layer.still) for layer in load] == [(0, EXPERTS, ()), (1, EXPERTS, ())]
    assert all(sum(shares) == pytest.approx(1) for layer in load for shares in (layer.before, layer.after))
    # Attention before the second layer learns in any case, so its tokens go elsewhere.
    assert load[1].before != load[1].after
    assert isinstance(load[0], LayerLoad)
    if not learning:
        assert load[0].before == pytest.approx(load[0].after, abs=0.3)
