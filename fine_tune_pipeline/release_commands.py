"""The commands of a release: how it stands, one step on, back to the version before, and a person's approval."""

import argparse
import getpass
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from fine_tune_pipeline.command import DATA_SAYS_NO, ENVIRONMENT, WAITING, WRONG_USE, Add, say
from fine_tune_pipeline.places import SERVING_URL_VARIABLE, places

if TYPE_CHECKING:
    from fine_tune_pipeline.guide.deployment.release.steps import Desk, Step


def release(parsed: argparse.Namespace) -> int:
    """How the release of the newest version stands; promotes it or rolls it back when the traffic log says so, as the sensor does."""
    from fine_tune_pipeline.guide.deployment.release.steps import allow, look

    def step(desk: "Desk") -> "Step":
        from fine_tune_pipeline.guide.deployment.release.steps import Step

        if not parsed.again:
            return look(desk)
        version = allow(desk, by=_who(parsed), reason=parsed.reason or "no reason given")
        return Step("nothing", f"version {version} may be tried again: materialize {desk.use_case}/endpoint")

    return _taken(parsed, step)


def rollback(parsed: argparse.Namespace) -> int:
    """The version before is champion again; a canary that goes on is ended instead. Both versions stay loaded."""
    from fine_tune_pipeline.guide.deployment.release.steps import roll_back

    return _taken(parsed, lambda desk: roll_back(desk, by=_who(parsed), reason=parsed.reason or "no reason given"), wanted=True)


def approve(parsed: argparse.Namespace) -> int:
    """Let the version that waits for a person go on: to some users, or to everybody, as its use case says."""
    from fine_tune_pipeline.guide.deployment.release.steps import approve as approved

    return _taken(parsed, lambda desk: approved(desk, by=parsed.by, note=parsed.note))


def _taken(parsed: argparse.Namespace, take: "Callable[[Desk], Step]", *, wanted: bool = False) -> int:
    """Take a step and tell of it.

    Args:
        wanted: a roll-back is what was asked for.
    """
    from fine_tune_pipeline.artifacts.traffic_database import LogFailed, NoDatabaseUrl
    from fine_tune_pipeline.guide.deployment.registry import RegistryDown, registry_answers
    from fine_tune_pipeline.guide.deployment.release.sensor import tell
    from fine_tune_pipeline.guide.deployment.release.steps import NoPrevious, NothingWaits, NotRolledBack
    from fine_tune_pipeline.guide.deployment.release.told import facts
    from fine_tune_pipeline.resources.endpoint import EndpointFailed, NotRunning
    from fine_tune_pipeline.resources.endpoint_client import EndpointError, Unreachable

    serving = places().serving
    if not (serving / parsed.use_case).exists():
        print(f"{parsed.use_case}: no endpoint has run in {serving}; materialize its asset endpoint", file=sys.stderr)
        return WRONG_USE
    try:
        desk = _desk(parsed.use_case)
        with registry_answers(desk.registry.uri):
            step = take(desk)
            tell(desk, step)
            told = {"use_case": parsed.use_case, **facts(step)}
    except (NoPrevious, NothingWaits, NotRolledBack) as error:
        print(error, file=sys.stderr)
        return DATA_SAYS_NO
    except (RegistryDown, EndpointFailed, EndpointError, NotRunning, Unreachable, LogFailed, NoDatabaseUrl) as error:
        print(error, file=sys.stderr)
        return ENVIRONMENT
    champion = f"; champion is version {told['champion']}" if told["champion"] is not None else ""
    say(parsed, told, f"{step.reason}{champion}")
    if step.does == "approval":
        return WAITING
    withdrawn = step.release is not None and step.release.state == "rolled_back"
    return DATA_SAYS_NO if withdrawn and not wanted else 0


def _desk(use_case: str) -> "Desk":
    from fine_tune_pipeline.artifacts.store import Store
    from fine_tune_pipeline.guide.deployment.registry import ModelRegistry
    from fine_tune_pipeline.guide.deployment.release.steps import Desk
    from fine_tune_pipeline.resources.attended import endpoint_at

    at = places()
    endpoint = endpoint_at(at.serving / use_case, use_case=use_case, url=os.environ.get(SERVING_URL_VARIABLE, ""))
    registry = ModelRegistry(uri=at.mlflow, use_case=use_case)
    return Desk(use_case, endpoint, registry, log=endpoint.traffic_log, store=Store.at(at.store))


def _who(parsed: argparse.Namespace) -> str:
    return parsed.by or getpass.getuser()


def add(command: Add) -> None:
    """The three commands, with what they take."""
    for run in (release, rollback, approve):
        added = command(run)
        added.add_argument("use_case", metavar="USE_CASE")
        if run is approve:
            added.add_argument("--by", required=True, metavar="NAME", help="who agrees")
            added.add_argument("--note", default="", help="kept with the release")
            continue
        added.add_argument("--by", metavar="NAME", help="who decides; the user of this machine by default")
        added.add_argument("--reason", default="", help="kept with the release")
        if run is release:
            added.add_argument("--again", action="store_true", help="a version that was rolled back may be tried again")
