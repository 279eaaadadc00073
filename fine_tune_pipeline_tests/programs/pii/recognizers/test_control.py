"""Thresholds, deny and allow lists, countries, skipped rules and further detectors, with the real engine."""

import json
import logging
from http.server import BaseHTTPRequestHandler

import pytest
from pydantic import ValidationError

from fine_tune_pipeline.programs.pii.recognizers.control import UnknownCountry
from fine_tune_pipeline.programs.pii.recognizers.detectors import MissingDetector
from fine_tune_pipeline.programs.pii.recognizers.identity import identities
from fine_tune_pipeline.programs.pii.recognizers.llm import LlmFailed, LlmRecognizer
from fine_tune_pipeline.programs.pii.scrubbing import detector, scrub_text
from fine_tune_pipeline.spec.dataset import PiiSpec
from fine_tune_pipeline.spec.pii_detectors import LlmDetector
from fine_tune_pipeline_tests.web import Quiet, web_server

HERE = "fine_tune_pipeline_tests.programs.pii.recognizers.own_detector"


def scrubbed(text, **pii):
    return scrub_text(text, detector=detector(PiiSpec.model_validate(pii)))


def test_a_threshold_counts_for_its_entity_alone():
    text = "Gregor Lund, ring 0151 496 0123"
    assert scrubbed(text) == "<PERSON>, ring <PHONE_NUMBER>"
    assert scrubbed(text, thresholds={"PHONE_NUMBER": 0.95}) == "<PERSON>, ring 0151 496 0123"
    assert scrubbed(text, thresholds={"PERSON": 0.99}) == "Gregor Lund, ring <PHONE_NUMBER>"


def test_a_threshold_below_the_common_score_lets_weak_findings_in():
    text = "licence H12234567 of the driver"
    assert scrubbed(text, entities=["US_DRIVER_LICENSE"], score=0.9) == text
    assert "<US_DRIVER_LICENSE>" in scrubbed(text, entities=["US_DRIVER_LICENSE"], score=0.9, thresholds={"US_DRIVER_LICENSE": 0.2})


def test_what_is_denied_always_goes_as_a_word_of_its_own():
    pii = {"deny": {"PROJECT": ["Blue Heron", "c++"]}, "entities": ["EMAIL_ADDRESS"]}
    assert scrubbed("the BLUE HERON and Blue Herons in C++", **pii) == "the <PROJECT> and Blue Herons in <PROJECT>"


def test_what_is_denied_names_the_whole_of_what_it_overlaps():
    assert scrubbed("call Gregor Lund", deny={"BOSS": ["Lund"]}) == "call <BOSS>"


def test_what_is_allowed_stays_alone_and_as_a_part_of_a_name_elsewhere():
    text = "Gregor Lund lives in Lisbon. Lund sings."
    assert scrubbed(text) == "<PERSON> lives in <LOCATION>. <PERSON> sings."
    assert scrubbed(text, allow=["lisbon", "LUND"]) == "<PERSON> lives in Lisbon. Lund sings."


def test_a_value_cannot_be_denied_and_allowed():
    with pytest.raises(ValidationError, match="'Lund' in deny and in allow"):
        PiiSpec(deny={"BOSS": ["Lund"]}, allow=["lund"])


def test_countries_choose_telephone_regions():
    text = "It is 0912 345 6789 now"
    assert scrubbed(text, countries=["PH"]) == "It is <PHONE_NUMBER> now"
    assert scrubbed(text, countries=["SE"]) == text


@pytest.mark.parametrize(
    ("country", "text", "entity"),
    [
        ("GB", "my national insurance number is AB 12 34 56 C", "UK_NINO"),
        ("PL", "pesel 44051401359", "PL_PESEL"),
        ("IN", "permanent account number ABCPD1234F", "IN_PAN"),
    ],
)
def test_countries_bring_their_national_identifiers_beside_the_chosen_entities(country, text, entity):
    assert f"<{entity}>" not in scrubbed(text)
    assert f"<{entity}>" in scrubbed(text, countries=[country])


