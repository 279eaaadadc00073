"""The graph that each shipped use case makes, as a snapshot that a reviewer can read, and what loading it costs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from syrupy.assertion import SnapshotAssertion

import fine_tune_pipeline
from fine_tune_pipeline.defs.resources import resources
from fine_tune_pipeline.spec.reading import InvalidUseCase, read_use_case
from fine_tune_pipeline.use_case import GUIDE, build, use_cases_at

ROOT = Path(fine_tune_pipeline.__file__).parents[1]
SHIPPED = sorted([*(ROOT / "fine_tune_pipeline" / "defs").glob("*/defs.yaml"), *(ROOT / "examples").glob("*.yaml")])
HEAVY = (
    *("torch", "transformers", "trl", "peft", "datasets", "evaluate", "mlflow", "bitsandbytes", "sklearn"),
    *("spacy", "presidio_analyzer", "presidio_anonymizer", "docker", "kubernetes", "ray"),
    *("markitdown", "pypdfium2", "onnxruntime", "huggingface_hub"),
)


def shipped(path: Path) -> dg.Definitions:
    """A use case with the resources that the code location binds."""
    return dg.Definitions.merge(build(read_use_case(path, files=False)), resources())


def graph(defs: dg.Definitions) -> dict[str, Any]:
    """Assets with what they read and which checks stop what follows; jobs, sensors and schedules."""
    repository = defs.get_repository_def()
    assets = repository.asset_graph
    return {
        "assets": {
            key.to_user_string(): {
                "reads": sorted(parent.to_user_string() for parent in assets.get(key).parent_keys),
                "checks": sorted(
                    f"{check.name}{' (blocking)' if assets.get_check_spec(check).blocking else ''}"  # type: ignore[attr-defined]
                    for check in assets.get_check_keys_for_assets({key})
                ),
                "step": assets.get(key).tags.get("guide/step"),
                "kinds": sorted(assets.get(key).kinds or ()),
                "group": assets.get(key).group_name,
                "owners": sorted(assets.get(key).owners),
            }
            for key in sorted(assets.get_all_asset_keys())
        },
        "jobs": sorted(job.name for job in repository.get_all_jobs()),
        "sensors": sorted(sensor.name for sensor in repository.sensor_defs),
        "schedules": sorted(schedule.name for schedule in repository.schedule_defs),
    }


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name if path.name == "defs.yaml" else path.stem)
def test_the_graph_of_a_shipped_use_case(path: Path, snapshot: SnapshotAssertion):
    assert graph(shipped(path)) == snapshot


def test_every_asset_says_what_it_is_and_belongs_to_a_step():
    defs = shipped(SHIPPED[0])
    assets = defs.get_repository_def().asset_graph
    spec_name = read_use_case(SHIPPED[0], files=False).name
    nodes = [assets.get(dg.AssetKey([spec_name, factory.__name__])) for factory in GUIDE]
    assert [node.key.to_user_string() for node in nodes if not node.description or "guide/step" not in node.tags] == []


def test_nothing_is_switched_on_by_itself():
    repository = shipped(SHIPPED[0]).get_repository_def()
    assert [sensor.name for sensor in repository.sensor_defs if sensor.default_status.value != "STOPPED"] == []


def test_loading_the_code_location_is_cheap_and_imports_nothing_heavy():
    script = (
        "import json, sys, time; import fine_tune_pipeline.definitions as door; door.defs().get_repository_def();"
        f"print(json.dumps([time.process_time(), [name for name in {HEAVY!r} if name in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    _cpu_seconds, heavy = json.loads(done.stdout.splitlines()[-1])
    assert heavy == []


def test_a_use_case_elsewhere_that_takes_a_shipped_name_is_refused_by_name(tmp_path: Path):
    inside = ROOT / "fine_tune_pipeline" / "defs"
    shutil.copytree(inside / "support_triage", tmp_path / "mine")
    with pytest.raises(InvalidUseCase, match=r"mine.*got 'support_triage', which a use case in .*defs has already; give it another"):
        use_cases_at([tmp_path / "mine"], beside=inside)
    assert use_cases_at([tmp_path / "mine"]).assets
    assert not use_cases_at([], beside=inside).assets
