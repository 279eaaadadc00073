"""What a user says of a Kubernetes cluster and of the pods in it."""

import re
from typing import Literal, Self

import dagster as dg
from pydantic import Field, model_validator

from fine_tune_pipeline.resources.compute.place import Place

SECRET = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[-._a-zA-Z0-9]+")
"""`name/key`, as Kubernetes spells them."""

CLAIM = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[^/]+)*")
"""`claim`, or `claim/folder/in/it`."""


class Toleration(dg.Config):
    """A taint of nodes that the pod puts up with, such as the one that keeps others from machines with GPUs."""

    key: str | None = Field(default=None, description="Of the taint; every taint by default.")
    operator: str = Field(default="Exists", pattern="^(Exists|Equal)$", description="Equal compares the value too.")
    value: str | None = None
    effect: str | None = Field(default=None, pattern="^(NoSchedule|PreferNoSchedule|NoExecute)$", description="Every effect by default.")


class KubernetesSettings(Place):
    """A namespace of a cluster, the pod that a program runs in, and how long to wait for what."""

    kind: Literal["kubernetes"] = "kubernetes"

    kube_config: str | None = Field(default=None, description="File; $KUBECONFIG or ~/.kube/config, and in a pod its service account.")
    context: str | None = Field(default=None, description="Of that file; its current one by default.")
    namespace: str = Field(default="default", pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")

    image: str = Field(description="Has fine_tune_pipeline and torch, in the version that runs here.")
    pull: Literal["never", "missing", "always"] = Field(default="missing", description="When a node fetches the image.")
    image_pull_secrets: list[str] = Field(default=[], description="Names of Secrets for a private registry.")
    python: str = Field(default="python", description="Interpreter in the image that has torch.")

    cpus: float = Field(default=4, gt=0, description="Cores of one program: requested, its limit, and its threads.")
    memory_gib: float = Field(default=16, gt=0, description="Memory of one program, shared memory included: requested, and its limit.")
    cpu_bfloat16: bool = Field(default=False, description="The nodes' CPUs multiply bfloat16 in hardware (avx512_bf16, amx_bf16).")
    gpu_resource: str = Field(default="nvidia.com/gpu", description="Name of the accelerators in the cluster, such as amd.com/gpu.")
    gpu_name: str | None = Field(default=None, description="Of one, such as L4 or A100-80GB: steps 4 and 5 plan with it.")
    gpu_memory_gib: float | None = Field(default=None, gt=0, description="Of one, if its name does not say so.")
    gpu_bfloat16: bool | None = Field(default=None, description="Whether it has units for bfloat16, if its name does not say so.")
    shm_gib: float = Field(default=1, gt=0, description="Shared memory, for processes that load data or train side by side.")
    scratch_gib: float | None = Field(default=None, gt=0, description="Most of /tmp, the only folder of the pod's own that can be written.")

    volumes: dict[str, str] = Field(
        default={}, description="PersistentVolumeClaim (`claim` or `claim/folder`) to mount path, the same as in the pod of Dagster."
    )
    secrets: dict[str, str] = Field(default={}, description="Variable to `secret/key`: only the reference is sent, never a value.")
    node_selector: dict[str, str] = {}
    tolerations: list[Toleration] = []
    priority_class: str | None = None
    service_account: str | None = Field(default=None, description="Of the program's pod; its token is not mounted.")
    user: int = Field(default=1000, ge=1, description="Numeric user of the program, not root; owns what it writes.")
    group: int = Field(default=1000, ge=1, description="Numeric group of the program and of its volumes.")
    labels: dict[str, str] = Field(default={}, description="Of Job and pod, beside ours; such as the queue of Kueue.")
    annotations: dict[str, str] = Field(default={}, description="Of Job and pod, beside ours.")

    start_seconds: float = Field(default=900, gt=0, description="Longest wait until a program runs: for a node, a quota, the image.")
    grace_seconds: int = Field(default=30, ge=1, description="Wait after SIGTERM before SIGKILL.")
    lease_seconds: float = Field(
        default=900, gt=0, description="A program ends by itself when nothing of Dagster has been seen so long: longer than its restart."
    )
    kept_seconds: int = Field(default=3600, ge=0, description="After which Kubernetes removes a finished Job that nobody has collected.")
    tries: int = Field(default=12, ge=1, description="Of one call in a row, while the API server does not answer: 3 minutes by default.")
    retry_seconds: float = Field(default=0.5, gt=0, description="Wait after the first try; it doubles up to 30.")
    silence_seconds: float = Field(default=60, gt=0, description="Of the log, after which the pod is looked at and the log asked for anew.")

    @model_validator(mode="after")
    def _plausible(self) -> Self:
        if self.gpus and not (self.gpu_name or self.gpu_memory_gib):
            raise ValueError(f"gpu_name: missing; with gpus: {self.gpus} say what one is, such as L4")
        for variable, secret in self.secrets.items():
            if not SECRET.fullmatch(secret):
                raise ValueError(f"secrets.{variable}: got {secret!r}, want the name of a Secret and its key, such as mlflow/password")
        for claim, path in self.volumes.items():
            if not CLAIM.fullmatch(claim) or not path.startswith("/"):
                raise ValueError(
                    f"volumes: got {claim}: {path}, want a claim and an absolute path, such as store: /var/lib/fine_tune_pipeline"
                )
        return self
