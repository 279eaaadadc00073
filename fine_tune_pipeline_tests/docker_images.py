"""A Docker engine and the images that tests need, brought up by the tests themselves: no registry is asked.

Debian's packages docker.io and debootstrap must be installed, and we must be root.
"""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.metadata import distribution, entry_points
from pathlib import Path
from types import TracebackType

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

SOURCES = "/opt/fine_tune_pipeline"
"""Where docker/Dockerfile puts the project."""

POSTGRES_START = """
set -e
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    echo "$POSTGRES_PASSWORD" >/tmp/password
    initdb --username="$POSTGRES_USER" --pwfile=/tmp/password --auth-local=trust --auth-host=scram-sha-256 >/dev/null
    rm /tmp/password
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    pg_ctl --wait --options="-c listen_addresses=''" start >/dev/null
    createdb --username="$POSTGRES_USER" "$POSTGRES_DB"
    pg_ctl --wait stop >/dev/null
fi
exec postgres -c listen_addresses='*'
"""

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


def _answers(host: str | None = None) -> bool:
    where = ["--host", host] if host else []
    return subprocess.run([DOCKER, *where, "version"], capture_output=True, check=False).returncode == 0


class OwnEngine:
    """A second engine with the contract's image, which a test may end and start again.

    It has a network of its own: without one it would take the bridge of the first engine away.
    """

    def __init__(self, folder: Path) -> None:
        self.host = f"unix://{folder}/sock"
        self._folder = folder
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "OwnEngine":
        self.start()
        saved = subprocess.Popen([DOCKER, "save", program_image()], stdout=subprocess.PIPE)
        subprocess.run([DOCKER, "--host", self.host, "load", "--quiet"], stdin=saved.stdout, check=True, stdout=subprocess.DEVNULL)
        assert saved.stdout is not None
        saved.stdout.close()
        assert saved.wait() == 0
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
        for mount in sorted((mount for mount in mounts if mount.startswith(str(self._folder))), reverse=True):
            subprocess.run(["umount", mount], check=True)
        shutil.rmtree(self._folder)

    def start(self, *flags: str) -> None:
        places = [f"--{name}={self._folder}/{name}" for name in ("data-root", "exec-root", "pidfile")]
        with (self._folder / "log").open("ab") as log:
            command = ["unshare", "--net", "/usr/sbin/dockerd", "--host", self.host, *places, "--iptables=false", *flags]
            self._daemon = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        wait_until(lambda: _answers(self.host), what="the second dockerd answers")

    def end(self) -> None:
        assert self._daemon is not None
        _ended(self._daemon)


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
        paths = f"PYTHONPATH=/opt/code:/opt/packages:{WHOLE}"
        return _built(PROGRAM_IMAGE, folder, "COPY packages /opt/packages", "COPY code /opt/code", f"ENV {paths} PYTHONDONTWRITEBYTECODE=1")


@cache
def postgres_image() -> str:
    """Debian's PostgreSQL, told by the same variables and with its data at the same place as the image `postgres` of Docker's registry."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "start").write_text(POSTGRES_START, encoding="utf-8")
        install = "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql"
        return _built(
            "fine_tune_pipeline:postgres", folder, f"RUN {install} >/dev/null", "RUN ln -sf /usr/lib/postgresql/*/bin/* /usr/local/bin/",
            "ENV PGDATA=/var/lib/postgresql/data LANG=C.UTF-8", "RUN mkdir -p -m 0700 $PGDATA && chown postgres: $PGDATA",
            "COPY start /start", "USER postgres", 'CMD ["sh", "/start"]',
        )  # fmt: skip


@cache
def bare_image() -> str:
    """A base for docker/Dockerfile whose pip has nothing to do: what the project needs is mounted at `WHOLE` by the test."""
    with tempfile.TemporaryDirectory() as folder:
        commands, wheels = Path(folder) / "bin", Path(folder) / "wheels"
        commands.mkdir()
        (commands / "pip").write_text("#!/bin/sh\n", encoding="utf-8")
        for name in ("dagster", "dagster-webserver", "dagster-daemon", "mlflow"):
            found = next(iter(entry_points(group="console_scripts", name=name)))
            lines = ["#!/usr/bin/python3", "import sys", f"from {found.module} import {found.attr}", f"sys.exit({found.attr}())", ""]
            (commands / name).write_text("\n".join(lines), encoding="utf-8")
        for command in commands.iterdir():
            command.chmod(0o755)
        wanted = ["dagster-postgres", "psycopg2-binary"]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--constraint", str(REPOSITORY / "constraints.txt")]
        subprocess.run([*command, "--dest", str(wheels), *wanted], check=True)
        return _built(
            "fine_tune_pipeline:bare", folder, "COPY wheels /opt/wheels",
            "RUN /usr/bin/pip install --quiet --no-index --no-deps --target /opt/more /opt/wheels/*.whl", "COPY bin /usr/local/bin",
            f"ENV PYTHONPATH={SOURCES}:/opt/more:{WHOLE} PYTHONDONTWRITEBYTECODE=1",
        )  # fmt: skip


def _built(image: str, folder: str, *lines: str) -> str:
    """Build on the base image, with the network of this machine: an engine of a test machine may have no other."""
    (Path(folder) / "Dockerfile").write_text("\n".join([f"FROM {base_image()}", *lines]), encoding="utf-8")
    docker("build", "--quiet", "--network", "host", "--tag", image, folder)
    return image


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
