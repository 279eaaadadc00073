"""What a run would do, without doing it: every asset's own body is gone through up to the moment where it would build something.

So the answer cannot drift from what a run decides. Nothing is written: the store is only read, and hand-outs to people go to a folder that
is thrown away.
"""

import inspect
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NoReturn

import dagster as dg

from fine_tune_pipeline.artifacts.fingerprint import fingerprint
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Artifact, Store, content_of
from fine_tune_pipeline.guide.base_model.candidates import UndecidedChoice
from fine_tune_pipeline.programs.requests import Tracking
from fine_tune_pipeline.resources.store import ArtifactStore, Kept, told
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline.spec.use_case import UseCaseSpec

Does = Literal["reuse", "build", "look", "stop"]
"""reuse: an artifact is there; build: it has to be made; look: it looks at the living world each time; stop: it would fail."""


@dataclass(frozen=True)
class Step:
    """What would become of one asset, and why; `artifact` is the one that would be reused."""

    asset: str
    does: Does
    why: str
    artifact: Artifact | None = None


_BECOMES = {"build": "is built anew", "look": "is looked at anew", "stop": "stops"}


class _Ends(Exception):
    """The body has come to the point where it would build, or where it cannot go on without doing so."""

    def __init__(self, does: Does, why: str) -> None:
        super().__init__(why)
        self.does: Does = does
        self.why = why


@dataclass(frozen=True)
class _Seen(Store):
    """The store as it would be: assets that would be rebuilt are not there, others are those that would be taken."""

    taken: dict[str, Artifact] = field(default_factory=dict)
    missing: dict[str, Does] = field(default_factory=dict)

    def peek(self, use_case: str, asset: str, *, passed: bool = True) -> Artifact | None:
        if asset in self.missing:
            does = self.missing[asset]
            raise _Ends(does, f"because {asset} {_BECOMES[does]}")
        return self.taken.get(asset) or super().peek(use_case, asset)


class _RehearsedStore(ArtifactStore):
    """Decides as the real one, and stops where that would build."""

    _seen: _Seen | None = None

    def open(self) -> _Seen:
        assert self._seen is not None
        return self._seen

    def made(
        self,
        context: dg.AssetExecutionContext,
        *,
        version: int,
        what: Mapping[str, Any],
        build: Callable[[Path], Built] | None = None,
        build_in_parts: Callable[[Path, Path], Built] | None = None,
        upstream: Mapping[str, Artifact] | None = None,
        observed: bool = False,
        retry_failed: bool = False,
        whole: bool = False,
        foreseen: Callable[[], str | None] | None = None,
    ) -> Kept:
        use_case, asset = context.asset_key.path
        if observed:
            raise _Ends("look", "it looks at the world as it is, each time")
        content = content_of(asset=asset, version=version, what=what, upstream=upstream or {})
        found = self.open().find(use_case, asset, fingerprint(content))
        if found is not None and not (retry_failed and found.manifest.failed):
            return Kept(artifact=found, reused=True)
        if foreseen is not None and (why := foreseen()) is not None:
            raise _Ends("stop", why)
        if found is not None:
            raise _Ends("build", "because it failed a check the last time")
        changed = self.open().changed(use_case, content)
        raise _Ends("build", f"because of {', '.join(told(changed))}" if changed else "it is not in the store yet")


class _UntouchedTracking(ExperimentTracking):
    """MLflow is not asked: that would make an experiment, and load its library."""

    def tracking(self, *, use_case: str, run_name: str, tags: dict[str, str]) -> Tracking:
        return Tracking(uri=self.uri, experiment=use_case, run_name=run_name, tags=tags)

    def experiment(self, use_case: str) -> NoReturn:
        raise _Ends("look", "MLflow knows what people have reviewed")


def rehearse(spec: UseCaseSpec, assets: Mapping[str, dg.AssetsDefinition], resources: Mapping[str, Any]) -> list[Step]:
    """What a run of all assets would do.

    Args:
        assets: name -> asset, in the order of the guide, so that each comes after those that it reads.
        resources: as the code location binds them.
    """
    steps: list[Step] = []
    with _rehearsed(spec, resources) as bound:
        seen = bound["store"].open()
        for name, asset in assets.items():
            stopped = next((key.path[-1] for key in asset.dependency_keys if seen.missing.get(key.path[-1]) == "stop"), None)
            step = _step(name, asset, bound) if stopped is None else Step(name, "stop", f"because {stopped} {_BECOMES['stop']}")
            steps.append(step)
            if step.artifact is not None:
                seen.taken[name] = step.artifact
            elif step.does != "look" or Store(seen.root, seen.cache).peek(spec.name, name) is None:
                seen.missing[name] = step.does
    return steps


@contextmanager
def _rehearsed(spec: UseCaseSpec, resources: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    store: ArtifactStore = resources["store"]
    with tempfile.TemporaryDirectory(prefix="fine_tune_pipeline-") as scratch:
        if (store.review_root / spec.name).exists():
            shutil.copytree(store.review_root / spec.name, Path(scratch) / spec.name)
        rehearsed, real = _RehearsedStore(url=store.url, reviews=scratch), store.open()
        rehearsed._seen = _Seen(root=real.root, cache=real.cache)
        tracking: ExperimentTracking = resources["tracking"]
        yield {**resources, "store": rehearsed, "tracking": _UntouchedTracking(uri=tracking.uri, artifacts=tracking.artifacts)}


def _step(name: str, asset: dg.AssetsDefinition, resources: Mapping[str, Any]) -> Step:
    body = asset.op.compute_fn.decorated_fn  # type: ignore[union-attr]
    context = SimpleNamespace(asset_key=asset.key, log=logging.getLogger("rehearsal"), run=SimpleNamespace(run_id="rehearsal"))
    wanted = [parameter for parameter in inspect.signature(body).parameters if parameter != "context"]
    try:
        shown = body(context, **{parameter: resources[parameter] for parameter in wanted})
    except _Ends as end:
        return Step(name, end.does, end.why)
    except UndecidedChoice as error:
        return Step(name, "build", f"a plan asks no other machine; the run does: {error}")
    except Exception as error:
        # Whatever it is, a run would end here with it; the steps before and after are still worth knowing.
        return Step(name, "stop", f"{type(error).__name__}: {error}")
    found = resources["store"].open().find(*asset.key.path, shown.data_version.value)
    return Step(name, "reuse", "nothing that it depends on has changed", found)
