import itertools
import json
import random
from math import inf
from pathlib import Path

import pytest

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.objective.measures.texts import words
from fine_tune_pipeline.guide.objective.metrics import METRICS, UnknownMetric, allowed_metrics, metric_named, score_one
from fine_tune_pipeline.guide.objective.task import Task, classification, extraction
from fine_tune_pipeline_tests.guide.objective.use_cases import SCHEMA

LABELS = classification(["card_lost", "refund"])
FIELDS = extraction(SCHEMA)
NESTED = extraction(
    {"type": "object", "properties": {"who": {"type": "object", "properties": {"name": {"type": "string"}}}, "tags": {"type": "array"}}}
)
QUESTION = Task(type="question_answering")
TEXT = Task(type="generation")
COMPARED = Task(type="preference")

RIGHT = '{"intent": "refund", "urgency": "low"}'


def score(name: str, prediction: str, reference: str, task: Task) -> float:
    return score_one(prediction, reference, task=task, metrics=[name])[name]


def full_score(name: str, prediction: str, reference: str, task: Task, *, cosine: float = 1.0) -> float:
    """With a row whose prompt holds no number, and with what programs measure."""
    likely = {"preferred_logprob": cosine - 2, "rejected_logprob": -2.0, "preferred_tokens": 1.0, "rejected_tokens": 1.0}
    measured = {"similarity": cosine, "confidence": 1.0, **likely}
    row = Example("r1", "please help", reference, rejected="?")
    return score_one(prediction, reference, task=task, metrics=[name], example=row, measured=measured)[name]


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        (RIGHT, 1),
        ('{"urgency":"low","intent":"refund"}', 1),
        ('{"intent": "refund", "urgency": "high"}', 0),
        ('{"intent": "refund", "urgency": "low", "amount": 1}', 0),
        ("refund, low", 0),
        (f"```json\n{RIGHT}\n```", 0),
        ("", 0),
    ],
)
def test_exact_match_of_an_extraction_compares_objects_not_spelling(prediction: str, expected: float):
    assert score("exact_match", prediction, RIGHT, FIELDS) == expected


def test_equal_json_is_by_value_and_type():
    task = extraction({"type": "object", "properties": {"a": {}}})
    assert score("exact_match", '{"a": 1.0}', '{"a": 1}', task) == 1
    assert score("exact_match", '{"a": true}', '{"a": 1}', task) == 0
    assert score("exact_match", '{"a": "1"}', '{"a": 1}', task) == 0
    assert score("exact_match", '{"a": null}', "{}", task) == 0


def test_accuracy_and_exact_match_of_labels_ignore_spelling():
    for name in ("accuracy", "exact_match"):
        assert score(name, "Card Lost.", "card_lost", LABELS) == 1
        assert score(name, "refund", "card_lost", LABELS) == 0
    assert score("valid_label", "nonsense", "card_lost", LABELS) == 0
    assert score("valid_label", "refund", "card_lost", LABELS) == 1


def test_form_metrics_look_at_form_only():
    wrong = '{"intent": "login", "urgency": "high"}'
    assert score("valid_json", wrong, RIGHT, FIELDS) == score("schema_valid", wrong, RIGHT, FIELDS) == 1
    assert score("valid_json", '{"x": 1}', RIGHT, FIELDS) == 1
    assert score("schema_valid", '{"x": 1}', RIGHT, FIELDS) == 0
    assert score("valid_json", "7", RIGHT, FIELDS) == score("valid_json", "{", RIGHT, FIELDS) == 0


def test_field_match_looks_at_one_field():
    half = '{"intent": "refund", "urgency": "high", "more": 1}'
    assert score("field_match.intent", half, RIGHT, FIELDS) == 1
    assert score("field_match.urgency", half, RIGHT, FIELDS) == 0
    assert score("field_match.amount", half, RIGHT, FIELDS) == 1, "absent where it must be absent"
    assert score("field_match.amount", "no JSON", RIGHT, FIELDS) == 0
    assert score("field_match.who.name", '{"who": {"name": "Ann"}}', '{"who": {"name": "Ann"}, "tags": []}', NESTED) == 1


def test_field_f1_counts_leaves_and_takes_lists_as_bags():
    reference = '{"who": {"name": "Ann"}, "tags": ["a", "b"]}'
    assert score("field_f1", '{"tags": ["b", "a"], "who": {"name": "Ann"}}', reference, NESTED) == 1
    # 2 of 3 leaves right, one of 3 given is wrong: F1 = 2·2 / (3 + 3).
    assert score("field_f1", '{"who": {"name": "Bob"}, "tags": ["b", "a"]}', reference, NESTED) == pytest.approx(2 / 3)
    # precision 1, recall 1/3: F1 = 1/2.
    assert score("field_f1", '{"who": {"name": "Ann"}}', reference, NESTED) == pytest.approx(0.5)
    assert score("field_f1", "Ann", reference, NESTED) == 0


def by_hand_f1(prediction: list[str], reference: list[str]) -> float:
    """Token F1 by removing matches one by one."""
    left = list(reference)
    shared = 0
    for token in prediction:
        if token in left:
            left.remove(token)
            shared += 1
    if not prediction and not reference:
        return 1.0
    if shared == 0:
        return 0.0
    precision, recall = shared / len(prediction), shared / len(reference)
    return 2 * precision * recall / (precision + recall)


