"""Adapters at all replicas: loaded everywhere or nowhere, never two under one name, brought back to a replica that has lost them."""

import threading
from collections.abc import Callable, Iterator

from fine_tune_pipeline.programs.vllm.replica import AdapterRefused, Listed, Replica, ReplicaDown, ReplicaError
from fine_tune_pipeline.programs.vllm.replicas import Replicas
from fine_tune_pipeline.programs.vllm.requests import VllmUpstream


class NotLoaded(ValueError):
    """A version is not at all replicas; the message names them, and nothing of it is left at the others."""


class Adapters:
    """What the replicas are to have loaded, by name."""

    def __init__(self, upstream: VllmUpstream, replicas: Replicas, *, say: Callable[[str], None]) -> None:
        self._upstream = upstream
        self._replicas = replicas
        self._say = say
        self._one_load = threading.Lock()

    def load(self, name: str, path: str, *, again: bool = False) -> None:
        """Have an adapter at every replica.

        Args:
            path: as vLLM sees it.
            again: it was there before, so a replica that is down now gets it when it is back; one at least must be up.

        Raises:
            NotLoaded: names the replicas that do not have it.
            ReplicaDown: `again`, and no replica is up.
        """
        loaded: list[Replica] = []
        problems: list[ReplicaError] = []
        for replica in self._replicas.all():
            try:
                self._ensure(replica, name, path, loaded)
            except ReplicaError as error:
                problems.append(error)
                if not again:
                    break
        if not problems:
            return
        if again and all(isinstance(problem, ReplicaDown) for problem in problems):
            if len(problems) == len(self._replicas.all()):
                raise problems[0]
            self._say(f"{name}: loaded where a replica is up; {'; '.join(map(str, problems))}")
            return
        for replica in loaded:
            self._forget(replica, name)
        raise NotLoaded("; ".join(map(str, problems)))

    def heal(self, replica: Replica, name: str, path: str) -> bool:
        """Bring an adapter back to a replica that was started anew; says whether it may be asked again.

        Raises:
            ReplicaError: it does not take it.
        """
        if self._upstream.mode == "static":
            return False
        self._ensure(replica, name, path, [])
        self._say(f"{replica.url}: had lost {name}, which was loaded again")
        return True

    def unload(self, name: str) -> None:
        """Have it forgotten everywhere; a replica that cannot be reached forgets it when it ends."""
        if self._upstream.mode == "runtime":
            for replica in self._replicas.all():
                self._forget(replica, name)

    def _ensure(self, replica: Replica, name: str, path: str, loaded: list[Replica]) -> None:
        # One at a time: requests that find it missing all come here.
        with self._one_load:
            listed = replica.models()
            problem = next(listing_problems(replica, listed, self._upstream, name=name, path=path), None)
            if problem is not None:
                raise AdapterRefused(problem)
            if name in listed:
                return
            # From here on it may be there, whatever comes back.
            loaded.append(replica)
            try:
                replica.load(name, path, seconds=self._upstream.load_seconds)
            except AdapterRefused:
                # Another endpoint may have been faster.
                if not _is_at(replica.models().get(name), path):
                    raise
            if not _is_at(replica.models().get(name), path):
                raise AdapterRefused(f"{replica.url}: says that it has loaded {name}, and does not list it")

    def _forget(self, replica: Replica, name: str) -> None:
        try:
            replica.unload(name, seconds=self._upstream.load_seconds)
        except ReplicaError as error:
            self._say(f"{name} may still be loaded: {error}")


def listing_problems(
    replica: Replica, listed: dict[str, Listed], upstream: VllmUpstream, *, name: str | None = None, path: str = ""
) -> Iterator[str]:
    """What is wrong with the models that a replica lists; with a name, also why that adapter cannot be there or be loaded."""
    if upstream.base not in listed or listed[upstream.base].parent is not None:
        yield (
            f"{replica.url}: serves no base model {upstream.base!r}, but {', '.join(listed) or 'nothing'}; start vLLM with "
            f"--served-model-name {upstream.base}, or correct deployment.vllm.base"
        )
    if name is None:
        return
    if name in listed and not _is_at(listed[name], path):
        yield (
            f"{replica.url}: {name} is loaded from {listed[name].root}, want {path}; a name is never used twice: unload it there, or give "
            "use cases that share vLLM other names"
        )
    elif name not in listed and upstream.mode == "static":
        yield f"{replica.url}: has no {name}; {_how_it_gets_there(upstream, name, path)}, then try again"


def _how_it_gets_there(upstream: VllmUpstream, name: str, path: str) -> str:
    if upstream.takes_from_folder:
        return (
            f"the adapter lies in {path}: have the server take adapters from there (Ray Serve LLM: lora_config.dynamic_lora_loading_path)"
        )
    return f"start it with --lora-modules {name}={path} (beside those that it has)"


def _is_at(found: Listed | None, path: str) -> bool:
    return found is not None and (found.root or path).rstrip("/") == path.rstrip("/")
