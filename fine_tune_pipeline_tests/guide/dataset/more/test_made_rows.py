"""Made rows stay with their origin, resemble nothing else, and never move a row of the sources."""

from dataclasses import replace

import pytest

from fine_tune_pipeline.guide.dataset.cleaning.clean import clean
from fine_tune_pipeline.guide.dataset.likeness.contamination import Benchmark
from fine_tune_pipeline.guide.dataset.likeness.own_words import Overlap
from fine_tune_pipeline.guide.dataset.more.balance import NoClasses, balancing, capped
from fine_tune_pipeline.guide.dataset.more.made_rows import kinds, most_made, placed, unlike_others
from fine_tune_pipeline.guide.dataset.more.training_only import with_made
from fine_tune_pipeline.guide.dataset.publishing.publish import checks
from fine_tune_pipeline.guide.dataset.publishing.split import Split, split
from fine_tune_pipeline.spec.dataset import CleanSpec, DatasetSpec, SplitSpec
from fine_tune_pipeline.spec.more import BalanceSpec, MoreSpec, Paraphrases, Phrases
from fine_tune_pipeline_tests.guide.dataset.make import FRUIT, OPEN, example, ids

LONG = "a rather long prompt about fruit that grows in {} orchards near the old mill"


def made(id_, prompt, origin, kind="typos", **more):
    return example(id_, prompt, metadata={"synthetic": kind, "made_from": origin, **more})


REAL = [
    example("one", LONG.format("many")),
    example("two", "quite another thing altogether"),
    example("held", "what the test asks of everybody who comes by", held_out=True),
]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (made("m", LONG.format("mamy"), "one"), None),
        (made("m", LONG.format("mamy"), "two"), "near_duplicate"),
        (made("m", LONG.format("Many") + "!", "one"), "exact_duplicate"),
        (made("m", "What the test asks of everybody, who comes by?", "one"), "duplicate_of_held_out"),
        (made("m", "what the test asks of everybody who comse by", "one"), "duplicate_of_held_out"),
        (made("m", "something new", "gone"), "origin_quarantined"),
        (made("m", "something new", "chunk-1", kind="question"), None),
        (example("m", LONG.format("mamy"), metadata={"labelled_by": "rule"}), "near_duplicate"),
    ],
)
def test_a_made_row_resembles_no_row_but_its_own_origin(row, reason):
    result = unlike_others([row], REAL, threshold=0.7)
    assert [gone.reason for gone in result.quarantine] == ([reason] if reason else [])
    assert len(result.kept) == (reason is None)


def test_variants_of_one_row_may_be_alike_and_lie_in_its_cluster():
    real = [replace(REAL[0], metadata={"cluster": "zero"})]
    result = unlike_others([made("m1", LONG.format("mamy"), "one"), made("m2", LONG.format("nany"), "one")], real, threshold=0.7)
    assert [row.metadata["cluster"] for row in result.kept] == ["zero", "zero"]


def test_what_cleaning_keeps_of_the_sources_does_not_depend_on_made_rows():
    rows = [example(str(number), f"words{number} sweet{number * 7} round{number * 3}") for number in range(60)]
    more = [made(f"m{number}", f"Hello!\nwords{number} sweet{number * 7} rouund{number * 3}\nThanks", str(number)) for number in range(40)]
    alone, beside = (clean(given, spec=CleanSpec(), task=FRUIT) for given in (rows, [*more, *rows]))
    assert [row for row in beside.kept if "synthetic" not in row.metadata] == alone.kept
    assert len(beside.kept) == 100
    assert beside.fixed == {}


def test_made_rows_pass_the_rules_of_cleaning():
    result = clean([*REAL, made("m", "??", "one"), made("n", " ", "one")], spec=CleanSpec(), task=FRUIT)
    assert {row.id: row.reason for row in result.quarantine} == {"m": "no_words", "n": "empty_prompt"}


TRAIN = [example("t", "in training"), example("fixed", "an answer that was wrong", metadata={"review": "fix"})]
HELD = [
    example("v", "a row that validation holds and nothing else"),
    example("w", "we all know that this takes much longer than it should"),
]
PARTS = Split(TRAIN, HELD[:1], HELD[1:], quarantine=[], by_held_out=False)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (made("m", "new words here", "t"), None),
        (made("m", "new words here", "v"), "origin_held_out"),
        (made("m", "new words here", "rejected"), "origin_quarantined"),
        (made("m", "new words here", "fixed"), "origin_corrected"),
        (made("m", "new words here", "fixed", review="accept"), None),
        (made("m", "a row that validation holds and nothing elze", "t"), "duplicate_of_held_out"),
        (made("m", "a row that validation holds and nothing elze", "chunk", kind="question"), "duplicate_of_held_out"),
        (made("m", "new words here", "chunk", kind="question"), None),
        (example("m", "new words here", metadata={"labelled_by": "rule"}), None),
        (example("m", "a row that validation holds and nothing elze", metadata={"labelled_by": "rule"}), "duplicate_of_held_out"),
        (made("m", "my card, and that this takes much longer than it should is odd", "t"), "shares_words_with_held_out"),
        (
            made("m", "long ago somebody wrote in a text that is to be found nowhere else now", "t"),
            "shares_words_with_benchmark",
        ),
    ],
)
def test_a_made_row_stands_in_training_with_its_origin_or_nowhere(row, reason):
    benchmark = Benchmark("exam", ["this is in a text that is to be found in the benchmark"], ["row 1"])
    more = MoreSpec.model_validate({"most_share": 0.9})
    result = with_made(PARTS, [row], spec=more, task=FRUIT, overlap=Overlap(8), benchmarks=[benchmark])
    assert [gone.reason for gone in result.quarantine] == ([reason] if reason else [])
    assert len(result.train) == len(TRAIN) + (reason is None)


