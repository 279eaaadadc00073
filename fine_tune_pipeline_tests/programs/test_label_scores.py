"""Scores of a closed list of answers, beside one full forward pass for each answer."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from fine_tune_pipeline.programs.answering import answering
from fine_tune_pipeline.programs.decoding import PromptTooLong, shared_prefix
from fine_tune_pipeline.programs.decoding_requests import LabelDecoding
from fine_tune_pipeline.programs.head import base_of
from fine_tune_pipeline.programs.label_scores import _TREES_FIT, label_logprobs
from fine_tune_pipeline.programs.label_tree import SameAnswers, label_tree
from fine_tune_pipeline.programs.models import load_model, load_tokenizer
from fine_tune_pipeline.programs.prompts import encode
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.written_rows import Manner
from fine_tune_pipeline_tests.programs.test_predict import ContraryLlama, messages, restless_model, shots
from fine_tune_pipeline_tests.tiny import SLIDING_WINDOW, Architecture, random_adapter, tiny_model

PLAIN = PromptFormat(instruction="Name the intent.")
LABELS = (
    '{"intent": "fees", "urgency": "low"}',
    '{"intent": "fees", "urgency": "high"}',
    '{"intent": "fraud", "urgency": "low"}',
    '{"intent": "lost card on the train this morning, again", "urgency": "high"}',
    "lost",
    "lost_card",
)


@pytest.fixture(scope="module", params=["gemma3", "llama", "qwen2_moe"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return restless_model(tmp_path_factory.mktemp("base"), architecture=request.param)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(folder)


def encoded(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, worked: int = 0, format: PromptFormat = PLAIN) -> list[list[int]]:
    return [encode(text, None, tokenizer=tokenizer, format=format, shots=shots(worked)).prompt_ids for text in texts]


def one_by_one(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], *, format: PromptFormat = PLAIN
) -> torch.Tensor:
    """The sum of the log-probabilities of each label's tokens and its end token, in float64, by one pass over prompt and label."""
    rows = []
    for prompt in prompts:
        row = []
        for label in LABELS:
            answer = encode("", label, tokenizer=tokenizer, format=format).completion_ids
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([prompt + answer])).logits[0].double().log_softmax(dim=-1)
            row.append(sum(logits[len(prompt) + place - 1, token].item() for place, token in enumerate(answer)))
        rows.append(row)
    return torch.tensor(rows)


@pytest.mark.parametrize("adapted", [False, True], ids=["base", "adapter"])
def test_scores_of_all_labels_equal_a_full_pass_for_each(adapted: bool, folder: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path):
    if adapted and "qwen" in AutoConfig.from_pretrained(folder).model_type:
        adapter = None
    else:
        adapter = random_adapter(tmp_path, base=folder) if adapted else None
    model = load_model(folder, adapter=adapter)
    prompts = encoded(messages(5), tokenizer)
    assert max(map(len, prompts)) > 2 * SLIDING_WINDOW + min(map(len, prompts))
    found = label_logprobs(model, prompts, tree=label_tree(LABELS, tokenizer=tokenizer, format=PLAIN))
    assert _TREES_FIT[base_of(model)], "the tree, and not what stands in for it, is looked at here"
    assert torch.allclose(found, one_by_one(model, tokenizer, prompts), atol=2e-3)


def test_a_shared_prefix_changes_no_score(folder: Path, tokenizer: PreTrainedTokenizerBase):
    model = load_model(folder)
    prompts = encoded(messages(4), tokenizer, worked=3)
    prefix = shared_prefix(model, prompts)
    assert prefix is not None
    found = label_logprobs(model, prompts, tree=label_tree(LABELS, tokenizer=tokenizer, format=PLAIN), prefix=prefix)
    assert torch.allclose(found, one_by_one(model, tokenizer, prompts), atol=2e-3)


def test_eager_attention_gives_the_same_scores(tmp_path: Path):
    folder = restless_model(tmp_path, architecture="gemma3")
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    model.set_attn_implementation("eager")
    prompts = encoded(messages(3), tokenizer)
    found = label_logprobs(model, prompts, tree=label_tree(LABELS, tokenizer=tokenizer, format=PLAIN))
    assert torch.allclose(found, one_by_one(model, tokenizer, prompts), atol=2e-3)


def test_an_architecture_with_logits_of_its_own_is_scored_by_them(tmp_path: Path):
    folder = restless_model(tmp_path, architecture="llama")
    model, tokenizer = ContraryLlama.from_pretrained(folder).eval(), load_tokenizer(folder)
    prompts = encoded(messages(3), tokenizer)
    found = label_logprobs(model, prompts, tree=label_tree(LABELS, tokenizer=tokenizer, format=PLAIN))
    assert torch.allclose(found, one_by_one(model, tokenizer, prompts), atol=2e-3)


