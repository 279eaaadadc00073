"""A Docker engine as a place sees it: its refusals in words of ours, and a container that is followed although the connection breaks."""

import logging
import math
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.resources.compute.job import PlaceFailure
from fine_tune_pipeline.resources.compute.output import Output

if TYPE_CHECKING:
    from docker import DockerClient

JOB_LABEL, USE_LABEL = "fine_tune_pipeline.job", "fine_tune_pipeline.use"

POLL_SECONDS = 0.5

WAIT_SECONDS = 30.0
"""How long one question for the end of a container stays open: a connection that died without a word is noticed after it."""

REAP_SECONDS = 60.0
"""Who started a container looks at its end within seconds; one that has ended for longer has nobody any more."""

BEING_REMOVED = ("removing", "dead")

logger = logging.getLogger(__name__)

Connect = Callable[[], "DockerClient"]


@dataclass(frozen=True)
class Stopped:
    """A container that no longer runs; `lost`: somebody is removing it, or the connection broke, so the engine may have ended it."""

    status: int
    out_of_memory: bool
    lost: bool


class EngineLost(Exception):
    """The engine cannot be reached any more, or no longer knows the container: what it said last."""


@cache
def broken() -> tuple[type[Exception], ...]:
    """What the client raises when the connection breaks, or when the engine is going down."""
    from docker.errors import DockerException
    from requests import RequestException
    from urllib3.exceptions import HTTPError

    return (DockerException, RequestException, HTTPError, OSError, struct.error)


_NO_ENGINE = "no engine answers: start it (systemctl start docker), or name another in compute.place.host or DOCKER_HOST"
_NO_RUNTIME = "compute.place.runtime: the engine has no such runtime: add it to its daemon.json, or leave runtime out"

REFUSALS = {
    "permission denied": "we may not use the engine's socket: join the group docker (usermod -aG docker USER), and log in again",
    "could not select device driver": "compute.place.gpus: the engine has no GPU driver: install the NVIDIA Container Toolkit there, "
    "or set gpus: 0",
    "nvidia-container-cli": "compute.place.gpus: no GPU can be given to a container: see docker run --gpus all IMAGE nvidia-smi there",
    "invalid runtime name": _NO_RUNTIME,
    "unknown runtime": _NO_RUNTIME,
    "bind source path does not exist": "the engine does not see our files: when Dagster runs in a container, or the engine on another "
    "machine, put the store on a volume that both have, and name it in compute.place.volumes",
    "no space left on device": "the engine's disk is full: docker system df shows what takes it, docker system prune frees it",
    "minimum memory limit": "compute.place.memory_gib: less than a container can live in",
    "range of cpus": "compute.place.cpus: more than the engine has",
    "error while fetching server api version": _NO_ENGINE,
    "connection": _NO_ENGINE,
    "network": "compute.place.network: the engine has no such network: docker network ls shows those that it has",
}
"""What an engine says when it refuses, and what to do. The first that fits counts."""


@contextmanager
def explained() -> Iterator[None]:
    """What the engine refuses inside becomes a failure of the place that says what to do."""
    try:
        yield
    except broken() as error:
        said = str(getattr(error, "explanation", None) or error)
        hint = next((f"{what_to_do}. " for seen, what_to_do in REFUSALS.items() if seen in said.lower()), "")
        raise PlaceFailure(f"docker: {hint}The engine said: {said}") from error


def present(client: "DockerClient", image: str, *, pull: str) -> None:
    """Bring the image to the engine, as `pull` (never, missing, always) says.

    Raises:
        PlaceFailure: it is not there.
    """
    from docker.errors import APIError, ImageNotFound

    try:
        if pull != "always":
            client.images.get(image)
            return
    except ImageNotFound as error:
        if pull == "never":
            raise PlaceFailure(f"compute.place.image: {image} is not on the engine: {_GET_IT}, or set pull: missing") from error
    try:
        client.images.pull(*image.split("@")) if "@" in image else client.images.pull(image)
    except APIError as error:
        raise PlaceFailure(
            f"compute.place.image: {image} cannot be pulled: {_GET_IT}. The engine said: {error.explanation or error}"
        ) from error


_GET_IT = "build it (docker build -f docker/Dockerfile -t fine_tune_pipeline:local .), log in to its registry"


