"""The version table: nothing changes for those who ask until everything wished is there, and a restart serves what was served."""

import json
from pathlib import Path

import pytest

from fine_tune_pipeline.programs.serving.contract import VERSIONS_FILE, SyncRequest
from fine_tune_pipeline.programs.serving.versions import NoChampion, NotServed, SyncRefused
from fine_tune_pipeline_tests.programs.serving.serving_stand import fake_adapter, offered, stand


def test_before_the_first_promotion_nobody_but_the_base_answers(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        with pytest.raises(NoChampion, match="no version has been promoted"):
            it.versions.target(None)
        assert it.versions.target("bank-base").version == "base"
        assert it.versions.names() == ["bank-base"]


def test_a_loaded_version_answers_by_its_name_and_only_a_promoted_one_by_the_use_cases(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1)
        adapter = fake_adapter(tmp_path / "v2", content="two")
        it.versions.sync(SyncRequest(versions=(offered(2, adapter),)))
        assert it.versions.target("bank").name == "bank-v1"
        second = it.versions.target("bank-v2")
        assert (second.arm, second.sha256, second.max_new_tokens) == ("other", offered(2, adapter).adapter_sha256, 8)
        it.versions.sync(SyncRequest(aliases={"champion": 2, "previous": 1}))
        assert (it.versions.target(None).name, it.versions.target("bank-v2").arm) == ("bank-v2", "champion")
        with pytest.raises(NotServed, match="want one of bank, bank-v1, bank-v2, bank-base"):
            it.versions.target("gpt-4")


def test_versions_that_nobody_refers_to_are_let_go_with_their_files(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        for version in (1, 2, 3):
            it.promote(version)
        assert list(it.models.loaded) == ["bank-v3"]
        assert [folder.name for folder in (tmp_path / "state/adapters").iterdir()] == [it.versions.target(None).sha256]


@pytest.mark.parametrize("fault", ["other weights", "other base", "does not load", "not there"])
def test_a_bad_version_is_refused_with_its_reason_and_the_champion_goes_on(tmp_path: Path, fault: str):
    with stand(tmp_path / "state") as it:
        it.promote(1)
        adapter = fake_adapter(tmp_path / "new", content="two")
        bad = offered(2, adapter)
        if fault == "other weights":
            (adapter / "adapter_model.safetensors").write_text("changed after registration", encoding="utf-8")
        if fault == "other base":
            bad = bad.model_copy(update={"base_sha256": "c" * 64})
        if fault == "does not load":
            it.models.refuse = "bank-v2"
        if fault == "not there":
            bad = bad.model_copy(update={"adapter": str(tmp_path / "nowhere")})
        with pytest.raises(SyncRefused, match="bank-v2"):
            it.versions.sync(SyncRequest(versions=(bad,), aliases={"champion": 2}))
        assert it.versions.target(None).name == "bank-v1"
        failed = it.versions.table.version(2)
        assert failed is not None
        assert failed.state == "failed"
        assert failed.reason
        assert not list((tmp_path / "state/adapters").glob("*.partial"))


def test_a_version_that_failed_can_be_offered_again(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        adapter = fake_adapter(tmp_path / "new", content="two")
        it.models.refuse = "bank-v2"
        with pytest.raises(SyncRefused):
            it.versions.sync(SyncRequest(versions=(offered(2, adapter),)))
        it.models.refuse = None
        it.versions.sync(SyncRequest(versions=(offered(2, adapter),), aliases={"champion": 2}))
        assert it.versions.target(None).name == "bank-v2"


def test_a_version_number_is_never_used_for_other_weights(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1)
        other = fake_adapter(tmp_path / "other", content="other")
        with pytest.raises(SyncRefused, match="never used twice"):
            it.versions.sync(SyncRequest(versions=(offered(1, other),)))


def test_an_alias_to_a_version_that_is_not_loaded_changes_nothing(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1)
        with pytest.raises(SyncRefused, match="version 7 is not loaded"):
            it.versions.sync(SyncRequest(aliases={"champion": 7}))
        assert it.versions.table.aliases == {"champion": 1}


def test_a_restart_serves_what_was_served_even_when_the_offered_folder_is_gone(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1)
    for path in (tmp_path / "state/offered-1").iterdir():
        path.unlink()
    with stand(tmp_path / "state") as again:
        assert again.versions.target(None).name == "bank-v1"
        assert list(again.models.loaded) == ["bank-v1"]


def test_a_restart_with_damaged_files_says_so_and_serves_no_wrong_answer(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1)
        folder = it.models.loaded["bank-v1"]
    (folder / "adapter_model.safetensors").write_text("damaged", encoding="utf-8")
    with stand(tmp_path / "state") as again:
        with pytest.raises(NoChampion, match="SHA-256"):
            again.versions.target(None)
        assert again.service.health().status == "failed"


def test_the_table_of_another_base_model_is_not_taken_over(tmp_path: Path):
    with stand(tmp_path / "state") as it:
        it.promote(1)
    path = tmp_path / "state" / VERSIONS_FILE
    table = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**table, "base_sha256": "c" * 64}), encoding="utf-8")
    with stand(tmp_path / "state") as again:
        assert again.versions.table.versions == ()
        assert again.versions.table.aliases == {}
