import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fine_tune_pipeline.guide.base_model.hub import HubFolder, look_at_hub
from fine_tune_pipeline.guide.base_model.hub_errors import (
    DamagedDownload,
    GatedRepository,
    HubUnreachable,
    NoSuchRepository,
    NoSuchRevision,
    TokenRefused,
)
from fine_tune_pipeline.guide.base_model.local import read_model_folder
from fine_tune_pipeline.guide.base_model.model_files import BrokenSafetensors, NeedsOwnCode, PickledWeights
from fine_tune_pipeline.guide.base_model.reaching import DiskFull, NotWritable
from fine_tune_pipeline_tests.hub import COMMIT, FakeHub
from fine_tune_pipeline_tests.tiny import tiny_model

REPO = "acme/tiny"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def held(hub: FakeHub, model: Path):
    """The repository of a tiny model, with what publishers put beside it."""
    return hub.holds(REPO, model, **{"README.md": b"---\nlicense: apache-2.0\n---\nhi", "onnx/model.safetensors": b"other", "x.py": b"x"})


def copied(found: HubFolder, folder: Path) -> Path:
    """The fetched files as a folder."""
    folder.mkdir()
    for name, path in found.at.fetched(found.files).items():
        shutil.copyfile(path, folder / name)
    return folder


def test_a_repository_is_looked_at_without_fetching_its_weights(hub, held, model):
    found, local = look_at_hub(REPO, COMMIT), read_model_folder(model)
    assert (found.architecture, found.parameters, found.context) == (local.architecture, local.parameters, local.context)
    assert found.files == local.files
    assert set(found.left_out) == {"README.md", "onnx/model.safetensors", "x.py"}
    assert hub.sent_bytes["model.safetensors"] < 0.3 * len(held.files["model.safetensors"])
    assert "tokenizer.json" not in hub.fetched()


@pytest.mark.usefixtures("held")
def test_the_hashes_are_those_of_a_local_folder_and_need_no_weights(hub, model):
    found = look_at_hub(REPO, COMMIT)
    sent = hub.sent_bytes["model.safetensors"]
    assert found.hashes() == read_model_folder(model).hashes()
    assert hub.sent_bytes["model.safetensors"] == sent


@pytest.mark.usefixtures("held")
def test_what_is_fetched_is_the_model_and_nothing_beside_it(hub, model, tmp_path):
    folder = copied(look_at_hub(REPO, COMMIT), tmp_path / "copy")
    assert read_model_folder(folder).hashes() == read_model_folder(model).hashes()
    assert not {"onnx/model.safetensors", "x.py"} & hub.fetched()


@pytest.mark.usefixtures("held")
def test_what_the_cache_has_of_a_commit_is_not_asked_for_again(hub):
    found = look_at_hub(REPO, COMMIT)
    found.at.fetched(found.files)
    asked = len(hub.asked)
    again = look_at_hub(REPO, COMMIT)
    again.at.fetched(again.files)
    assert again.hashes() == found.hashes()
    assert len(hub.asked) == asked


def test_a_connection_that_breaks_goes_on_where_it_broke(hub, held, impatient, monkeypatch):
    # The client counts what came by pieces of this size; its own 10 MB are more than the whole file.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    found = look_at_hub(REPO, COMMIT)
    before, whole = hub.sent_bytes["model.safetensors"], len(held.files["model.safetensors"])
    hub.cut = {"model.safetensors": 2}
    paths = found.at.fetched(found.files)
    assert paths["model.safetensors"].read_bytes() == held.files["model.safetensors"]
    assert whole <= hub.sent_bytes["model.safetensors"] - before < 1.01 * whole
    assert hub.cut == {"model.safetensors": 0}


@pytest.mark.usefixtures("held")
def test_a_connection_that_stays_broken_leaves_no_half_file_and_keeps_the_finished_ones(hub, impatient, tmp_path):
    found = look_at_hub(REPO, COMMIT)
    hub.cut = {"model.safetensors": 1000}
    with pytest.raises(HubUnreachable, match=rf"acme/tiny@{COMMIT}.*run again when it answers"):
        found.at.fetched(found.files)
    there = {path.name for path in (tmp_path / "hub_cache").rglob("*")}
    assert "config.json" in there
    assert "model.safetensors" not in there
    assert not [name for name in there if "incomplete" in name]
    hub.cut = {}
    assert found.at.fetched(found.files)["model.safetensors"].is_file()


def test_pickled_weights_are_refused_before_anything_is_fetched(hub, held):
    held.files["pytorch_model.bin"] = held.files.pop("model.safetensors")
    held.files.pop("onnx/model.safetensors")
    with pytest.raises(PickledWeights, match=rf"acme/tiny@{COMMIT}: pytorch_model\.bin are pickled weights"):
        look_at_hub(REPO, COMMIT)
    assert hub.fetched() == set()


def test_weights_that_only_their_name_makes_safetensors_are_refused(held):
    held.files["model.safetensors"] = b"<html>sign in</html>" * 99
    with pytest.raises(BrokenSafetensors, match=r"model\.safetensors is not a safetensors file"):
        look_at_hub(REPO, COMMIT)


