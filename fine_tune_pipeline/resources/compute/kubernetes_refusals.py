"""What the API server refuses, each with what to do."""

import json
from typing import TYPE_CHECKING

from fine_tune_pipeline.resources.compute.job import PlaceFailure
from fine_tune_pipeline.resources.compute.kubernetes_settings import KubernetesSettings

if TYPE_CHECKING:
    from kubernetes.client.exceptions import ApiException


class Unreachable(PlaceFailure):
    """Nobody answers, or not with what an API server says."""


class NotConfigured(PlaceFailure):
    """There is no cluster to talk to: no file, no such context in it, no service account, no client."""


class NotAuthenticated(PlaceFailure):
    """The API server does not know who asks."""


class NotAllowed(PlaceFailure):
    """Who asks lacks a verb."""


class QuotaExceeded(PlaceFailure):
    """The namespace has used up what it may have."""


class NoNamespace(PlaceFailure):
    """It is not there."""


class InvalidManifest(PlaceFailure):
    """Kubernetes does not take the Job."""


class NameTaken(PlaceFailure):
    """A Job that is not ours has the name."""


class NeverStarted(PlaceFailure):
    """No program ran in the time that was given for it."""


def message_of(error: "ApiException") -> str:
    """The sentence of the API server's answer, or what there is instead."""
    try:
        said = json.loads(error.body or "")
    except ValueError:
        return str(error.body or error.reason or "").strip()
    return str(said.get("message", said)) if isinstance(said, dict) else str(said)


def refusal(error: "ApiException", settings: KubernetesSettings) -> PlaceFailure:
    """A refusal that no waiting changes, as people need it."""
    said, namespace = message_of(error), settings.namespace
    match error.status:
        case 401:
            return NotAuthenticated(
                f"Kubernetes does not know who asks ({said}): the token of {_source(settings)} has expired or is wrong. Log in to the "
                "cluster anew, and run the asset again."
            )
        case 403 if "exceeded quota" in said:
            return QuotaExceeded(f"Kubernetes refuses the Job: {said}. Free or raise the quota of namespace {namespace}.")
        case 403:
            return NotAllowed(
                f"Kubernetes forbids it: {said}. Grant the verb in namespace {namespace}; docker/kubernetes/role.yaml has all."
            )
        case 404 if "namespaces" in said:
            return NoNamespace(f"compute.place.namespace: got {namespace}: {said}. Create it, or name another.")
        case 400 | 422:
            return InvalidManifest(f"Kubernetes does not take the Job: {said}. Change what it names in compute.place.")
        case 0:
            return Unreachable(f"The API server's certificate is refused ({error.reason}): correct the cluster in {_source(settings)}.")
    return PlaceFailure(f"Kubernetes answers {error.status}: {said}")


def unreachable(error: Exception, settings: KubernetesSettings, *, tries: int) -> Unreachable:
    """Of an API server that was asked so often."""
    return Unreachable(
        f"Kubernetes does not answer after {tries} tries: {error}. Look whether the cluster runs and whether {_source(settings)} names it."
    )


def _source(settings: KubernetesSettings) -> str:
    named = [f"context {settings.context}"] if settings.context else []
    return " of ".join([*named, settings.kube_config or "the kube config or service account"])
