"""A cloud whose machines are processes of this one, behind a stand-in for SkyPilot's command."""

import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from fine_tune_pipeline.resources.compute.cloud import Cloud
from fine_tune_pipeline.resources.compute.place import Place
from fine_tune_pipeline.resources.compute.sky import Sky
from fine_tune_pipeline_tests.resources.compute.stands import Stand, processes_with

REPOSITORY = Path(__file__).parents[3]


class CloudStand(Stand):
    """The stand-in with a state of its own; its machines see the shelf, and nothing else that we see is told them."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fake-sky-"))
        self.command = self.folder / "sky"
        fake = Path(__file__).with_name("fake_sky.py")
        variables = f"FAKE_SKY={self.folder}/state PYTHONPATH={shlex.quote(str(REPOSITORY))}"
        self.command.write_text(f'#!/bin/sh\n{variables} exec {sys.executable} {fake} "$@"\n', encoding="utf-8")
        self.command.chmod(0o755)
        (self.folder / "state").mkdir()

    def close(self) -> None:
        shutil.rmtree(self.folder)

    def place(self, **settings: Any) -> Place:
        return self.cloud(**settings)

    def cloud(self, **settings: Any) -> Cloud:
        fixed = {"sky": str(self.command), "staging": f"file://{self.folder}/shelf", "python": sys.executable, "poll_seconds": 0.2}
        return Cloud(**{**fixed, **settings})

    def left(self, folder: Path) -> list[str]:
        state = self.folder / "state"
        running = [f"job {path.name}" for path in state.glob("*.json") if '"RUNNING"' in path.read_text(encoding="utf-8")]
        staged = [f"staged {path.name}" for path in self.folder.glob("shelf/jobs/*")]
        return [*running, *staged, *processes_with(folder), *processes_with(state)]

    def hangs(self, folder: Path) -> bool:
        return any((self.folder / "state").rglob("pids"))

    @property
    def sky(self) -> Sky:
        return Sky(str(self.command))
