"""The asset `exported_model`, with the real program in this process: folders, cards, hashes, and what it refuses."""

import re
import runpy
from pathlib import Path
from typing import Any

import dagster as dg
import gguf
import numpy as np
import pytest
from huggingface_hub import ModelCard

from fine_tune_pipeline.artifacts.checksums import verify
from fine_tune_pipeline.artifacts.fingerprint import file_sha256
from fine_tune_pipeline.artifacts.store import FailedUpstream
from fine_tune_pipeline.defs.resources import bound_resources
from fine_tune_pipeline.guide.deployment.assets import exported_model
from fine_tune_pipeline.guide.deployment.export import CHECK, NothingToExport, provenance
from fine_tune_pipeline.guide.deployment.model_card import ELSEWHERE
from fine_tune_pipeline.programs.decoding import generate_batch
from fine_tune_pipeline.programs.gguf_converter import VARIABLE
from fine_tune_pipeline.programs.models import load_model, load_tokenizer, weights_sha256
from fine_tune_pipeline.programs.prompts import encode
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.rehearsal import rehearse
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline.use_case import assets_of, build
from fine_tune_pipeline_tests.guide.deployment.export_world import USE_CASE, ExportWorld, own_base, use_case

PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture
def world(tmp_path: Path) -> ExportWorld:
    return ExportWorld(tmp_path)


def checks(result: dg.ExecuteInProcessResult) -> dict[str, tuple[bool, str | None]]:
    return {check.check_name: (check.passed, check.description) for check in result.get_asset_check_evaluations()}


def answer(base: Path, adapter: Path, question: str, *, format: PromptFormat, tokens: int) -> str:
    """As the endpoint would."""
    tokenizer = load_tokenizer(base)
    ids = encode(question, None, tokenizer=tokenizer, format=format).prompt_ids
    return generate_batch(load_model(base, adapter=adapter), tokenizer, [ids], format=format, max_new_tokens=tokens)[0].text


def test_each_format_has_a_folder_a_card_and_hashes(world: ExportWorld):
    base, adapter = world.fill()
    world.evaluate()
    result, artifact = world.export(use_case(world.folder, formats=["merged", "adapter"]))
    assert result.success
    assert checks(result)[CHECK][0]
    folder = artifact.file("export")
    assert verify(folder).wrong == verify(artifact.folder).wrong == ()
    assert {path.name for path in folder.iterdir()} == {"README.md", "SHA256SUMS", "adapter", "merged"}
    assert weights_sha256(folder / "adapter") == weights_sha256(adapter)
    assert weights_sha256(base) not in {weights_sha256(folder / name) for name in ("adapter", "merged")}
    for name in ("adapter", "merged"):
        assert (folder / name / "LICENSE.txt").read_text(encoding="utf-8") == "the terms"
        assert (folder / name / "README.md").is_file()


def test_its_metadata_names_files_sizes_hashes_and_the_largest_difference(world: ExportWorld):
    world.fill()
    _, artifact = world.export(use_case(world.folder, formats=["merged"]))
    shown, folder = artifact.metadata, artifact.file("export")
    assert {row["file"]: (row["bytes"], row["sha256"]) for row in shown["files"]} == {
        path.relative_to(folder).as_posix(): (path.stat().st_size, file_sha256(path))
        for path in folder.rglob("*")
        if path.is_file() and path.name != "SHA256SUMS"
    }
    assert shown["sums_sha256"] == file_sha256(folder / "SHA256SUMS")
    assert 0 <= shown["merge/largest_difference"] <= shown["merge/allowed"] == 0.01
    assert (shown["formats"], shown["not_made"]) == (["merged"], "none")


def test_the_card_says_what_it_was_made_of_on_which_terms_and_what_it_reached(world: ExportWorld):
    base, adapter = world.fill()
    world.evaluate()
    _, artifact = world.export(use_case(world.folder, formats=["adapter", "merged"]))
    page = artifact.file("export/README.md").read_text(encoding="utf-8")
    plain = page.replace("\\", "")
    dataset = world.store.current(USE_CASE, "dataset").fingerprint
    for fact in (
        f"| SHA-256 of its weights | {weights_sha256(base)} |",
        f"| SHA-256 of what was trained | {weights_sha256(adapter)} |",
        f"Artifact dataset {dataset}. Rows: 12 train, 6 validation, 4 test.",
        "| rank | 4 |",
        "| learning_rate | 0.002 |",
        "| seed | 1 |",
        "| validation loss, before and after | 3.12, 0.25 |",
        "| PERSON | 4 |",
        "| exact_match | 0.25 [0.125, 0.375] | 0.82 [0.75, 0.875] |",
        "| exact_match at least 0.5 | met | at least 0.77 |",
        '- show "Built with Llama"',
        '- names of derived models begin with "Llama"',
        "Their text lies beside the weights: LICENSE.txt.",
        "Made for: Tell apples from pears",
        "no logit differs by more than",
    ):
        assert fact in plain, fact
    assert str(world.folder) not in page
    assert [example for example in ("is train", "is validation", "is test") if example in page] == []