def longest_by_enumeration(one: list[str], other: list[str]) -> int:
    """Length of the longest common subsequence, by trying every subsequence of the one."""

    def is_subsequence(part: tuple[str, ...]) -> bool:
        rest = iter(other)
        return all(word in rest for word in part)

    return max(size for size in range(len(one) + 1) for part in itertools.combinations(one, size) if is_subsequence(part))


def edits_by_recursion(one: str, other: str) -> int:
    if not one or not other:
        return len(one) + len(other)
    if one[0] == other[0]:
        return edits_by_recursion(one[1:], other[1:])
    return 1 + min(edits_by_recursion(one[1:], other), edits_by_recursion(one, other[1:]), edits_by_recursion(one[1:], other[1:]))


def test_text_metrics_agree_with_brute_force_on_random_texts():
    draw = random.Random(0)
    for _ in range(60):
        one = [draw.choice("abc") for _ in range(draw.randint(0, 7))]
        other = [draw.choice("abc") for _ in range(draw.randint(0, 7))]
        texts = " ".join(one), " ".join(other)
        assert score("token_f1", *texts, QUESTION) == pytest.approx(by_hand_f1(one, other))
        both = len(one) + len(other)
        longest = 2 * longest_by_enumeration(one, other) / both if both else 1.0
        assert score("rouge_l", *texts, TEXT) == pytest.approx(longest)
        a, b = "".join(one[:5]), "".join(other[:5])
        assert score("edit_rate", a, b, TEXT) == pytest.approx(edits_by_recursion(a, b) / max(len(a), len(b), 1))


def test_words_ignore_case_punctuation_and_unicode_spelling():
    assert words("“Paris”, the CITY — of\tlight!") == ["paris", "the", "city", "of", "light"]
    assert words("ﬁne") == ["fine"]
    assert score("exact_match", "paris.", "Paris", QUESTION) == 1


def test_length_ratio_counts_words():
    assert score("length_ratio", "one two three", "one two", TEXT) == 1.5
    assert score("length_ratio", "", "one two", TEXT) == 0
    assert score("length_ratio", "one", "", TEXT) == 1


@pytest.mark.parametrize(
    ("name", "task"),
    [("accuracy", FIELDS), ("rouge_l", LABELS), ("exact_match", TEXT), ("field_match", FIELDS), ("field_match.mood", FIELDS),
     ("field_match.intent.x", FIELDS),
     ("exact_match.intent", FIELDS), ("exact_match.", FIELDS), ("field_match.", FIELDS), ("blue", LABELS)],
)  # fmt: skip
def test_unknown_metric_is_refused_with_the_list_of_those_that_exist(name: str, task: Task):
    with pytest.raises(UnknownMetric) as error:
        metric_named(name, task)
    for allowed in allowed_metrics(task):
        assert allowed in str(error.value)


@pytest.mark.parametrize("task", [LABELS, FIELDS, QUESTION, TEXT, COMPARED])
def test_every_allowed_metric_is_in_its_range_at_its_best_when_right_and_never_better_when_wrong(task: Task):
    right = {"classification": "refund", "extraction": RIGHT}.get(task.type, "the cat sat")
    for name in allowed_metrics(task):
        metric = metric_named(name, task)
        assert metric.name == name
        best, bad = (full_score(name, text, right, task, cosine=cosine) for text, cosine in ((right, 1.0), ("?? 7", -1.0)))
        assert metric.low <= bad <= metric.high
        assert metric.low <= best <= metric.high
        if metric.better == "higher":
            assert (best, bad) == (metric.high, metric.low)
        elif metric.better == "lower" and name != "refusal":
            assert best == metric.low < bad


def test_registry_is_consistent():
    assert all(name == metric.name for name, metric in METRICS.items())
    assert all((metric.low, metric.high) == (0, 1) for metric in METRICS.values() if metric.binary)
    assert METRICS["length_ratio"].high == inf
    assert METRICS["edit_rate"].better == "lower"


def test_allowed_metrics_of_an_extraction_name_its_fields():
    assert allowed_metrics(FIELDS)[:4] == ["exact_match", "field_match.intent", "field_match.urgency", "field_match.amount"]


def test_scores_are_plain_json_numbers():
    scores = score_one(RIGHT, RIGHT, task=FIELDS, metrics=allowed_metrics(FIELDS), example=Example("r1", "please help", RIGHT))
    assert json.loads(json.dumps(scores)) == scores
    assert scores.pop("unsupported_numbers") == 0
    assert set(scores.values()) == {1.0}


@pytest.mark.parametrize(("prediction", "expected"), [("We will call you today", 1.0), ("Wait for a call", 0.0), ("", 0.5), ("zzz", 0.5)])
def test_an_answer_is_nearer_to_the_preferred_or_to_the_rejected_one(prediction: str, expected: float):
    row = Example("r1", "When?", "We will call you today.", rejected="Wait for a call.")
    found = score_one(prediction, row.completion, task=COMPARED, metrics=["nearer_to_preferred"], example=row)
    assert found == {"nearer_to_preferred": expected}


def test_only_compared_rows_count_as_compared():
    metric = metric_named("nearer_to_preferred", COMPARED)
    assert [metric.counted(Example("r1", "?", "yes", rejected=rejected)) for rejected in (None, "no")] == [False, True]


def test_every_metric_is_in_the_documentation():
    page = (Path(__file__).parents[3] / "docs" / "objective.md").read_text(encoding="utf-8")
    families = {"field_match": "`field_match.<field>`", "recall": "`recall.<label>`", "rule": "`rule.<name>`"}
    assert [name for name in METRICS if families.get(name, f"`{name}`") not in page] == []
