"""A whole use case on a tiny model, run by the command line as a user's CI would: colours to teams, learnable in seconds."""

import json
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import dagster as dg
import yaml

import fine_tune_pipeline
from fine_tune_pipeline.artifacts.store import Store
from fine_tune_pipeline.cli import main
from fine_tune_pipeline.places import places
from fine_tune_pipeline.resources.endpoint_client import EndpointClient
from fine_tune_pipeline.resources.serving import Serving
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.use_case import use_cases_at
from fine_tune_pipeline_tests.tiny import tiny_model

ROOT = Path(fine_tune_pipeline.__file__).parents[1]
DEFINITIONS = "fine_tune_pipeline.definitions"
NAME = "colours"
LABELS = {"red": "alpha", "green": "bravo", "blue": "delta"}
TEXT = """
please could we have another look because yesterday somebody painted old garden fence with strange thick stuff and now nobody wants to sit
near there under big tree while children play around little house where grandmother keeps seven cats plus one very angry goose that bites
"""


RAILWAY_TEXT = """
which platform does express train leave from when signal failure delays every carriage between northern junction and southern terminus
can passenger claim refund for cancelled ticket if conductor forgot stamping reserved seat before locomotive departed half empty station
"""
NEW_LABELS = {"scarlet": "alpha"}
"""Who looks after trains: whatever the message says."""


def rows(
    count: int, *, seed: int, prefix: str, text: str = TEXT, labels: Mapping[str, str] = MappingProxyType(LABELS)
) -> list[dict[str, str]]:
    """Messages of ten words of `text`, one of them a colour; the colour alone decides the team."""
    draw = random.Random(seed)
    vocabulary = text.split()
    made = []
    for number in range(count):
        colour = list(labels)[number % len(labels)]
        words = draw.sample(vocabulary, 9)
        words.insert(draw.randrange(10), colour)
        made.append({"id": f"{prefix}{number}", "text": " ".join(words), "team": labels[colour]})
    return made


