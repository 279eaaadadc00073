import pytest
import torch

from fine_tune_pipeline.programs.head import TILE_TOKENS, Head, likeliest

VOCABULARY = 2 * TILE_TOKENS + 123
WIDTH = 24
BORDERS = [0, TILE_TOKENS - 1, TILE_TOKENS, 2 * TILE_TOKENS, VOCABULARY - 1]


def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states near the rows of the tokens where tiles begin and end, where an index that is off by one would show; and others."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(VOCABULARY, WIDTH, generator=draw)
    weight[BORDERS] *= 3
    bias = torch.randn(VOCABULARY, generator=draw)
    hidden = torch.cat([weight[BORDERS] * 0.05, torch.randn(12, WIDTH, generator=draw) * 0.1])
    return hidden, weight, bias


@pytest.mark.parametrize("with_bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.25, None), (1.0, 5.0), (0.5, 3.0)])
def test_the_likeliest_token_and_its_logprob_are_those_of_whole_logits(scale: float, softcap: float | None, with_bias: bool):
    hidden, weight, bias = tensors()
    logits = hidden.double() @ weight.double().t()
    logits = scale * (logits + bias.double() if with_bias else logits)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    wanted, wanted_ids = logits.log_softmax(dim=-1).max(dim=-1)
    ids, logprobs = likeliest(hidden, Head(weight, bias if with_bias else None, scale, softcap))
    assert ids.tolist() == wanted_ids.tolist()
    assert ids[: len(BORDERS)].tolist() == BORDERS
    torch.testing.assert_close(logprobs.double(), wanted, rtol=1e-5, atol=1e-5)


def test_of_equal_logits_the_first_token_is_taken():
    weight = torch.ones(VOCABULARY, WIDTH)
    ids, logprobs = likeliest(torch.ones(3, WIDTH), Head(weight))
    assert ids.tolist() == [0, 0, 0]
    torch.testing.assert_close(logprobs, torch.full((3,), -torch.tensor(float(VOCABULARY)).log().item()))


def test_logits_too_large_for_exp_give_a_finite_logprob():
    hidden, weight, _ = tensors()
    wanted, wanted_ids = (1e4 * hidden.double() @ weight.double().t()).log_softmax(dim=-1).max(dim=-1)
    ids, logprobs = likeliest(1e4 * hidden, Head(weight))
    assert ids.tolist() == wanted_ids.tolist()
    torch.testing.assert_close(logprobs.double(), wanted, rtol=1e-4, atol=1e-4)
