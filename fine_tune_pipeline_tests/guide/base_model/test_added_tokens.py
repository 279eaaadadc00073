"""Tokens added to the base model in step 2: when they are taken, what is kept of them, and what they cost."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fine_tune_pipeline.guide.base_model.build import content
from fine_tune_pipeline.guide.base_model.candidates import demands, judge
from fine_tune_pipeline.guide.base_model.catalogue import model_named
from fine_tune_pipeline.guide.base_model.duration import Tokens, training_operations
from fine_tune_pipeline.guide.base_model.memory import trainable_parameters, training_memory
from fine_tune_pipeline.programs.models import load_tokenizer
from fine_tune_pipeline.programs.requests import Technique
from fine_tune_pipeline.resources.compute.placed import PlacedCompute
from fine_tune_pipeline_tests.guide.base_model.test_assets import checks, local_candidate, materialize, metadata
from fine_tune_pipeline_tests.guide.technique.stand_ins import RuleCompute, artifact_store, use_case
from fine_tune_pipeline_tests.tiny import tiny_model

TOKENS = ["<urgent>", "<calm>"]

HOSTED = {
    "type": "api",
    "id": "hosted",
    "model": "small",
    "base_url": "https://example.org/v1",
    "api_key_variable": "KEY",
    "licence": "LicenseRef-Terms",
    "context_tokens": 4096,
}


def extended_by(folder: Path, **more: Any) -> dg.ExecuteInProcessResult:
    chosen = {**local_candidate(tiny_model(folder / "model", architecture="llama")), **more}
    return materialize(folder, compute=PlacedCompute(), base_model=chosen)


def test_the_artifact_holds_the_extended_model_and_says_which_tokens_it_has(tmp_path):
    result = extended_by(tmp_path, added_tokens=TOKENS)
    assert checks(result) == {"licence_allows": True, "weights_load": True}
    artifact = artifact_store(tmp_path).current("triage", "base_model")
    kept = artifact.json("base_model.json")
    tokenizer = load_tokenizer(artifact.file("model"))
    assert kept["added_tokens"] == {token: tokenizer.convert_tokens_to_ids(token) for token in TOKENS}
    assert kept["vocabulary"] == len(tokenizer)
    assert kept["added_parameters"] == 2 * 64
    assert {path.name for path in artifact.folder.iterdir()} == {"model", "base_model.json", "manifest.json"}
    again = extended_by(tmp_path, added_tokens=TOKENS)
    assert metadata(again)["reused"] is True
    other = extended_by(tmp_path, added_tokens=TOKENS[:1])
    assert metadata(other)["fingerprint"] != metadata(again)["fingerprint"]
    assert metadata(other)["reused"] is False


def test_a_token_that_the_model_knows_fails_the_step_and_says_so(tmp_path, capfd):
    result = extended_by(tmp_path, added_tokens=["<eos>"])
    assert not result.success
    assert "base_model.added_tokens: the tokenizer has '<eos>' (token 1) already as one token; leave it out" in capfd.readouterr().err


def test_without_added_tokens_nothing_of_them_is_in_what_decides_the_artifact(tmp_path):
    spec = use_case(tmp_path, base_model=local_candidate(tiny_model(tmp_path / "model")))
    wanted = demands(spec, RuleCompute(record="").inventory())
    candidates = judge(spec, wanted)
    assert not [name for name in content(spec.base_model, candidates) if "token" in name]
    assert "added_tokens" not in spec.base_model.model_dump()
    assert "added_tokens" not in Technique(type="lora").model_dump()
    assert not any(technique.added_tokens for technique in wanted.techniques(model_named("gemma-3-270m").architecture))
    asked = use_case(tmp_path, base_model={**spec.base_model.model_dump(), "added_tokens": TOKENS})
    assert content(asked.base_model, candidates)["base_model.added_tokens"] == TOKENS


def test_a_hosted_model_is_refused_by_name(tmp_path):
    spec = use_case(tmp_path, base_model={"candidates": [HOSTED], "accept_licences": ["LicenseRef-Terms"], "added_tokens": TOKENS})
    [candidate] = judge(spec, demands(spec, RuleCompute(record="").inventory()))
    said = "base_model.added_tokens is set, and the vocabulary of hosted stays at its provider; leave it out"
    assert said in [text for _, text in candidate.refusals]


@pytest.mark.parametrize(("id", "matrices"), [("gemma-3-270m", 1), ("llama-3.1-8b", 2)], ids=["tied", "head of its own"])
def test_the_forecast_counts_rows_of_embedding_and_head(id, matrices):
    model = model_named(id).architecture
    plain, added = Technique(type="lora"), Technique(type="lora", added_tokens=(1, 2, 3))
    assert trainable_parameters(model, added) - trainable_parameters(model, plain) == 3 * matrices * model.hidden
    assert trainable_parameters(model, Technique(type="full", added_tokens=(1, 2, 3))) == model.parameters


def test_with_rows_that_learn_gradients_reach_down_to_the_embedding():
    model = model_named("gemma-3-270m").architecture
    last, added = Technique(type="lora", layers=(17,)), Technique(type="lora", layers=(17,), added_tokens=(1, 2))
    tokens = Tokens(all=1000, labelled=100, per_row=50)
    assert training_operations(model, added, tokens) > 1.3 * training_operations(model, last, tokens)
    sizes = {"number_bytes": 4, "tokens": 2000, "labelled_tokens": 600}
    assert training_memory(model, added, **sizes).activations > 5 * training_memory(model, last, **sizes).activations


def test_a_pass_holds_a_second_embedding_at_least():
    model = model_named("gemma-3-270m").architecture
    few = training_memory(model, Technique(type="lora", added_tokens=(1,)), number_bytes=4, tokens=8, labelled_tokens=2)
    assert few.activations == 4 * model.vocabulary * model.hidden