def test_made_rows_are_capped_by_share_and_labelled_ones_are_not_counted():
    train = [example(str(number), f"row {number}") for number in range(60)]
    labelled = [example(f"l{number}", f"labelled {number}", metadata={"labelled_by": "rule"}) for number in range(10)]
    many = [made(f"m{number}", f"made {number}", str(number % 60)) for number in range(200)]
    result = placed([*many, *labelled], train=train, held=[], most_share=0.3)
    assert kinds(result.kept) == {"typos": 30, "labelled by rules": 10}
    assert {gone.reason for gone in result.quarantine} == {"over_most_share"}
    assert len(result.quarantine) == 170


@pytest.mark.parametrize(("rows", "share", "most"), [(70, 0.3, 30), (0, 0.3, 0), (90, 0.1, 10), (9, 0.5, 9)])
def test_the_share_is_of_all_training_rows(rows, share, most):
    assert most_made(rows, share) == most


def parts_with(rows, made_rows, **more):
    spec = SplitSpec(validation=0.2, test=0.2)
    alone = split(rows, spec=spec, task=FRUIT)
    return alone, with_made(alone, made_rows, spec=MoreSpec.model_validate({"most_share": 0.5, **more}), task=FRUIT)


ROWS = [example(str(number), f"words{number * 13} on{number * 7}", ("apple", "pear")[number % 4 == 0]) for number in range(100)]
MADE = [made(f"{row.id}~1", f"{row.prompt} again{row.id}", row.id) for row in ROWS]


def test_made_rows_are_in_training_only_and_move_no_row_of_the_sources():
    alone, parts = parts_with(ROWS, MADE)
    assert (parts.validation, parts.test) == (alone.validation, alone.test)
    assert parts.train[: len(alone.train)] == alone.train
    added = parts.train[len(alone.train) :]
    assert {row.metadata["made_from"] for row in added} == set(ids(alone.train))
    assert {gone.reason for gone in parts.quarantine} == {"origin_held_out"}


def test_made_rows_do_not_help_a_dataset_that_is_too_small():
    _, parts = parts_with(ROWS[:20], MADE[:20])
    spec = DatasetSpec.model_validate({"sources": [{"type": "jsonl", "path": "x"}], "minimum_examples": 25, "minimum_per_class": 6})
    failed = {check.name: check.description for check in checks(parts, spec=spec, task=FRUIT) if not check.passed}
    assert failed.keys() == {"minimum_size", "classes_covered"}


def test_small_classes_get_variants_up_to_the_ratio():
    spec = BalanceSpec(ratio=0.8)
    ways = [Phrases(type="phrases", phrases={"on": ["upon"]})]
    plans = balancing(ROWS, [], spec, task=FRUIT, by=ways)
    # 75 apples, 25 pears: 60 pears are wanted.
    assert len(plans) == 35
    assert {plan.origin.completion for plan in plans} == {"pear"}
    assert max(sum(plan.origin.id == row.id for plan in plans) for row in ROWS) == 2
    assert balancing(ROWS, plans, spec, task=FRUIT, by=ways) == []


def test_without_plain_ways_typos_are_made():
    model = Paraphrases.model_validate({"type": "paraphrases", "ask": {"url": "http://x", "model": "m"}})
    assert {plan.how.type for plan in balancing(ROWS, [], BalanceSpec(), task=FRUIT, by=[model])} == {"typos"}


def test_large_classes_are_cut_in_training_only_made_rows_first():
    alone, parts = parts_with(ROWS, MADE, balance={"by": "cap", "ratio": 0.5}, most_share=0.9)
    counts = {name: sum(row.completion == name for row in parts.train) for name in ("apple", "pear")}
    assert counts["apple"] == 2 * counts["pear"]
    assert (parts.validation, parts.test) == (alone.validation, alone.test)
    capped_rows = [gone for gone in parts.quarantine if gone.reason == "over_class_cap"]
    assert (
        len(capped_rows) + len(parts.train) + sum(gone.reason == "origin_held_out" for gone in parts.quarantine) == len(alone.train) + 100
    )
    mixed = [
        *[example(f"r{n}", "x") for n in range(6)],
        *[made(f"m{n}", "x", "r1") for n in range(4)],
        *[example(f"p{n}", "x", "pear") for n in range(4)],
    ]
    assert [gone.id[0] for gone in capped(mixed, ratio=0.5, task=FRUIT).quarantine] == ["m", "m"]


def test_an_open_task_has_no_classes_to_balance():
    with pytest.raises(NoClasses):
        balancing(ROWS, [], BalanceSpec(), task=OPEN, by=[])
    with pytest.raises(NoClasses):
        capped(ROWS, ratio=0.5, task=OPEN)
