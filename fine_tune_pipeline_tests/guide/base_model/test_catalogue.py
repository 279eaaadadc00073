from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
from packaging.licenses import canonicalize_license_expression

from fine_tune_pipeline.guide.base_model.catalogue import (
    Architecture,
    Catalogue,
    CatalogueModel,
    Licence,
    Price,
    UnknownModel,
    catalogue,
    licence_named,
    model_named,
)

MODELS = catalogue().models
EXPERTS = [model for model in MODELS if model.architecture.experts]


def built(model_type: str, a: Architecture, *, layers: int | None = None, experts: int | None = None) -> Any:
    """The model that transformers makes of these numbers, without memory: the reference for every count."""
    torch = pytest.importorskip("torch")
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    # The names differ between families; a configuration class keeps those that it does not know without using them.
    routed = {"moe_intermediate_size": a.expert_width, "num_experts_per_tok": a.experts_per_token} if a.experts else {}
    routed |= dict.fromkeys(("num_experts", "num_local_experts"), experts or a.experts) if a.experts else {}
    config = CONFIG_MAPPING[model_type](
        hidden_size=a.hidden,
        num_hidden_layers=layers or a.layers,
        num_attention_heads=a.heads,
        num_key_value_heads=a.kv_heads,
        head_dim=a.head_dim,
        intermediate_size=a.mlp_width,
        vocab_size=a.vocabulary,
        tie_word_embeddings=a.tied,
        pad_token_id=None,
        **routed,
    )
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_the_parameter_count_is_that_of_the_model_which_transformers_builds_from_the_numbers(model):
    assert count(built(model.model_type, model.architecture)) == model.parameters
    # Norms and biases, which the formula leaves out.
    assert model.architecture.parameters == pytest.approx(model.parameters, rel=3e-4)


@pytest.mark.parametrize("model", EXPERTS, ids=lambda model: model.id)
def test_active_parameters_are_those_of_a_model_with_only_the_experts_that_a_token_visits(model):
    a = model.architecture
    visited = count(built(model.model_type, a, experts=a.experts_per_token))
    routers = a.layers * a.hidden * (a.experts - a.experts_per_token)
    assert a.active_parameters == pytest.approx(visited + routers, rel=3e-4)
    assert model.active_parameters < model.parameters / 2


@pytest.mark.parametrize("name", ["qwen3-30b-a3b", "olmoe-1b-7b", "mixtral-8x7b", "granite-3.1-1b-a400m", "llama-3.2-1b", "gemma-3-1b"])
def test_lora_parameters_are_those_that_peft_makes(name):
    model = model_named(name)
    a = model.architecture
    assert adapters_of_one_layer(model) * a.layers == a.lora_parameters(16) + a.expert_lora_parameters(16)


def adapters_of_one_layer(model: CatalogueModel) -> int:
    """Numbers in the adapters that PEFT puts beside one layer."""
    peft = pytest.importorskip("peft")
    made = built(model.model_type or "", model.architecture, layers=1)
    experts = [name.removeprefix("model.layers.0.") for name, parameter in made.named_parameters() if parameter.ndim == 3]
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", *([] if experts else ["gate_proj", "up_proj", "down_proj"])]
    adapted = peft.get_peft_model(made, peft.LoraConfig(r=16, target_modules=modules, target_parameters=experts or None))
    return sum(parameter.numel() for name, parameter in adapted.named_parameters() if "lora_" in name)


def test_dense_layers_and_shared_experts_are_counted_beside_the_routed_ones():
    plain = Architecture(hidden=64, layers=3, heads=4, kv_heads=2, head_dim=16, mlp_width=96, vocabulary=100, tied=True)
    mixed = plain.model_copy(
        update={"experts": 8, "experts_per_token": 2, "expert_width": 32, "shared_expert_width": 48, "dense_layers": 1}
    )
    attention = 3 * (2 * 64 * 64 + 2 * 64 * 32)
    assert plain.body_parameters == attention + 3 * 3 * 64 * 96
    assert mixed.body_parameters == attention + 3 * 64 * 96 + 2 * (64 * 8 + 8 * 3 * 64 * 32 + 3 * 64 * 48)
    assert mixed.active_parameters == attention + 3 * 64 * 96 + 2 * (64 * 8 + 2 * 3 * 64 * 32 + 3 * 64 * 48) + 6400
    assert mixed.expert_parameters == 2 * 8 * 3 * 64 * 32
    assert plain.expert_lora_parameters(8) == 0


