"""A Docker engine and the images that tests need, brought up by the tests themselves: no registry is asked.

Debian's packages docker.io and debootstrap must be installed, and we must be root.
"""

import atexit
import os
import shutil
import subprocess
import tempfile
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

import fine_tune_pipeline
from fine_tune_pipeline_tests.waiting import wait_until

DOCKER = "/usr/bin/docker"

BASE_IMAGE = "debian-python:bookworm"
"""Debian's Python 3.11, which is the version of the project; kept by the engine for the next time."""

PACKAGES = ("python3", "python3-pip", "python3-venv", "ca-certificates")

PROGRAM_IMAGE = "fine_tune_pipeline:contract"
"""Has this package, its tests and what every program needs to report; no torch."""

REPORTING = ("annotated-types", "dagster-pipes", "pydantic", "pydantic-core", "tqdm", "typing-extensions", "typing-inspection")

WHOLE = "/opt/whole/site-packages"
"""Where a container may be given the packages of this environment, so that nothing is downloaded. dill knows libraries by the last part."""

REPOSITORY = Path(fine_tune_pipeline.__file__).parents[1]


@cache
def engine() -> None:
    """An engine that answers: the one of this machine, or one that is started by hand and ends with the tests."""
    if _answers():
        return
    log = Path(tempfile.mkdtemp(prefix="dockerd-")) / "log"
    with log.open("wb") as file:
        daemon = subprocess.Popen(["/usr/sbin/dockerd"], stdout=file, stderr=file, start_new_session=True)
    atexit.register(_ended, daemon)
    wait_until(lambda: _answers() or daemon.poll() is not None, what="dockerd answers")
    assert daemon.poll() is None, f"dockerd does not start:\n{log.read_text(encoding='utf-8')[-2000:]}"


def _ended(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    daemon.wait(timeout=60)


def _answers() -> bool:
    return subprocess.run([DOCKER, "version"], capture_output=True, check=False).returncode == 0


def docker(*arguments: str, stdin: bytes | None = None) -> str:
    """Output of a docker command; its errors are part of the failure."""
    engine()
    done = subprocess.run([DOCKER, *arguments], input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, f"docker {' '.join(arguments)}:\n{done.stderr.decode()[-3000:]}{done.stdout.decode()[-1000:]}"
    return done.stdout.decode()


@cache
def base_image() -> str:
    """Debian with Python, made by debootstrap if the engine does not have it yet."""
    if not docker("images", "--quiet", BASE_IMAGE):
        with tempfile.TemporaryDirectory() as folder:
            root, archive = f"{folder}/root", f"{folder}/root.tar"
            command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", "bookworm", root]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            subprocess.run(["tar", "-C", root, "-cf", archive, "--exclude=./var/cache/apt/archives/*.deb", "."], check=True)
            docker("import", archive, BASE_IMAGE)
    return BASE_IMAGE


@cache
def program_image() -> str:
    """An image in which the contract's programs run."""
    with tempfile.TemporaryDirectory() as folder:
        for package in ("fine_tune_pipeline", "fine_tune_pipeline_tests"):
            shutil.copytree(REPOSITORY / package, f"{folder}/code/{package}", ignore=shutil.ignore_patterns("__pycache__"))
        for name in REPORTING:
            _copy(name, Path(folder) / "packages")
        lines = [f"FROM {base_image()}", "COPY packages /opt/packages", "COPY code /opt/code"]
        lines.append(f"ENV PYTHONPATH=/opt/code:/opt/packages:{WHOLE} PYTHONDONTWRITEBYTECODE=1")
        (Path(folder) / "Dockerfile").write_text("\n".join(lines), encoding="utf-8")
        docker("build", "--quiet", "--tag", PROGRAM_IMAGE, folder)
    return PROGRAM_IMAGE


def _copy(name: str, folder: Path) -> None:
    found = distribution(name)
    for file in found.files or ():
        if file.suffix != ".pyc" and not str(file).startswith(".."):
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(found.locate_file(file)), target)


def site_packages() -> str:
    """Of the environment that runs the tests."""
    return str(Path(os.path.realpath(str(distribution("pydantic").locate_file("")))))
