"""Versions in memory: each answers as if it were alone, and a bad one leaves no trace."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from fine_tune_pipeline.programs.answering import answering
from fine_tune_pipeline.programs.decoding import Generated
from fine_tune_pipeline.programs.decoding_requests import Decoding, JsonDecoding, LabelDecoding
from fine_tune_pipeline.programs.models import load_model, load_tokenizer
from fine_tune_pipeline.programs.prompts import encode
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.serving.served_models import ServedModels, UnknownModel, UnusableAdapter
from fine_tune_pipeline_tests.served import NEW_TOKENS, PROMPTS, evaluated, tiny_adapter
from fine_tune_pipeline_tests.tiny import tiny_model

SCHEMA = {"type": "object", "properties": {"intent": {"enum": ["card", "cash"]}}, "required": ["intent"], "additionalProperties": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model and two adapters of it."""
    found = tmp_path_factory.mktemp("models")
    base = tiny_model(found / "base", architecture="llama")
    for seed in (1, 2):
        tiny_adapter(found / f"adapter-{seed}", base, seed=seed)
    return found


@pytest.fixture
def models(folder: Path) -> ServedModels:
    return ServedModels(folder / "base", base_name="base", format=PromptFormat(), dtype="float32", device="cpu")


def answers(models: ServedModels, name: str, folder: Path) -> list[Generated]:
    tokenizer = load_tokenizer(folder / "base")
    ids = [encode(prompt, None, tokenizer=tokenizer, format=PromptFormat()).prompt_ids for prompt in PROMPTS]
    return models.generate(name, ids, NEW_TOKENS)


def alike(found: list[Generated], wanted: list[Generated]) -> bool:
    """Texts are equal, and log-probabilities are up to the order of a sum: a batch adds in another order than a single row."""
    assert [row.logprob for row in found] == pytest.approx([row.logprob for row in wanted], abs=1e-4)
    return [row.text for row in found] == [row.text for row in wanted]


def test_each_version_answers_as_if_it_were_alone_and_so_does_the_base(models: ServedModels, folder: Path):
    adapters = {"one": folder / "adapter-1", "two": folder / "adapter-2", "base": None}
    alone = {name: evaluated(folder / "base", adapter) for name, adapter in adapters.items()}
    assert alike(answers(models, "base", folder), alone["base"])
    models.load("one", folder / "adapter-1")
    models.load("two", folder / "adapter-2")
    for name in ("one", "base", "two", "one", "base"):
        assert alike(answers(models, name, folder), alone[name])
    models.unload("one")
    assert models.names == ["two"]
    assert alike(answers(models, "two", folder), alone["two"])
    models.unload("two")
    assert alike(answers(models, "base", folder), alone["base"])
    with pytest.raises(UnknownModel, match="two: not loaded"):
        answers(models, "two", folder)


def test_a_whole_model_stands_beside_the_adapters(models: ServedModels, folder: Path, tmp_path: Path):
    other = tiny_model(tmp_path / "full", architecture="llama", seed=5)
    models.load("one", folder / "adapter-1")
    models.load("full", other)
    assert alike(answers(models, "full", folder), evaluated(other, None))
    assert alike(answers(models, "one", folder), evaluated(folder / "base", folder / "adapter-1"))
    models.unload("full")
    assert models.names == ["one"]


def truncated(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def corrupt(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(b"\xff" * 64 + path.read_bytes()[64:])


def of_another_rank(adapter: Path) -> None:
    _configure(adapter, r=8)


def for_fewer_places(adapter: Path) -> None:
    _configure(adapter, target_modules=["q_proj"])


def with_a_weight_missing(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    weights.popitem()
    save_file(weights, path)


def without_weights(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()


def with_a_broken_configuration(adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text('{"r": 4', encoding="utf-8")


def without_configuration(adapter: Path) -> None:
    (adapter / "adapter_config.json").unlink()


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        corrupt,
        of_another_rank,
        for_fewer_places,
        with_a_weight_missing,
        without_weights,
        with_a_broken_configuration,
        without_configuration,
    ],
)
@pytest.mark.parametrize("beside", [True, False])
def test_a_bad_adapter_is_refused_and_leaves_no_trace(
    models: ServedModels, folder: Path, tmp_path: Path, damage: Callable[[Path], None], beside: bool
):
    if beside:
        models.load("good", folder / "adapter-1")
    bad = Path(shutil.copytree(folder / "adapter-2", tmp_path / "bad"))
    damage(bad)
    with pytest.raises(UnusableAdapter, match="not a version of this base model"):
        models.load("bad", bad)
    assert models.names == (["good"] if beside else [])
    assert alike(answers(models, "base", folder), evaluated(folder / "base", None))
    models.load("two", folder / "adapter-2")
    assert alike(answers(models, "two", folder), evaluated(folder / "base", folder / "adapter-2"))


def test_a_whole_model_of_another_size_is_refused(models: ServedModels, tmp_path: Path):
    other = tiny_model(tmp_path / "other", architecture="llama", texts=["completely different words for a tokenizer of its own"])
    with pytest.raises(UnusableAdapter, match="parameters"):
        models.load("full", other)
    assert models.names == []


def _configure(adapter: Path, **values: object) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


@pytest.mark.parametrize(
    "decoding", [LabelDecoding(labels=("fees", "lost_card", "change_address")), JsonDecoding(answer_schema=SCHEMA, separators=(", ", ": "))]
)
def test_the_endpoint_decodes_as_the_evaluation_does(decoding: Decoding, folder: Path):
    served = ServedModels(folder / "base", base_name="base", format=PromptFormat(), dtype="float32", device="cpu", decoding=decoding)
    served.load("one", folder / "adapter-1")
    model, tokenizer = load_model(folder / "base", adapter=folder / "adapter-1"), load_tokenizer(folder / "base")
    way = answering(decoding, tokenizer=tokenizer, config=model.config, format=PromptFormat())
    ids = [encode(prompt, None, tokenizer=tokenizer, format=PromptFormat()).prompt_ids for prompt in PROMPTS]
    wanted = [way.answers(model, [prompt], max_new_tokens=40)[0] for prompt in ids]
    assert alike(served.generate("one", ids, 40), wanted)
    if isinstance(decoding, LabelDecoding):
        assert {answer.text for answer in wanted} <= set(decoding.labels)
    else:
        assert all(json.loads(answer.text)["intent"] in ("card", "cash") for answer in wanted)
