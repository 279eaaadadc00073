"""The command line. Exit codes: 0 fine, 1 data or gate says no, 2 wrong use, 3 environment, 4 waiting for people."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from fine_tune_pipeline import attend_command, export_commands, iterate_commands, release_commands, traffic_commands
from fine_tune_pipeline.command import DATA_SAYS_NO, ENVIRONMENT, WAITING, WRONG_USE, Add, say
from fine_tune_pipeline.places import SERVING_URL_VARIABLE, places

if TYPE_CHECKING:
    from fine_tune_pipeline.programs.serving.contract import Canary
    from fine_tune_pipeline.resources.endpoint import Endpoint


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; what it prints on stdout is its result, on stderr its way there."""
    parsed = _parser().parse_args(arguments)
    return parsed.run(parsed)


def check(parsed: argparse.Namespace) -> int:
    """Every mistake of use cases, without Dagster or torch."""
    from fine_tune_pipeline.guide.base_model.catalogue_files import candidate_problems
    from fine_tune_pipeline.spec.reading import read_all

    specs, problems = read_all(parsed.paths, files=not parsed.no_files)
    if not parsed.no_files:
        problems += [problem for spec in specs for problem in candidate_problems(spec)]
    if parsed.json:
        found = [{"file": it.file, "line": it.line, "field": it.field, "message": it.message} for it in problems]
        print(json.dumps({"use_cases": [spec.name for spec in specs], "problems": found}, ensure_ascii=False))
    else:
        for problem in problems:
            print(problem)
        print(f"{len(specs)} use case(s) fine, {len(problems)} problem(s)", file=sys.stderr)
    return DATA_SAYS_NO if problems else 0


def schema(parsed: argparse.Namespace) -> int:
    """The fields of a use case: as JSON Schema for editors, or as a page for people."""
    from fine_tune_pipeline.spec.reference import markdown
    from fine_tune_pipeline.spec.schema import json_schema

    text = markdown() if parsed.markdown else json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    if parsed.out is None:
        print(text, end="")
    else:
        parsed.out.write_text(text, encoding="utf-8")
    return 0


def stop(parsed: argparse.Namespace) -> int:
    """End the endpoint of a use case; what it is answering is answered first."""
    from fine_tune_pipeline.resources.endpoint import EndpointFailed

    try:
        ended = _endpoint(parsed).stop()
    except (EndpointFailed, OSError) as error:
        print(error, file=sys.stderr)
        return ENVIRONMENT
    say(parsed, {"use_case": parsed.use_case, "stopped": ended}, f"{parsed.use_case}: {'stopped' if ended else 'no endpoint was running'}")
    return 0


def status(parsed: argparse.Namespace) -> int:
    """How the endpoint of a use case is: address, version, health, where its key lies."""
    return _shown(parsed)


def _shown(parsed: argparse.Namespace, **more: object) -> int:
    found = _endpoint(parsed).status()
    facts = {
        "use_case": found.use_case,
        "state": found.state,
        **more,
        "url": found.url,
        "pid": found.supervisor_pid,
        "model": found.champion,
        "canary": None if found.table is None or found.table.canary is None else _canary(found.table.canary, parsed.use_case),
        "problem": found.problem,
        "restarts": found.restarts,
        "key": found.key,
        "log": str(found.log),
    }
    say(parsed, facts, "\n".join(f"{name:<9} {value}" for name, value in facts.items() if value is not None))
    return 0 if found.state == "running" else ENVIRONMENT


def serve(parsed: argparse.Namespace) -> int:
    """Start the endpoint of a use case again, with the versions that it served last; one that runs is left as it is."""
    from fine_tune_pipeline.resources.endpoint import EndpointFailed, NotRunning

    try:
        action = _endpoint(parsed).resume()
    except (EndpointFailed, NotRunning, OSError) as error:
        print(error, file=sys.stderr)
        return ENVIRONMENT
    return _shown(parsed, action="started" if action == "started" else "none, it ran already")