def reap(client: "DockerClient", job: str) -> None:
    """Remove what nobody looks after any more: earlier containers of the same job, and any of ours that has ended a while ago.

    An earlier try of the same job whose run was killed may still run: it would write into the same folder.
    """
    now = datetime.fromisoformat(client.info()["SystemTime"])
    for container in client.containers.list(all=True, ignore_removed=True, filters={"label": JOB_LABEL}):
        if container.labels[JOB_LABEL] == job or abandoned(container.attrs["State"], now):
            removed(container)


def abandoned(state: dict[str, Any], now: datetime) -> bool:
    """Whether a container has ended so long ago that nobody will ask how; both times are of the engine's clock."""
    ended = state["Status"] in ("exited", "dead") and datetime.fromisoformat(state["FinishedAt"])
    return bool(ended and now - ended > timedelta(seconds=REAP_SECONDS))


def removed(container: Any) -> None:
    """Remove a container, running or not, unless somebody else is doing so."""
    from docker.errors import APIError, NotFound

    try:
        container.remove(force=True, v=True)
    except NotFound:
        return
    except APIError as error:
        if "already in progress" not in str(error.explanation):
            raise


@contextmanager
def gone_afterwards(connect: Connect, name: str, *, otherwise: str) -> Iterator[None]:
    """Whatever happens inside, no container of this name is left; `otherwise` says what follows if the engine cannot be reached."""
    try:
        yield
    finally:
        _at_last(connect, name, removed, otherwise=otherwise)


@contextmanager
def stopped_afterwards(connect: Connect, name: str, *, grace_seconds: float, otherwise: str) -> Iterator[None]:
    """Whatever happens inside, the container no longer runs; the program in it first has `grace_seconds` to end."""
    try:
        yield
    finally:
        _at_last(connect, name, lambda container: container.stop(timeout=math.ceil(grace_seconds)), otherwise=otherwise)


def _at_last(connect: Connect, name: str, act: Callable[[Any], None], *, otherwise: str) -> None:
    from docker.errors import NotFound

    try:
        with closing(connect()) as client:
            act(client.containers.get(name))
    except NotFound:
        return
    except broken() as error:
        # Why it is at its end counts more, and goes on.
        logger.warning("docker: container %s: %s. %s", name, error, otherwise)


@contextmanager
def followed(connect: Connect, name: str, output: Output) -> Iterator[None]:
    """Take the container's output as it comes, all of it if the container has ended when this is left."""
    closed = threading.Event()
    thread = threading.Thread(target=_follow, args=(connect, name, output, closed), name="container-output", daemon=True)
    thread.start()
    try:
        yield
    finally:
        closed.set()
        # A connection that died without a word would keep it for ever.
        thread.join(timeout=WAIT_SECONDS)


def _follow(connect: Connect, name: str, output: Output, closed: threading.Event) -> None:
    while True:
        try:
            with closing(connect()) as client:
                container = client.containers.get(name)
                skip = output.taken_bytes
                for chunk in container.logs(stream=True, follow=True):
                    output.take(chunk[skip:])
                    skip = max(0, skip - len(chunk))
                container.reload()
                if container.status != "running":
                    return
        except broken() as error:
            logger.info("docker: output of %s: %s", name, error)
        if closed.wait(POLL_SECONDS):
            return


def waited(connect: Connect, name: str, *, seconds: float | None, reconnect_seconds: float) -> Stopped | None:
    """Wait for the end of a container; None when it takes longer than `seconds`.

    Raises:
        EngineLost: the engine was away for `reconnect_seconds`, or no longer knows the container.
    """
    from docker.errors import NotFound

    until = math.inf if seconds is None else time.monotonic() + seconds
    away_since, lost = None, False
    while (left := until - time.monotonic()) > 0:
        try:
            with closing(connect()) as client:
                container = client.containers.get(name)
                away_since = None
                container.wait(timeout=min(left, WAIT_SECONDS))
                container.reload()
                state = container.attrs["State"]
                return Stopped(state["ExitCode"], state["OOMKilled"], lost or state["Status"] in BEING_REMOVED)
        except NotFound as error:
            raise EngineLost("Somebody has removed its container.") from error
        except broken() as error:
            if "timed out" in str(error).lower():
                continue
            lost, away_since = True, away_since or time.monotonic()
            if time.monotonic() - away_since > reconnect_seconds:
                raise EngineLost(f"The Docker engine has been away for {reconnect_seconds:g} s: {error}") from error
            time.sleep(POLL_SECONDS)
    return None
