import pytest

from fine_tune_pipeline.guide.base_model.catalogue import UnknownModel, catalogue, licence_named, model_named


@pytest.mark.parametrize("model", catalogue().models, ids=lambda model: model.id)
def test_the_parameter_count_follows_from_the_architecture(model):
    a = model.architecture
    width, kv = a.heads * a.head_dim, a.kv_heads * a.head_dim
    layer = 2 * a.hidden * width + 2 * a.hidden * kv + 3 * a.hidden * a.mlp_width
    matrices = a.layers * layer + a.vocabulary * a.hidden * (1 if a.tied else 2)
    assert matrices == pytest.approx(model.parameters, rel=0.01)
    assert a.parameters == matrices


def test_ids_are_unique_and_every_licence_is_in_the_table():
    models = catalogue().models
    assert len({model.id for model in models}) == len(models)
    assert {licence_named(model.licence).commercial for model in models} <= {"pass", "conditions", "fail"}


@pytest.mark.parametrize(
    ("licence", "commercial"),
    [
        ("Apache-2.0", "pass"),
        ("LicenseRef-Gemma-Terms", "conditions"),
        ("CC-BY-NC-SA-4.0", "fail"),
        ("LicenseRef-Qwen-Research", "fail"),
        ("LicenseRef-Nobody-Knows", "unknown"),
    ],
)
def test_a_licence_has_a_verdict_on_commercial_use(licence, commercial):
    found = licence_named(licence)
    assert (found.id, found.commercial) == (licence, commercial)
    assert found.obligations


def test_an_unknown_model_is_refused_with_the_known_ones_and_the_way_to_bring_ones_own():
    with pytest.raises(UnknownModel, match=r"'gemma-4'.*gemma-3-270m.*type: local"):
        model_named("gemma-4")