def scrub(parsed: argparse.Namespace) -> int:
    """Step 3's removal of personal data alone: JSONL in, JSONL out, with what was found."""
    from fine_tune_pipeline.artifacts.examples import BrokenLine
    from fine_tune_pipeline.guide.dataset.scrubbing.scrub_file import NothingToSeal, SameFile, scrub_file
    from fine_tune_pipeline.programs.pii.ner_requests import BadNerFolder
    from fine_tune_pipeline.programs.pii.stand_ins import KEY_VARIABLE, NoKey
    from fine_tune_pipeline.spec.dataset import PiiSpec

    pii, key = PiiSpec(operator=parsed.operator), os.environ.get(KEY_VARIABLE, "")
    try:
        done = scrub_file(parsed.source, parsed.target, parsed.findings, vault=parsed.vault, pii=pii, key=key, ner=parsed.ner)
    except NothingToSeal as error:
        print(error, file=sys.stderr)
        return WRONG_USE
    except NoKey as error:
        print(error, file=sys.stderr)
        return ENVIRONMENT
    except (BadNerFolder, BrokenLine, SameFile, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return DATA_SAYS_NO
    facts = {"rows": done.rows, "changed": done.changed, "found": dict(done.found)}
    say(parsed, facts, f"{done.changed} of {done.rows} rows changed; found: {dict(done.found) or 'nothing'}")
    return 0


def unscrub(parsed: argparse.Namespace) -> int:
    """Puts back what hashes and pseudonyms stand for, from the vault that scrub wrote, with the key that it had."""
    from fine_tune_pipeline.artifacts.examples import BrokenLine
    from fine_tune_pipeline.guide.dataset.scrubbing.scrub_file import SameFile
    from fine_tune_pipeline.guide.dataset.scrubbing.unscrub_file import unscrub_file
    from fine_tune_pipeline.programs.pii.stand_ins import KEY_VARIABLE, NoKey
    from fine_tune_pipeline.programs.pii.vault import WrongKey

    try:
        done = unscrub_file(parsed.source, parsed.target, parsed.vault, key=os.environ.get(KEY_VARIABLE, ""))
    except (NoKey, WrongKey) as error:
        print(error, file=sys.stderr)
        return ENVIRONMENT
    except (BrokenLine, SameFile, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return DATA_SAYS_NO
    left = f"; {done.ambiguous} left, each of which stands for several values" if done.ambiguous else ""
    say(parsed, asdict(done), f"{done.restored} values put back in {done.rows} rows{left}")
    return 0


def diff(parsed: argparse.Namespace) -> int:
    """Two versions of a use case's dataset: rows added, removed, changed or moved to another part, and the shift of the classes."""
    from fine_tune_pipeline.artifacts.store import DamagedArtifact, MissingArtifact, Store, UnknownVersion
    from fine_tune_pipeline.guide.dataset.publishing.difference import difference, markdown, read_version, two_versions

    try:
        before, after = two_versions(Store.at(places().store), parsed.use_case, parsed.before, parsed.after)
        found = difference(read_version(before), read_version(after))
    except (MissingArtifact, UnknownVersion) as error:
        print(error, file=sys.stderr)
        return WRONG_USE
    except DamagedArtifact as error:
        print(error, file=sys.stderr)
        return ENVIRONMENT
    say(parsed, found.as_json(), markdown(found))
    return DATA_SAYS_NO if found.moved else 0


def review(parsed: argparse.Namespace) -> int:
    """What people still have to judge, examples of step 3 or pairs of step 7; with files, hand them in."""
    from fine_tune_pipeline.guide.dataset.review.files.unreadable import UnreadableHandIn
    from fine_tune_pipeline.guide.dataset.review.hand_in import NothingHandedOut, hand_in, latest
    from fine_tune_pipeline.guide.evaluation.human.hand_in import hand_in_pairs

    folder = places().reviews / parsed.use_case
    try:
        if parsed.pairs:
            found = hand_in_pairs(latest(folder / "pairs", made_by="human_evaluation"), parsed.files)
        else:
            found = hand_in(latest(folder / "examples"), parsed.files)
    except (NothingHandedOut, UnreadableHandIn, OSError) as error:
        print(error, file=sys.stderr)
        return DATA_SAYS_NO
    for problem in found.refused:
        print(problem, file=sys.stderr)
    facts = {"folder": str(found.folder), "verdicts": found.verdicts, "refused": found.refused, "waiting": found.waiting}
    what, asset = ("pairs", "human_evaluation") if parsed.pairs else ("rows", "reviewed_examples")
    said = f"{found.folder}: {found.waiting} {what} wait for a verdict, {found.second_looks} for a second one"
    told = f"{said}; {found.verdicts} verdicts handed in, {len(found.refused)} lines refused" if parsed.files else said
    say(parsed, facts | {"second_looks": found.second_looks}, told if found.waiting else f"{told}. Now materialize {asset} again.")
    return WAITING if found.waiting else DATA_SAYS_NO if found.refused else 0


def hard(parsed: argparse.Namespace) -> int:
    """Slices that the last evaluation of a use case found hard, and its fingerprint, for dataset.more.hard."""
    from fine_tune_pipeline.artifacts.store import Store
    from fine_tune_pipeline.guide.dataset.more.hard import REPORT, UnknownEvaluation, slices_of
    from fine_tune_pipeline.guide.objective.task import read_task
    from fine_tune_pipeline.spec.reading import InvalidUseCase, read_use_case

    try:
        spec = read_use_case(parsed.use_case_file)
        store = Store.at(places().store)
        report = store.peek(spec.name, REPORT)
        if report is None:
            print(f"{spec.name}: no evaluation_report in {places().store}; materialize it first", file=sys.stderr)
            return DATA_SAYS_NO
        slices = slices_of(store, report, columns=parsed.columns, task=read_task(spec))
    except (InvalidUseCase, UnknownEvaluation) as error:
        print(error, file=sys.stderr)
        return DATA_SAYS_NO
    lines = [f"{one.column} {one.value}: {one.mean:.2f} on {one.rows} test rows, {one.overall:.2f} on all" for one in slices]
    facts = {"evaluation": report.fingerprint, "slices": [vars(one) for one in slices]}
    say(parsed, facts, "\n".join([f"evaluation {report.fingerprint}", *(lines or ["no slice is surely harder than the whole"])]))
    return 0


def record(parsed: argparse.Namespace) -> int:
    """The answers of a hosted model to the prompts of a file, as rows to learn from: before its provider shuts it down."""
    from fine_tune_pipeline.programs.hosted.provider import ProviderError
    from fine_tune_pipeline.programs.hosted.record import record as recorded
    from fine_tune_pipeline.programs.hosted.requests import HostedModel
    from fine_tune_pipeline.programs.reporting import Reporter
    from fine_tune_pipeline.programs.rows import BadRows

    hosted = HostedModel(model=parsed.model, base_url=parsed.base_url, api_key_variable=parsed.key_variable, context_tokens=0)
    instruction = "" if parsed.instruction is None else parsed.instruction.read_text(encoding="utf-8").strip()
    try:
        done = recorded(
            parsed.source, parsed.target, hosted=hosted, instruction=instruction, max_new_tokens=parsed.max_tokens, reporter=Reporter(None)
        )
    except ProviderError as error:
        print(error, file=sys.stderr)
        return ENVIRONMENT
    except BadRows as error:
        print(error, file=sys.stderr)
        return DATA_SAYS_NO
    say(parsed, asdict(done), f"{parsed.target}: {done.rows} answers; {done.cut} were cut at --max-tokens and left out")
    return 0


def plan(parsed: argparse.Namespace) -> int:
    """What a run would reuse and what it would build, and why; predicted minutes, memory and cost. Nothing is run."""
    from fine_tune_pipeline.guide.base_model.chosen import NotInTheModel
    from fine_tune_pipeline.guide.base_model.hardware import UnknownDevice
    from fine_tune_pipeline.planning import planned
    from fine_tune_pipeline.resources.compute.choice import UnknownPlace
    from fine_tune_pipeline.resources.compute.job import PlaceFailure
    from fine_tune_pipeline.spec.reading import InvalidUseCase

    try:
        found = planned(parsed.use_case, device=parsed.device)
    except (InvalidUseCase, UnknownDevice, NotInTheModel) as error:
        print(error, file=sys.stderr)
        return WRONG_USE
    except (UnknownPlace, PlaceFailure) as error:
        print(error, file=sys.stderr)
        return ENVIRONMENT
    say(parsed, {"use_case": found.use_case, "place": found.place, "assets": found.facts()}, found.table())
    return DATA_SAYS_NO if found.stops else 0


def demo(parsed: argparse.Namespace) -> int:
    """The built-in use case through all eight steps, from raw messages to an answering endpoint."""
    from fine_tune_pipeline.artifacts.store import Store
    from fine_tune_pipeline.demo import USE_CASE, descendants, run_demo

    parsed.use_case = USE_CASE
    endpoint = _endpoint(parsed)

    def processes() -> list[int]:
        pid = endpoint.supervisor_pid()
        return [] if pid is None else descendants(pid)

    return run_demo(store=Store.at(places().store), processes=processes, stop=endpoint.stop, keep=parsed.keep)


def dev(parsed: argparse.Namespace) -> int:
    """Web UI with daemon, and MLflow, until Ctrl-C."""
    from fine_tune_pipeline.dev import run_dev

    return run_dev(home=places().home, port=parsed.port, mlflow_port=parsed.mlflow_port)


def _canary(canary: "Canary", use_case: str) -> str:
    from fine_tune_pipeline.programs.serving.contract import served_name

    return f"{served_name(use_case, canary.version)} gets {canary.share:.0%}"


def _endpoint(parsed: argparse.Namespace) -> "Endpoint":
    from fine_tune_pipeline.resources.attended import endpoint_at

    url = os.environ.get(SERVING_URL_VARIABLE, "")
    return endpoint_at(places().serving / parsed.use_case, use_case=parsed.use_case, url=url)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fine-tune-pipeline", description="A business goal and raw text in, a fine-tuned model behind an API out."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        added = commands.add_parser(run.__name__, help=run.__doc__, description=run.__doc__)
        added.add_argument("--json", action="store_true", help="machine-readable")
        added.set_defaults(run=run)
        return added

    _add_questions(command)
    _add_actions(command)
    export_commands.add(command)
    iterate_commands.add(command)
    attend_command.add(command)
    release_commands.add(command)
    traffic_commands.add(command)
    return parser


def _add_questions(command: Add) -> None:
    """Commands that read, judge or rewrite what one has."""
    added = command(check)
    added.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="YAML file, or folder to search for defs.yaml")
    added.add_argument("--no-files", action="store_true", help="do not look for the data files that they name")
    added = command(schema)
    added.add_argument("--out", type=Path, help="file to write; stdout by default")
    added.add_argument("--markdown", action="store_true", help="the page docs/use_case.md instead")
    added = command(scrub)
    added.add_argument("source", type=Path, metavar="IN.jsonl")
    added.add_argument("target", type=Path, metavar="OUT.jsonl")
    added.add_argument("--findings", type=Path, metavar="F.jsonl", help="what was found, by row and entity, without the text itself")
    added.add_argument(
        "--operator", choices=("type_tag", "mask", "hash", "pseudonym"), default="type_tag", help="what stands for what was found"
    )
    added.add_argument("--vault", type=Path, metavar="V.jsonl", help="what hash or pseudonym stands for, sealed with the key, for unscrub")
    added.add_argument("--ner", type=Path, metavar="FOLDER", help="adapted NER that finds the names: `ner` in the folder of pii_ner_adapt")
    added = command(unscrub)
    added.add_argument("source", type=Path, metavar="IN.jsonl")
    added.add_argument("target", type=Path, metavar="OUT.jsonl")
    added.add_argument("--vault", type=Path, metavar="V.jsonl", required=True, help="as scrub, or the asset scrubbed_examples, wrote it")
    added = command(diff)
    added.add_argument("use_case", metavar="USE_CASE")
    added.add_argument("before", nargs="?", metavar="A", help="fingerprint, or its beginning; the version made before B by default")
    added.add_argument("after", nargs="?", metavar="B", help="the version in use by default")
    added = command(review)
    added.add_argument("use_case", metavar="USE_CASE")
    added.add_argument(
        "files", nargs="*", type=Path, metavar="FILE", help="verdicts.jsonl of the form, or a filled-in .csv, .xlsx or export"
    )
    added.add_argument("--pairs", action="store_true", help="pairs of step 7 (human_evaluation) instead of examples of step 3")
    added = command(hard)
    added.add_argument("use_case_file", type=Path, metavar="USE_CASE.yaml")
    added.add_argument("--columns", nargs="*", default=[], metavar="COLUMN", help="of metadata, that make slices beside the classes")
    added = command(record)
    added.add_argument("source", type=Path, metavar="PROMPTS.jsonl", help="rows of prompt, perhaps id and history")
    added.add_argument("target", type=Path, metavar="ANSWERS.jsonl", help="the same rows with completion")
    added.add_argument("--model", required=True, help="as the provider names it, such as ft:gpt-4o-mini-2024-07-18:…")
    added.add_argument("--base-url", default="https://api.openai.com/v1", help="where the provider's API is")
    added.add_argument("--key-variable", default="OPENAI_API_KEY", help="environment variable that holds the key")
    added.add_argument("--instruction", type=Path, metavar="FILE", help="the system message that the model is used with")
    added.add_argument("--max-tokens", type=int, default=1024, help="of one answer")


def _add_actions(command: Add) -> None:
    """Commands that start or end something, or ask what a start would do."""
    for run in (serve, stop, status):
        command(run).add_argument("use_case", metavar="USE_CASE")
    added = command(plan)
    added.add_argument("use_case", metavar="USE_CASE", help="its name, or its YAML file")
    added.add_argument("--device", metavar="NAME", help="what if it ran there: 4090, L4, A10G, A100-40, A100-80, H100, H200, CPU")
    command(demo).add_argument("--keep", action="store_true", help="leave the endpoint running")
    added = command(dev)
    added.add_argument("--port", type=int, default=3000, help="of the web UI")
    added.add_argument("--mlflow-port", type=int, default=5000, help="of MLflow")


if __name__ == "__main__":
    sys.exit(main())
