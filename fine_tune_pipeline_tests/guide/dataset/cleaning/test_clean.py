"""Rules as a table, and counts that add up."""

from functools import partial
from typing import get_args

import pytest

from fine_tune_pipeline.artifacts.examples import read_examples, read_rows, write_examples, write_rows
from fine_tune_pipeline.artifacts.quarantine import read_quarantine
from fine_tune_pipeline.guide.dataset.cleaning.clean import REFUSE, clean, cleaned
from fine_tune_pipeline.guide.dataset.cleaning.rule_table import SAID
from fine_tune_pipeline.guide.dataset.cleaning.rules import RULES
from fine_tune_pipeline.guide.dataset.steps import read_steps
from fine_tune_pipeline.spec.dataset import CleanRule, CleanSpec
from fine_tune_pipeline_tests.guide.dataset.make import FORM, FRUIT, OPEN, example, ids, on_parts

SPEC = CleanSpec(min_characters=4, max_characters=20)


@pytest.mark.parametrize(
    ("prompt", "completion", "reason"),
    [
        ("", "apple", "empty_prompt"),
        (" \u200b\n", "apple", "empty_prompt"),
        ("green", "  ", "empty_completion"),
        ("?!...", "apple", "no_words"),
        ("abc", "apple", "too_short"),
        ("x" * 21, "apple", "too_long"),
        ("green", "apple " * 5, "too_long"),
        ("green", "plum", "invalid_answer"),
    ],
)
def test_each_rule_takes_out_what_it_is_for_and_says_why(prompt, completion, reason):
    result = clean([example("a", prompt, completion)], spec=SPEC, task=FRUIT)
    [row] = result.quarantine
    assert (row.id, row.reason) == ("a", reason)
    assert row.detail
    assert result.kept == []


@pytest.mark.parametrize("prompt", ["four", "x" * 20, "1234", "mañana"])
def test_what_breaks_no_rule_stays(prompt):
    assert ids(clean([example("a", prompt)], spec=SPEC, task=FRUIT).kept) == ["a"]


LONG = CleanSpec(languages=["en"])
ENGLISH = "My card was taken by the machine in front of the station, and nobody answers the telephone."


@pytest.mark.parametrize(
    ("prompt", "completion", "reason"),
    [
        ("spam " * 15 + "and ten other words that stand beside it here", "Yes.", "repetition"),
        (ENGLISH, "ha " * 30, "repetition"),
        (ENGLISH, "As an AI language model, I have no card.", "refusal"),
        (ENGLISH, "I'm sorry, but I can't help with that.", "refusal"),
        (ENGLISH, "I cannot assist with this request.", "refusal"),
        ("Meine Karte wurde gestern vor dem Bahnhof gestohlen, was soll ich jetzt tun?", "Yes.", "other_language"),
        ("ma carte a été volée hier devant la gare, que dois-je faire maintenant ?", "Yes.", "other_language"),
    ],
)
def test_rules_about_what_a_text_says(prompt, completion, reason):
    [row] = clean([example("a", prompt, completion)], spec=LONG, task=OPEN).quarantine
    assert row.reason == reason
    assert clean([example("a", prompt, completion)], spec=LONG.model_copy(update={"skip": [reason]}), task=OPEN).quarantine == []


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ("no no no no", "Yes."),
        ("hola", "Yes."),
        ("b0de3d2d18", "Yes."),
        (ENGLISH, "I'm sorry, I can't see your account from here; please call the branch."),
        (ENGLISH, "I am sorry to hear that. We cannot refund it, but you may return it."),
        ("the card and the pin and the app and the bank and the shop and the fee and the rate", "Yes."),
    ],
)
def test_a_good_message_breaks_no_rule_about_what_it_says(prompt, completion):
    assert clean([example("a", prompt, completion)], spec=LONG, task=OPEN).quarantine == []


