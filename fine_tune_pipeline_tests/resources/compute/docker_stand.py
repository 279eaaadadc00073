"""A Docker engine as the contract sees it."""

import json
from pathlib import Path
from typing import Any

from fine_tune_pipeline.resources.compute.docker import Docker
from fine_tune_pipeline_tests.docker_images import docker, program_image
from fine_tune_pipeline_tests.resources.compute.stands import Stand, processes_with


class DockerStand(Stand):
    """The engine of this machine, or one that is started for the tests."""

    def place(self, **settings: Any) -> Docker:
        return Docker(**{"image": program_image(), "pull": "never", "grace_seconds": 1, **settings})

    def left(self, folder: Path) -> list[str]:
        return [*(one["Name"] for one in containers(folder)), *processes_with(folder)]


def containers(folder: Path) -> list[dict[str, Any]]:
    """What the engine says of containers, running or not, that were given something in `folder`."""
    ids = docker("ps", "--all", "--quiet", "--no-trunc").split()
    seen = [one for id in ids for one in json.loads(docker("inspect", id))]
    return [one for one in seen if any(mount["Source"].startswith(str(folder)) for mount in one["Mounts"])]