def test_a_country_that_does_not_exist_is_refused():
    with pytest.raises(UnknownCountry, match=r"dataset\.pii\.countries: got XY"):
        detector(PiiSpec(countries=["XY"]))


def test_norway_is_no_boolean():
    assert PiiSpec(countries=[False, "SE"]).countries == ["NO", "SE"]


def test_groups_of_rules_can_be_skipped():
    text = "i was in lisbon with beatriz"
    assert scrubbed(text) == "i was in <LOCATION> with <PERSON>"
    assert scrubbed(text, skip=["known_places"]) == "i was in lisbon with <PERSON>"
    assert scrubbed(text, skip=["known_names", "known_places"]) == text
    assert scrubbed("ZIP: 4410") == "ZIP: <LOCATION>"
    assert scrubbed("ZIP: 4410", skip=["fields"]) == "ZIP: 4410"


def test_a_class_of_your_own_finds_what_it_says_it_finds():
    own = [{"type": "python", "recognizer": f"{HERE}:Badges", "options": {"digits": 3}}]
    assert scrubbed("badge B-123 of Gregor Lund", detectors=own) == "badge <BADGE> of <PERSON>"


@pytest.mark.parametrize(
    ("recognizer", "said"),
    [(f"{HERE}:Gone", "cannot be imported"), ("no.such:Thing", "cannot be imported"), (f"{HERE}:NoRecognizer", "want a")],
)
def test_a_class_that_is_no_recognizer_is_refused_by_its_place(recognizer, said):
    with pytest.raises(MissingDetector, match=rf"dataset\.pii\.detectors\[0\]\.recognizer: .*{said}"):
        detector(PiiSpec(detectors=[{"type": "python", "recognizer": recognizer}]))


def test_gliner_says_what_to_install():
    with pytest.raises(MissingDetector, match="pip install gliner"):
        detector(PiiSpec(detectors=[{"type": "gliner", "model": f"a/b@{'0' * 40}", "labels": {"person": "PERSON"}}]))


@pytest.mark.parametrize("model", ["bert-base", "owner/name", "owner/name@main", f"owner/name@{'g' * 40}"])
def test_weights_of_the_hub_are_pinned(model):
    with pytest.raises(ValidationError, match="40 hexadecimal digits"):
        PiiSpec(detectors=[{"type": "transformers", "model": model}])


