"""The five assets in Dagster: built once, reused, waiting for people, rebuilt where something changed."""

import json
import random

import dagster as dg
import pytest

from fine_tune_pipeline.artifacts.documents import read_chunks
from fine_tune_pipeline.artifacts.examples import read_rows, write_rows
from fine_tune_pipeline.artifacts.reviews import ReviewFolder
from fine_tune_pipeline.artifacts.traffic import Feedback, ServedRequest, TrafficLog
from fine_tune_pipeline.guide.dataset.assets import clean_examples, dataset, raw_examples, reviewed_examples, scrubbed_examples
from fine_tune_pipeline.programs.requests import EmbedRequest
from fine_tune_pipeline.resources.compute.placed import PlacedCompute
from fine_tune_pipeline.resources.data_engine import DataEngine
from fine_tune_pipeline.resources.personal_data_key import PersonalDataKey
from fine_tune_pipeline.resources.serving import Serving
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline_tests.guide.dataset.make import jsonl, use_case
from fine_tune_pipeline_tests.guide.dataset.review.test_files import fill_xlsx
from fine_tune_pipeline_tests.guide.technique.stand_ins import embed_words

FACTORIES = {
    "raw_examples": raw_examples,
    "clean_examples": clean_examples,
    "scrubbed_examples": scrubbed_examples,
    "reviewed_examples": reviewed_examples,
    "dataset": dataset,
}
PARTS = ("train", "validation", "test", "fresh")
AUTO = {"review": {"policy": "auto_accept"}, "minimum_examples": 40}


class OwnCompute(PlacedCompute):
    """This machine, but embeddings count words: MiniLM takes seconds to start."""

    def run(self, context, request, result):
        return embed_words(request, self) if isinstance(request, EmbedRequest) else super().run(context, request, result)


class House:
    """A folder with a use case, its store and its endpoint's state."""

    def __init__(self, folder):
        self.folder = folder
        self.store = ArtifactStore(url=str(folder / "store"), reviews=str(folder / "reviews"))
        self.serving = Serving(folder=str(folder / "serving"))
        self.engine = DataEngine()
        draw = random.Random(0)
        words = ["sweet", "sour", "round", "long", "soft", "hard", "green", "red", "ripe", "small", "large", "core", "juice", "tart"]
        rows = [{"prompt": " ".join(draw.sample(words, 9)) + f" {n}", "completion": ("apple", "pear")[n % 2]} for n in range(80)]
        rows += [dict(rows[0]), {"prompt": "??", "completion": "apple"}]
        rows += [{"prompt": "It tastes odd. Regards, Margaret Oduya, m.oduya@fruit.example", "completion": "pear"}]
        jsonl(folder / "rows.jsonl", rows)

    def run(self, **section):
        spec = use_case(self.folder, **{**AUTO, **section})
        assets = [factory(spec) for factory in FACTORIES.values()]
        resources = {
            "store": self.store, "serving": self.serving, "personal_data_key": PersonalDataKey(),
            "compute": OwnCompute(), "data_engine": self.engine,
        }  # fmt: skip
        self.result = dg.materialize(assets, resources=resources, raise_on_error=False)
        return self.result

    def shown(self, name):
        return {key: value.value for key, value in self.result.asset_materializations_for_node(f"fruit__{name}")[0].metadata.items()}

    def reused(self):
        return {name: self.shown(name)["reused"] for name in FACTORIES}

    def failed_checks(self):
        return [check.check_name for check in self.result.get_asset_check_evaluations() if not check.passed]

    def artifact(self, name):
        return self.store.open().peek("fruit", name)


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


def test_five_assets_make_a_dataset_whose_counts_add_up(house):
    assert house.run().success
    card = house.artifact("dataset").json("card.json")
    assert [(step["step"], step["in"], step["kept"], step["quarantined"]) for step in card["steps"]] == [
        ("collect", 83, 83, 0),
        ("clean", 83, 81, 2),
        ("scrub", 81, 81, 0),
        ("review", 81, 81, 0),
        ("split", 81, 81, 0),
    ]
    assert card["quarantined"]["clean"] == {"exact_duplicate": 1, "no_words": 1}
    assert card["personal_data"] == {"EMAIL_ADDRESS": 1, "PERSON": 1}
    assert "without any human look" in card["review"]["said"]
    everything = [row for part in ("train", "validation", "test") for row in read_rows(house.artifact("dataset").file(f"{part}.jsonl"))]
    assert "It tastes odd. Regards, <PERSON>, <EMAIL_ADDRESS>" in [row["prompt"] for row in everything]
    assert house.shown("raw_examples")["rows_kept"] == 83


def test_nothing_changed_means_nothing_is_built(house):
    house.run()
    assert house.run().success
    assert set(house.reused().values()) == {True}


