"""The adapted NER: learns, the same from the same seed; its folder is checked before it is used, and used by the detector."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fine_tune_pipeline.artifacts.examples import write_rows
from fine_tune_pipeline.programs.adapt_ner import _times, run
from fine_tune_pipeline.programs.pii import ner_weights
from fine_tune_pipeline.programs.pii.ner_requests import AdaptNerRequest, AdaptNerResult, BadNerFolder
from fine_tune_pipeline.programs.pii.ner_texts.texts import Named, NamedText
from fine_tune_pipeline.programs.pii.ner_training import Taught, examples, learn
from fine_tune_pipeline.programs.pii.scrubbing import NER_SHA256, detector, packaged_ner, scrub_text
from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.spec.dataset import PiiSpec


def asked(folder, *, seed=0, reviewed=None):
    return AdaptNerRequest(output=str(folder), reviewed=reviewed, texts=24, rounds=1, lean=2.0, seed=seed, held_back=30)


def adapted(folder, **more):
    folder.mkdir()
    return run(asked(folder, **more), Reporter(None))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return adapted(tmp_path_factory.mktemp("ner") / "made")


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(made, tmp_path):
    assert adapted(tmp_path / "again").ner_sha256 == made.ner_sha256
    assert adapted(tmp_path / "other", seed=1).ner_sha256 != made.ner_sha256


def test_another_process_with_another_hash_seed_and_more_threads_gives_the_same_weights(made, tmp_path):
    request = asked(tmp_path)
    request.write(tmp_path / "request.json")
    environment = {**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-W", "ignore", "-m", AdaptNerRequest.module, "--request", str(tmp_path / "request.json")]
    subprocess.run(command, env=environment, check=True, timeout=200)
    assert AdaptNerResult.read(tmp_path / "result.json").ner_sha256 == made.ner_sha256


def test_both_models_are_judged_on_what_was_held_back(made):
    assert [(score.kind, score.ner, score.texts) for score in made.scores] == [("templates", "packaged", 30), ("templates", "adapted", 30)]
    assert all(0 < score.f2 <= 1 for score in made.scores)
    assert made.curve[0].words > 0


def test_reviewed_documents_are_learnt_from_or_judged_on_never_both(tmp_path):
    rows = [
        {"text": f"Ann number {n} came", "findings": [[0, 3, "PERSON"]], "document": f"d{n // 2}", "looked_for": ["PERSON"]}
        for n in range(40)
    ]
    write_rows(tmp_path / "reviewed.jsonl", rows)
    result = adapted(tmp_path / "made", reviewed=str(tmp_path / "reviewed.jsonl"))
    judged = next(score.texts for score in result.scores if score.kind == "reviewed")
    assert judged + result.learnt_from["reviewed"] == 40
    assert 0 < judged < 40
    assert judged % 2 == 0


@pytest.mark.parametrize(("reviewed", "texts", "times"), [(0, 9000, 0), (10, 9000, 10), (500, 9000, 4), (9000, 9000, 1)])
def test_few_reviewed_texts_are_repeated_many_are_not(reviewed, texts, times):
    assert _times(reviewed, texts) == times


def test_it_learns_a_name_that_it_is_shown():
    nlp = packaged_ner()
    start = len("Please ask ")
    text = NamedText("Please ask zorblat quimsby again", (Named(start, start + 15, "PERSON"),))
    learn(nlp, examples(nlp, [Taught(text)] * 60), rounds=4, seed=0, share=1.0)
    assert [(found.text, found.label_) for found in nlp(text.text).ents] == [("zorblat quimsby", "PERSON")]


def test_of_labels_that_nobody_judged_the_packaged_model_is_believed():
    nlp = packaged_ner()
    text = NamedText("Barack Obama was in Kenya on Monday", ())
    [believed] = examples(nlp, [Taught(text, judged=frozenset({"PERSON"}))])
    assert {(found.text, found.label_) for found in believed.reference.ents} == {("Kenya", "GPE"), ("Monday", "DATE")}


def test_where_nothing_is_said_the_packaged_model_is_believed():
    nlp = packaged_ner()
    said, free = (Taught(NamedText("I work for Microsoft", (), open)) for open in ((), ((11, 20),)))
    assert [[found.label_ for found in one.reference.ents] for one in examples(nlp, [said, free])] == [[], ["ORG"]]


def test_a_name_that_ends_inside_a_word_says_nothing_of_that_word():
    nlp = packaged_ner()
    [one] = examples(nlp, [Taught(NamedText("ask Annette now", (Named(4, 7, "PERSON"),)))])
    assert [token.ent_iob_ for token in one.reference] == ["O", "", "O"]


def test_the_weights_between_are_as_far_as_the_share_says():
    nlp = packaged_ner()
    base = ner_weights.weights(nlp)
    other = {name: values + 1 for name, values in base.items()}
    half = ner_weights.between(base, other, 0.5)
    assert all(abs(half[name] - (base[name] + 0.5)).max() < 1e-4 for name in base)


def test_leaning_changes_nothing_but_the_score_of_no_name():
    nlp = packaged_ner()
    base = ner_weights.weights(nlp)
    leaning = ner_weights.leaning(nlp, base, 2.0)
    changed = {name: leaning[name] - base[name] for name in base if (leaning[name] != base[name]).any()}
    assert [(values != 0).sum() for values in changed.values()] == [1]
    text = "the zorblat of quimsby and Snerkel Farp were there"
    before = len(nlp(text).ents)
    ner_weights.put(nlp, ner_weights.leaning(nlp, base, 50.0))
    assert len(nlp(text).ents) > before


def test_the_detector_uses_the_folder_and_says_so(made):
    adapted_one, packaged = detector(PiiSpec(), ner=made.ner), detector(PiiSpec())
    assert adapted_one.name.endswith(f" adapted ({made.ner_sha256[:8]})")
    assert "adapted" not in packaged.name
    weights = ner_weights.weights(adapted_one.engine.nlp_engine.get_nlp("en"))
    written = ner_weights.read(Path(made.ner), base_sha256=NER_SHA256)
    assert all((weights[name] == written[name]).all() for name in written)
    before = ner_weights.weights(packaged.engine.nlp_engine.get_nlp("en"))
    assert any((weights[name] != before[name]).any() for name in before)
    assert scrub_text("My name is Julia Fischer", detector=adapted_one) == "My name is <PERSON>"


def test_the_folder_holds_no_more_than_safe_weights_and_where_they_come_from(made):
    folder = Path(made.ner)
    assert sorted(path.name for path in folder.iterdir()) == ["ner.json", "ner.safetensors"]
    about = json.loads((folder / "ner.json").read_text(encoding="utf-8"))
    assert about["licence"] == "MIT"
    assert "Explosion" in about["attribution"]
    assert about["made_of"] == {"templates": 24, "reviewed": 0}


def test_a_folder_that_cannot_be_used_is_refused(made, tmp_path):
    with pytest.raises(BadNerFolder, match=r"there is no ner\.json; want the folder `ner` within an artifact of pii_ner_adapt"):
        detector(PiiSpec(), ner=tmp_path)
    (tmp_path / "ner.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BadNerFolder, match=r"ner\.json: not readable"):
        detector(PiiSpec(), ner=tmp_path)
    (tmp_path / "ner.json").write_bytes((Path(made.ner) / "ner.json").read_bytes())
    with pytest.raises(BadNerFolder, match="the file is missing or damaged"):
        detector(PiiSpec(), ner=tmp_path)
    with pytest.raises(BadNerFolder, match="made of an NER with SHA-256"):
        ner_weights.read(tmp_path, base_sha256="0" * 64)
    with pytest.raises(BadNerFolder, match="of another network"):
        ner_weights.put(packaged_ner(), {})


def test_no_connection_is_tried(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f"a connection was tried: {args[1:]}")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    adapted(tmp_path / "offline")