def test_the_header_is_one_that_the_hub_reads(world: ExportWorld):
    world.fill()
    world.evaluate()
    _, artifact = world.export(use_case(world.folder, base_model=own_base("hub"), formats=["adapter", "merged"]))
    cards = {name: ModelCard.load(artifact.file(f"export/{name}/README.md")).data for name in ("adapter", "merged")}
    assert {name: (data.library_name, data.base_model_relation) for name, data in cards.items()} == {
        "adapter": ("peft", "adapter"),
        "merged": ("transformers", "finetune"),
    }
    data = cards["merged"]
    assert (data.license, data.base_model, data.pipeline_tag) == ("llama3.2", "meta/tiny", "text-generation")
    [found] = data.eval_results or []
    assert (found.metric_type, found.metric_value, found.dataset_split) == ("exact_match", 0.82, "test")
    text = artifact.file("export/adapter/README.md").read_text(encoding="utf-8")
    assert f"revision='{'a' * 40}'" in text
    assert ELSEWHERE not in text


def test_the_card_of_a_model_that_was_trained_with_passages_says_what_it_needs_beside_its_weights(world: ExportWorld):
    base, _ = world.fill()
    index = world.keep("retrieval_index", {"index.json": {"source": "training answers"}})
    world.train(base, seed=2, index=index)
    _, artifact = world.export(use_case(world.folder, formats=["adapter"]))
    page = artifact.file("export/README.md").read_text(encoding="utf-8")
    assert f"up to 2 passages before each question, the nearest last, looked up in the artifact retrieval_index {index.fingerprint}" in page
    assert "(training answers)" in page
    assert "like, answered = 'what was looked up for it'" in page


@pytest.mark.parametrize("style", ["plain", "chat"])
def test_the_code_of_the_cards_gives_the_answers_of_the_endpoint(world: ExportWorld, style: str, monkeypatch, capsys):
    base, adapter = world.fill(chat=style == "chat")
    spec = use_case(world.folder, formats=["adapter", "merged"])
    spec = spec.model_copy(
        update={"dataset": spec.dataset.model_copy(update={"format": spec.dataset.format.model_copy(update={"style": style})})}
    )
    _, artifact = world.export(spec)
    question = "is validation 3 red"
    format = PromptFormat.model_validate({"style": style})
    for name in ("adapter", "merged"):
        page = artifact.file(f"export/{name}/README.md").read_text(encoding="utf-8")
        [code] = PYTHON.findall(page)
        tokens = int(re.findall(r"max_new_tokens=(\d+)", code)[0])
        script = world.folder / f"{name}.py"
        script.write_text(code.replace(ELSEWHERE, str(base)).replace("what a user writes", question), encoding="utf-8")
        monkeypatch.chdir(artifact.file(f"export/{name}"))
        capsys.readouterr()
        runpy.run_path(str(script))
        assert capsys.readouterr().out.strip() == answer(base, adapter, question, format=format, tokens=tokens)