@pytest.fixture(scope="module")
def tiny_ner(tmp_path_factory):
    """A token classifier that calls `zorblax` a person and everything else nothing."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("ner")
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "zorblax": 4}
    raw = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)
    model = BertForTokenClassification(
        BertConfig(
            vocab_size=5, hidden_size=8, num_hidden_layers=0, num_attention_heads=1, intermediate_size=8, max_position_embeddings=64,
            id2label={0: "O", 1: "B-ALIEN"}, label2id={"O": 0, "B-ALIEN": 1},
        )
    )  # fmt: skip
    with torch.no_grad():
        for weights in model.parameters():
            weights.zero_()
        model.bert.embeddings.LayerNorm.weight.fill_(1)
        model.bert.embeddings.word_embeddings.weight[4, 0] = 1
        model.classifier.weight[1, 0] = 10
        model.classifier.bias[0] = 3
    model.save_pretrained(folder)
    return folder


def test_a_model_of_transformers_finds_what_its_labels_are_mapped_to(tiny_ner):
    own = [{"type": "transformers", "model": str(tiny_ner), "labels": {"ALIEN": "VISITOR"}}]
    assert scrubbed("we met zorblax there", detectors=own) == "we met <VISITOR> there"


def test_a_model_that_fails_stops_the_step(tiny_ner, monkeypatch):
    from fine_tune_pipeline.programs.pii.recognizers.token_classifier import TokenClassifier

    def broken(self):
        def pipeline(text):
            raise RuntimeError("out of memory")

        self.ner_pipeline = pipeline

    monkeypatch.setattr(TokenClassifier, "load", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        scrubbed("we met zorblax there", detectors=[{"type": "transformers", "model": str(tiny_ner)}])


def test_a_folder_that_is_not_there_is_named():
    with pytest.raises(MissingDetector, match=r"detectors\[0\]\.model: there is no folder ./nowhere"):
        detector(PiiSpec(detectors=[{"type": "transformers", "model": "./nowhere"}]))


def test_weights_and_sources_are_part_of_what_found_it(tiny_ner, tmp_path):
    def identity(path):
        return identities(PiiSpec(detectors=[{"type": "transformers", "model": str(path)}]))

    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for path in tiny_ner.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert identity(copy) == identity(tiny_ner)
    (copy / "config.json").write_text("{}", encoding="utf-8")
    assert identity(copy) != identity(tiny_ner)
    [own] = identities(PiiSpec(detectors=[{"type": "python", "recognizer": f"{HERE}:Badges"}]))
    assert len(own["source"]) == 64


class Model(Quiet, BaseHTTPRequestHandler):
    answer = ""
    asked: list[dict] = []
    status = 200

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        type(self).asked.append({"path": self.path, "key": self.headers["authorization"], **body})
        reply = json.dumps({"choices": [{"message": {"content": type(self).answer}}]}).encode()
        self.send_response(type(self).status if type(self).answer else 400)
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)


@pytest.fixture
def llm(monkeypatch):
    monkeypatch.setenv("LLM_KEY_OF_THE_TESTS", "secret")
    Model.answer, Model.asked, Model.status = "", [], 200
    with web_server(Model) as address:
        yield [{"type": "llm", "url": f"{address}/v1", "model": "m", "key_variable": "LLM_KEY_OF_THE_TESTS", "ask_for": ["PERSON", "SHIP"]}]


def test_a_language_model_finds_what_stands_in_the_text_and_nothing_else(llm, caplog):
    rows = [("zorblax", "PERSON"), ("the Halyard", "SHIP"), ("Nobody Here", "PERSON"), ("met", "SHOE")]
    Model.answer = "```json\n" + json.dumps({"found": [{"text": text, "entity": entity} for text, entity in rows]}) + "\n```"
    with caplog.at_level(logging.WARNING):
        assert scrubbed("we met zorblax on the Halyard, zorblax!", detectors=llm) == "we met <PERSON> on <SHIP>, <PERSON>!"
    assert "1 values that do not stand in the text" in caplog.text
    assert "Nobody Here" not in caplog.text
    [asked] = Model.asked
    assert (asked["path"], asked["key"], asked["model"], asked["temperature"]) == ("/v1/chat/completions", "Bearer secret", "m", 0)


@pytest.mark.parametrize("answer", ["", "none found", '{"found": 3}', '{"people": []}'])
def test_a_language_model_that_gives_no_list_stops_the_step_without_the_text(llm, answer):
    Model.answer = answer
    with pytest.raises(LlmFailed) as caught:
        scrubbed("we met zorblax", detectors=llm)
    assert "zorblax" not in str(caught.value)


def test_a_language_model_that_fails_is_asked_again_after_a_wait_and_then_stops_the_step_without_the_text(llm):
    Model.answer, Model.status, waits = "zorblax is busy", 503, []
    recognizer = LlmRecognizer(LlmDetector.model_validate(llm[0]), key=None, wait=waits.append)
    with pytest.raises(LlmFailed, match=r"status 503 \(3 tries\); want a chat completion of m") as caught:
        recognizer.analyze("we met zorblax", ["PERSON"])
    assert "zorblax" not in str(caught.value)
    assert (len(Model.asked), len(waits)) == (3, 2)


def test_a_key_that_is_not_set_is_named(llm, monkeypatch):
    monkeypatch.delenv("LLM_KEY_OF_THE_TESTS")
    with pytest.raises(MissingDetector, match="LLM_KEY_OF_THE_TESTS is not set"):
        detector(PiiSpec(detectors=llm))