def test_a_model_that_no_tree_fits_is_asked_answer_by_answer(tmp_path: Path):
    folder = restless_model(tmp_path, architecture="llama")
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    _TREES_FIT[base_of(model)] = False
    prompts = encoded(messages(2), tokenizer)
    found = label_logprobs(model, prompts, tree=label_tree(LABELS, tokenizer=tokenizer, format=PLAIN))
    assert torch.allclose(found, one_by_one(model, tokenizer, prompts), atol=2e-3)


@pytest.mark.parametrize("architecture", ["gemma3", "llama"])
def test_chat_answers_end_with_their_own_end_token(architecture: Architecture, tmp_path: Path):
    folder, chat = tiny_model(tmp_path, architecture=architecture, chat=True), PromptFormat(style="chat")
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    prompts = encoded(["fees", "my card"], tokenizer, format=chat)
    found = label_logprobs(model, prompts, tree=label_tree(LABELS, tokenizer=tokenizer, format=chat))
    assert torch.allclose(found, one_by_one(model, tokenizer, prompts, format=chat), atol=2e-3)


def test_the_answer_is_the_likeliest_label_with_the_scores_of_all(folder: Path, tokenizer: PreTrainedTokenizerBase):
    model = load_model(folder)
    prompts = encoded(messages(6), tokenizer)
    way = answering(LabelDecoding(labels=LABELS), tokenizer=tokenizer, config=model.config, format=PLAIN)
    wanted = one_by_one(model, tokenizer, prompts)
    answers = way.answers(model, prompts, max_new_tokens=3)
    assert [answer.text for answer in answers] == [LABELS[place] for place in wanted.argmax(dim=1)]
    for answer, scores in zip(answers, wanted, strict=True):
        assert answer.finished
        assert answer.label_logprobs == pytest.approx(dict(zip(LABELS, scores.tolist(), strict=True)), abs=2e-3)
        ids = encode("", answer.text, tokenizer=tokenizer, format=PLAIN).completion_ids
        assert answer.tokens == len(ids)
        assert answer.logprob == pytest.approx(scores.max().item() / len(ids), abs=2e-3)


def test_what_labels_share_stands_in_the_tree_once(tokenizer: PreTrainedTokenizerBase):
    tree = label_tree(LABELS, tokenizer=tokenizer, format=PLAIN)
    ids = [tuple(encode("", label, tokenizer=tokenizer, format=PLAIN).completion_ids) for label in LABELS]
    assert tree.nodes == len({row[:length] for row in ids for length in range(1, len(row))})
    assert len(tree.edges) == len({row[:length] for row in ids for length in range(1, len(row) + 1)})
    assert tree.longest == max(map(len, ids))
    assert [tuple(tree.edges[edge][1] for edge in path) for path in tree.paths] == ids


def test_two_labels_of_the_same_tokens_are_named(tokenizer: PreTrainedTokenizerBase):
    with pytest.raises(SameAnswers, match="'fees' and 'fees' are the same tokens"):
        label_tree(("fees", "lost", "fees"), tokenizer=tokenizer, format=PLAIN)


def test_a_prompt_that_leaves_no_room_for_the_longest_label_is_refused(folder: Path, tokenizer: PreTrainedTokenizerBase):
    model = load_model(folder)
    way = answering(LabelDecoding(labels=LABELS), tokenizer=tokenizer, config=model.config, format=PLAIN)
    with pytest.raises(PromptTooLong, match="1020 tokens"):
        way.answers(model, [[5] * 1020], max_new_tokens=1)


def test_the_scores_of_a_labels_tokens_are_those_of_the_plain_logits(folder: Path, tokenizer: PreTrainedTokenizerBase):
    model, prompts = load_model(folder), encoded(messages(3), tokenizer)
    way = answering(LabelDecoding(labels=LABELS), tokenizer=tokenizer, config=model.config, format=PLAIN)
    manners = [Manner(40, scores=3), Manner(40), Manner(40, scores=0)]
    first, second, third = way.answers(model, prompts, max_new_tokens=40, manners=manners)
    assert second.scores is None
    assert third.scores is not None
    assert {score.top for score in third.scores} == {()}
    starts = [encode("", label, tokenizer=tokenizer, format=PLAIN).completion_ids for label in LABELS]
    ids = encode("", first.text, tokenizer=tokenizer, format=PLAIN).completion_ids
    with torch.inference_mode():
        logprobs = model(input_ids=torch.tensor([prompts[0] + ids])).logits[0].log_softmax(dim=-1)[len(prompts[0]) - 1 :]
    assert first.scores is not None
    assert [score.token for score in first.scores] == [tokenizer.decode([token]) for token in ids[:-1]]
    for place, (score, token) in enumerate(zip(first.scores, ids, strict=False)):
        assert score.logprob == pytest.approx(logprobs[place, token].item(), abs=2e-3)
        listed = {other[place] for other in starts if other[:place] == ids[:place]}
        likeliest = sorted(listed, key=lambda other: -logprobs[place, other].item())[:3]
        assert [word for word, _ in score.top] == [tokenizer.decode([other]) for other in likeliest]
        assert [value for _, value in score.top] == pytest.approx([logprobs[place, other].item() for other in likeliest], abs=2e-3)
