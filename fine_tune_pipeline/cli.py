"""The command line. Exit codes: 0 fine, 1 data or gate says no, 2 wrong use, 3 environment, 4 waiting for people."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

DATA_SAYS_NO = 1
WRONG_USE = 2
ENVIRONMENT = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; what it prints on stdout is its result, on stderr its way there."""
    parsed = _parser().parse_args(arguments)
    return parsed.run(parsed)


def check(parsed: argparse.Namespace) -> int:
    """Every mistake of use cases, without Dagster or torch."""
    from fine_tune_pipeline.spec.reading import read_all

    specs, problems = read_all(parsed.paths, files=not parsed.no_files)
    if parsed.json:
        found = [{"file": it.file, "line": it.line, "field": it.field, "message": it.message} for it in problems]
        print(json.dumps({"use_cases": [spec.name for spec in specs], "problems": found}, ensure_ascii=False))
    else:
        for problem in problems:
            print(problem)
        print(f"{len(specs)} use case(s) fine, {len(problems)} problem(s)", file=sys.stderr)
    return DATA_SAYS_NO if problems else 0


def schema(parsed: argparse.Namespace) -> int:
    """The JSON Schema of a use case's YAML file, for editors."""
    from fine_tune_pipeline.spec.schema import json_schema

    text = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    if parsed.out is None:
        print(text, end="")
    else:
        parsed.out.write_text(text, encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fine-tune-pipeline", description="A business goal and raw text in, a fine-tuned model behind an API out."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("check", help=check.__doc__)
    command.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="YAML file, or folder to search for defs.yaml")
    command.add_argument("--no-files", action="store_true", help="do not look for the data files that they name")
    command.add_argument("--json", action="store_true", help="machine-readable")
    command.set_defaults(run=check)
    command = commands.add_parser("schema", help=schema.__doc__)
    command.add_argument("--out", type=Path, help="file to write; stdout by default")
    command.set_defaults(run=schema)
    return parser


if __name__ == "__main__":
    sys.exit(main())