def test_a_gguf_file_is_told_by_what_it_says_of_itself(world: ExportWorld, monkeypatch: pytest.MonkeyPatch):
    world.fill()
    writer = gguf.GGUFWriter(world.folder / "made.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.zeros((8, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    script = world.folder / "convert_hf_to_gguf.py"
    script.write_text(f"import shutil, sys; shutil.copyfile({str(world.folder / 'made.gguf')!r}, sys.argv[4])", encoding="utf-8")
    monkeypatch.setenv(VARIABLE, str(script))
    _, artifact = world.export(use_case(world.folder, formats=["gguf"]))
    shown = artifact.metadata
    assert (shown["gguf_architecture"], shown["gguf_tensors"], shown["gguf_converter"]) == ("llama", 1, "convert_hf_to_gguf.py")
    page = artifact.file("export/gguf/README.md").read_text(encoding="utf-8")
    assert "llama-server --model ./fruit-f16.gguf" in page
    assert ModelCard(page).data.library_name == "gguf"


def test_a_merge_beyond_the_bound_fails_the_check_and_keeps_the_adapter(world: ExportWorld):
    world.fill()
    spec = use_case(world.folder, formats=["adapter", "merged"], dtype="bfloat16", largest_logit_difference=1e-6)
    result, artifact = world.export(spec)
    passed, said = checks(result)[CHECK]
    assert not passed
    assert "raise deployment.export.largest_logit_difference" in str(said)
    assert {path.name for path in artifact.file("export").iterdir()} == {"README.md", "SHA256SUMS", "adapter"}
    assert artifact.metadata["not_made"] == "merged: see the check"


def test_full_tuning_leaves_no_adapter_and_says_so(world: ExportWorld):
    base, _ = world.fill()
    trained = world.train(base, seed=7, technique="full")
    result, artifact = world.export(use_case(world.folder, formats=["adapter", "merged"]))
    assert checks(result)[CHECK] == (True, "nothing was merged")
    assert artifact.metadata["not_made"] == "adapter: full tuning leaves a whole model and no adapter"
    assert weights_sha256(artifact.file("export/merged")) == weights_sha256(trained)


def test_after_qlora_the_distance_to_the_quantised_model_is_in_the_card(world: ExportWorld):
    base, _ = world.fill()
    world.train(base, technique="qlora")
    _, artifact = world.export(use_case(world.folder, formats=["merged"]))
    assert artifact.metadata["merge/quantised_difference"] > artifact.metadata["merge/largest_difference"]
    page = artifact.file("export/README.md").read_text(encoding="utf-8")
    assert "laid into the unquantised base model" in page
    assert "trained beside a base model in nf4" in page


def test_an_export_is_made_again_only_when_something_changed(world: ExportWorld):
    base, _ = world.fill()
    spec = use_case(world.folder, formats=["adapter"])

    def made() -> tuple[bool, str]:
        result, artifact = world.export(spec)
        [event] = result.asset_materializations_for_node(f"{USE_CASE}__exported_model")
        return bool(event.metadata["reused"].value), artifact.fingerprint

    first, again = made(), made()
    assert (first[0], again) == (False, (True, first[1]))
    world.evaluate()
    evaluated = made()
    world.train(base, seed=2)
    assert [evaluated[0], made()[0]] == [False, False]


def test_an_evaluation_of_another_adapter_says_nothing_of_this_one(world: ExportWorld):
    base, _ = world.fill()
    world.evaluate()
    world.train(base, seed=2)
    _, artifact = world.export(use_case(world.folder, formats=["adapter"]))
    page = artifact.file("export/README.md").read_text(encoding="utf-8")
    assert "this adapter was not evaluated" in page
    assert "82.0%" not in page
    assert ModelCard(page).data.eval_results is None


def test_a_model_that_failed_its_evaluation_is_not_exported(world: ExportWorld):
    world.fill()
    world.evaluate(passed=False)
    with pytest.raises(FailedUpstream, match="meets_objective"):
        provenance(use_case(world.folder, formats=["adapter"]), world.store)


def test_a_hosted_model_has_nothing_to_export(world: ExportWorld):
    entry: dict[str, Any] = {"type": "api", "id": "mini", "model": "gpt-mini", "licence": "LicenseRef-Test"}
    hosted = {"candidates": [{**entry, "context_tokens": 1000}], "accept_licences": ["LicenseRef-Test"]}
    world.keep("base_model", {"base_model.json": {"id": "mini"}})
    with pytest.raises(NothingToExport, match="kept by its provider"):
        provenance(use_case(world.folder, base_model=hosted, formats=["merged"]), world.store)


def test_the_asset_is_there_only_if_a_format_is_asked_for(tmp_path: Path):
    assert "exported_model" not in assets_of(use_case(tmp_path))
    spec = use_case(tmp_path, formats=["adapter"])
    exported = assets_of(spec)["exported_model"]
    key = dg.AssetKey([USE_CASE, "exported_model"])
    assert {parent.path[-1] for parent in exported.dependency_keys} == {"adapter", "base_model", "dataset", "evaluation_report"}
    assert exported.tags_by_key[key]["guide/step"] == "8"
    repository = dg.Definitions.merge(build(spec), bound_resources()).get_repository_def()
    chosen = {job.name for job in repository.get_all_jobs() if key in job.asset_layer.executable_asset_keys}
    assert {f"{USE_CASE}_fine_tune", f"{USE_CASE}_retrain"} <= chosen
    assert f"{USE_CASE}_monitor" not in chosen


def test_a_plan_says_whether_the_export_would_be_made_without_making_it(world: ExportWorld):
    world.fill()
    spec = use_case(world.folder, formats=["adapter"])
    resources = {**world.resources, "tracking": ExperimentTracking(uri="sqlite://")}

    def planned() -> tuple[str, str]:
        [step] = rehearse(spec, {"exported_model": exported_model(spec)}, resources)
        return step.does, step.why

    assert planned() == ("build", "it is not in the store yet")
    assert world.store.peek(USE_CASE, "exported_model") is None
    world.export(spec)
    assert planned()[0] == "reuse"
