"""The loss on labelled positions against the loss that each architecture computes for itself from whole logits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from fine_tune_pipeline.programs.training.batches import Collate, Row, as_records
from fine_tune_pipeline.programs.training.flat_rows import use_rows_attention
from fine_tune_pipeline.programs.training.losses import batch_loss, batch_nll

SHAPE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
}
EXPERTS = {"num_experts_per_tok": 2, "router_aux_loss_coef": 0.5}
WINDOWS = {"head_dim": 8, "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}

ARCHITECTURES: dict[str, Callable[[], PreTrainedModel]] = {
    "tied head": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "head of its own": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=False)),
    "biased head": lambda: PhiForCausalLM(PhiConfig(**SHAPE, tie_word_embeddings=False)),
    "divided logits": lambda: GraniteForCausalLM(GraniteConfig(**SHAPE, logits_scaling=3.0)),
    "scaled logits": lambda: CohereForCausalLM(CohereConfig(**SHAPE, logit_scale=0.3)),
    "capped logits and windows": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SHAPE, **WINDOWS, final_logit_softcapping=2.0)),
    "experts": lambda: MixtralForCausalLM(MixtralConfig(**SHAPE, **EXPERTS, num_local_experts=4)),
    "experts and shared ones": lambda: Qwen2MoeForCausalLM(
        Qwen2MoeConfig(**SHAPE, **EXPERTS, num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=16)
    ),
}
"""One for each way in which a head differs from `hidden @ weight.T`, and the mixtures of experts."""

LENGTHS = (9, 25, 3, 9, 14)


def built(name: str) -> PreTrainedModel:
    """Random weights, far enough from zero that every part of the head matters; the same at each call."""
    torch.manual_seed(0)
    model = ARCHITECTURES[name]()
    for path, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3, mean=1.0 if "norm" in path else 0.0)
    return model.train()


def rows() -> list[dict[str, Any]]:
    """Of some lengths; the first third of each is a prompt."""
    draw = torch.Generator().manual_seed(0)
    made = []
    for place, length in enumerate(LENGTHS):
        ids = torch.randint(3, 300, (length,), generator=draw).tolist()
        made.append(Row(str(place), ids, [-100] * (length // 3) + ids[length // 3 :]))
    return as_records(made)


def labelled() -> int:
    return sum(sum(label != -100 for label in row["labels"][1:]) for row in rows())


def own_loss(model: PreTrainedModel, **options: object) -> torch.Tensor:
    """What transformers computes: the mean over labelled tokens, from whole logits of padded rows."""
    batch = Collate(pad_id=0, flat=False)(rows())
    loss = model(**{name: value for name, value in batch.items() if name != "row"}, use_cache=False, **options).loss
    assert isinstance(loss, torch.Tensor)
    return loss


def ours(model: PreTrainedModel, *, flat: bool) -> torch.Tensor:
    """The mean, by rows end to end or padded."""
    assert not flat or use_rows_attention(model)
    return batch_nll(model, Collate(pad_id=0, flat=flat)(rows())) / labelled()


def assert_same_gradients(got: PreTrainedModel, wanted: PreTrainedModel, *, tolerance: float) -> None:
    theirs = {name: parameter.grad for name, parameter in wanted.named_parameters() if parameter.grad is not None}
    mine = {name: parameter.grad for name, parameter in got.named_parameters() if parameter.grad is not None}
    assert mine.keys() == theirs.keys()
    for name, gradient in mine.items():
        assert (gradient - theirs[name]).norm() <= tolerance * theirs[name].norm() + 1e-9, name


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "padded"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_loss_and_gradients_are_the_models_own(name: str, flat: bool):
    theirs, mine = built(name), built(name)
    wanted = own_loss(theirs)
    wanted.backward()
    got = ours(mine, flat=flat)
    got.backward()
    assert got.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert_same_gradients(mine, theirs, tolerance=1e-3)


@pytest.mark.parametrize("name", ["head of its own", "experts"])
@pytest.mark.parametrize("micro", [1, 2, 3])
def test_micro_batches_add_up_to_the_whole(name: str, micro: int):
    whole, parts = built(name), built(name)
    ours(whole, flat=True).backward()
    use_rows_attention(parts)
    collate = Collate(pad_id=0, flat=True)
    for first in range(0, len(LENGTHS), micro):
        (batch_nll(parts, collate(rows()[first : first + micro])) / labelled()).backward()
    assert_same_gradients(parts, whole, tolerance=1e-3)


@pytest.mark.parametrize("name", ["tied head", "biased head", "capped logits and windows"])
def test_under_autocast_the_loss_is_the_models_own_but_for_bfloat16(name: str):
    theirs, mine = built(name), built(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted, got = own_loss(theirs), ours(mine, flat=True)
    wanted.backward()
    got.backward()
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(wanted.item(), rel=2e-2)
    exact = built(name)
    own_loss(exact).backward()
    # Both are wrong by rounding; ours may not be much worse than theirs.
    assert distance(mine, exact) <= 1.5 * distance(theirs, exact) + 1e-3


def distance(one: PreTrainedModel, other: PreTrainedModel) -> float:
    """Of the gradients, relative to the other's."""
    mine, theirs = (
        torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]) for model in (one, other)
    )
    return float((mine - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("name", ["experts", "experts and shared ones"])
def test_the_routers_own_loss_is_left_out(name: str):
    model = built(name)
    with torch.no_grad():
        plain = own_loss(model, output_router_logits=False).item()
        routed = own_loss(model, output_router_logits=True).item()
        model.config.output_router_logits = True
        got = ours(model, flat=True).item()
    assert routed - plain > 0.1
    assert got == pytest.approx(plain, rel=1e-4)


def test_a_smoothed_batch_is_trained_on_the_smoothed_loss_and_reported_by_the_plain_one():
    model = built("capped logits and windows")
    batch = Collate(pad_id=0, flat=False)(rows())
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
        wanted, plain = (
            torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum", label_smoothing=smoothing
            ).item()
            for smoothing in (0.1, 0.0)
        )
        got = batch_loss(model, batch, label_smoothing=0.1)
    assert got.trained.item() == pytest.approx(wanted, rel=1e-5)
    assert got.nll.item() == pytest.approx(plain, rel=1e-5)
