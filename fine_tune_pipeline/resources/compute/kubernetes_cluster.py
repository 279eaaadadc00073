"""One namespace of a cluster: its Jobs and pods as plain dicts, whatever happens to the connection."""

import json
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.resources.compute.kubernetes_manifest import Manifest
from fine_tune_pipeline.resources.compute.kubernetes_pod import Shown, name_of
from fine_tune_pipeline.resources.compute.kubernetes_refusals import NotConfigured, Unreachable, refusal, unreachable
from fine_tune_pipeline.resources.compute.kubernetes_settings import KubernetesSettings

if TYPE_CHECKING:
    from kubernetes.client import ApiClient
    from urllib3 import HTTPResponse

CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 60.0

WATCH_SECONDS = 10
"""A watch is asked for anew at least so often; in between nothing but changes is sent."""

LONGEST_WAIT_SECONDS = 30.0

FIRST_TRIES = 4
"""Before anything was made: who has named the wrong cluster wants to know it at once."""

PASSING = {408, 429, 500, 502, 503, 504}
"""Answers of a server that is busy or starting."""

REDIRECTED, NOT_FOUND, CONFLICT, GONE = 300, 404, 409, 410

IN_CLUSTER = "KUBERNETES_SERVICE_HOST"
"""Kubernetes sets it in every pod."""


class AlreadyThere(Exception):
    """A Job has that name."""


class Patience:
    """How often in a row the API server may fail to answer, and how long to wait in between."""

    def __init__(self, settings: KubernetesSettings, *, tries: int) -> None:
        self._settings = settings
        self._tries = tries
        self._failed = 0

    def answered(self) -> None:
        self._failed = 0

    def wait(self, error: Exception) -> None:
        """Until the next try.

        Raises:
            PlaceFailure: it is of no use.
        """
        from kubernetes.client.exceptions import ApiException
        from kubernetes.utils.retry import retry_after_seconds

        if isinstance(error, ApiException) and error.status not in PASSING:
            raise refusal(error, self._settings) from error
        self._failed += 1
        if self._failed >= self._tries:
            raise unreachable(error, self._settings, tries=self._failed) from error
        wanted = self._settings.retry_seconds * 2 ** (self._failed - 1)
        time.sleep(min(LONGEST_WAIT_SECONDS, max(wanted, retry_after_seconds(error) or 0)))