def test_a_rejected_answer_is_mended_like_the_preferred_one_and_must_differ_from_it():
    rows = [example("a", ENGLISH, "Yes.", rejected=" cafÃ© \n"), example("b", ENGLISH + " Now.", "Yes.", rejected="Yes.\u200b ")]
    rows += [
        example("c", "a rather short one", "Yes.", rejected="  "),
        example("d", "another of these", "Yes.", rejected="no " * 1000 + "!"),
    ]
    result = clean(rows, spec=CleanSpec(), task=OPEN)
    assert [(row.id, row.rejected) for row in result.kept] == [("a", "café")]
    assert result.fixed["mojibake"] == 1
    found = {row.id: (row.reason, row.detail) for row in result.quarantine}
    assert found["b"] == ("no_preference", "the rejected answer is the preferred one")
    assert found["c"] == ("no_preference", "the rejected answer is empty")
    assert found["d"] == ("too_long", "the rejected answer has 3,001 characters, want at most 2,000")


def test_a_prompt_in_any_language_stays_if_none_is_named():
    assert clean([example("a", "Meine Karte wurde gestern gestohlen, was tun?", "Yes.")], spec=CleanSpec(), task=OPEN).quarantine == []


def test_a_repair_that_is_skipped_mends_nothing():
    rows = [example("a", "cafÃ©  and gap")]
    result = clean(rows, spec=SPEC.model_copy(update={"skip": ["mojibake"]}), task=FRUIT)
    assert (result.kept[0].prompt, result.fixed) == ("cafÃ© and gap", {"whitespace": 1})


def test_every_rule_is_in_the_tables_above_and_may_be_skipped_unless_nothing_works_without_it():
    always = {"empty_prompt", "empty_completion", "no_words", "invalid_answer", "no_preference"}
    assert {rule.reason for rule in RULES} == always | {"too_short", "too_long", "repetition", "refusal", "other_language"}
    repairs = {"mojibake", "unicode_form", "invisible_characters", "html", "mail_footer", "whitespace", "boilerplate"}
    assert set(get_args(CleanRule)) == {rule.reason for rule in RULES} - always | repairs | {"label_disagrees"}
    assert {rule.reason for rule in RULES} | set(get_args(CleanRule)) <= set(SAID)


def test_an_answer_is_checked_as_it_is_after_mending():
    assert ids(clean([example("a", "where", ' {"city": "Rome"}\n')], spec=SPEC, task=FORM).kept) == ["a"]


def test_kept_rows_that_were_mended_are_counted_by_repair():
    rows = [example("a", "two  gaps"), example("b", "cafÃ©  and gap"), example("c", "fine"), example("d", "  ")]
    assert clean(rows, spec=SPEC, task=FRUIT).fixed == {"whitespace": 2, "mojibake": 1}


def test_held_out_rows_pass_the_same_rules():
    assert ids(clean([example("h", "abc", held_out=True)], spec=SPEC, task=FRUIT).quarantine) == ["h"]


