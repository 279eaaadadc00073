"""Rows of added tokens learn beside adapters: they and nothing else of embedding and head, with the gradients that autograd gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from fine_tune_pipeline.programs import train
from fine_tune_pipeline.programs.decoding import generate_batch
from fine_tune_pipeline.programs.export import run as export
from fine_tune_pipeline.programs.export_requests import ExportRequest
from fine_tune_pipeline.programs.extend_requests import ExtendResult
from fine_tune_pipeline.programs.head import Head, OwnRows, likeliest
from fine_tune_pipeline.programs.models import AdapterMismatch, load_model, load_tokenizer
from fine_tune_pipeline.programs.preference import Preference
from fine_tune_pipeline.programs.prompts import encode
from fine_tune_pipeline.programs.requests import CheckpointPolicy, Placement, PromptFormat, Technique, TrainRequest, TrainResult
from fine_tune_pipeline.programs.serving.served_models import ServedModels, UnusableAdapter
from fine_tune_pipeline.programs.training.adapters import load_base, with_technique
from fine_tune_pipeline.programs.training.batches import Collate
from fine_tune_pipeline.programs.training.flat_rows import use_rows_attention
from fine_tune_pipeline.programs.training.losses import batch_loss, labelled_loss
from fine_tune_pipeline.programs.training.preemption import Preempted, Preemption
from fine_tune_pipeline.programs.training.token_rows import HeadWithBias, NoRoomForTokens
from fine_tune_pipeline_tests.comparisons import write_pairs
from fine_tune_pipeline_tests.extended import TAGGED, extended
from fine_tune_pipeline_tests.programs.training.killing import killed_at_random, started, train_to_the_end
from fine_tune_pipeline_tests.programs.training.test_endurance import EndsAfter, learned
from fine_tune_pipeline_tests.programs.training.test_own_losses import ARCHITECTURES, assert_same_gradients, built, rows
from fine_tune_pipeline_tests.programs.training.test_techniques import logits, served, tensors, trained
from fine_tune_pipeline_tests.small_training import Recorder, train_request, write_rows

IDS = (7, 120, 290)
"""Of the models without a tokenizer."""

LOW = {"type": "lora", "rank": 4}


def adapted(model: Any, ids: tuple[int, ...] = IDS) -> Any:
    """With rows of their own, which differ from the model's."""
    tuned = with_technique(model, technique=Technique(**LOW, added_tokens=ids), seed=0)
    draw = torch.Generator().manual_seed(1)
    for name, parameter in tuned.named_parameters():
        if "trainable_tokens_delta" in name:
            parameter.data += torch.randn(parameter.shape, generator=draw)
    return tuned.train()


def row_parameters(tuned: nn.Module) -> dict[str, nn.Parameter]:
    """By the matrix that they belong to."""
    return {
        name.removeprefix("base_model.model.").split(".token_adapter")[0]: parameter
        for name, parameter in tuned.named_parameters()
        if "trainable_tokens_delta" in name
    }