def test_a_repository_that_needs_its_own_code_is_refused(held):
    own = {"model_type": "acme", "auto_map": {"AutoModelForCausalLM": "modeling_acme.Acme"}}
    held.files["config.json"] = json.dumps({**json.loads(held.files["config.json"]), **own}).encode()
    with pytest.raises(NeedsOwnCode, match=r"auto_map names Python code of the repository \(modeling_acme\.Acme\).*trust_remote_code"):
        look_at_hub(REPO, COMMIT)


@pytest.mark.usefixtures("held")
def test_a_repository_or_a_commit_that_is_not_there_is_named():
    with pytest.raises(NoSuchRepository, match=r"acme/none: not on http.*or private: check organisation/name, or set HF_TOKEN"):
        look_at_hub("acme/none", COMMIT)
    with pytest.raises(NoSuchRevision, match=rf"acme/tiny: no commit {'f' * 40} there; take one of http.*/acme/tiny/commits/main"):
        look_at_hub(REPO, "f" * 40)


@pytest.mark.parametrize(
    ("token", "status", "said"),
    [(None, 401, "accept the terms at http.*/acme/tiny, then set HF_TOKEN"), ("hf_other", 403, "account of HF_TOKEN has not been let in")],
)
def test_a_repository_that_asks_for_consent_says_what_to_do(held, monkeypatch, token, status, said):
    held.denied = status
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(GatedRepository, match=said):
        look_at_hub(REPO, COMMIT)


def test_with_a_token_of_consent_a_gated_model_is_fetched_and_the_token_is_written_nowhere(held, monkeypatch, tmp_path):
    held.denied, held.token = 401, "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = look_at_hub(REPO, COMMIT)
    found.at.fetched(found.files)
    assert "hf_secret" not in repr(found)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"hf_secret" in path.read_bytes()]


@pytest.mark.usefixtures("held")
def test_a_token_that_the_hub_refuses_is_named(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    hub.refused_tokens = {"hf_old"}
    with pytest.raises(TokenRefused, match=r"refuses the token \(HTTP 401\); it may have expired: set HF_TOKEN to a new one"):
        look_at_hub(REPO, COMMIT)


@pytest.mark.usefixtures("held", "impatient")
@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_that_is_down_is_named(hub, status):
    hub.status = status
    with pytest.raises(HubUnreachable, match=r"could not be read .*run again when it answers, or set HF_ENDPOINT"):
        look_at_hub(REPO, COMMIT)


@pytest.mark.usefixtures("impatient")
def test_a_hub_that_nobody_answers_for_is_named(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubUnreachable, match=r"http://127\.0\.0\.1:9 could not be read"):
        look_at_hub(REPO, COMMIT)


@pytest.mark.usefixtures("held")
def test_a_disk_without_room_is_refused_before_the_download(hub, monkeypatch):
    found = look_at_hub(REPO, COMMIT)
    before = dict(hub.sent_bytes)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(DiskFull, match=r"hub_cache: the weights still to be fetched take 0\.00 GiB.*set HF_HUB_CACHE"):
        found.at.fetched(found.files)
    assert hub.sent_bytes == before


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize(("number", "cause"), [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EROFS, NotWritable)])
def test_what_the_disk_says_during_the_download_is_named(monkeypatch, number, cause):
    found = look_at_hub(REPO, COMMIT)

    def fails(*arguments: object, **more: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("huggingface_hub.file_download.http_get", fails)
    with pytest.raises(cause, match="HF_HUB_CACHE to a folder"):
        found.at.fetched(found.files)


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer_config.json"])
def test_a_file_that_was_damaged_in_the_cache_is_fetched_again(hub, model, name):
    found = look_at_hub(REPO, COMMIT)
    path = found.at.fetched(found.files)[name].resolve()
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    again = found.at.fetched(found.files)[name]
    assert again.read_bytes() == (model / name).read_bytes()


def test_content_that_is_not_the_listed_one_is_refused(hub, held):
    found = look_at_hub(REPO, COMMIT)
    content = held.files["model.safetensors"]
    hub.altered = {"model.safetensors": content[:-1] + b"!"}
    with pytest.raises(DamagedDownload, match=r"model\.safetensors came twice with other content than the hub lists"):
        found.at.fetched(found.files)


@pytest.mark.usefixtures("held")
def test_the_licence_is_read_from_the_card(held):
    assert look_at_hub(REPO, COMMIT).licence == "apache-2.0"


@pytest.mark.usefixtures("held")
def test_the_environment_says_where_hub_and_cache_are(hub, tmp_path):
    code = f"from fine_tune_pipeline.guide.base_model.hub import look_at_hub; print(look_at_hub({REPO!r}, {COMMIT!r}).parameters)"
    variables = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "elsewhere")}
    ran = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) > 0
    assert list((tmp_path / "elsewhere").rglob("config.json"))