def test_the_step_writes_all_rows_with_their_reasons_and_continues_the_record(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    out.mkdir()
    rows = [example("a", "green"), example("b", "Green!"), example("c", "??"), example("d", "round", "plum"), example("e", "so  sweet")]
    write_examples(raw / "examples.jsonl", rows)
    write_rows(raw / "steps.jsonl", [{"name": "collect", "rows_in": 5, "kept": 5, "quarantined": {}, "fixed": {}, "notes": {}}])
    built = cleaned(raw, out, parts=tmp_path / "parts", spec=SPEC, task=FRUIT, on_parts=on_parts)
    kept, quarantine, steps = read_examples(out / "examples.jsonl"), read_quarantine(out), read_steps(out)
    assert sorted(ids(kept) + ids(quarantine)) == ["a", "b", "c", "d", "e"]
    assert [step.name for step in steps] == ["collect", "clean"]
    assert steps[1].rows_in == steps[1].kept + sum(steps[1].quarantined.values()) == 5
    assert (built.metadata["rows_kept"], built.metadata["rows_quarantined"], built.metadata["rows_fixed"]) == (2, 3, 1)


def test_the_table_of_rules_names_rows_in_the_ui_and_quotes_them_in_the_artifact_only(tmp_path):
    """Personal data is still in the texts at this step."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    out.mkdir()
    write_examples(raw / "examples.jsonl", [example("a", "call  Ann"), example("b", "Bo"), example("c", "Cy"), example("d", "Di")])
    write_rows(raw / "steps.jsonl", [])
    built = cleaned(raw, out, parts=tmp_path / "parts", spec=SPEC, task=FRUIT, on_parts=on_parts)
    short, gaps = built.metadata["rules"]
    assert (short["rule"], short["kind"], short["rows"], short["ids"]) == ("too_short", "refuses", 3, ["b", "c"])
    assert short["reason"] == "the prompt is shorter than clean.min_characters"
    assert (gaps["rule"], gaps["kind"], gaps["ids"]) == ("whitespace", "mends", ["a"])
    assert "Ann" not in built.model_dump_json()
    assert [row["examples"] for row in read_rows(out / "rules.jsonl")] == [["Bo", "Cy"], ["call Ann"]]


def test_rows_cleaned_in_parts_are_those_cleaned_at_once(tmp_path):
    """With boilerplate, which all parts together show, and rows of every kind of end."""
    texts = [f"{name} number {number} {number * 37}" for number in range(40) for name in ("crisp", "soft")]
    rows = [
        example(f"{n}", f"Hello team\n{text}" if n % 3 == 0 else text, ("apple", "pear")[n % 2], held_out=n > 70)
        for n, text in enumerate(texts)
    ]
    rows += [example("again", texts[5].upper(), "pear"), example("bad", "", "apple"), example("gap", "a  gap &amp; <b>tag</b>", "apple")]
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    out.mkdir()
    write_examples(raw / "examples.jsonl", rows)
    write_rows(raw / "steps.jsonl", [{"name": "collect", "rows_in": len(rows), "kept": len(rows)}])
    spec = CleanSpec(near_duplicate_jaccard=0.99)
    cleaned(raw, out, parts=tmp_path / "parts", spec=spec, task=FRUIT, on_parts=on_parts)
    wanted = clean(rows, spec=spec, task=FRUIT)
    assert read_examples(out / "examples.jsonl") == wanted.kept
    assert read_quarantine(out) == wanted.quarantine
    assert read_steps(out)[1].fixed == wanted.fixed == {"boilerplate": 27, "html": 1, "whitespace": 1}


def test_cleaning_that_broke_off_goes_on_and_mends_no_row_again(tmp_path):
    raw, out, parts = tmp_path / "raw", tmp_path / "out", tmp_path / "parts"
    raw.mkdir()
    out.mkdir()
    write_examples(raw / "examples.jsonl", [example(f"{n}", f"message  {n} about {n * n}") for n in range(9)])
    write_rows(raw / "steps.jsonl", [{"name": "collect", "rows_in": 9, "kept": 9}])
    once = partial(cleaned, raw, out, parts=parts, spec=CleanSpec(near_duplicate_jaccard=1.0), task=FRUIT)

    def killed(function, **more):
        if function == REFUSE:
            raise KeyboardInterrupt
        return on_parts(function, **more)

    with pytest.raises(KeyboardInterrupt):
        once(on_parts=killed)
    written = {path: path.stat().st_mtime_ns for path in (parts / "mended").iterdir()}
    once(on_parts=on_parts)
    assert len(read_examples(out / "examples.jsonl")) == 9
    assert {path: path.stat().st_mtime_ns for path in (parts / "mended").iterdir()} == written


def test_doubted_labels_are_marked_and_every_row_stays():
    rows = [example(f"{n}", f"{'crisp' if n % 2 else 'soft'} {n:04}", "apple" if n % 2 != (n == 7) else "pear") for n in range(100)]
    result = clean(rows, spec=CleanSpec(near_duplicate_jaccard=1.0), task=FRUIT)
    assert [row.id for row in result.kept if "label_disagrees" in row.metadata.get("marked", "")] == ["7"]
    assert len(result.kept) == 100
    skipped = clean(rows, spec=CleanSpec(near_duplicate_jaccard=1.0, skip=["label_disagrees"]), task=FRUIT)
    assert (skipped.doubts.judged, any("label_disagrees" in row.metadata.get("marked", "") for row in skipped.kept)) == (0, False)
