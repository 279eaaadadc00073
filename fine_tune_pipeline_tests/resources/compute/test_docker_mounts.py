import os
from pathlib import Path

import pytest

from fine_tune_pipeline.programs.requests import InspectRequest, PredictJob, PredictRequest, PromptFormat
from fine_tune_pipeline.resources.compute.docker_mounts import Mounted, configured, handed_over, of_job, user_of
from fine_tune_pipeline.resources.compute.job import Job, PlaceFailure


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Reads a model with a link out of it and a file of prompts, writes a folder and, in another one, a file that is not there yet."""
    for name in ("model", "blobs", "output", "answers"):
        (tmp_path / name).mkdir()
    (tmp_path / "blobs" / "weights").write_text("w", encoding="utf-8")
    (tmp_path / "model" / "weights").symlink_to("../blobs/weights")
    (tmp_path / "prompts").write_text("p", encoding="utf-8")
    one = PredictJob(name="one", prompts=str(tmp_path / "prompts"), output=str(tmp_path / "answers" / "one.jsonl"), format=PromptFormat())
    request = PredictRequest(output=str(tmp_path / "output"), model=str(tmp_path / "model"), jobs=(one,))
    return Job(request=request, folder=tmp_path / "output" / ".exchange")


def test_what_is_read_is_mounted_read_only_and_what_is_written_with_its_folder(job: Job, tmp_path: Path):
    assert {mount.target.relative_to(tmp_path): mount.read_only for mount in of_job(job, [])} == {
        Path("model"): True,
        Path("prompts"): True,
        Path("blobs/weights"): True,
        Path("output"): False,
        Path("answers"): False,
    }


def test_what_lies_in_a_volume_or_in_a_written_folder_needs_no_mount_of_its_own(job: Job, tmp_path: Path):
    assert of_job(job, [Mounted("state", tmp_path, read_only=False)]) == []
    inside = tmp_path / "output" / "prompts"
    inside.write_text("p", encoding="utf-8")
    request = PredictRequest(output=str(tmp_path / "output"), model=str(inside), jobs=())
    assert of_job(Job(request=request, folder=job.folder), []) == [Mounted(str(tmp_path / "output"), tmp_path / "output", read_only=False)]


def test_what_is_read_and_is_not_there_is_named(job: Job, tmp_path: Path):
    (tmp_path / "prompts").unlink()
    with pytest.raises(PlaceFailure, match=r"predict: .*/prompts: not there"):
        of_job(job, [])


def test_volumes_are_named_or_folders():
    assert configured({"state": "/var/lib/state", "/srv/hub": "/hub:ro"}) == [
        Mounted("state", Path("/var/lib/state"), read_only=False),
        Mounted("/srv/hub", Path("/hub"), read_only=True),
    ]
    assert configured({"/srv/hub": "/hub:ro"})[0].settings == {"Type": "bind", "Source": "/srv/hub", "Target": "/hub", "ReadOnly": True}
    assert configured({"state": "/data"})[0].settings["Type"] == "volume"


@pytest.mark.parametrize("where", ["data", "", "/data:rx"])
def test_a_volume_without_an_absolute_path_is_refused(where: str):
    with pytest.raises(PlaceFailure, match=r"compute\.place\.volumes: state: got"):
        configured({"state": where})


def test_programs_run_as_we_do_but_never_as_root(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "getgid", lambda: 1001)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert user_of(None) == "1000:1001"
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert user_of(None) == "10001:10001"
    assert user_of("7:8") == "7:8"


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """New owner and group of everything that changes hands, as seen by root."""
    given: dict[str, tuple[int, int]] = {}
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setattr(os, "chown", lambda path, uid, gid, **_: given.update({str(Path(path).relative_to(tmp_path)): (uid, gid)}))
    return given


def test_root_gives_what_is_written_to_the_user_of_the_program(job: Job, tmp_path: Path, given: dict[str, tuple[int, int]]):
    (tmp_path / "output" / "checkpoint").mkdir()
    (tmp_path / "answers" / "of somebody else").mkdir()
    handed_over(job, "10001:10001")
    assert given == dict.fromkeys(("output", "output/checkpoint", "answers"), (10001, 10001))


@pytest.fixture
def inspection(tmp_path: Path) -> Job:
    """Of weights that `save_pretrained` has kept to their owner, in a base model that is being built."""
    model = tmp_path / "store" / "triage" / "base_model" / ".draft-1" / "model"
    model.mkdir(parents=True)
    (model / "weights").write_text("w", encoding="utf-8")
    (model / "weights").chmod(0o600)
    (model.parent / "inspection").mkdir()
    request = InspectRequest(output=str(model.parent / "inspection"), model=str(model))
    return Job(request=request, folder=model.parent / "inspection" / ".exchange")


@pytest.fixture
def as_root(given: dict[str, tuple[int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """Whoever runs the tests passes for root, once what is written is given away."""
    seen = tmp_path.stat()
    monkeypatch.setattr(os, "getuid", lambda: seen.st_uid if given else 0)
    monkeypatch.setattr(os, "getgid", lambda: seen.st_gid)
    return given


def test_what_only_root_may_read_of_the_store_is_opened_to_the_group_of_the_program(inspection: Job, as_root: dict[str, tuple[int, int]]):
    handed_over(inspection, "10001:10001")
    assert as_root["store/triage/base_model/.draft-1/model/weights"] == (-1, 10001)
    assert (inspection.reads[0] / "weights").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("linked_from_the_store", [True, False])
def test_what_only_root_may_read_elsewhere_is_named_and_left_as_it_is(
    inspection: Job, tmp_path: Path, as_root: dict[str, tuple[int, int]], linked_from_the_store: bool
):
    own = tmp_path / "own"
    inspection.reads[0].rename(own)
    if linked_from_the_store:
        inspection.reads[0].mkdir()
        (inspection.reads[0] / "weights").symlink_to(own / "weights")
    request = inspection.request.model_copy(update={} if linked_from_the_store else {"model": str(own)})
    with pytest.raises(PlaceFailure, match=r"inspect: user 10001:10001 of the container may not read \S*/own/weights: chmod"):
        handed_over(Job(request=request, folder=inspection.folder), "10001:10001")
    assert set(as_root) == {"store/triage/base_model/.draft-1/inspection"}
    assert (own / "weights").stat().st_mode & 0o777 == 0o600


def test_what_somebody_else_keeps_from_the_user_of_the_program_is_named(
    job: Job, tmp_path: Path, given: dict[str, tuple[int, int]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "getgid", lambda: -1)
    (tmp_path / "prompts").chmod(0o600)
    with pytest.raises(PlaceFailure, match=r"user 10001:10001 of the container may not read .*/prompts: chmod"):
        handed_over(job, "10001:10001")
    assert "prompts" not in given
