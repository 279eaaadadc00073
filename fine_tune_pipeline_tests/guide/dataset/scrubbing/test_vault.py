"""What stands for what: sealed, opened only by its key, put back where it is certain."""

import json

import pytest

from fine_tune_pipeline.artifacts.examples import read_rows, write_rows
from fine_tune_pipeline.cli import main
from fine_tune_pipeline.guide.dataset.scrubbing.scrub_file import NothingToSeal, SameFile, scrub_file
from fine_tune_pipeline.guide.dataset.scrubbing.unscrub_file import unscrub_file
from fine_tune_pipeline.programs.pii.stand_ins import KEY_VARIABLE, NoKey
from fine_tune_pipeline.programs.pii.vault import WrongKey, opened, sealed, together
from fine_tune_pipeline.spec.dataset import PiiSpec
from fine_tune_pipeline_tests.guide.dataset.make import Words

KEY = "the key of these tests"
DETECT = Words(Ann="PERSON", **{"555-0100": "PHONE_NUMBER", "ann@fruit.example": "EMAIL_ADDRESS"})
ROWS = [
    {"id": 1, "messages": [{"role": "user", "content": "I am Ann, 555-0100"}, {"role": "assistant", "content": "Hello Ann!"}]},
    {"id": 2, "messages": [{"role": "user", "content": "write to ann@fruit.example"}]},
]


@pytest.mark.parametrize("operator", ["hash", "pseudonym"])
def test_what_was_taken_out_comes_back_with_vault_and_key(tmp_path, operator):
    write_rows(tmp_path / "in.jsonl", ROWS)
    clean, vault, back = (tmp_path / name for name in ("clean.jsonl", "vault.jsonl", "back.jsonl"))
    scrub_file(tmp_path / "in.jsonl", clean, vault=vault, pii=PiiSpec(operator=operator), key=KEY, detect=DETECT)
    for secret in ("Ann", "555-0100", "ann@fruit"):
        assert secret not in clean.read_text(encoding="utf-8") + vault.read_text(encoding="utf-8")
    assert unscrub_file(clean, back, vault, key=KEY).restored == 4
    assert read_rows(back) == ROWS


def test_another_key_or_a_changed_line_opens_nothing():
    rows = sealed({("Mary", "Ann"): "PERSON"}, key=KEY)
    assert opened(rows, key=KEY) == {"Mary": ["Ann"]}
    with pytest.raises(WrongKey, match="line 1"):
        opened(rows, key=KEY + "!")
    with pytest.raises(WrongKey, match="line 1"):
        opened([{**rows[0], "stand_in": "Eve"}], key=KEY)


def test_the_same_values_are_sealed_the_same_so_parts_come_together():
    first, second = ({("Mary", "Ann"): "PERSON"}, {("Mary", "Ann"): "PERSON", ("Rome", "Paris"): "LOCATION"})
    assert together([sealed(first, key=KEY), sealed(second, key=KEY)]) == sealed(second, key=KEY)


def test_a_stand_in_of_two_values_is_left_and_counted_and_words_are_whole(tmp_path):
    given = {("Mary", "Ann"): "PERSON", ("Mary", "Eve"): "PERSON", ("Lee", "Bob"): "PERSON", ("Lee Ray", "Bob Fox"): "PERSON"}
    write_rows(tmp_path / "vault.jsonl", sealed(given, key=KEY))
    write_rows(tmp_path / "clean.jsonl", [{"text": "Mary met Lee Ray, Lee, and Leeds"}])
    done = unscrub_file(tmp_path / "clean.jsonl", tmp_path / "back.jsonl", tmp_path / "vault.jsonl", key=KEY)
    assert read_rows(tmp_path / "back.jsonl") == [{"text": "Mary met Bob Fox, Bob, and Leeds"}]
    assert (done.restored, done.ambiguous) == (2, 1)


def test_what_cannot_be_undone_has_no_vault(tmp_path):
    write_rows(tmp_path / "in.jsonl", ROWS)
    with pytest.raises(NothingToSeal, match="type_tag"):
        scrub_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", vault=tmp_path / "v.jsonl", detect=DETECT)
    assert not (tmp_path / "out.jsonl").exists()
    with pytest.raises(ValueError, match="cannot be undone"):
        PiiSpec(vault=True)


def test_the_input_is_never_overwritten_and_a_key_is_needed(tmp_path):
    write_rows(tmp_path / "vault.jsonl", [])
    write_rows(tmp_path / "clean.jsonl", [])
    with pytest.raises(SameFile):
        unscrub_file(tmp_path / "clean.jsonl", tmp_path / "clean.jsonl", tmp_path / "vault.jsonl", key=KEY)
    with pytest.raises(NoKey, match=KEY_VARIABLE):
        unscrub_file(tmp_path / "clean.jsonl", tmp_path / "back.jsonl", tmp_path / "vault.jsonl", key="short")


def test_the_command_puts_back_and_says_how_much(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    write_rows(tmp_path / "vault.jsonl", sealed({("Mary", "Ann"): "PERSON"}, key=KEY))
    write_rows(tmp_path / "clean.jsonl", [{"text": "Mary"}])
    arguments = ["unscrub", str(tmp_path / "clean.jsonl"), str(tmp_path / "back.jsonl"), "--vault", str(tmp_path / "vault.jsonl")]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"rows": 1, "restored": 1, "ambiguous": 0}
    monkeypatch.setenv(KEY_VARIABLE, KEY + "!")
    assert main(arguments) == 3
    assert "another key" in capsys.readouterr().err
