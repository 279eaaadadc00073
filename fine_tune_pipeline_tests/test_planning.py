"""`fine-tune-pipeline plan` on a use case that has never run; `end_to_end/` has one that has."""

import json
import os
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
import yaml

import fine_tune_pipeline
from fine_tune_pipeline.cli import main
from fine_tune_pipeline.forecast import first_look, known_rows
from fine_tune_pipeline.planning import planned
from fine_tune_pipeline.spec.environment import DevicePrice
from fine_tune_pipeline.spec.reading import read_use_case
from fine_tune_pipeline.use_case import GUIDE

BUILT_IN = Path(fine_tune_pipeline.__file__).parent / "defs" / "support_triage"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FINE_TUNE_PIPELINE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_first_run_builds_everything_in_the_order_of_the_guide_and_nothing_is_written(home: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "support_triage", "--device", "L4", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["use_case"], said["place"]) == ("support_triage", "1 x L4 (L4)")
    assert [row["asset"] for row in said["assets"]] == [factory.__name__ for factory in GUIDE]
    does = {row["asset"]: row["does"] for row in said["assets"]}
    assert {name for name, do in does.items() if do == "look"} == {"production_traffic", "drift_report"}
    assert {do for name, do in does.items() if name not in ("production_traffic", "drift_report")} == {"build"}
    assert not home.exists()


def test_the_training_of_a_first_run_is_forecast_from_the_files(capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "support_triage", "--device", "L4", "--json"]) == 0
    [adapter] = [row for row in json.loads(capsys.readouterr().out)["assets"] if row["asset"] == "adapter"]
    assert adapter["basis"] == "predicted"
    assert 0 < adapter["minutes"] < 5
    assert 2 < adapter["gib"] < 22
    assert adapter["why"] == "because dataset is built anew"


def test_rows_and_tokens_of_local_files_are_known_before_any_is_read():
    spec = read_use_case(BUILT_IN / "defs.yaml")
    look = first_look(spec)
    lines = (BUILT_IN / "data" / "messages.jsonl").read_text(encoding="utf-8").splitlines()
    assert look is not None
    assert look.rows == known_rows(spec) == len(lines)
    assert look.tokens == pytest.approx(sum(len(line.encode()) + 1 for line in lines) / 3.5, rel=0.01)


