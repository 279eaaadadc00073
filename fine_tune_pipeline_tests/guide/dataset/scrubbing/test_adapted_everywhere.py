"""Everything that takes personal data out for a use case asks its adapted NER."""

from pathlib import Path

import pytest

from fine_tune_pipeline import cli
from fine_tune_pipeline.artifacts.examples import read_rows
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Store, content_of
from fine_tune_pipeline.guide.dataset.more.making import Making
from fine_tune_pipeline.guide.dataset.scrubbing.disclosure import disclosed
from fine_tune_pipeline.guide.dataset.scrubbing.scrub import scrub_work
from fine_tune_pipeline.guide.dataset.steps import Step
from fine_tune_pipeline.guide.deployment.register import RegisteredModel
from fine_tune_pipeline.guide.deployment.rollout import Place, Sources, serve_request
from fine_tune_pipeline.guide.objective.task import read_task
from fine_tune_pipeline.programs.pii.stand_ins import StandIns
from fine_tune_pipeline.programs.serve import _scrubber
from fine_tune_pipeline.resources.compute.inventory import Device, Inventory
from fine_tune_pipeline.resources.serving import Serving
from fine_tune_pipeline_tests.guide.dataset.make import example, jsonl, use_case
from fine_tune_pipeline_tests.programs.pii.eager_ner import SCRUBBED, TEXT, eager_ner


@pytest.fixture(scope="module")
def ner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return eager_ner(tmp_path_factory.mktemp("eager") / "ner")


def test_the_rows_of_the_sources(ner, tmp_path):
    spec = use_case(tmp_path)
    settings = {"pii": spec.pii.model_dump(mode="json"), "task": read_task(spec).described(), "key_variable": "KEY"}
    rows = [example("a", TEXT)]
    assert scrub_work({**settings, "ner": str(ner)})(rows).kept[0].prompt == SCRUBBED
    assert scrub_work(settings)(rows).kept[0].prompt != SCRUBBED


def test_made_rows(ner, tmp_path):
    spec = use_case(tmp_path, more={"most_share": 0.5})
    making = Making(spec, Store.at(str(tmp_path / "store")), StandIns(spec.pii), ner)
    assert [row.prompt for row in making.means().scrub([example("a", TEXT)])] == [SCRUBBED]


def test_examples_on_the_data_card(ner, tmp_path):
    spec = use_case(tmp_path)
    step = Step("clean", 1, 0, quarantined={"no_words": 1}, examples=[{"reason": "no_words", "id": "a", "detail": "", "text": TEXT}])
    [shown] = disclosed([step], pii=spec.pii, stand_ins=StandIns(spec.pii), ner=ner)[0].examples
    assert shown["text"] == SCRUBBED


def test_the_traffic_of_the_endpoint(ner, tmp_path):
    spec, store = use_case(tmp_path), Store.at(str(tmp_path / "store"))

    def kept(asset, *names):
        with store.draft("fruit", content_of(asset=asset, version=1, what={}, upstream={})) as draft:
            for name in names:
                (draft.folder / name).mkdir()
            (draft.folder / "train.jsonl").write_text("", encoding="utf-8")
            if asset == "pii_ner_adapt":
                eager_ner(draft.folder / "ner")
            return draft.finish(Built())

    artifacts = {name: kept(name, "model") for name in ("registered_model", "adapter", "base_model", "dataset", "predictions")}
    sources = Sources(**artifacts, pii_ner_adapt=kept("pii_ner_adapt"))
    model = RegisteredModel(
        name="fruit", version=1, fingerprint="f", adapter_sha256="a", base_model="b", base_sha256="c", max_new_tokens=4
    )  # fmt: skip
    cpu = Device(kind="cpu", name="CPU", memory_bytes=1 << 30, bfloat16=False)
    serving = Serving(folder=str(tmp_path / "serving"))
    place = Place(
        endpoint=serving.endpoint("fruit"), candidate=serving.candidate("fruit"), host="127.0.0.1",
        inventory=Inventory(place="test", devices=(cpu,), cpu_cores=1, memory_bytes=1 << 30), log=serving.traffic_log(spec),
    )  # fmt: skip
    request = serve_request(spec, sources, model=model, place=place)
    assert request.ner == str(artifacts["dataset"].folder.parents[1] / "pii_ner_adapt" / sources.pii_ner_adapt.fingerprint / "ner")
    assert _scrubber(request).clean([TEXT, "ask us"]) == [SCRUBBED, "ask us"]


def test_scrub_at_the_command_line(ner, tmp_path, capsys):
    source, target = jsonl(tmp_path / "in.jsonl", [{"text": TEXT}]), tmp_path / "out.jsonl"
    assert cli.main(["scrub", str(source), str(target), "--ner", str(ner)]) == 0
    assert read_rows(target) == [{"text": SCRUBBED}]
    assert cli.main(["scrub", str(source), str(target), "--ner", str(tmp_path)]) == 1
    assert "there is no ner.json; want the folder `ner` within an artifact of pii_ner_adapt" in capsys.readouterr().err