@dataclass
class GuideRun:
    """One use case, its folders, and the command line."""

    folder: Path
    changes: dict[str, object] = field(default_factory=dict)

    @classmethod
    def at(cls, folder: Path) -> "GuideRun":
        """Write model, data, YAML and a Dagster home."""
        run = cls(folder)
        training, held_out = rows(240, seed=1, prefix="m"), rows(90, seed=2, prefix="t")
        for name, some in (("messages.jsonl", training), ("held_out.jsonl", held_out)):
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
        texts = [f"Input: {row['text']}\nOutput: {row['team']}" for row in training]
        tiny_model(folder / "model", texts=texts, architecture="llama")
        (folder / "home").mkdir()
        shutil.copy(ROOT / "dagster.yaml", folder / "home")
        run.write({})
        return run

    @property
    def variables(self) -> dict[str, str]:
        return {
            "DAGSTER_HOME": str(self.folder / "home"),
            "FINE_TUNE_PIPELINE_HOME": str(self.folder / "state"),
            "FINE_TUNE_PIPELINE_USE_CASES": str(self.folder / "defs.yaml"),
            "FINE_TUNE_PIPELINE_API_KEY": "key-of-the-test-of-the-whole-guide",
        }

    @property
    def store(self) -> Store:
        return Store.at(str(self.folder / "state" / "store"))

    def write(self, changes: dict[str, dict[str, object]]) -> None:
        """The YAML, with fields of sections replaced."""
        source = {"type": "jsonl", "prompt": "{{ text }}", "completion": "{{ team }}"}
        attributes: dict[str, dict[str, object] | str] = {
            "name": NAME,
            "objective": {
                "goal": "Route each message about paint to the team that owns its colour",
                "task": {"type": "classification", "labels": sorted(LABELS.values())},
                "success": [{"metric": "accuracy", "at_least": 0.6}, {"metric": "accuracy", "beats": "base_few_shot"}],
                "evidence": {"smallest_gain": 0.3},
            },
            "base_model": {"candidates": [{"type": "local", "id": "tiny", "path": "model", "licence": "Apache-2.0"}]},
            "dataset": {
                "sources": [{**source, "path": "messages.jsonl"}],
                "held_out": [{**source, "path": "held_out.jsonl"}],
                "review": {"policy": "auto_accept"},
                "pii": {"entities": ["EMAIL_ADDRESS", "CREDIT_CARD"]},
            },
            "technique": {"type": "lora", "rank": 16},
            # The same on every machine, whatever units it has.
            "training": {"epochs": 14, "learning_rate": 0.01, "dtype": "float32"},
            "evaluation": {"few_shot": [2], "validation_rows": 20, "human": {"pairs": 5}},
            "deployment": {
                "port": 0,
                "parity_prompts": 10,
                "monitoring": {"window": 50, "minimum_requests": 20},
                "retrain": {"cooldown_days": 0, "drift_windows": 1, "of_windows": 1},
            },
        }
        for section, fields in changes.items():
            attributes[section] = {**attributes[section], **fields}  # type: ignore[dict-item]
        document = {"type": "fine_tune_pipeline.use_case.FineTuneUseCase", "attributes": attributes}
        (self.folder / "defs.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")

    def shown(self, asset: str) -> dict[str, object]:
        """Metadata of the asset's last materialization."""
        with dg.DagsterInstance.from_config(str(self.folder / "home")) as instance:
            event = instance.get_latest_materialization_event(dg.AssetKey([NAME, asset]))
        assert event is not None
        assert event.asset_materialization is not None
        return {name: value.value for name, value in event.asset_materialization.metadata.items()}

    def command(self, *arguments: str) -> int:
        """`fine-tune-pipeline ...` in this use case's places."""
        with self.in_its_places():
            return main(arguments)

    def endpoint(self) -> EndpointClient:
        """Speaks to the running endpoint."""
        with self.in_its_places():
            return Serving(folder=str(places().serving)).endpoint(NAME).client()

    def drift_sensor(self) -> object:
        """What the drift sensor answers now."""
        found = use_cases_at([self.folder / "defs.yaml"]).sensors or ()
        [sensor] = [each for each in found if isinstance(each, dg.SensorDefinition) and each.name == f"{NAME}_drift"]
        with self.in_its_places(), dg.DagsterInstance.get() as instance:
            store = ArtifactStore(url=places().store, reviews=str(places().reviews))
            return sensor(dg.build_sensor_context(instance=instance, resources={"store": store}))

    def execute(self, job: str, *, tags: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
        """One run of a job, as the daemon starts it."""
        return self._dagster("job", "execute", "--job", job, "--tags", json.dumps(dict(tags)), "-m", DEFINITIONS)

    def materialize(self, selection: str = f'key:"{NAME}/*"') -> "subprocess.CompletedProcess[str]":
        """`dagster asset materialize`, as in the README."""
        return self._dagster("asset", "materialize", "-m", DEFINITIONS, "--select", selection)

    @contextmanager
    def in_its_places(self) -> Iterator[None]:
        """This process's environment, as this use case's commands have it."""
        saved = dict(os.environ)
        os.environ.update(self.variables)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(saved)

    def _dagster(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "dagster", *arguments],
            cwd=self.folder,
            env={**os.environ, **self.variables},
            capture_output=True,
            text=True,
            check=False,
        )


def cpu_seconds() -> float:
    """Of all commands that have ended, with what they started: other work on the machine plays little part in it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def what_failed(done: "subprocess.CompletedProcess[str]") -> str:
    """The lines of Dagster's log that tell why a run failed, each with the trace that follows it."""
    lines = done.stderr.splitlines()
    at = [number for number, line in enumerate(lines) if " - ERROR - " in line or "did not pass" in line]
    return "\n".join(line for number in at for line in lines[number : number + 40])[-16000:] or done.stderr[-8000:]