def test_a_price_makes_costs_and_their_sum(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text = (BUILT_IN / "defs.yaml").read_text(encoding="utf-8")
    for name in ("answer.schema.json", "data"):
        (tmp_path / name).symlink_to(BUILT_IN / name)
    price = DevicePrice(device="L4", per_hour=600, currency="EUR", as_of=date(2026, 11, 1))
    section = f"  environment: {{prices: [{price.model_dump_json()}]}}\n"
    (tmp_path / "own.yaml").write_text(text + section, encoding="utf-8")
    found = planned(str(tmp_path / "own.yaml"), device="L4")
    costs = {name: one.cost for name, one in found.forecasts.items() if one.cost is not None}
    adapter = found.forecasts["adapter"]
    assert adapter.minutes is not None
    assert costs["adapter"].amount == pytest.approx(10 * adapter.minutes)
    assert main(["plan", str(tmp_path / "own.yaml"), "--device", "L4"]) == 0
    assert f"{sum(one.amount for one in costs.values()):.2f} EUR" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["support_triage", "--device", "L5"], "got 'L5', want one of H200"),
        (["/nowhere/defs.yaml"], "there is no such file"),
        (["nowhere"], "got 'nowhere', want one of support_triage, or a YAML file"),
    ],
)
def test_a_wrong_question_is_refused_with_exit_code_2(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert main(["plan", *arguments]) == 2
    assert said in capsys.readouterr().err


def own_use_case(folder: Path, **sections: dict[str, object]) -> Path:
    """The built-in use case with other sections, at a place of its own."""
    document = yaml.safe_load((BUILT_IN / "defs.yaml").read_text(encoding="utf-8"))
    document["attributes"] |= sections
    for name in ("answer.schema.json", "data"):
        if not (folder / name).exists():
            (folder / name).symlink_to(BUILT_IN / name)
    (folder / "own.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return folder / "own.yaml"


def rows_of(path: Path, capsys: pytest.CaptureFixture[str], *options: str, status: int = 0) -> dict[str, dict[str, object]]:
    assert main(["plan", str(path), *options, "--json"]) == status
    return {row["asset"]: row for row in json.loads(capsys.readouterr().out)["assets"]}


def test_a_search_is_forecast_as_so_many_trainings_and_comes_before_the_plan(tmp_path: Path, capsys):
    training = {"search": {"trials": 8, "rungs": [0.25, 1.0], "keep": 0.25}}
    rows = rows_of(own_use_case(tmp_path, training=training), capsys, "--device", "L4")
    names = list(rows)
    assert names.index("baselines") < names.index("search") < names.index("training_plan")
    # Eight first rungs of a quarter, and the whole for two of them and for the plan.
    assert rows["search"]["minutes"] == pytest.approx(5 * rows["adapter"]["minutes"])
    assert rows["search"]["basis"] == "5 times the training, at most its budget"


@pytest.mark.parametrize(
    ("base_model", "said"),
    [
        ({"candidates": ["gemma-3-270m"]}, "its licence is not accepted"),
        ({"candidates": ["llama-3.3-70b"], "accept_licences": ["LicenseRef-Llama-3.3-Community"]}, "needs .* GiB more than there is"),
        ({"candidates": [{"type": "local", "id": "own", "path": "weights", "licence": "MIT"}]}, "are pickled weights"),
    ],
)
def test_a_base_model_that_cannot_be_taken_stops_the_plan_as_it_would_stop_the_run(tmp_path: Path, capsys, base_model, said: str):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "pytorch_model.bin").write_bytes(b"pickle")
    rows = rows_of(own_use_case(tmp_path, base_model=base_model), capsys, "--device", "L4", status=1)
    assert rows["base_model"]["does"] == "stop"
    assert re.search(said, str(rows["base_model"]["why"]))
    assert (rows["adapter"]["does"], rows["dataset"]["does"]) == ("stop", "build")
    assert rows["baselines"]["why"] == "because base_model stops"


def test_a_plan_asks_no_hub_and_counts_by_the_catalogue(tmp_path: Path):
    path = own_use_case(tmp_path, base_model={"candidates": [{"type": "catalogue", "id": "qwen3-4b", "revision": "0123456789" * 4}]})
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "fine_tune_pipeline.cli", "plan", str(path), "--device", "A100-80", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    rows = {row["asset"]: row for row in json.loads(done.stdout)["assets"]}
    assert rows["base_model"]["does"] == "build"
    assert rows["base_model"]["why"].startswith("a plan asks no other machine; the run does: qwen3-4b: ")
    assert rows["adapter"]["basis"] == "predicted"
    assert rows["adapter"]["gib"] > 8
    assert "Retrying" not in done.stderr


def test_more_rows_take_longer_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    minutes = []
    for copies in (1, 10):
        (tmp_path / "rows.jsonl").write_text((BUILT_IN / "data" / "messages.jsonl").read_text(encoding="utf-8") * copies, encoding="utf-8")
        document = yaml.safe_load((BUILT_IN / "defs.yaml").read_text(encoding="utf-8"))["attributes"]["dataset"]
        source = {**document["sources"][0], "path": "rows.jsonl"}
        path = own_use_case(tmp_path, dataset={**document, "sources": [source]}, training={"epochs": 2})
        rows = rows_of(path, capsys, "--device", "CPU")
        minutes.append([rows[name]["minutes"] for name in ("clean_examples", "adapter")])
    assert minutes[1] == pytest.approx([10 * one for one in minutes[0]], rel=0.05)


def test_a_forecast_counts_the_processes_of_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    lines = (BUILT_IN / "data" / "messages.jsonl").read_text(encoding="utf-8").splitlines()
    # Short rows would leave an accelerator waiting for the next operations, however many share them.
    (tmp_path / "rows.jsonl").write_text("\n".join(line + 3000 * " " for line in lines), encoding="utf-8")
    document = yaml.safe_load((BUILT_IN / "defs.yaml").read_text(encoding="utf-8"))["attributes"]["dataset"]
    long = {**document, "sources": [{**document["sources"][0], "path": "rows.jsonl"}]}
    path = own_use_case(tmp_path, dataset=long, training={"effective_batch": 16, "epochs": 2})
    seen = {}
    for parallel in ("ddp", "fsdp2"):
        for launcher in ("plain", "accelerate"):
            place = {"kind": "cloud", "accelerator": "L4", "gpus": 2, "launcher": launcher, "parallel": parallel}
            (tmp_path / "place.yaml").write_text(yaml.safe_dump({**place, "staging": str(tmp_path)}), encoding="utf-8")
            monkeypatch.setenv("FINE_TUNE_PIPELINE_COMPUTE", str(tmp_path / "place.yaml"))
            seen[launcher, parallel] = rows_of(path, capsys)
    alone = seen["plain", "ddp"]
    assert seen["plain", "fsdp2"] == alone, "one process has nothing to share"
    for parallel in ("ddp", "fsdp2"):
        together = seen["accelerate", parallel]
        assert together["adapter"]["minutes"] == pytest.approx(alone["adapter"]["minutes"] / 2)
        assert together["evaluation_report"]["minutes"] == pytest.approx(alone["evaluation_report"]["minutes"])
    assert seen["accelerate", "ddp"]["environment"] == alone["environment"]
    assert seen["accelerate", "fsdp2"]["environment"]["basis"] == "no step of the training"


def test_a_place_that_is_not_configured_is_told_without_a_trace(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("FINE_TUNE_PIPELINE_COMPUTE", "moon")
    assert main(["plan", "support_triage"]) == 3
    assert "got 'moon', want one of local" in capsys.readouterr().err


def test_planning_loads_no_heavy_library():
    heavy = (
        "torch",
        "transformers",
        "peft",
        "trl",
        "datasets",
        "evaluate",
        "mlflow",
        "spacy",
        "presidio_analyzer",
        "sklearn",
        "docker",
        "ray",
    )
    run = "import sys; from fine_tune_pipeline.cli import main; main(['plan', 'support_triage'])"
    code = f"{run}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