def test_moving_the_use_case_keeps_the_fingerprints(tmp_path):
    prints = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        house = House(tmp_path / name)
        house.run()
        prints.append([house.artifact(asset).fingerprint for asset in FACTORIES])
    assert prints[0] == prints[1]


def test_a_changed_field_rebuilds_what_depends_on_it_and_says_which(house):
    house.run()
    house.run(split={"seed": 3}, pii={"entities": ["EMAIL_ADDRESS"]})
    assert house.reused() == {
        "raw_examples": True, "clean_examples": True, "scrubbed_examples": False, "reviewed_examples": False, "dataset": False,
    }  # fmt: skip
    assert house.shown("scrubbed_examples")["changed"] == "dataset.pii.entities"


def test_review_by_experts_stops_until_the_verdicts_are_in_and_a_hand_in_goes_on(house):
    section = {"review": {"policy": "experts", "share": 0.05}}
    assert not house.run(**section).success
    assert house.failed_checks() == ["reviewed"]
    assert house.artifact("dataset") is None
    scrubbed = house.artifact("scrubbed_examples").fingerprint
    folder = ReviewFolder.at(house.store.review_root, use_case="fruit", kind="examples", fingerprint=scrubbed)
    ids = [row["id"] for row in read_rows(folder.folder / "handout.jsonl")]
    write_rows(folder.verdict_file, [{"id": id_, "verdict": "reject" if id_ == ids[0] else "accept", "by": "Kim"} for id_ in ids])
    assert house.run(**section).success
    assert house.shown("reviewed_examples")["changed"] == "verdicts"
    assert house.artifact("dataset").json("card.json")["quarantined"]["review"] == {"rejected_by_expert": 1}


def test_several_processes_make_the_same_dataset_as_one(house, tmp_path_factory):
    assert house.run().success
    other = House(tmp_path_factory.mktemp("other"))
    other.engine = DataEngine(workers=2, part_rows=30)
    assert other.run().success
    for name in FACTORIES:
        assert other.artifact(name).fingerprint == house.artifact(name).fingerprint
        assert other.artifact(name).manifest.files == house.artifact(name).manifest.files


def test_corrections_from_production_become_examples_and_start_a_rebuild(house):
    house.run()
    log: TrafficLog = TrafficLog.at(house.serving.state("fruit"))
    served = ServedRequest(
        id="q1", ts=1.0, use_case="fruit", version="3", arm="champion", prompt_scrubbed="bottle shaped, buttery", answer_scrubbed="apple",
        prompt_tokens=4, new_tokens=1, latency_ms=5.0, status=200,
    )  # fmt: skip
    log.append([served])
    log.feedback(Feedback(request_id="q1", corrected="pear"))
    assert house.run().success
    assert house.shown("raw_examples")["changed"] == "dataset.feedback"
    made = house.artifact("dataset")
    rows = [row for part in PARTS if f"{part}.jsonl" in made.manifest.files for row in read_rows(made.file(f"{part}.jsonl"))]
    [row] = [row for row in rows if row["metadata"].get("request_id") == "q1"]
    assert (row["completion"], row["source"]) == ("pear", "production_feedback")
    house.run(feedback=False)
    assert house.shown("raw_examples")["corrections"] == 0


def test_a_leftover_identifier_stops_the_graph(house):
    rows = read_rows(house.folder / "rows.jsonl")
    jsonl(house.folder / "rows.jsonl", [*rows, {"prompt": "write to ann@fruit.example", "completion": "pear", "ref": "x"}])
    # A score that no finding reaches: the scrubber is blind, and the independent look is not.
    assert not house.run(pii={"score": 1.0, "entities": ["EMAIL_ADDRESS", "PERSON"]}).success
    assert house.failed_checks() == ["pii_residue"]
    assert "ann@" not in json.dumps([check.description for check in house.result.get_asset_check_evaluations()])


def test_too_few_rows_stop_the_graph_with_a_number(house):
    assert not house.run(minimum_examples=500).success
    assert house.failed_checks() == ["minimum_size", "test_set_shows_gain"]


def test_the_assets_name_what_they_read(house):
    spec = use_case(house.folder)
    assert raw_examples(spec).dependency_keys == {dg.AssetKey(["traffic_log", "fruit"])}
    assert raw_examples(use_case(house.folder, feedback=False)).dependency_keys == set()
    assert dataset(spec).dependency_keys == {dg.AssetKey(["fruit", "reviewed_examples"])}


