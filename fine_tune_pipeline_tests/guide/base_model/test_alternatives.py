from fine_tune_pipeline.guide.base_model.alternatives import Choice, try_next
from fine_tune_pipeline.guide.base_model.candidates import Candidate, Facts
from fine_tune_pipeline.guide.base_model.catalogue import licence_named, model_named
from fine_tune_pipeline.guide.base_model.price import Cost

ARCHITECTURE = model_named("gemma-3-270m").architecture


def choice(id: str, millions: int, *, listed: bool = False, answers: float | None = None) -> Choice:
    facts = Facts(ARCHITECTURE, parameters=millions * 10**6, context=1024, source=None, known_from="a test")
    judged = Candidate(id, licence_named("MIT"), facts, {"lora": 3 << 30, "qlora": 2 << 30}, ())
    return Choice(judged, listed=listed, answers=None if answers is None else Cost(answers, "EUR"))


def ranked(chosen: Choice | None, *others: Choice) -> list[tuple[str, str]]:
    return [(found.id, found.kind) for found in try_next(chosen, others)]


CHOSEN = choice("chosen", 1000, answers=1.0)


def test_the_next_larger_comes_first_and_the_next_smaller_last():
    others = [choice("huge", 9000), choice("large", 2000), choice("same", 1200), choice("small", 500), choice("tiny", 100)]
    assert ranked(CHOSEN, *others) == [("large", "larger"), ("small", "smaller")]


def test_a_candidate_of_the_use_case_is_preferred_to_the_rest_of_the_catalogue():
    assert ranked(CHOSEN, choice("near", 2000), choice("listed", 9000, listed=True)) == [("listed", "larger")]


def test_the_cheapest_is_named_when_it_costs_clearly_less_and_only_once():
    others = [choice("small", 500, answers=0.4), choice("mixture", 30_000, answers=0.2), choice("same", 1000, answers=0.9)]
    assert ranked(CHOSEN, *others) == [("mixture", "larger"), ("small", "smaller")]
    assert ranked(CHOSEN, choice("other", 1100, answers=0.5)) == [("other", "cheaper")]
    assert ranked(CHOSEN, choice("other", 1100, answers=0.9)) == []
    assert ranked(choice("free", 1000), choice("other", 1100, answers=0.5)) == []


def test_costs_of_two_currencies_are_not_compared():
    dollars = Choice(choice("other", 1100).judged, listed=False, answers=Cost(0.1, "USD"))
    assert ranked(CHOSEN, dollars) == []


def test_when_no_candidate_passes_the_smallest_that_does_is_named():
    [found] = try_next(None, [choice("large", 2000), choice("small", 500)])
    assert (found.id, found.kind, found.candidate) == ("small", "passes", False)
    assert try_next(None, []) == []


def test_each_says_why_in_one_sentence_with_its_numbers():
    larger, smaller = try_next(CHOSEN, [choice("large", 2000), choice("small", 500, listed=True)])
    assert larger.reason == "2.0 times the parameters; 2 billion parameters, qlora in 2.0 GiB, licence MIT"
    why = "0.50 times the parameters: faster, if it still meets the objective; 0.5 billion parameters, qlora in 2.0 GiB, licence MIT"
    assert smaller.as_json() == {"id": "small", "kind": "smaller", "reason": why, "candidate": True}
