"""Ray's Jobs API as the place `ray` needs it: requests that end, and errors that say what to do."""

import os
import shlex
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.resources.compute.job import PlaceFailure

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

FIND_SECONDS = 5
"""Ray itself asks for most of a minute whether a cluster of that address, perhaps one that has long ended, is there."""

REQUEST_SECONDS = 60
"""Ray's own client waits for ever; a large working_dir is one request too."""

ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Variables that Ray puts above any address it is given."""

JOB = "fine_tune_pipeline/job"
"""Metadata of each job: what is asked, the same for each try."""


class Unreachable(Exception):
    """The cluster does not answer just now."""


class Forgotten(Exception):
    """The cluster answers, and knows no such job: it was started anew, or somebody deleted the job."""


def connected(address: str | None, headers: Mapping[str, str], *, verify: bool | str) -> "JobSubmissionClient":
    """A client of the cluster's dashboard, tried once.

    Raises:
        PlaceFailure: nobody answers there, or not a Ray dashboard, or it does not let us in.
    """
    import requests
    from ray.exceptions import RayError

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _agree(address)
    named = address or next((os.environ[name] for name in ADDRESSES if os.environ.get(name)), None)
    shown = named or "this machine"
    try:
        if named is None or "://" not in named:
            _found(named)
        return _patient()(address=address, headers=dict(headers), verify=verify)
    except (Unreachable, ConnectionError, RayError) as error:
        raise PlaceFailure(
            f"compute.place.address: no Ray cluster answers at {shown}: {error}. Set it, or RAY_ADDRESS, to the address of its dashboard, "
            "such as http://<head>:8265, reachable from here (--dashboard-host=0.0.0.0, a tunnel, or an ingress)"
        ) from error
    except (Forgotten, RuntimeError, ValueError, requests.RequestException) as error:
        raise PlaceFailure(
            f"compute.place.address: {shown} answers, but not as the dashboard of Ray 2.8 or later: {error}. Want its dashboard (port 8265 "
            "by default), not the port of the cluster itself (6379) or of Ray Client (10001)"
        ) from error


def _found(named: str | None) -> None:
    """Whether somebody listens where Ray will ask for the dashboard's address: at the cluster's own, by default of the last one here."""
    from ray._private.services import canonicalize_bootstrap_address_or_die

    cluster = canonicalize_bootstrap_address_or_die(named or "auto")
    host, _, port = cluster.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=FIND_SECONDS).close()
    except OSError as error:
        raise Unreachable(f"nobody listens at {cluster} ({error})") from error


def _agree(address: str | None) -> None:
    for name in ADDRESSES:
        if address is not None and os.environ.get(name, address) != address:
            raise PlaceFailure(
                f"compute.place.address is {address}, but Ray puts {name}={os.environ[name]} above it: unset that, or leave address out"
            )


def _patient() -> type["JobSubmissionClient"]:
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    class Patient(JobSubmissionClient):
        """Each request ends, and what went wrong has a type."""

        def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
            try:
                answer = super()._do_request(method, endpoint, timeout=REQUEST_SECONDS, **options)
            except AuthenticationError as error:
                raise _refused(self._address, str(error)) from error
            except (requests.ConnectionError, requests.Timeout) as error:
                raise Unreachable(f"{method} {endpoint}: {error}") from error
            if answer.status_code in (401, 403):
                raise _refused(self._address, f"{answer.status_code} {answer.text}")
            if answer.status_code == 404 and endpoint.startswith("/api/jobs/"):
                raise Forgotten(answer.text)
            if answer.status_code in (429, 502, 503, 504):
                raise Unreachable(f"{method} {endpoint}: {answer.status_code} {answer.text}")
            return answer

    return Patient


def _refused(address: str, said: str) -> PlaceFailure:
    return PlaceFailure(
        f"compute.place.headers: {address} does not let us in: {' '.join(said.split())} Want a token that is valid still, in headers, such "
        "as {Authorization: Bearer $RAY_TOKEN}, or by Ray's own RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
    )


def jobs_named(client: "JobSubmissionClient", name: str) -> list["JobDetails"]:
    """Jobs of ours that earlier tries of the same work have left, in the order they were started."""
    ours = [job for job in client.list_jobs() if job.submission_id and (job.metadata or {}).get(JOB) == name]
    return sorted(ours, key=lambda job: job.start_time or 0)


def nodes(client: "JobSubmissionClient") -> dict[str, dict[str, float]]:
    """The resources of each node that is alive, by its id."""
    answer = client._do_request("GET", "/api/v0/nodes?detail=1")
    if answer.status_code != 200:
        raise Unreachable(f"GET /api/v0/nodes: {answer.status_code} {answer.text[:500]}")
    found = answer.json()["data"]["result"]["result"]
    return {node["node_id"]: node["resources_total"] for node in found if node["state"] == "ALIVE"}


def withdraw(client: "JobSubmissionClient", submission: str, *, python: str) -> str:
    """Have a job of a few seconds, on the head, end another that waits for resources: Ray itself stops only what has started.

    `python` has Ray; gives back the id of that job.
    """
    from ray.dashboard.modules.job.common import JOB_ACTOR_NAME_TEMPLATE, SUPERVISOR_ACTOR_RAY_NAMESPACE

    name = JOB_ACTOR_NAME_TEMPLATE.format(job_id=submission)
    code = f"import ray; ray.init(log_to_driver=False); ray.kill(ray.get_actor({name!r}, namespace={SUPERVISOR_ACTOR_RAY_NAMESPACE!r}))"
    return client.submit_job(entrypoint=shlex.join([python, "-c", code]), submission_id=f"{submission}-withdraw")
