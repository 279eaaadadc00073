"""The commands of the way back: what an evaluation proposes, written into the use case; and what earlier changes did."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fine_tune_pipeline.command import DATA_SAYS_NO, WRONG_USE, Add, say
from fine_tune_pipeline.places import own_use_cases, places

if TYPE_CHECKING:
    from fine_tune_pipeline.guide.evaluation.iterate.steps import NextStep


class UnknownUseCase(LookupError):
    """No file holds a use case of that name."""


class NotEvaluated(LookupError):
    """There is no evaluation to take steps from."""


def apply(parsed: argparse.Namespace) -> int:
    """What an evaluation proposes, written into the use case's YAML; without a step, what there is to apply."""
    from fine_tune_pipeline.artifacts.store import DamagedArtifact
    from fine_tune_pipeline.guide.evaluation.iterate.apply import ChangedSince, NothingToWrite, UnknownStep, applied, chosen
    from fine_tune_pipeline.guide.evaluation.iterate.steps import NoSteps
    from fine_tune_pipeline.spec.editing import NotEditable
    from fine_tune_pipeline.spec.reading import InvalidUseCase

    try:
        path, name = file_of(parsed.use_case)
        steps = _steps(name, parsed.report)
        if not parsed.steps:
            return _list(parsed, name, steps)
        wanted = chosen(steps, parsed.steps)
    except (InvalidUseCase, UnknownUseCase, UnknownStep, NoSteps) as error:
        print(error, file=sys.stderr)
        return WRONG_USE
    except (NothingToWrite, NotEvaluated, DamagedArtifact) as error:
        print(error, file=sys.stderr)
        return DATA_SAYS_NO
    try:
        found = applied(path, wanted)
    except (ChangedSince, NotEditable, InvalidUseCase) as error:
        print(f"{error}\n{path} is as it was", file=sys.stderr)
        return DATA_SAYS_NO
    if not parsed.dry_run:
        found.write()
    facts = {"use_case": name, "file": str(path), "steps": parsed.steps, "diff": found.diff, "written": not parsed.dry_run}
    say(parsed, facts, f"{found.diff}{_said(path, name, written=not parsed.dry_run)}")
    return 0


def experiments(parsed: argparse.Namespace) -> int:
    """Every evaluation of a use case in order of time: what had changed, and what that did, with intervals."""
    from fine_tune_pipeline.artifacts.store import Store
    from fine_tune_pipeline.guide.evaluation.iterate.compared import history
    from fine_tune_pipeline.guide.evaluation.iterate.experiments_page import html_page, markdown
    from fine_tune_pipeline.spec.reading import InvalidUseCase, read_use_case

    try:
        path, name = file_of(parsed.use_case)
        found = history(Store.at(places().store), read_use_case(path, files=False))
    except (InvalidUseCase, UnknownUseCase) as error:
        print(error, file=sys.stderr)
        return WRONG_USE
    if not found.experiments:
        print(f"{name}: no evaluation_report in {places().store}; materialize it first", file=sys.stderr)
        return DATA_SAYS_NO
    if parsed.out is not None:
        parsed.out.write_text(html_page(name, found), encoding="utf-8")
        print(f"{parsed.out}: {len(found.experiments)} experiments", file=sys.stderr)
    say(
        parsed,
        {"use_case": name, "experiments": [one.row() for one in found.experiments], "unread": list(found.unread)},
        markdown(name, found),
    )
    return 0


def file_of(named: str) -> tuple[Path, str]:
    """The YAML file of a use case and its name.

    Args:
        named: the name, or the file.

    Raises:
        UnknownUseCase: names those that there are.
        InvalidUseCase: the file has mistakes.
    """
    from fine_tune_pipeline.spec.reading import InvalidUseCase, read_use_case

    if named.endswith((".yaml", ".yml")):
        if not Path(named).is_file():
            raise UnknownUseCase(f"there is no file {named}")
        return Path(named), read_use_case(Path(named), files=False).name
    there: dict[str, Path] = {}
    broken: list[Path] = []
    for place in (Path(__file__).parent / "defs", *own_use_cases()):
        for path in sorted(place.rglob("defs.yaml")) if place.is_dir() else [place]:
            try:
                there.setdefault(read_use_case(path, files=False).name, path)
            except (InvalidUseCase, FileNotFoundError):
                broken.append(path)
    if named in there:
        return there[named], named
    unread = f"; cannot be read: {', '.join(map(str, broken))} (fine-tune-pipeline check says why)" if broken else ""
    raise UnknownUseCase(f"got {named!r}, want one of {', '.join(there) or 'none'}, or a YAML file{unread}")


def _steps(name: str, report: Path | None) -> "list[NextStep]":
    """Of the file that was named, or of the evaluation that the store holds now, passed or not."""
    from fine_tune_pipeline.artifacts.store import Store
    from fine_tune_pipeline.guide.evaluation.iterate.steps import NoSteps, read_steps

    if report is None:
        kept = Store.at(places().store).peek(name, "evaluation_report")
        if kept is None:
            raise NotEvaluated(f"{name}: no evaluation_report in {places().store}; materialize it first, or name one by --report")
        report = kept.folder
    of, steps = read_steps(report)
    if of != name:
        raise NoSteps(f"{report} is an evaluation of {of}, want one of {name}")
    return steps


def _list(parsed: argparse.Namespace, name: str, steps: "list[NextStep]") -> int:
    lines = [f"{step.id}  {step.title}\n    why     {step.why}\n    change  {step.changes}\n    cost    {step.cost}" for step in steps]
    first = next((step.id for step in steps if step.patch), None)
    how = [] if first is None else [f"\nOne at a time shows what it did, such as: fine-tune-pipeline apply {name} {first} --dry-run"]
    facts = {"use_case": name, "steps": [step.row() for step in steps], "written": False}
    say(parsed, facts, "\n".join([*lines, *how]) if steps else "the evaluation proposes nothing")
    return 0


def _said(path: Path, name: str, *, written: bool) -> str:
    if not written:
        return "Nothing was written (--dry-run)."
    kept = any((folder / ".git").exists() for folder in path.resolve().parents)
    before = "git has the text before" if kept else "no copy of the text before is kept, and no git holds this folder"
    return f"{path} is written; {before}. Next: fine-tune-pipeline plan {name}"


def add(command: Add) -> None:
    """Both commands, with what they take."""
    added = command(apply)
    added.add_argument("use_case", metavar="USE_CASE", help="its name, or its YAML file")
    added.add_argument("steps", nargs="*", metavar="STEP", help="ids of next steps; all are listed without")
    added.add_argument("--report", type=Path, metavar="PATH", help="an evaluation's folder, report.json or next_steps.json")
    added.add_argument("--dry-run", action="store_true", help="show the change, write nothing")
    added = command(experiments)
    added.add_argument("use_case", metavar="USE_CASE", help="its name, or its YAML file")
    added.add_argument("--out", type=Path, metavar="PATH.html", help="write the page too")
