"""Mistakes that only a model shows, planted in the technique, the weights or the libraries at the border, are found by preflight."""

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import Linear
from safetensors.torch import load_file, save_file
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedModel, Trainer

from fine_tune_pipeline.programs import preflight, trial
from fine_tune_pipeline.programs.access import OutputNotWritable
from fine_tune_pipeline.programs.mistakes import steps
from fine_tune_pipeline.programs.mistakes.learning import expert_weights, frozen_experts, target_modules_match_nothing
from fine_tune_pipeline.programs.mistakes.names import MISTAKES
from fine_tune_pipeline.programs.preflight_requests import MistakeCheck, PreflightResult
from fine_tune_pipeline.programs.requests import Placement, Technique
from fine_tune_pipeline.programs.training.adapters import load_base, with_technique
from fine_tune_pipeline.programs.training.batches import counted_labels
from fine_tune_pipeline.programs.training.step_gradient import StepGradient
from fine_tune_pipeline_tests.small_training import Recorder, preflight_request, train_request, write_rows
from fine_tune_pipeline_tests.tiny import tiny_model

LORA = Technique(type="lora", rank=4)
ALL = Technique(type="lora", rank=4, expert_rank=2)
EXPERTS = {"model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.down_proj"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), architecture="llama")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "train.jsonl")


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the small steps, for tests of what comes after them."""
    monkeypatch.setattr(trial, "SHORT_ROWS", 1)


def tried(folder: Path, *, model: Path, data: Path, **changes: Any) -> PreflightResult:
    output = folder / "output"
    changes = {"technique": LORA, "placement": Placement(micro_batch=8, threads=1), **changes}
    result = preflight.run(preflight_request(train_request(output, model=model, train=data, **changes)), Recorder())
    assert list(output.iterdir()) == [], "something is left behind"
    return result


def failed(result: PreflightResult) -> list[str]:
    return [check.id for check in result.mistakes if check.passed is False]


def verdict(result: PreflightResult, id: str) -> MistakeCheck:
    return next(check for check in result.mistakes if check.id == id)


def test_a_healthy_training_passes_every_check_that_applies(model: Path, data: Path, tmp_path: Path):
    result = tried(tmp_path, model=model, data=data)
    assert [check.id for check in result.mistakes] == list(MISTAKES)
    assert [check.id for check in result.mistakes if not check.passed] == ["frozen_experts"]
    assert verdict(result, "frozen_experts").passed is None
    assert all(check.seen for check in result.mistakes)
    assert verdict(result, "gradient_accumulation").seconds > 0
    assert result.answer is not None
    assert 0 < result.answer.tokens <= trial.ANSWER_TOKENS


@pytest.mark.parametrize(
    ("architecture", "technique"),
    [
        ("llama", Technique(type="lora", rank=4, use_pissa=True, lora_plus_ratio=4.0)),
        ("llama", Technique(type="qlora", rank=4, layers=(1,), target_modules=("q_proj", "down_proj"))),
        ("mixtral", Technique(type="lora", rank=4, expert_rank=2, experts=(0, 3), layers=(1,), router="train")),
    ],
    ids=lambda one: one if isinstance(one, str) else one.label,
)
def test_a_training_of_some_parts_passes_too(data: Path, tmp_path: Path, architecture, technique):
    result = tried(tmp_path, model=tiny_model(tmp_path / "model", architecture=architecture), data=data, technique=technique)
    assert failed(result) == []
    assert result.problems == ()
    assert verdict(result, "adapter_not_loading").passed
    assert verdict(result, "merge_changes_answers").passed


def test_a_rank_larger_than_a_matrix_is_a_problem_of_the_request(model: Path, data: Path, tmp_path: Path):
    result = tried(tmp_path, model=model, data=data, technique=Technique(type="lora", rank=33))
    assert len(result.problems) == 1
    assert "k_proj is 32 x 64 and would get an adapter of rank 33" in result.problems[0]


def test_full_tuning_says_what_does_not_apply_to_it(model: Path, data: Path, tmp_path: Path):
    result = tried(tmp_path, model=model, data=data, technique=Technique(type="full"))
    assert failed(result) == []
    none = {check.id: check.seen for check in result.mistakes if check.passed is None}
    assert none.keys() == {"target_modules_match_nothing", "frozen_experts", "merge_changes_answers"}
    assert none["merge_changes_answers"] == "full fine-tuning leaves no adapter to merge"


def test_what_a_large_whole_model_would_cost_is_not_done_and_said(model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trial, "SAVED_BYTES", 1000)
    monkeypatch.setattr(steps, "CHECKPOINT_BYTES", 1000)
    result = tried(tmp_path, model=model, data=data, technique=Technique(type="full"))
    assert failed(result) == []
    assert "too much to write for a try" in verdict(result, "adapter_not_loading").seen
    assert "too much to write for a check" in verdict(result, "checkpoint_not_resumable").seen
    assert result.answer is None


def test_targets_that_the_model_lacks(model: Path, data: Path, tmp_path: Path):
    result = tried(tmp_path, model=model, data=data, technique=Technique(type="lora", target_modules=("qkv_proj",)))
    assert failed(result) == ["target_modules_match_nothing"]
    assert "qkv_proj not in this model" in verdict(result, "target_modules_match_nothing").seen
    assert verdict(result, "adapter_not_loading").seen == "not looked at: target_modules_match_nothing must be mended first"
    assert result.problems == ()


def test_adapters_that_have_not_moved():
    base = mixtral()
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"]))
    found = target_modules_match_nothing(model, technique=Technique(type="lora", target_modules=("q_proj", "k_proj")))
    assert found.passed is False
    assert found.seen.endswith("0 of them moved in the tried steps; without an adapter: k_proj")


def mixtral() -> PreTrainedModel:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    return MixtralForCausalLM(MixtralConfig(vocab_size=50, num_local_experts=4, **shape))


def moved(model: PeftModel) -> PeftModel:
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(parameter)
    return model


def test_experts_that_no_adapter_reaches():
    model = moved(get_peft_model(mixtral(), LoraConfig(r=2, target_modules=["q_proj", "v_proj"])))
    assert expert_weights(model) == dict.fromkeys(EXPERTS, False)
    silent = frozen_experts(model, technique=ALL)
    assert silent.passed is False
    assert silent.seen.startswith("0 of 2 weights of experts learn; as they were: model.layers.0.mlp.experts.")
    on_purpose = frozen_experts(model, technique=LORA)
    assert on_purpose.passed is None


def test_experts_that_learn():
    adapted = LoraConfig(r=2, target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"])
    untouched = get_peft_model(mixtral(), adapted)
    assert frozen_experts(untouched, technique=ALL).passed is False, "an adapter that has not moved has taught nothing"
    assert frozen_experts(moved(untouched), technique=ALL).seen == "2 of 2 weights of experts learn"
    whole = mixtral().requires_grad_(True)
    assert frozen_experts(whole, technique=Technique(type="full")).passed is True


def test_experts_of_layers_that_are_not_chosen_may_rest():
    untouched = get_peft_model(mixtral(), LoraConfig(r=2, target_modules=["q_proj"]))
    found = frozen_experts(untouched, technique=ALL.model_copy(update={"layers": (1,)}))
    assert (found.passed, found.seen) == (None, "the model has no experts where anything learns")


def test_a_pissa_adapter_that_has_not_moved(model: Path):
    technique = Technique(type="lora", rank=4, use_pissa=True)
    tuned = with_technique(load_base(model, technique=technique, placement=Placement()), technique=technique, seed=0)
    assert "0 of them moved" in target_modules_match_nothing(tuned, technique=technique).seen
    with torch.no_grad():
        tuned.get_parameter("base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight").add_(0.1)
    assert "1 of them moved" in target_modules_match_nothing(tuned, technique=technique).seen


def changed_weights(folder: Path, name: str, change: Any) -> Path:
    changed = tiny_model(folder, architecture="llama")
    weights = load_file(changed / "model.safetensors")
    change(weights[name])
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    return changed


def test_an_overflow_of_bfloat16_alone(data: Path, tmp_path: Path):
    # 3.4e38 is a number in float32; the nearest in bfloat16 is infinity.
    broken = changed_weights(tmp_path / "model", "model.layers.1.mlp.down_proj.weight", lambda weight: weight[0].fill_(3.4e38))
    result = tried(tmp_path, model=broken, data=data, placement=Placement(micro_batch=8, threads=1, dtype="bfloat16"))
    assert failed(result) == ["dtype_overflow"]
    found = verdict(result, "dtype_overflow")
    assert "in float32 the largest activation is" in found.seen
    assert found.change == "write training.dtype: float32"


def test_weights_that_are_broken_in_any_format(data: Path, tmp_path: Path):
    broken = changed_weights(tmp_path / "model", "model.norm.weight", lambda weight: weight[0].fill_(float("nan")))
    result = tried(tmp_path, model=broken, data=data)
    assert failed(result) == ["dtype_overflow"]
    assert verdict(result, "dtype_overflow").seen.endswith("float32 overflows too")


def test_a_step_that_divides_by_the_labels_of_one_micro_batch(model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own = StepGradient._pass

    def mean_of_means(self: StepGradient, rows: Any, batch: dict[str, Any], *, weight: int, begun: float) -> Any:
        passes = -(-4 // self.micro_batch)
        return own(self, rows, batch, weight=counted_labels(batch["labels"]) * passes, begun=begun)

    monkeypatch.setattr(StepGradient, "_pass", mean_of_means)
    result = tried(tmp_path, model=model, data=data)
    assert failed(result) == ["gradient_accumulation"]
    assert "(1, 4, 1, 4 labels) differs by" in verdict(result, "gradient_accumulation").seen


def test_a_checkpoint_whose_optimizer_is_lost(model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Trainer, "_load_optimizer_and_scheduler", lambda self, checkpoint: None)
    result = tried(tmp_path, model=model, data=data)
    assert failed(result) == ["checkpoint_not_resumable"]
    assert "after a break before the second step, the weights are apart by" in verdict(result, "checkpoint_not_resumable").seen


def test_a_checkpoint_that_cannot_be_read(model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def damaged(self: Trainer, checkpoint: str, model: Any = None) -> None:
        raise ValueError(f"Can't find a valid checkpoint at {checkpoint}")

    monkeypatch.setattr(Trainer, "_load_from_checkpoint", damaged)
    result = tried(tmp_path, model=model, data=data)
    assert failed(result) == ["checkpoint_not_resumable"]
    assert "Can't find a valid checkpoint" in verdict(result, "checkpoint_not_resumable").seen


@pytest.mark.usefixtures("cheap")
def test_an_adapter_of_which_a_weight_is_lost(model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own = PeftModel.save_pretrained

    def lossy(self: PeftModel, folder: str, **options: Any) -> None:
        own(self, folder, **options)
        weights = load_file(Path(folder) / "adapter_model.safetensors")
        weights.popitem()
        save_file(weights, Path(folder) / "adapter_model.safetensors")

    monkeypatch.setattr(PeftModel, "save_pretrained", lossy)
    result = tried(tmp_path, model=model, data=data)
    assert failed(result) == ["adapter_not_loading"]
    assert "1 weights are missing" in verdict(result, "adapter_not_loading").seen
    assert verdict(result, "merge_changes_answers").seen == "not looked at: adapter_not_loading must be mended first"


@pytest.mark.usefixtures("cheap")
def test_an_adapter_that_loads_and_answers_otherwise(model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own = PeftModel.save_pretrained

    def halved(self: PeftModel, folder: str, **options: Any) -> None:
        own(self, folder, **options)
        weights = load_file(Path(folder) / "adapter_model.safetensors")
        save_file({name: weight * 0.5 for name, weight in weights.items()}, Path(folder) / "adapter_model.safetensors")

    monkeypatch.setattr(PeftModel, "save_pretrained", halved)
    result = tried(tmp_path, model=model, data=data)
    assert failed(result) == ["adapter_not_loading"]
    assert "the first token of 3 answers differs by" in verdict(result, "adapter_not_loading").seen


@pytest.mark.usefixtures("cheap")
def test_a_merge_that_scales_wrongly(model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own = Linear.merge

    def doubled(self: Linear, *args: Any, **options: Any) -> None:
        change = self.get_delta_weight("tried")
        own(self, *args, **options)
        self.get_base_layer().weight.data += change

    monkeypatch.setattr(Linear, "merge", doubled)
    result = tried(tmp_path, model=model, data=data)
    assert failed(result) == ["merge_changes_answers"]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("cheap")
def test_a_disk_that_does_not_take_the_weights(data: Path, tmp_path: Path):
    large = Technique(type="lora", rank=32, expert_rank=64)
    model = tiny_model(tmp_path / "model", architecture="mixtral")
    # Passed by the probe's 1 MiB, and not by the 1.1 MiB of the adapter.
    with largest_file(1100 << 10):
        result = tried(tmp_path, model=model, data=data, technique=large)
    (problem,) = result.problems
    assert "the trained weights (" in problem
    assert "cannot be written to" in problem
    assert "make room there" in problem
    assert failed(result) == []


def test_an_output_folder_that_takes_nothing_is_refused_before_anything_is_loaded(model: Path, data: Path, tmp_path: Path):
    with largest_file(1 << 10), pytest.raises(OutputNotWritable, match=r"a file of 1 MiB cannot be written there \(File too") as seen:
        tried(tmp_path, model=model, data=data)
    assert isinstance(seen.value.__cause__, OSError)
    assert seen.value.__cause__.errno == errno.EFBIG
    assert list((tmp_path / "output").iterdir()) == []
