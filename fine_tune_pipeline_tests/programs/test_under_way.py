"""Rows that join a batch while it is written get the answers that they would have had alone, and so do those that were there before."""

import random
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fine_tune_pipeline.programs.decoding import generate_batch
from fine_tune_pipeline.programs.models import load_model, load_tokenizer
from fine_tune_pipeline.programs.prompts import encode
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.under_way import Newcomers
from fine_tune_pipeline.programs.written_rows import Draw, Manner
from fine_tune_pipeline_tests.programs.test_predict import messages, restless_model

TOKENS = 20


@pytest.fixture(scope="module", params=["gemma3", "llama"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Gemma has layers with a sliding window of 16 tokens: shorter than most rows."""
    folder: Path = restless_model(tmp_path_factory.mktemp("base"), architecture=request.param)
    found = load_model(folder)
    assert isinstance(found, PreTrainedModel)
    return found, load_tokenizer(folder)


@pytest.mark.parametrize("seed", range(4))
def test_answers_do_not_depend_on_who_joins_when(model: tuple[PreTrainedModel, PreTrainedTokenizerBase], seed: int):
    base, tokenizer = model
    chance = random.Random(seed)
    prompts = [encode(text, None, tokenizer=tokenizer, format=PromptFormat()).prompt_ids for text in messages(12, seed=seed)]
    most = [chance.randint(1, TOKENS) for _ in prompts]
    drawn = [chance.random() < 0.3 for _ in prompts]

    def manner(place: int) -> Manner:
        return Manner(most[place], draw=Draw(temperature=1.0, top_p=1.0, seed=place) if drawn[place] else None)

    waiting, open_rows = list(range(3, len(prompts))), []

    def join(rows: int) -> Newcomers | None:
        open_rows.append(rows)
        if not waiting or (rows and chance.random() < 0.5):
            return None
        count = chance.randint(1, 3)
        new, waiting[:] = waiting[:count], waiting[count:]
        return Newcomers([prompts[place] for place in new], [manner(place) for place in new])

    found = generate_batch(
        base, tokenizer, prompts[:3], format=PromptFormat(), max_new_tokens=TOKENS, manners=[manner(place) for place in range(3)], join=join
    )
    assert not waiting
    assert max(open_rows) > 3
    for place, (prompt, answer) in enumerate(zip(prompts, found, strict=True)):
        [alone] = generate_batch(base, tokenizer, [prompt], format=PromptFormat(), max_new_tokens=TOKENS, manners=[manner(place)])
        assert (answer.text, answer.tokens, answer.finished) == (alone.text, alone.tokens, alone.finished)
        assert answer.logprob == pytest.approx(alone.logprob, abs=1e-4)


def test_columns_that_no_row_needs_any_more_are_let_go(model: tuple[PreTrainedModel, PreTrainedTokenizerBase]):
    base, tokenizer = model
    widths: list[int] = []
    watch = base.base_model.register_forward_pre_hook(
        lambda _, __, options: widths.append(options["attention_mask"].shape[1]), with_kwargs=True
    )
    long, short = torch.arange(20, 120).tolist(), [20, 21, 22]
    waiting = [short]

    def join(rows: int) -> Newcomers | None:
        # The long row has left by then.
        return Newcomers([waiting.pop()], [Manner(3)]) if waiting and rows == 1 else None

    generate_batch(base, tokenizer, [long, short], format=PromptFormat(), max_new_tokens=9, manners=[Manner(2), Manner(9)], join=join)
    watch.remove()
    assert max(widths) == 101
    assert widths[-1] < 20