def reference(name: str, rows_of: dict[str, nn.Parameter], *, smoothing: float) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of a plain model in which these rows are written and every number learns, from whole logits, by autograd."""
    model = built(name)
    matrices = {path: model.get_submodule(path).weight for path in rows_of}
    with torch.no_grad():
        for path, parameter in rows_of.items():
            matrices[path][list(IDS)] = parameter
    batch = Collate(pad_id=0, flat=False)(rows())
    batch.pop("row")
    labels = batch.pop("labels")
    whole = model(**batch, use_cache=False).logits[:, :-1].reshape(-1, 300)
    loss = nn.functional.cross_entropy(whole, labels[:, 1:].reshape(-1), reduction="sum", label_smoothing=smoothing)
    loss.backward()
    return loss.item(), {path: matrix.grad[list(IDS)] for path, matrix in matrices.items() if matrix.grad is not None}


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("flat", [True, False], ids=["flat", "padded"])
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "biased head"])
def test_gradients_of_the_rows_are_those_of_whole_logits(name: str, flat: bool, smoothing: float):
    tuned = adapted(built(name))
    assert not flat or use_rows_attention(tuned.get_base_model())
    mine = row_parameters(tuned)
    assert len(mine) == (1 if tuned.get_base_model().config.tie_word_embeddings else 2)
    wanted, gradients = reference(name, mine, smoothing=smoothing)
    loss = batch_loss(tuned, Collate(pad_id=0, flat=flat)(rows()), label_smoothing=smoothing).trained
    loss.backward()
    assert loss.item() == pytest.approx(wanted, rel=1e-4)
    for path, parameter in mine.items():
        assert parameter.grad is not None
        assert gradients[path].norm() > 0
        assert (parameter.grad - gradients[path]).norm() <= 1e-3 * gradients[path].norm()


def test_adapters_get_the_gradients_that_pefts_own_forward_gives():
    mine, theirs = adapted(built("capped logits and windows")), adapted(built("capped logits and windows"))
    batch_loss(mine, Collate(pad_id=0, flat=False)(rows())).trained.backward()
    batch = Collate(pad_id=0, flat=False)(rows())
    batch.pop("row")
    count = sum(int((row != -100).sum()) for row in batch["labels"][:, 1:])
    (theirs(**batch, use_cache=False).loss * count).backward()
    assert_same_gradients(mine, theirs, tolerance=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_with_rows_of_its_own_is_the_head_in_which_they_are_written(dtype: torch.dtype):
    draw = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(9, 16, generator=draw).to(dtype), torch.randn(9000, 16, generator=draw).to(dtype)
    # Before, in and after the first tile's end, and the last of all.
    ids = (0, 4095, 4096, 8999)
    values = torch.randn(4, 16, generator=draw).to(dtype)
    written = weight.index_copy(0, torch.tensor(ids), values)
    bias = torch.randn(9000, generator=draw).to(dtype)
    whole = Head(written, bias, 0.5, 3.0)
    own = Head(weight, bias, 0.5, 3.0, OwnRows(values.requires_grad_(), ids))
    targets = torch.tensor([*ids, 5, 6, 4097, 0, 4095])
    with torch.no_grad():
        assert torch.equal(likeliest(hidden, own)[0], likeliest(hidden, whole)[0])
    written.requires_grad_()
    got, wanted = labelled_loss(hidden, targets, own).trained, labelled_loss(hidden, targets, whole).trained
    assert got.item() == wanted.item()
    got.backward()
    wanted.backward()
    assert values.grad is not None
    assert written.grad is not None
    torch.testing.assert_close(values.grad, written.grad[list(ids)], rtol=1e-5 if dtype == torch.float32 else 2e-2, atol=1e-5)


CASES: dict[str, tuple[dict[str, Any], str, bool]] = {
    "lora": (LOW, "llama", True),
    "lora, head of its own": (LOW, "llama", False),
    "qlora": ({"type": "qlora", "rank": 4}, "llama", True),
    "qlora, head of its own": ({"type": "qlora", "rank": 4}, "llama", False),
    "dora": ({**LOW, "use_dora": True}, "gemma3", True),
    "rslora": ({**LOW, "use_rslora": True}, "gemma3", False),
    "lora+": ({**LOW, "lora_plus_ratio": 4.0}, "llama", True),
    "pissa": ({**LOW, "use_pissa": True}, "llama", True),
    "pissa, head of its own": ({**LOW, "use_pissa": True}, "llama", False),
    "a layer": ({**LOW, "layers": (1,)}, "llama", True),
    "experts": ({**LOW, "expert_rank": 2, "router": "train"}, "mixtral", True),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], ExtendResult]:
    """Extended models, each made once."""
    root, made = tmp_path_factory.mktemp("models"), dict[tuple[str, bool], ExtendResult]()

    def model(architecture: Any, tied: bool) -> ExtendResult:
        key = (architecture, tied)
        if key not in made:
            made[key] = extended(root / f"{architecture}-{tied}", architecture=architecture, tied=tied)
        return made[key]

    return model


def technique_of(model: ExtendResult, options: dict[str, Any]) -> Technique:
    return Technique(**options, added_tokens=tuple(sorted(model.tokens.values())))


def matrices(model: nn.Module) -> dict[str, Tensor]:
    """Embedding and head as they are written in a plain model."""
    return {name: tensor for name, tensor in tensors(model).items() if name in ("model.embed_tokens.weight", "lm_head.weight")}


@pytest.mark.parametrize("name", CASES)
def test_the_loss_falls_only_rows_of_added_tokens_and_adapters_change_and_all_ways_of_loading_answer_alike(
    name, models, tmp_path, monkeypatch
):
    options, architecture, tied = CASES[name]
    model = models(architecture, tied)
    technique = technique_of(model, options)
    run = trained(Path(model.model), technique, tmp_path / "output", monkeypatch, rows=TAGGED)
    assert run.result.validation_losses[-1][1] < run.result.validation_losses[0][1]
    learning = {name for name, parameter in run.model.named_parameters() if parameter.requires_grad}
    # Rows of a tied head are those of the embedding under a second name.
    assert {name for name in run.changed if not (tied and "lm_head" in name)} == learning
    rows_learned = {name for name in learning if "lora_" not in name}
    assert len(rows_learned) == (1 if tied else 2)
    for row in rows_learned:
        assert bool((run.model.get_parameter(row) != run.before[row]).any(dim=1).all()), "every added row moves"
    ids = torch.tensor([[2, 40, model.tokens["<intent>"], 60, 70, model.tokens["<end of intent>"], 90]])
    assert torch.dist(logits(run.model, ids), logits(load_model(model.model), ids)) > 0.1
    if technique.type == "qlora":
        return
    near = 2e-4 if technique.use_pissa else 1e-5
    beside = load_model(model.model, adapter=run.result.adapter)
    torch.testing.assert_close(logits(beside, ids), logits(run.model, ids), rtol=0, atol=near)
    torch.testing.assert_close(served(Path(model.model), run.result), logits(run.model), rtol=0, atol=near)
    inside = beside.merge_and_unload(safe_merge=True)
    torch.testing.assert_close(logits(inside, ids), logits(run.model, ids), rtol=0, atol=2e-4)
    plain = matrices(load_model(model.model))
    others = [row for row in range(model.rows) if row not in technique.added_tokens]
    for name, matrix in matrices(inside).items():
        assert torch.equal(matrix[others], plain[name][others])
        assert not torch.equal(matrix[list(technique.added_tokens)], plain[name][list(technique.added_tokens)])


@pytest.mark.parametrize(
    ("placement", "options"),
    [
        (Placement(micro_batch=4, threads=1, dtype="bfloat16"), {}),
        (Placement(micro_batch=4, threads=1, gradient_checkpointing=True), {}),
        (Placement(micro_batch=4, threads=1), {"neftune_alpha": 5.0, "label_smoothing": 0.1}),
    ],
    ids=["bfloat16", "recomputed", "noise and smoothing"],
)
def test_rows_learn_in_other_numbers_and_with_the_other_settings(placement, options, models, tmp_path, monkeypatch):
    model = models("gemma3", True)
    technique = technique_of(model, LOW)
    run = trained(Path(model.model), technique, tmp_path / "output", monkeypatch, rows=TAGGED, placement=placement, **options)
    assert run.result.validation_losses[-1][1] < run.result.validation_losses[0][1]
    again = logits(load_model(model.model, adapter=run.result.adapter, dtype=placement.dtype))
    near = 1e-5 if placement.dtype == "float32" else 0.05 * float(again.abs().max())
    torch.testing.assert_close(again, logits(run.model), rtol=0, atol=near)


@pytest.fixture
def ask(models: Callable[[str, bool], ExtendResult], tmp_path: Path) -> Callable[..., TrainRequest]:
    """A training of rows and adapters, with dropout."""

    def request(name: str, *, tied: bool = True, **options: Any) -> TrainRequest:
        model = models("llama", tied)
        technique = technique_of(model, {**LOW, "dropout": 0.1, **options})
        data = write_rows(tmp_path / "train.jsonl", TAGGED)
        asked = train_request(tmp_path / name, model=Path(model.model), train=data, technique=technique, learning_rate=1e-3)
        return asked.model_copy(update={"checkpoints": CheckpointPolicy()})

    return request


def test_micro_batches_of_one_and_of_all_rows_give_the_same_rows(ask: Callable[..., TrainRequest]):
    kept = []
    for rows_a_pass in (1, 8):
        placement = Placement(micro_batch=rows_a_pass, threads=1)
        request = ask(str(rows_a_pass), tied=False, dropout=0.0).model_copy(update={"placement": placement})
        adapter = load_file(Path(train.run(request, Recorder()).adapter) / "adapter_model.safetensors")
        kept.append({name: tensor for name, tensor in adapter.items() if "trainable_tokens" in name})
    assert len(kept[0]) == 2
    for name, tensor in kept[0].items():
        torch.testing.assert_close(tensor, kept[1][name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{}, {"tied": False}, {"type": "qlora"}, {"use_pissa": True, "lora_plus_ratio": 4.0}],
    ids=["tied", "head of its own", "qlora", "pissa and lora+"],
)
def test_a_preempted_training_goes_on_bit_by_bit(options: dict[str, Any], ask: Callable[..., TrainRequest]):
    whole = train.run(ask("whole", **options), Recorder())
    request, preemption = ask("broken", **options), Preemption()
    with pytest.raises(Preempted):
        train.run(request, EndsAfter(2, preemption), preemption)
    result = train.run(request, Recorder())
    assert learned(result) == learned(whole)
    assert result.continued_from == (2,)
    with safe_open(Path(result.adapter) / "adapter_model.safetensors", framework="pt") as file:
        assert sum("trainable_tokens" in name for name in file.keys()) == (1 if options.get("tied", True) else 2)  # noqa: SIM118


def test_kills_at_random_moments_change_nothing(ask: Callable[..., TrainRequest]):
    def longer(name: str) -> TrainRequest:
        asked = ask(name)
        numbers = asked.hyperparameters.model_copy(update={"epochs": 12.0})
        return asked.model_copy(update={"hyperparameters": numbers, "checkpoints": CheckpointPolicy(steps=1)})

    request = longer("killed")
    output = Path(request.output)
    request.write(output / "request.json")
    assert killed_at_random(output, times=2, most_steps=4) == 2, "too short a training: it has ended before a kill"
    process = started(train_to_the_end, str(output / "request.json"))
    process.join()
    assert process.exitcode == 0
    result = TrainResult.read(output / "result.json")
    assert learned(result) == learned(train.run(longer("whole"), Recorder()))
    assert result.continued_from


@pytest.mark.parametrize("type", ["dpo", "orpo"])
def test_rows_learn_from_compared_answers_too(type: Any, models, tmp_path):
    model = models("llama", True)
    data = write_pairs(tmp_path / "pairs.jsonl", mark="<intent>")
    technique = technique_of(model, LOW)
    wanted = {"learning_rate": 3e-3, "epochs": 4.0, "preference": Preference(type=type)}
    result = train.run(train_request(tmp_path / "out", model=Path(model.model), train=data, technique=technique, **wanted), Recorder())
    assert result.validation_losses[-1][1] < 0.8 * result.validation_losses[0][1]
    [rows_kept] = [tensor for name, tensor in load_file(Path(result.adapter) / "adapter_model.safetensors").items() if "tokens" in name]
    begin = load_model(model.model).get_input_embeddings().weight[list(technique.added_tokens)]
    assert not torch.equal(rows_kept[0], begin[0])


def test_an_adapter_of_added_tokens_carries_their_tokenizer_and_is_refused_beside_the_model_without_them(ask, models, tmp_path):
    result = train.run(ask("output"), Recorder())
    tokens = models("llama", True).tokens
    assert load_tokenizer(result.adapter).convert_tokens_to_ids(list(tokens)) == list(tokens.values())
    base = Path(models("llama", True).model).with_name("base")
    with pytest.raises(AdapterMismatch, match=r"rows of added tokens for which .*base has no place"):
        load_model(base, adapter=result.adapter)
    served_models = ServedModels(base, base_name="base", format=PromptFormat(), dtype="float32", device="cpu")
    with pytest.raises(UnusableAdapter, match="not a version of this base model"):
        served_models.load("version", Path(result.adapter))


def answers(models: ServedModels, name: str, folder: Path) -> list[tuple[str, float]]:
    tokenizer = load_tokenizer(folder)
    prompts = [encode(prompt, None, tokenizer=tokenizer, format=PromptFormat()).prompt_ids for _, prompt, _ in TAGGED[:6]]
    return [(answer.text, round(answer.logprob, 3)) for answer in models.generate(name, prompts, 12)]


def test_versions_with_rows_of_their_own_answer_beside_each_other_and_beside_the_base(ask, models, tmp_path):
    folder = Path(models("llama", True).model)
    slow = ask("slow")
    fast = ask("fast").model_copy(
        update={"hyperparameters": slow.hyperparameters.model_copy(update={"learning_rate": 3e-2, "epochs": 12.0})}
    )
    versions = {request.output: Path(train.run(request, Recorder()).adapter) for request in (slow, fast)}
    alone: dict[str, list[tuple[str, float]]] = {}
    for name, adapter in versions.items():
        served_alone = ServedModels(folder, base_name="base", format=PromptFormat(), dtype="float32", device="cpu")
        alone["base"] = answers(served_alone, "base", folder)
        served_alone.load(name, adapter)
        alone[name] = answers(served_alone, name, folder)
    assert alone[fast.output][0][0].startswith("<intent>")
    together = ServedModels(folder, base_name="base", format=PromptFormat(), dtype="float32", device="cpu")
    for name, adapter in versions.items():
        together.load(name, adapter)
    for name in (slow.output, "base", fast.output, slow.output, "base"):
        assert answers(together, name, folder) == alone[name]
    together.unload(slow.output)
    assert answers(together, fast.output, folder) == alone[fast.output]
    together.unload(fast.output)
    assert answers(together, "base", folder) == alone["base"]


def test_answers_by_tiles_are_those_of_the_models_own_logits(ask, models):
    folder = models("llama", True).model
    tuned = load_model(folder, adapter=train.run(ask("output"), Recorder()).adapter)
    tokenizer = load_tokenizer(folder)
    prompts = [encode(prompt, None, tokenizer=tokenizer, format=PromptFormat()).prompt_ids for _, prompt, _ in TAGGED[:6]]
    # One row alone takes the model's own logits.
    apart = [generate_batch(tuned, tokenizer, [prompt], format=PromptFormat(), max_new_tokens=8)[0] for prompt in prompts]
    together = generate_batch(tuned, tokenizer, prompts, format=PromptFormat(), max_new_tokens=8)
    assert [answer.text for answer in together] == [answer.text for answer in apart]
    assert [answer.logprob for answer in together] == pytest.approx([answer.logprob for answer in apart], abs=1e-4)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "head of its own"])
def test_exported_as_one_model_it_needs_nothing_else_and_answers_as_trained(tied: bool, ask, models, tmp_path):
    model = models("llama", tied)
    request = ask("output", tied=tied)
    adapter = train.run(request, Recorder()).adapter
    (tmp_path / "export").mkdir()
    asked = ExportRequest(
        output=str(tmp_path / "export"),
        model=model.model,
        trained=adapter,
        prompts=request.train,
        formats=("adapter", "merged"),
        name="triage",
        format=PromptFormat(),
        threads=1,
    )
    result = export(asked, Recorder())
    assert result.merge is not None
    assert result.merge.largest_difference < 1e-3 < result.merge.effect
    merged = Path(result.folder) / "merged"
    assert load_tokenizer(merged).convert_tokens_to_ids(list(model.tokens)) == list(model.tokens.values())
    torch.testing.assert_close(logits(load_model(merged)), logits(load_model(model.model, adapter=adapter)), rtol=0, atol=1e-4)
    kept = load_file(merged / "model.safetensors")
    before = load_file(Path(model.model) / "model.safetensors")
    others = [row for row in range(model.rows) if row not in model.tokens.values()]
    for name in {"model.embed_tokens.weight", "lm_head.weight"} & kept.keys():
        assert torch.equal(kept[name][others], before[name][others])


def test_models_in_which_rows_cannot_learn_are_refused_before_the_first_step():
    with pytest.raises(HeadWithBias, match=r"the head of PhiForCausalLM has a bias, .* write technique: {type: full}"):
        adapted(built("biased head"))
    with pytest.raises(NoRoomForTokens, match=r"got 300, and .* has rows for tokens 0 to 299"):
        adapted(built("tied head"), (7, 300))


def test_full_tuning_needs_no_rows_of_its_own(models, tmp_path, monkeypatch):
    model = models("llama", True)
    base = load_base(model.model, technique=Technique(type="full"), placement=Placement())
    assert not row_parameters(base)
    run = trained(Path(model.model), Technique(type="full"), tmp_path / "output", monkeypatch, rows=TAGGED, learning_rate=1e-3)
    row = next(iter(model.tokens.values()))
    assert not torch.equal(load_model(run.result.adapter).get_input_embeddings().weight[row], base.get_input_embeddings().weight[row])