def test_a_changed_source_does_not_ask_people_again_for_what_they_judged(house):
    section = {"review": {"policy": "experts", "share": 0.05, "per_class": 0, "double_share": 0}}
    house.run(**section)
    kind = house.store.review_root / "fruit" / "examples"
    [handout] = kind.glob("*/handout.jsonl")
    judged = read_rows(handout)
    write_rows(handout.with_name("verdicts.jsonl"), [{"id": row["id"], "verdict": "accept", "by": "Kim"} for row in judged])
    assert house.run(**section).success
    rows = read_rows(house.folder / "rows.jsonl")
    jsonl(house.folder / "rows.jsonl", [*rows, {"prompt": "smooth skin, a long neck and soft", "completion": "pear"}])
    house.run(**section)
    [again] = [path for path in kind.glob("*/handout.jsonl") if path != handout]
    assert not {row["content"] for row in judged} & {row["content"] for row in read_rows(again)}
    reviewed = read_rows(house.artifact("reviewed_examples").file("examples.jsonl"))
    assert sum(row["metadata"].get("reviewed_by") == "Kim" for row in reviewed) == len(judged)


def test_how_rows_are_handed_out_is_no_part_of_the_fingerprint(house):
    section = {"policy": "experts", "share": 0.05, "per_class": 0}
    house.run(review=section)
    first = house.artifact("reviewed_examples").fingerprint
    house.run(review={**section, "formats": ["jsonl", "label_studio"]})
    assert house.artifact("reviewed_examples").fingerprint == first
    assert len(list(house.store.review_root.glob("fruit/examples/*/label_studio_tasks.json"))) == 1


def test_only_a_review_in_mlflow_needs_mlflow(house):
    files = reviewed_examples(use_case(house.folder))
    queue = reviewed_examples(use_case(house.folder, review={"policy": "experts", "formats": ["mlflow"]}))
    assert "tracking" not in files.required_resource_keys
    assert "tracking" in queue.required_resource_keys
    assert {check.name: check.blocking for check in files.check_specs} == {"reviewed": True, "agreement": False}


def test_two_reviewers_in_two_formats_are_told_in_the_data_card(house):
    section = {"review": {"policy": "experts", "share": 0.05, "per_class": 0, "double_share": 1.0}}
    house.run(**section)
    [folder] = [ReviewFolder(path.parent) for path in house.store.review_root.glob("fruit/examples/*/handout.jsonl")]
    asked = [row["id"] for row in read_rows(folder.folder / "handout.jsonl")]
    fill_xlsx(folder.folder / "handout.xlsx", {number: {"verdict": "accept", "by": "Kim"} for number in range(len(asked))})
    house.run(**section)
    write_rows(folder.verdict_file, [{"id": id_, "verdict": "reject" if id_ == asked[0] else "accept", "by": "Lee"} for id_ in asked])
    assert not house.run(**section).success
    write_rows(folder.handed_in / "third.jsonl", [{"id": asked[0], "verdict": "accept", "by": "Max"}])
    assert house.run(**section).success
    review = house.artifact("dataset").json("card.json")["review"]
    assert review["reviewers"] == {"Kim": len(asked), "Lee": len(asked), "Max": 1}
    assert f"On {len(asked)} rows that two people judged they agree on {len(asked) - 1}" in review["said"]
    assert "Krippendorff's alpha" in review["said"]
    assert "Agreement of reviewers" in house.artifact("dataset").file("card.md").read_text(encoding="utf-8")


def test_documents_reach_the_dataset_without_personal_data(house):
    guide = "# Refunds\n\nWrite to Margaret Oduya at m.oduya@fruit.example, or send your fruit back.\n\n# Apples\n\nApples are red.\n"
    (house.folder / "guide.md").write_text(guide, encoding="utf-8")
    house.run(documents=[{"path": "guide.md", "chunk_characters": 200, "overlap_characters": 0}])
    assert house.result.success
    raw, clean = (list(read_chunks(house.artifact(name).folder)) for name in ("raw_examples", "dataset"))
    assert "oduya" in " ".join(chunk.text for chunk in raw)
    assert [chunk.id for chunk in clean] == [chunk.id for chunk in raw]
    said = " ".join(chunk.text for chunk in clean)
    assert "<EMAIL_ADDRESS>" in said
    assert "oduya" not in said.lower()
    assert "Apples are red." in said
    assert house.shown("scrubbed_examples")["document_replacements"] >= 2


def test_chunks_with_personal_data_are_left_out_where_rows_with_it_are(house):
    fruit = "Apples are red and pears are green, and both are sold by weight on the market in town."
    guide = f"# A\n\nWrite to m.oduya@fruit.example about fruit that was sour, soft or late in this season.\n\n# B\n\n{fruit}\n"
    (house.folder / "guide.md").write_text(guide, encoding="utf-8")
    documents = [{"path": "guide.md", "chunk_characters": 100, "overlap_characters": 0}]
    house.run(documents=documents, pii={"operator": "remove"})
    assert house.shown("scrubbed_examples")["document_chunks_left_out"] == 1
    assert "fruit.example" not in house.artifact("dataset").file("documents.jsonl").read_text(encoding="utf-8")
