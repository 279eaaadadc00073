"""Questions about documents: the quote decides."""

import json

import pytest
from upath import UPath

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.replies import Replies
from fine_tune_pipeline.guide.dataset.more.chat_model import Chat
from fine_tune_pipeline.guide.dataset.more.paraphrase import paraphrased
from fine_tune_pipeline.guide.dataset.more.questions import Passage, asked_about, chosen_passages, read_answer
from fine_tune_pipeline.spec.more import ChatModel
from fine_tune_pipeline_tests.guide.dataset.make import example
from fine_tune_pipeline_tests.guide.dataset.model_server import model_server, said

PASSAGE = Passage("terms-3", "Cards are replaced within five\nworking days. A replacement costs 10 euros.", "terms.pdf, page 3")
GOOD = {"question": "How long does a new card take?", "answer": "Five working days.", "quote": "replaced within five working days"}


def test_a_question_with_a_quote_from_the_passage_is_an_example():
    [made] = read_answer(json.dumps([GOOD]), PASSAGE)
    assert (made.prompt, made.completion, made.source) == (GOOD["question"], GOOD["answer"], "made: question")
    assert made.metadata == {"synthetic": "question", "made_from": "terms-3", "quote": GOOD["quote"], "place": "terms.pdf, page 3"}


def test_json_in_a_fence_is_read():
    assert isinstance(read_answer(f"```json\n{json.dumps([GOOD])}\n```", PASSAGE)[0], Example)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (json.dumps([{**GOOD, "quote": "replaced within six working days"}]), "quote_not_in_source"),
        (json.dumps([{**GOOD, "quote": "Replaced within five working days"}]), "quote_not_in_source"),
        (json.dumps([{**GOOD, "quote": "replaced … days, for sure"}]), "quote_not_in_source"),
        (json.dumps([{**GOOD, "quote": "Cards"}]), "quote_too_short"),
        (json.dumps([{**GOOD, "quote": 7}]), "unreadable_answer"),
        (json.dumps([{**GOOD, "answer": " "}]), "unreadable_answer"),
        (json.dumps(["How long?"]), "unreadable_answer"),
        (json.dumps(GOOD), "unreadable_answer"),
        ("Here are two questions:", "unreadable_answer"),
    ],
)
def test_what_cannot_be_proved_is_refused_with_a_reason(answer, reason):
    [refused] = read_answer(answer, PASSAGE)
    assert refused.reason == reason
    assert refused.original


def chat(folder, url):
    return Chat(ChatModel(url=url, model="tiny", tries=1), Replies(UPath(folder)))


def test_each_passage_is_asked_once_and_gives_at_most_so_many(tmp_path):
    other = {**GOOD, "question": "What does it cost?", "answer": "10 euros.", "quote": "A replacement costs 10 euros"}
    with model_server(lambda request, before: said(json.dumps([GOOD, other, {**GOOD, "question": "Once more?"}]))) as model:
        made, refused = asked_about([PASSAGE], chat(tmp_path, model.url), each=2)
        assert model.users() == [PASSAGE.text]
    assert [row.prompt for row in made] == [GOOD["question"], other["question"]]
    assert refused == []


def test_passages_are_chosen_by_hash():
    passages = [Passage(str(number), "text", "x") for number in range(50)]
    chosen = chosen_passages(passages, 10, seed=1)
    assert [passages.index(one) for one in chosen] == sorted(passages.index(one) for one in chosen)
    assert len(chosen) == 10
    assert len(set(chosen) & set(chosen_passages(passages[:45], 10, seed=1))) >= 8


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("<PERSON> asks where card 12 is", None),
        ("Somebody asks where card 12 is", "lost_in_paraphrase"),
        ("<PERSON> asks where card 13 is", "lost_in_paraphrase"),
        ("<PERSON> wants to know about card 12", "nothing_changed"),
        ("I'm sorry, but I can't help with that. <PERSON> 12", "model_refused"),
    ],
)
def test_a_paraphrase_that_loses_something_is_refused(tmp_path, answer, reason):
    row = example("a", "<PERSON> wants to know about card 12", "pear")
    with model_server(lambda request, before: said(answer)) as model:
        made, refused = paraphrased([(row, 0)], chat(tmp_path, model.url))
    assert [one.reason for one in refused] == ([reason] if reason else [])
    assert [(one.prompt, one.completion, one.metadata) for one in made] == (
        [] if reason else [(answer, "pear", {"synthetic": "paraphrases", "made_from": "a"})]
    )
