"""The commands that look after who may ask an endpoint, and after what it keeps of those who did."""

import argparse
import sys
from typing import TYPE_CHECKING

from fine_tune_pipeline.command import DATA_SAYS_NO, ENVIRONMENT, WRONG_USE, Add, say
from fine_tune_pipeline.iterate_commands import UnknownUseCase, file_of
from fine_tune_pipeline.places import places

if TYPE_CHECKING:
    from fine_tune_pipeline.programs.serving.api_keys import KeyFile


def keys(parsed: argparse.Namespace) -> int:
    """API keys of an endpoint: add one for each client, list them, remove one; the running endpoint takes notice at once."""
    from fine_tune_pipeline.programs.serving.api_keys import BadKeyFile, BadName, KeyFile, NameTaken, UnknownKey
    from fine_tune_pipeline.spec.reading import InvalidUseCase

    actions = {"add": _add_key, "list": _list_keys, "remove": _remove_key}
    try:
        _, name = file_of(parsed.use_case)
        return actions[parsed.action](parsed, KeyFile(places().serving / name))
    except (InvalidUseCase, UnknownUseCase, BadName, NameTaken, UnknownKey) as error:
        print(error, file=sys.stderr)
        return WRONG_USE
    except (BadKeyFile, OSError) as error:
        print(error, file=sys.stderr)
        return ENVIRONMENT


def forget(parsed: argparse.Namespace) -> int:
    """Delete what an endpoint keeps of one user: their requests, the feedback on them, and feedback that they gave under their name."""
    from fine_tune_pipeline.artifacts.store import Store
    from fine_tune_pipeline.artifacts.traffic import TrafficLog
    from fine_tune_pipeline.artifacts.traffic_database import LogFailed, NoDatabaseUrl
    from fine_tune_pipeline.artifacts.traffic_identity import NoSalt, ShortSalt
    from fine_tune_pipeline.guide.deployment.forgetting import forgotten
    from fine_tune_pipeline.spec.reading import InvalidUseCase, read_use_case

    try:
        path, name = file_of(parsed.use_case)
        traffic = read_use_case(path, files=False).deployment.traffic
        state = places().serving / name
        log = TrafficLog.of(traffic, use_case=name, folder=state)
        found = forgotten(
            log, Store.at(places().store), use_case=name, user=parsed.user, state=state, copies=parsed.copies, dry_run=parsed.dry_run,
            mlflow=places().mlflow if traffic.mlflow_share else None,
        )  # fmt: skip
    except (InvalidUseCase, UnknownUseCase) as error:
        print(error, file=sys.stderr)
        return WRONG_USE
    except (NoSalt, ShortSalt, NoDatabaseUrl, LogFailed) as error:
        print(error, file=sys.stderr)
        return ENVIRONMENT
    left = [copy for copy in found.copies if copy not in found.deleted]
    facts = {
        "use_case": name,
        "requests": len(found.removed.requests),
        "feedback": found.removed.feedback,
        "traces": found.traces,
        "deleted": not parsed.dry_run,
        "copies_deleted": [str(copy.folder) for copy in found.deleted],
        "copies_left": [str(copy.folder) for copy in left],
    }
    done = "would be deleted (--dry-run)" if parsed.dry_run else "deleted"
    said = [f"{facts['requests']} requests and {facts['feedback']} pieces of feedback {done}"]
    said += [f"deleted  {copy.folder}" for copy in found.deleted]
    said += [f"copy     {copy.folder}: {copy.requests} of these requests" for copy in left]
    say(parsed, facts, "\n".join(said))
    return DATA_SAYS_NO if left and not parsed.dry_run else 0


def _add_key(parsed: argparse.Namespace, file: "KeyFile") -> int:
    if parsed.name is None:
        print("keys add: want a name for the key, such as that of the client", file=sys.stderr)
        return WRONG_USE
    if parsed.per_minute is not None and parsed.per_minute < 1:
        print(f"--per-minute: got {parsed.per_minute}, want at least 1", file=sys.stderr)
        return WRONG_USE
    key = file.add(parsed.name, per_minute=parsed.per_minute)
    facts = {"name": parsed.name, "key": key, "per_minute": parsed.per_minute}
    print("this is the only time that it is shown; only its hash is kept", file=sys.stderr)
    say(parsed, facts, key)
    return 0


def _list_keys(parsed: argparse.Namespace, file: "KeyFile") -> int:
    there = file.listed()
    facts = {"keys": [{"name": key.name, "per_minute": key.per_minute, "made_at": key.made_at} for key in there]}
    lines = [f"{key.name:<24} {key.per_minute or 'any number':>10} a minute   {key.made_at}" for key in there]
    say(parsed, facts, "\n".join(lines) or "no keys with a name; the endpoint's own two are taken")
    return 0


def _remove_key(parsed: argparse.Namespace, file: "KeyFile") -> int:
    if parsed.name is None:
        print("keys remove: want the name of the key; `keys … list` shows them", file=sys.stderr)
        return WRONG_USE
    file.remove(parsed.name)
    say(parsed, {"name": parsed.name, "removed": True}, f"{parsed.name}: removed; it is refused from the next request on")
    return 0


def add(command: Add) -> None:
    """Both commands, with what they take."""
    added = command(keys)
    added.add_argument("use_case", metavar="USE_CASE", help="its name, or its YAML file")
    added.add_argument("action", choices=("add", "list", "remove"))
    added.add_argument("name", nargs="?", metavar="NAME", help="of the key; it stands in the traffic log beside each request")
    added.add_argument("--per-minute", type=int, metavar="N", help="most requests of this key; any number by default")
    added = command(forget)
    added.add_argument("use_case", metavar="USE_CASE", help="its name, or its YAML file")
    added.add_argument("--user", required=True, metavar="NAME", help="as `user` of the requests, or as `source` of feedback")
    added.add_argument("--copies", action="store_true", help="delete snapshots of the traffic and drift reports that hold their rows, too")
    added.add_argument("--dry-run", action="store_true", help="say what would go, delete nothing")