@pytest.mark.parametrize(
    "numbers",
    [
        {"experts_per_token": 2},
        {"experts": 8, "expert_width": 32},
        {"experts": 2, "experts_per_token": 4, "expert_width": 32},
        {"dense_layers": 1},
    ],
)
def test_numbers_of_experts_that_do_not_belong_together_are_refused(numbers):
    plain = {"hidden": 64, "layers": 3, "heads": 4, "kv_heads": 2, "head_dim": 16, "mlp_width": 96, "vocabulary": 100, "tied": True}
    with pytest.raises(ValueError, match="experts"):
        Architecture.model_validate({**plain, **numbers})


def test_there_are_models_of_every_family_that_is_asked_for_and_proprietary_ones():
    makers = {model.hub.split("/")[0] for model in MODELS}
    wanted = {"meta-llama", "mistralai", "Qwen", "google", "microsoft", "HuggingFaceTB", "ibm-granite", "allenai", "deepseek-ai"}
    assert wanted <= makers
    assert (len(MODELS) >= 20, len(EXPERTS) >= 1, len(catalogue().hosted) >= 4) == (True, True, True)


def test_ids_are_unique_and_every_licence_is_in_the_table():
    rows = [*MODELS, *catalogue().hosted]
    assert len({row.id for row in rows}) == len(rows)
    assert {licence_named(row.licence).commercial for row in rows} <= {"pass", "conditions", "fail"}


def licence_ids() -> Iterator[str]:
    yield from {model.licence for model in MODELS}
    yield from (licence.id for licence in catalogue().licences if not licence.id.endswith("*"))


@pytest.mark.parametrize("id", sorted(set(licence_ids())))
def test_a_licence_id_is_one_of_the_spdx_list_or_a_licence_ref(id):
    assert canonicalize_license_expression(id) == id


@pytest.mark.parametrize("model", [*MODELS, *catalogue().hosted], ids=lambda model: model.id)
def test_a_model_has_the_source_and_date_of_its_facts_and_no_built_in_price(model):
    assert model.facts.source
    assert model.community.released < f"{model.facts.as_of:%Y-%m}"
    # Published prices contradict each other: none is built in.
    assert model.price is None


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


def test_a_licence_that_forbids_commercial_use_may_allow_research():
    found = licence_named("LicenseRef-Qwen-Research")
    assert (found.allows("commercial"), found.allows("research")) == ("fail", "pass")


def test_an_id_of_its_own_comes_before_a_pattern():
    rows = (Licence(id="Ours*", commercial="fail", obligations="ask us"), Licence(id="Ours-2", commercial="pass", obligations="nothing"))
    assert Catalogue(licences=rows).licence("Ours-2").commercial == "pass"
    assert Catalogue(licences=rows).licence("Ours-3").commercial == "fail"


def test_an_unknown_model_is_refused_with_the_known_ones_and_the_way_to_bring_ones_own():
    with pytest.raises(UnknownModel, match=r"'gemma-4'.*gemma-3-270m.*base_model\.catalogue.*type: local"):
        model_named("gemma-4")
    with pytest.raises(UnknownModel, match=r"'qwen3-4bb' \(did you mean qwen3-4b\?\)"):
        model_named("qwen3-4bb")


def test_a_price_warns_when_it_is_older_than_180_days():
    price = Price(train=3, currency="USD", as_of=date(2026, 1, 1), source="the provider's page")
    assert price.stale(date(2026, 6, 30)) is None
    assert "181 days old (the provider's page, 2026-01-01)" in (price.stale(date(2026, 7, 1)) or "")


def test_a_proprietary_model_is_found_by_its_id_or_by_its_name_at_the_provider_and_has_its_last_days():
    found = catalogue().hosted_model("gpt-4.1-mini")
    assert found is not None
    assert found == catalogue().hosted_model("gpt-4.1-mini-2025-04-14")
    assert (found.last_job_date, found.shutdown_date) == (date(2027, 1, 6), date(2027, 1, 14))


def test_a_proprietary_model_that_is_named_as_if_it_were_open_is_refused_with_what_to_write():
    with pytest.raises(UnknownModel, match=r"gpt-4o has no open weights, OpenAI tunes.*\{type: api, id: gpt-4o, model: gpt-4o-2024-08-06"):
        model_named("gpt-4o")