class Cluster:
    """What is asked of the API server."""

    def __init__(self, settings: KubernetesSettings, *, tries: int) -> None:
        try:
            from kubernetes.client import BatchV1Api, CoreV1Api
        except ImportError as error:
            raise NotConfigured("The place kubernetes needs its client: pip install 'fine_tune_pipeline[kubernetes]'") from error
        self.tries = tries
        self._settings = settings
        self._client = connected(settings)
        self._watch_seconds = max(1, min(WATCH_SECONDS, int(settings.start_seconds / 4)))
        self._batch, self._core = BatchV1Api(self._client), CoreV1Api(self._client)

    def close(self) -> None:
        self._client.rest_client.close()

    def create_job(self, manifest: Manifest) -> Shown:
        """The Job as it was taken.

        Raises:
            AlreadyThere: a Job has its name.
        """
        from kubernetes.client.exceptions import ConflictException

        try:
            return self._asked(self._batch.create_namespaced_job, body=manifest, meant=(CONFLICT,))
        except ConflictException as error:
            raise AlreadyThere from error

    def job(self, name: str) -> Shown | None:
        return self._found(self._batch.read_namespaced_job, name=name)

    def delete_job(self, job: Shown) -> None:
        """This one and its pods, none of the same name that was made since; it may be gone."""
        body = {"propagationPolicy": "Background", "preconditions": {"uid": job["metadata"]["uid"]}}
        self._found(self._batch.delete_namespaced_job, name=name_of(job), body=body)

    def warnings(self, of: Shown) -> list[str]:
        """`Reason: message` of the events about an object, oldest first."""
        selector = f"involvedObject.uid={of['metadata']['uid']},type=Warning"
        events = self._asked(self._core.list_namespaced_event, field_selector=selector)["items"]
        return [f"{event.get('reason')}: {event.get('message')}" for event in events]

    def pods(self, job: Shown) -> Generator[Sequence[Shown], None, None]:
        """The pods of a Job, now, after each change and at least every few seconds; without end."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        selector = f"batch.kubernetes.io/controller-uid={job['metadata']['uid']}"
        known, version = self._listed(selector)
        patience = Patience(self._settings, tries=self.tries)
        while True:
            yield list(known.values())
            try:
                for seen, changed in self._changes(selector, version):
                    version = seen
                    patience.answered()
                    if changed is not None:
                        _apply(known, *changed)
                        yield list(known.values())
                patience.answered()
            except (HTTPError, ApiException) as error:
                if getattr(error, "status", None) == GONE:
                    known, version = self._listed(selector)
                else:
                    patience.wait(error)

    def log(self, pod: str, container: str, *, since: str | None, follow: bool, silence_seconds: float) -> "HTTPResponse":
        """The stream of a container's output, each line after its time, from the second of `since` on."""
        from kubernetes.client.exceptions import ForbiddenException, UnauthorizedException

        # The client's own method has no sinceTime; its sinceSeconds would need both clocks to agree.
        query = [("container", container), ("timestamps", "true"), *([("follow", "true")] if follow else [])]
        request = self._client.param_serialize(
            "GET", "/api/v1/namespaces/{namespace}/pods/{name}/log", path_params={"namespace": self._settings.namespace, "name": pod},
            query_params=[*query, *([("sinceTime", since)] if since else [])], auth_settings=["BearerToken"],
        )  # fmt: skip
        try:
            return _checked(self._client.call_api(*request, _request_timeout=(CONNECT_SECONDS, silence_seconds)).response)
        except (UnauthorizedException, ForbiddenException) as error:
            raise refusal(error, self._settings) from error

    def _listed(self, selector: str) -> tuple[dict[str, Shown], str]:
        listed = self._asked(self._core.list_namespaced_pod, label_selector=selector)
        return {name_of(pod): pod for pod in listed["items"]}, listed["metadata"]["resourceVersion"]

    def _changes(self, selector: str, version: str) -> Iterator[tuple[str, tuple[str, Shown] | None]]:
        """Changes since a version, each with the version to go on from; None of a bookmark, which has only that."""
        from kubernetes.watch import Watch

        stream = Watch(return_type="object").stream(
            self._core.list_namespaced_pod,
            self._settings.namespace,
            label_selector=selector,
            resource_version=version,
            timeout_seconds=self._watch_seconds,
            allow_watch_bookmarks=True,
            _request_timeout=(CONNECT_SECONDS, self._watch_seconds + ANSWER_SECONDS),
        )
        for event in stream:
            seen = event["raw_object"]
            yield seen["metadata"]["resourceVersion"], None if event["type"] == "BOOKMARK" else (event["type"], seen)

    def _found(self, call: Callable[..., Any], **arguments: Any) -> Shown | None:
        from kubernetes.client.exceptions import ApiException

        try:
            return self._asked(call, meant=(NOT_FOUND, CONFLICT), **arguments)
        except ApiException:
            return None

    def _asked(self, call: Callable[..., Any], *, meant: Sequence[int] = (), **arguments: Any) -> Any:
        """The answer to one call, which is made again as long as there is hope; refusals that are `meant` are the caller's."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        patience = Patience(self._settings, tries=self.tries)
        timeouts = (CONNECT_SECONDS, ANSWER_SECONDS)
        while True:
            try:
                response = call(namespace=self._settings.namespace, _preload_content=False, _request_timeout=timeouts, **arguments)
                return _read(_checked(response))
            except (HTTPError, ApiException) as error:
                if getattr(error, "status", None) in meant:
                    raise
                patience.wait(error)


def connected(settings: KubernetesSettings) -> "ApiClient":
    """A client of the cluster that is configured.

    Raises:
        NotConfigured: there is none.
    """
    from kubernetes.client import ApiClient, Configuration
    from kubernetes.config import ConfigException, load_incluster_config, load_kube_config
    from yaml import YAMLError

    # Tries are counted here: urllib3 would try again at once, and not where it matters.
    configuration = Configuration(retries=False)
    configuration.keep_alive = True
    named = settings.kube_config or settings.context
    try:
        if named or IN_CLUSTER not in os.environ:
            load_kube_config(settings.kube_config, settings.context, configuration, persist_config=False)
        else:
            load_incluster_config(configuration)
    except (ConfigException, YAMLError, OSError, UnicodeDecodeError) as error:
        raise NotConfigured(
            f"compute.place: no cluster: {error}. Name a file in compute.place.kube_config (or $KUBECONFIG) and one of its contexts in "
            "compute.place.context; in a pod of the cluster, mount the token of its service account."
        ) from error
    return ApiClient(configuration)


def _read(response: "HTTPResponse") -> Any:
    try:
        return json.loads(response.data)
    except ValueError as error:
        raise Unreachable(f"What answers is no API server of Kubernetes: {response.data[:100]!r}") from error


def _checked(response: "HTTPResponse") -> "HTTPResponse":
    from kubernetes.client.exceptions import ApiException

    if response.status >= REDIRECTED:
        ApiException.from_response(http_resp=response, body=response.data.decode("utf-8", errors="replace"), data=None)
    return response


def _apply(known: dict[str, Shown], kind: str, pod: Shown) -> None:
    if kind == "DELETED":
        known.pop(name_of(pod), None)
    else:
        known[name_of(pod)] = pod
