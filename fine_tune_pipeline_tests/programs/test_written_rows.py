"""Rows of a batch, each in its manner: draws follow the probabilities, and a row whose client has left is written no further."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fine_tune_pipeline.programs.decoding import generate_batch
from fine_tune_pipeline.programs.models import load_model, load_tokenizer
from fine_tune_pipeline.programs.prompts import encode
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.token_scores import TokenScore
from fine_tune_pipeline.programs.written_rows import Draw, Generated, Manner, nucleus
from fine_tune_pipeline_tests.programs.test_predict import restless_model
from fine_tune_pipeline_tests.served import PROMPTS

TOKENS = 8
LOGITS = [0.0, 2.0, -1.0, -math.inf, 1.0, 1.9]


def probabilities(temperature: float, top_p: float) -> list[float]:
    """By the definition, without torch: fewest likeliest tokens whose sum reaches `top_p`, then scaled to one."""
    weights = [math.exp(logit / temperature) for logit in LOGITS]
    shares = [weight / sum(weights) for weight in weights]
    kept, total = set(), 0.0
    for place in sorted(range(len(shares)), key=lambda place: -shares[place]):
        if total >= top_p:
            break
        kept.add(place)
        total += shares[place]
    return [share / total if place in kept else 0.0 for place, share in enumerate(shares)]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.7), (1.0, 0.9), (0.05, 1.0), (1.0, 1e-6)])
def test_draws_follow_the_probabilities(temperature: float, top_p: float):
    draw = Draw(temperature=temperature, top_p=top_p, seed=0)
    counts = [0] * len(LOGITS)
    for _ in range(3000):
        counts[draw.token(torch.tensor(LOGITS))] += 1
    expected = [3000 * share for share in probabilities(temperature, top_p)]
    assert all(count == 0 for count, wanted in zip(counts, expected, strict=True) if wanted == 0)
    seen = [(count, wanted) for count, wanted in zip(counts, expected, strict=True) if wanted > 1]
    if len(seen) > 1:
        observed, wanted = zip(*seen, strict=True)
        assert chisquare(observed, [each * sum(observed) / sum(wanted) for each in wanted]).pvalue > 1e-3


def test_the_nucleus_of_a_flat_vocabulary_goes_beyond_the_first_look():
    probs = torch.full((2000,), 1 / 2000, dtype=torch.float64)
    assert len(nucleus(probs, 0.9)) == pytest.approx(1800, abs=1)
    assert nucleus(probs, 0.9).tolist() == sorted(nucleus(probs, 0.9).tolist())


def test_the_same_seed_draws_the_same_tokens():
    def drawn(seed: int) -> list[int]:
        draw = Draw(temperature=1.0, top_p=1.0, seed=seed)
        return [draw.token(torch.tensor(LOGITS)) for _ in range(20)]

    assert drawn(1) == drawn(1) != drawn(2)


class Leaves:
    """Listens to the first pieces only."""

    streams = True

    def __init__(self, *, after: int) -> None:
        self.pieces: list[str] = []
        self.answers: list[object] = []
        self._after = after

    @property
    def stays(self) -> bool:
        return len(self.pieces) < self._after

    def wrote(self, text: str, scores: Sequence[TokenScore]) -> None:
        self.pieces.append(text)

    def done(self, answer: object) -> None:
        self.answers.append(answer)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    folder: Path = restless_model(tmp_path_factory.mktemp("base"), architecture="llama")
    found = load_model(folder)
    assert isinstance(found, PreTrainedModel)
    return found, load_tokenizer(folder)


def answers(model: tuple[PreTrainedModel, PreTrainedTokenizerBase], manners: Sequence[Manner] | None) -> list[Generated]:
    base, tokenizer = model
    ids = [encode(prompt, None, tokenizer=tokenizer, format=PromptFormat()).prompt_ids for prompt in PROMPTS]
    return generate_batch(base, tokenizer, ids, format=PromptFormat(), max_new_tokens=TOKENS, manners=manners)


def heard(model: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> tuple[list[Generated], int, int]:
    """All answers, the place of one that comes in several pieces, and the rows that all forward passes read together."""
    # The first time, the model is tried out.
    answers(model, None)
    rows: list[int] = []
    watch = model[0].base_model.register_forward_pre_hook(lambda _, __, options: rows.append(len(options["input_ids"])), with_kwargs=True)
    ears = [Leaves(after=99) for _ in PROMPTS]
    found = answers(model, [Manner(TOKENS, ear=ear) for ear in ears])
    watch.remove()
    return found, max(range(len(ears)), key=lambda place: len(ears[place].pieces)), sum(rows)


def test_a_row_whose_client_leaves_is_written_no_further_and_the_others_are(model: tuple[PreTrainedModel, PreTrainedTokenizerBase]):
    wanted, place, all_rows = heard(model)
    rows: list[int] = []
    watch = model[0].base_model.register_forward_pre_hook(lambda _, __, options: rows.append(len(options["input_ids"])), with_kwargs=True)
    ear = Leaves(after=2)
    found = answers(model, [Manner(TOKENS, ear=ear if index == place else None) for index in range(len(PROMPTS))])
    watch.remove()
    assert [row.text for index, row in enumerate(found) if index != place] == [
        row.text for index, row in enumerate(wanted) if index != place
    ]
    assert found[place].tokens < wanted[place].tokens
    assert wanted[place].text.startswith("".join(ear.pieces))
    assert ear.answers == []
    assert sum(rows) == all_rows - (wanted[place].tokens - found[place].tokens)


def test_a_listener_hears_the_whole_answer_when_its_row_ends_before_the_batch_does(
    model: tuple[PreTrainedModel, PreTrainedTokenizerBase],
):
    steps: list[int] = []
    ear = Leaves(after=99)
    watch = model[0].base_model.register_forward_pre_hook(lambda _, __, ___: steps.append(len(ear.answers)), with_kwargs=True)
    found = answers(model, [Manner(3, ear=ear), *[Manner(TOKENS)] * (len(PROMPTS) - 1)])
    watch.remove()
    assert ear.answers == [found[0]]
    assert steps == [0, 0, 0, *[1] * (TOKENS - 3)]
    assert "".join(ear.pieces) == found[0].text
