"""The commands that bring a fine-tuned model out of the store, and that check a folder against its hashes."""

import argparse
import sys
import typing
from dataclasses import asdict
from pathlib import Path

from fine_tune_pipeline.command import DATA_SAYS_NO, ENVIRONMENT, WRONG_USE, Add, say
from fine_tune_pipeline.spec.export import Format


def export(parsed: argparse.Namespace) -> int:
    """The fine-tuned model as files for others: made if it is not there yet, and copied to a new folder."""
    from fine_tune_pipeline.artifacts.store import FailedUpstream, MissingArtifact
    from fine_tune_pipeline.exporting import ExportFailed, ExportRefused, NoFormats, TargetExists
    from fine_tune_pipeline.exporting import export as exported
    from fine_tune_pipeline.foreground import INTERRUPTED, signals_interrupt
    from fine_tune_pipeline.guide.deployment.export import NothingToExport
    from fine_tune_pipeline.resources.compute.choice import UnknownPlace
    from fine_tune_pipeline.spec.reading import InvalidUseCase

    try:
        with signals_interrupt():
            done = exported(parsed.use_case, formats=parsed.formats, target=parsed.to)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (InvalidUseCase, NoFormats, TargetExists) as error:
        print(error, file=sys.stderr)
        return WRONG_USE
    except (MissingArtifact, FailedUpstream, NothingToExport, ExportRefused) as error:
        print(error, file=sys.stderr)
        return DATA_SAYS_NO
    except (ExportFailed, UnknownPlace) as error:
        print(error, file=sys.stderr)
        return ENVIRONMENT
    shown = done.artifact.metadata
    facts = {
        "folder": str(done.folder),
        "formats": shown["formats"],
        "not_made": shown["not_made"],
        "files": done.files,
        "largest_logit_difference": shown.get("merge/largest_difference"),
        "fingerprint": done.artifact.fingerprint,
    }
    made = ", ".join(shown["formats"]) or "nothing"
    say(parsed, facts, f"{done.folder}: {made}, {done.files} files; check them with fine-tune-pipeline verify {done.folder}")
    return 0


def verify(parsed: argparse.Namespace) -> int:
    """Whether an export, or an artifact of the store, is still what it was: every file against its hash."""
    from fine_tune_pipeline.artifacts.checksums import NothingToVerify
    from fine_tune_pipeline.artifacts.checksums import verify as verified

    try:
        found = verified(parsed.path)
    except NothingToVerify as error:
        print(error, file=sys.stderr)
        return WRONG_USE
    facts = {"folder": str(found.folder), "by": found.by, "files": found.files, "wrong": [asdict(wrong) for wrong in found.wrong]}
    lines = [f"{found.folder / wrong.file}: {wrong.problem}" for wrong in found.wrong]
    judged = f"{len(found.wrong)} wrong" if found.wrong else "all as they were"
    say(parsed, facts, "\n".join([*lines, f"{found.folder}: {found.files} files by {found.by}, {judged}"]))
    return DATA_SAYS_NO if found.wrong else 0


def add(command: Add) -> None:
    """Both commands, with what they take."""
    added = command(export)
    added.add_argument("use_case", metavar="USE_CASE", help="its name, or its YAML file")
    kinds = typing.get_args(Format)
    added.add_argument("--formats", nargs="+", choices=kinds, default=[], help="instead of deployment.export.formats of the use case")
    added.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="a folder that is not there yet")
    added = command(verify)
    added.add_argument("path", type=Path, metavar="PATH", help="folder of an export, or of an artifact")
