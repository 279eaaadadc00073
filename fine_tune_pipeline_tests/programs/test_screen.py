"""Against whole logits in float64; with hidden states whose likeliest tokens lie so near to each other that the copy alone would err."""

from pathlib import Path

import pytest
import torch

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.programs import bfloat16_units
from fine_tune_pipeline.programs import screen as screening
from fine_tune_pipeline.programs.decoding import Generated, generate_batch
from fine_tune_pipeline.programs.head import TILE_TOKENS, Head, OwnRows
from fine_tune_pipeline.programs.models import load_model, load_tokenizer
from fine_tune_pipeline.programs.prompts import encode
from fine_tune_pipeline.programs.screen import LEAST_NUMBERS, Screen
from fine_tune_pipeline_tests.programs.test_predict import PLAIN, messages, restless_model
from fine_tune_pipeline_tests.tiny import Architecture

VOCABULARY = 2 * TILE_TOKENS + 123
WIDTH = 40
BORDERS = [0, TILE_TOKENS - 1, TILE_TOKENS, 2 * TILE_TOKENS, VOCABULARY - 1]


def near_ties(*, count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states, and a head in which every token has nine others that are like it but for a thousandth."""
    draw = torch.Generator().manual_seed(0)
    kinds = torch.randn(VOCABULARY // 10 + 1, WIDTH, generator=draw)
    weight = kinds.repeat(10, 1)[:VOCABULARY] + 1e-3 * torch.randn(VOCABULARY, WIDTH, generator=draw)
    weight[BORDERS] *= 3
    hidden = torch.cat([weight[BORDERS], 2 * torch.randn(count, WIDTH, generator=draw)])
    return hidden, weight


def expected(hidden: torch.Tensor, weight: torch.Tensor, *, scale: float, softcap: float | None) -> tuple[torch.Tensor, torch.Tensor]:
    logits = scale * (hidden.double() @ weight.double().t())
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logprobs, ids = logits.log_softmax(dim=-1).max(dim=-1)
    return ids, logprobs


@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.25, None), (1.0, 50.0), (0.5, 30.0)])
@pytest.mark.parametrize("rows", [1, 3, 65])
def test_the_likeliest_token_is_that_of_whole_logits(rows: int, scale: float, softcap: float | None):
    hidden, weight = near_ties()
    wanted, logprobs_wanted = expected(hidden[:rows], weight, scale=scale, softcap=softcap)
    ids, logprobs = Screen(Head(weight, None, scale, softcap)).likeliest(hidden[:rows])
    assert ids.tolist() == wanted.tolist()
    torch.testing.assert_close(logprobs.double(), logprobs_wanted, rtol=2e-3, atol=2e-3)


def test_the_copy_alone_would_name_other_tokens():
    hidden, weight = near_ties()
    wanted, _ = expected(hidden, weight, scale=1.0, softcap=None)
    coarse = (hidden.bfloat16() @ weight.bfloat16().t()).float().argmax(dim=1)
    assert (coarse != wanted).sum() > 10


def test_the_errors_of_the_copy_stay_within_the_bound_that_names_the_candidates():
    hidden, weight = near_ties(count=200)
    exact = hidden.double() @ weight.double().t()
    coarse = (hidden.bfloat16() @ weight.bfloat16().t()).double()
    lowest = Screen(Head(weight))._least(hidden, coarse.amax(dim=1).float())
    of_the_likeliest = coarse.gather(1, exact.argmax(dim=1, keepdim=True))[:, 0]
    assert (of_the_likeliest >= lowest).all()
    # Not so low that everything would be looked at.
    assert ((coarse >= lowest[:, None]).double().sum(dim=1).median()) < 0.05 * VOCABULARY


def test_of_equal_logits_the_first_token_is_taken():
    weight = torch.ones(VOCABULARY, WIDTH)
    weight[:7] = 0.5
    ids, logprobs = Screen(Head(weight)).likeliest(torch.ones(3, WIDTH))
    assert ids.tolist() == [7, 7, 7]
    torch.testing.assert_close(logprobs, torch.full((3,), -torch.tensor(float(VOCABULARY - 7)).log().item()), rtol=1e-4, atol=1e-4)


def test_few_rows_after_many_do_not_see_the_products_of_those_before():
    hidden, weight = near_ties()
    screen = Screen(Head(weight))
    screen.likeliest(hidden)
    last = hidden[-2:]
    ids, logprobs = screen.likeliest(last)
    fresh_ids, fresh_logprobs = Screen(Head(weight)).likeliest(last)
    assert ids.tolist() == fresh_ids.tolist()
    assert torch.equal(logprobs, fresh_logprobs)


def test_products_too_large_for_exp_give_a_finite_logprob():
    hidden, weight = near_ties()
    wanted, logprobs_wanted = expected(1e3 * hidden, weight, scale=1.0, softcap=None)
    ids, logprobs = Screen(Head(weight)).likeliest(1e3 * hidden)
    assert ids.tolist() == wanted.tolist()
    torch.testing.assert_close(logprobs.double(), logprobs_wanted, rtol=1e-2, atol=1e-2)


@pytest.fixture
def few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screening, "MOST_CANDIDATES", 1)


@pytest.mark.usefixtures("few_candidates")
def test_with_too_many_candidates_all_tokens_are_looked_at_exactly():
    hidden, weight = near_ties()
    wanted, logprobs_wanted = expected(hidden, weight, scale=1.0, softcap=None)
    ids, logprobs = Screen(Head(weight)).likeliest(hidden)
    assert ids.tolist() == wanted.tolist()
    torch.testing.assert_close(logprobs.double(), logprobs_wanted, rtol=1e-5, atol=1e-5)


def test_a_head_that_learned_since_needs_another_copy():
    _, weight = near_ties()
    screen = Screen(Head(weight))
    assert screen.of(Head(weight))
    assert not screen.of(Head(weight.clone()))
    weight[3] += 1
    assert not screen.of(Head(weight))


def test_only_a_large_plain_head_in_float32_gets_a_copy():
    large = torch.empty(LEAST_NUMBERS // 64, 64)
    assert Screen.fits(Head(large))
    assert Screen.fits(Head(large, None, 0.5, 30.0))
    assert not Screen.fits(Head(large[1:]))
    assert not Screen.fits(Head(large.bfloat16()))
    assert not Screen.fits(Head(large, torch.zeros(len(large))))
    assert not Screen.fits(Head(large, None, -1.0))
    assert not Screen.fits(Head(large, own=OwnRows(large[:1], (3,))))


@pytest.fixture
def screened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every head gets a copy, whatever the machine; how many rows each look had."""
    looks: list[int] = []
    look = Screen.likeliest

    def counted(screen: Screen, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        looks.append(hidden.shape[0])
        return look(screen, hidden)

    monkeypatch.setattr(screening, "LEAST_NUMBERS", 0)
    monkeypatch.setattr(bfloat16_units, "here", lambda: True)
    monkeypatch.setattr(Screen, "likeliest", counted)
    return looks


@pytest.mark.parametrize("architecture", ["gemma3", "llama"])
def test_answers_are_those_of_the_whole_head(architecture: Architecture, tmp_path: Path, request: pytest.FixtureRequest):
    folder = restless_model(tmp_path, architecture=architecture)
    tokenizer, model = load_tokenizer(folder), load_model(folder)
    prompts = [encode(Asked(text), None, tokenizer=tokenizer, format=PLAIN).prompt_ids for text in messages(12)]

    def answers(some: list[list[int]]) -> list[Generated]:
        return generate_batch(model, tokenizer, some, format=PLAIN, max_new_tokens=16)

    whole = [answers([prompt])[0] for prompt in prompts]
    looks = request.getfixturevalue("screened")
    together, alone = answers(prompts), [answers([prompt])[0] for prompt in prompts]
    assert [answer.text for answer in together] == [answer.text for answer in whole]
    assert [answer.text for answer in alone] == [answer.text for answer in whole]
    assert [answer.logprob for answer in together] == pytest.approx([answer.logprob for answer in whole], abs=2e-3)
    # One row alone is looked at in the same way.
    assert looks[0] == 12
    assert looks[-1] == 1
