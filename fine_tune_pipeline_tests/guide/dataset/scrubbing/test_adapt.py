"""The adapted NER as an asset: made once, used where it is better, left where it is not, and not there without its section."""

import dagster as dg
import pytest

from fine_tune_pipeline.artifacts.examples import read_examples
from fine_tune_pipeline.defs.resources import resources
from fine_tune_pipeline.guide.dataset.assets import clean_examples, pii_ner_adapt, raw_examples, scrubbed_examples
from fine_tune_pipeline.guide.dataset.scrubbing.adapt import not_worse
from fine_tune_pipeline.guide.dataset.scrubbing.reviewed_texts import BadReview
from fine_tune_pipeline.guide.deployment.rollout import used_ner
from fine_tune_pipeline.programs import adapt_ner
from fine_tune_pipeline.programs.pii.ner_requests import AdaptNerRequest, NerScore
from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.requests import EmbedRequest
from fine_tune_pipeline.resources.compute.placed import PlacedCompute
from fine_tune_pipeline.resources.data_engine import DataEngine
from fine_tune_pipeline.resources.personal_data_key import PersonalDataKey
from fine_tune_pipeline.resources.serving import Serving
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.use_case import build
from fine_tune_pipeline_tests.guide.dataset.make import jsonl, use_case
from fine_tune_pipeline_tests.guide.technique.stand_ins import embed_words

REVIEWED = {
    "text": "Ann Lee wrote from Rome",
    "findings": [{"start": 0, "end": 7, "entity": "PERSON"}, {"start": 19, "end": 23, "entity": "LOCATION"}],
}


class OwnCompute(PlacedCompute):
    """Programs in this process, with scores as they are told, so that both outcomes can be seen."""

    adapted_f2: float = 0.9

    def run(self, context, request, result):
        if isinstance(request, EmbedRequest):
            return embed_words(request, self)
        if not isinstance(request, AdaptNerRequest):
            return super().run(context, request, result)
        done = adapt_ner.run(request.model_copy(update={"held_back": 3}), Reporter(None))
        return done.model_copy(update={"scores": (score("templates", "packaged", 0.8), score("templates", "adapted", self.adapted_f2))})


def score(kind, ner, f2):
    return NerScore(kind=kind, ner=ner, texts=9, characters=99, precision=f2, recall=f2, f2=f2, false_names=0.0)


class House:
    """A folder with a use case that adapts, and its store."""

    def __init__(self, folder):
        self.folder = folder
        self.store = ArtifactStore(url=str(folder / "store"), reviews=str(folder / "reviews"))
        rows = [{"prompt": f"Julia Fischer likes fruit number {n}", "completion": "apple"} for n in range(3)]
        jsonl(folder / "rows.jsonl", rows)
        jsonl(folder / "reviewed.jsonl", [REVIEWED])

    def run(self, *, adapted_f2=0.9, **adapt):
        section = {"texts": 12, "rounds": 1, "reviewed": [{"path": "reviewed.jsonl"}], **adapt}
        spec = use_case(self.folder, pii={"adapt": section}, minimum_examples=10)
        assets = [factory(spec) for factory in (pii_ner_adapt, raw_examples, clean_examples, scrubbed_examples)]
        bound = {
            "store": self.store, "serving": Serving(folder=str(self.folder / "serving")), "personal_data_key": PersonalDataKey(),
            "compute": OwnCompute(adapted_f2=adapted_f2), "data_engine": DataEngine(),
        }  # fmt: skip
        self.result = dg.materialize(assets, resources=bound, raise_on_error=False)
        return self.result

    def shown(self, name):
        return {key: value.value for key, value in self.result.asset_materializations_for_node(f"fruit__{name}")[0].metadata.items()}

    def artifact(self, name):
        return self.store.open().peek("fruit", name)


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


def test_the_adapted_ner_is_made_once_and_scrubs(house):
    assert house.run().success
    shown = house.shown("pii_ner_adapt")
    assert shown["used"] == "adapted"
    assert shown["templates_f2_packaged"] == 0.8
    assert len(shown["loss"].records) == 1
    assert f"adapted ({shown['weights_sha256'][:8]})" in house.shown("scrubbed_examples")["detector"]
    assert read_examples(house.artifact("scrubbed_examples").file("examples.jsonl"))[0].prompt.startswith("<PERSON> likes")
    assert used_ner(house.artifact("pii_ner_adapt")) == house.artifact("pii_ner_adapt").folder / "ner"
    files = house.artifact("pii_ner_adapt").manifest.files
    assert sorted(files) == ["ner/ner.json", "ner/ner.safetensors"]
    assert house.run().success
    assert house.shown("pii_ner_adapt")["reused"]
    assert house.shown("scrubbed_examples")["reused"]


def test_where_it_is_worse_the_packaged_one_scrubs_and_a_check_says_so(house):
    assert house.run(adapted_f2=0.79).success
    assert house.shown("pii_ner_adapt")["used"] == "packaged"
    assert "adapted" not in house.shown("scrubbed_examples")["detector"]
    [check] = [one for one in house.result.get_asset_check_evaluations() if one.check_name == "not_worse"]
    assert not check.passed
    assert "templates: F2 0.800 packaged, 0.790 adapted. Worse on templates, so the packaged NER is used." in check.description
    assert used_ner(house.artifact("pii_ner_adapt")) is None


def test_other_reviewed_texts_make_another_ner_and_a_mistake_in_them_stops(house):
    house.run()
    jsonl(house.folder / "reviewed.jsonl", [REVIEWED, {"text": "Bob left", "findings": []}])
    house.run()
    assert house.shown("pii_ner_adapt")["changed"] == "reviewed"
    jsonl(house.folder / "reviewed.jsonl", [{"text": "Bob", "findings": [{"start": 0, "end": 9, "entity": "PERSON"}]}])
    assert not house.run().success
    [failed] = [event for event in house.result.all_events if event.is_step_failure]
    assert BadReview.__name__ in str(failed.step_failure_data.error)


def test_without_the_section_there_is_no_such_asset_and_nothing_depends_on_it(tmp_path):
    plain, adapting = (
        dg.Definitions.merge(build(use_case(tmp_path, **section)), resources()).get_repository_def().asset_graph
        for section in ({}, {"pii": {"adapt": {}}})
    )
    key = dg.AssetKey(["fruit", "pii_ner_adapt"])
    assert key not in plain.get_all_asset_keys()
    readers = {child.to_user_string() for child in adapting.get(key).child_keys}
    assert readers == {"fruit/endpoint", "fruit/safety", "fruit/scrubbed_examples"}
    assert adapting.get_all_asset_keys() - plain.get_all_asset_keys() == {key}


def test_the_section_is_no_part_of_what_others_hash(tmp_path):
    plain, adapting = (use_case(tmp_path, **section) for section in ({}, {"pii": {"adapt": {"seed": 3}}}))
    assert plain.dataset.pii.model_dump() == adapting.dataset.pii.model_dump()
    assert "adapt" not in plain.dataset.pii.model_dump(mode="json")
    assert plain.pii == adapting.pii


def test_equal_is_not_worse():
    assert not_worse([score("templates", "packaged", 0.8), score("templates", "adapted", 0.8)]).passed
