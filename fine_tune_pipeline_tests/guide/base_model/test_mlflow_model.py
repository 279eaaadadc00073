import shutil
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from fine_tune_pipeline.guide.base_model.local import read_model_folder
from fine_tune_pipeline.guide.base_model.mlflow_model import (
    MlflowPlace,
    MlflowUnreachable,
    NoSuchMlflowModel,
    OtherFlavour,
    look_at_mlflow,
)
from fine_tune_pipeline.guide.base_model.model_files import NeedsOwnCode, PickledWeights
from fine_tune_pipeline.guide.base_model.reaching import DiskFull
from fine_tune_pipeline.resources.tracking import mlflow_at
from fine_tune_pipeline_tests.tiny import tiny_model

FLAVOUR = """
flavors:
  python_function: {loader_module: mlflow.transformers}
  transformers: {model_binary: model, components: [tokenizer], source_model_name: acme/tiny, task: text-generation}
"""
"""What mlflow.transformers.log_model writes, without the rest."""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow with its tables, which take seconds to make."""
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder}/mlflow.db"
    MlflowClient(tracking_uri=uri, registry_uri=uri).create_experiment("models", artifact_location=str(folder / "artifacts"))
    return uri


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def place(database: str, tmp_path: Path) -> MlflowPlace:
    return MlflowPlace(database, tmp_path / "downloads")


def logged(place: MlflowPlace, folder: Path) -> str:
    """The URI of a folder logged as artifacts of a new run."""
    with mlflow_at(place.tracking_uri):
        mlflow.set_experiment("models")
        with mlflow.start_run() as run:
            mlflow.log_artifacts(str(folder), "base")
    return f"runs:/{run.info.run_id}/base"


@pytest.fixture
def flavoured(model: Path, tmp_path: Path) -> Path:
    """A model as mlflow.transformers.log_model lays it out."""
    folder = tmp_path / "flavoured"
    tokenizer = folder / "components" / "tokenizer"
    shutil.copytree(model, folder / "model")
    tokenizer.mkdir(parents=True)
    for path in (folder / "model").glob("tokenizer*"):
        path.rename(tokenizer / path.name)
    (folder / "MLmodel").write_text(FLAVOUR)
    (folder / "requirements.txt").write_text("torch")
    return folder


def test_a_folder_of_artifacts_has_the_content_of_the_local_folder(place, model):
    found, local = look_at_mlflow(logged(place, model), place), read_model_folder(model)
    assert (found.architecture, found.context, found.files) == (local.architecture, local.context, local.files)
    assert abs(found.parameters - local.parameters) < 0.01 * local.parameters
    assert found.hashes() == local.hashes()


def test_a_version_of_the_transformers_flavour_is_put_together_from_its_parts(place, flavoured, model):
    uri = logged(place, flavoured)
    client = MlflowClient(tracking_uri=place.tracking_uri, registry_uri=place.tracking_uri)
    client.create_registered_model("tiny")
    version = client.create_model_version("tiny", source=uri, run_id=uri.split("/")[1])
    found = look_at_mlflow(f"models:/tiny/{version.version}", place)
    assert found.hashes() == read_model_folder(model).hashes()
    assert set(found.left_out) == {"MLmodel", "requirements.txt"}


# What MLflow itself warns of while it writes a model.
@pytest.mark.filterwarnings("ignore")
def test_a_real_transformers_model_of_mlflow_is_readable(place, model):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parts = {"model": AutoModelForCausalLM.from_pretrained(model), "tokenizer": AutoTokenizer.from_pretrained(model)}
    with mlflow_at(place.tracking_uri):
        mlflow.set_experiment("models")
        with mlflow.start_run():
            mlflow.transformers.log_model(parts, name="m", task="text-generation", registered_model_name="real", pip_requirements=["torch"])
    found = look_at_mlflow("models:/real/1", place)
    paths = found.fetched()
    assert AutoModelForCausalLM.from_pretrained(paths["config.json"].parent).num_parameters() == parts["model"].num_parameters()
    assert "tokenizer.json" in paths


def test_weights_are_fetched_only_when_asked_for_and_once(place, model):
    found = look_at_mlflow(logged(place, model), place)
    assert not place.downloads.exists()
    first = found.fetched()["model.safetensors"].stat()
    assert found.fetched()["model.safetensors"].stat() == first
    assert [path.name for path in place.downloads.iterdir() if path.name.startswith(".partial")] == []


def test_a_download_that_was_damaged_since_is_fetched_again(place, model):
    found = look_at_mlflow(logged(place, model), place)
    path = found.fetched()["model.safetensors"]
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert found.hashes() == read_model_folder(model).hashes()
    assert found.fetched()["model.safetensors"].read_bytes() == (model / "model.safetensors").read_bytes()


def test_two_runs_may_fetch_the_same_model_at_once(place, model, monkeypatch):
    found, download, asked = look_at_mlflow(logged(place, model), place), mlflow.artifacts.download_artifacts, []

    def meanwhile(**arguments: str) -> str:
        asked.append(arguments)
        if len(asked) == 1:
            assert found.fetched()["config.json"].is_file()
        return download(**arguments)

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", meanwhile)
    assert found.hashes() == read_model_folder(model).hashes()
    assert len(list(place.downloads.iterdir())) == 1


def test_pickled_weights_are_refused_and_not_fetched(place, flavoured):
    (flavoured / "model" / "model.safetensors").rename(flavoured / "model" / "pytorch_model.bin")
    with pytest.raises(PickledWeights, match=r"runs:/\w+/base: pytorch_model\.bin are pickled weights"):
        look_at_mlflow(logged(place, flavoured), place)
    assert not place.downloads.exists()


@pytest.mark.parametrize(
    ("flavour", "said"),
    [
        ("flavors: {pytorch: {model_data: data}, python_function: {}}", "its flavours are python_function, pytorch, want transformers"),
        ("flavors: {transformers: {source_model_name: acme/tiny}}", "holds no weights, only the name of acme/tiny.*{type: hub"),
    ],
)
def test_a_flavour_without_weights_of_a_base_model_says_what_to_log(place, flavoured, flavour, said):
    (flavoured / "MLmodel").write_text(flavour)
    with pytest.raises(OtherFlavour, match=said):
        look_at_mlflow(logged(place, flavoured), place)


def test_a_model_that_needs_its_own_code_is_refused(place, flavoured):
    config = (flavoured / "model" / "config.json").read_text()
    own = '"auto_map": {"AutoConfig": "configuration_acme.Acme"}, "model_type": "acme"'
    (flavoured / "model" / "config.json").write_text(config.replace('"model_type": "gemma3_text"', own))
    with pytest.raises(NeedsOwnCode, match=r"configuration_acme\.Acme"):
        look_at_mlflow(logged(place, flavoured), place)


@pytest.mark.parametrize("uri", ["models:/none/1", "runs:/0123456789abcdef0123456789abcdef/base"])
def test_a_model_that_is_not_there_is_named(place, uri):
    with pytest.raises(NoSuchMlflowModel, match=rf"{uri}: not in sqlite"):
        look_at_mlflow(uri, place)


def test_a_folder_that_a_run_does_not_have_is_named(place, model):
    with pytest.raises(NoSuchMlflowModel, match="nothing lies there"):
        look_at_mlflow(logged(place, model) + "/other", place)


def test_a_server_that_does_not_answer_is_named(place, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(MlflowUnreachable, match=r"http://127\.0\.0\.1:9 could not be read.*MLFLOW_TRACKING_URI"):
        look_at_mlflow("models:/tiny/1", MlflowPlace("http://127.0.0.1:9", place.downloads))


def test_a_disk_without_room_is_refused_before_the_download(place, model, monkeypatch):
    found = look_at_mlflow(logged(place, model), place)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(DiskFull, match="FINE_TUNE_PIPELINE_HOME"):
        found.fetched()
    assert not place.downloads.exists()


def test_what_mlflow_was_set_to_is_set_again(place, model):
    before = mlflow.get_tracking_uri()
    look_at_mlflow(logged(place, model), place)
    assert mlflow.get_tracking_uri() == before
