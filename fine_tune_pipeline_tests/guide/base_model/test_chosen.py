"""What a use case chooses of a model must be there, and is counted from 0."""

from typing import Any

import pytest

from fine_tune_pipeline.artifacts.fingerprint import payload
from fine_tune_pipeline.guide.base_model.catalogue import model_named
from fine_tune_pipeline.guide.base_model.chosen import NoExperts, NoSuchExpert, NoSuchLayer, RankTooLarge, own_technique
from fine_tune_pipeline.programs.requests import Technique
from fine_tune_pipeline.spec.technique import LayerRange, Lora

DENSE = model_named("gemma-3-270m").architecture
MIXTRAL = model_named("mixtral-8x7b").architecture
DEEP = MIXTRAL.model_copy(update={"dense_layers": 2})


def own(model: Any = DENSE, **fields: Any) -> Technique:
    technique = own_technique(Lora(type="lora", **fields), model)
    assert technique is not None
    return technique


@pytest.mark.parametrize(
    ("written", "layers"),
    [
        ("all", None),
        ([3, 0], (0, 3)),
        ([-1, -18], (0, 17)),
        (LayerRange(first=12, last=14), (12, 13, 14)),
        (LayerRange(first=-2), (16, 17)),
        (LayerRange(first=0), None),
        (list(range(18)), None),
    ],
)
def test_layers_are_counted_from_the_first_and_in_order(written, layers):
    assert own(layers=written).layers == layers


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ([18], r"technique\.layers: got 18, want 0 to 17, or -18 to -1 from the end: the base model has 18 layers"),
        ([-19], "got -19"),
        (LayerRange(first=3, last=99), "got 99"),
        (LayerRange(first=5, last=2), r"got \{first: 5, last: 2\}, want at least one layer"),
        ([17, -1], r"got \[17, -1\], want at least one layer, and each once"),
    ],
)
def test_layers_that_the_model_does_not_have_are_refused(written, said):
    with pytest.raises(NoSuchLayer, match=said):
        own(layers=written)


def test_chosen_experts_take_their_share_of_the_rank():
    technique = own(MIXTRAL, rank=16, experts=[3, 0], router="train")
    assert (technique.experts, technique.expert_rank, technique.router) == ((0, 3), 8, "train")
    assert technique.label == "lora + 2 experts + router"
    assert own(MIXTRAL, experts=list(range(8))).experts is None


@pytest.mark.parametrize(
    ("model", "fields", "error", "said"),
    [
        (DENSE, {"experts": [0]}, NoExperts, r"technique\.experts: got \[0\], but the base model is no mixture of experts"),
        (DENSE, {"router": "train"}, NoExperts, r"technique\.router: the chosen layers of the base model have no experts"),
        (DEEP, {"experts": "all", "layers": [0, 1]}, NoExperts, "the chosen layers of the base model have no experts"),
        (MIXTRAL, {"experts": [8]}, NoSuchExpert, "got 8, want 0 to 7: a layer has 8 experts"),
        (MIXTRAL, {"router": "train", "experts": "all", "rank": 32}, RankTooLarge, r"router \(8 x 4096\) an adapter of rank 16"),
        (
            DENSE.model_copy(update={"kv_heads": 1, "head_dim": 32}),
            {"rank": 64},
            RankTooLarge,
            r"technique\.rank: got 64, which gives k_proj \(32 x 640\) an adapter of rank 64, larger than the matrix; want 32 or less",
        ),
    ],
)
def test_parts_that_the_model_does_not_have_and_ranks_it_has_no_room_for_are_refused(model, fields, error, said):
    with pytest.raises(error, match=said):
        own(model, **fields)


def test_a_matrix_that_is_not_chosen_does_not_bound_the_rank():
    narrow = DENSE.model_copy(update={"kv_heads": 1, "head_dim": 32})
    assert own(narrow, rank=64, target_modules=["q_proj", "up_proj"]).rank == 64


def test_fields_that_are_not_set_leave_the_fingerprint_of_earlier_adapters_as_it_was():
    technique, spec = own(rank=8), Lora(type="lora", rank=8)
    written = payload(asset="adapter", version=1, what={"technique": technique, "spec": spec}, upstream={})["what"]
    assert set(written["technique"]) == {
        *("type", "rank", "alpha", "dropout", "target_modules", "use_dora", "use_rslora", "expert_rank"),
    }
    assert set(written["spec"]) == {"type", "rank", "alpha", "dropout", "target_modules", "use_dora", "use_rslora", "experts"}
    assert written["spec"]["experts"] == "frozen"
    assert Technique.model_validate(written["technique"]) == technique
    set_ = payload(asset="adapter", version=1, what=own(lora_plus_ratio=16.0, layers=[0]).model_dump(), upstream={})["what"]
    assert (set_["lora_plus_ratio"], set_["layers"]) == (16.0, [0])


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({}, "lora"),
        ({"lora_plus_ratio": 16.0}, "lora+"),
        ({"use_pissa": True, "use_rslora": True}, "rspissa"),
        ({"use_dora": True, "lora_plus_ratio": 4.0}, "dora+"),
    ],
)
def test_the_label_is_what_people_say(fields, label):
    assert own(**fields).label == label
