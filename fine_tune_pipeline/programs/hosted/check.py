"""Step 5 of a hosted model: the rows as the provider would look at them, and the provider itself, before anything is paid for."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fine_tune_pipeline.programs.hosted.chat_rows import FEWEST_ROWS, MOST_BYTES, as_jsonl, likely_tokens, problem_of, training_row
from fine_tune_pipeline.programs.hosted.reach import reach
from fine_tune_pipeline.programs.hosted.requests import CheckRequest, CheckResult
from fine_tune_pipeline.programs.reporting import Reporter, finish, parse, session
from fine_tune_pipeline.programs.rows import read_rows

SHOWN = 10
"""Refused rows that are named; a file of the wrong kind would have all of them."""


@dataclass(frozen=True)
class _Row:
    """A row in the provider's form."""

    id: str
    part: str
    document: dict[str, Any]
    tokens: int


def run(request: CheckRequest, reporter: Reporter) -> CheckResult:
    """Check rows and provider; every problem is told, none is raised.

    Raises:
        BadRows: a file is not JSONL of id, prompt and completion.
    """
    rows = [row for part in ("train", "validation") for row in _rows(request, part)]
    reporter.log(f"{len(rows)} rows checked as {request.hosted.base_url} would")
    over_long = tuple(row.id for row in rows if row.tokens > request.hosted.context_tokens)
    training = [row for row in rows if row.part == "train" and row.id not in over_long]
    found = reach(request.hosted)
    return CheckResult(
        reach=found,
        rows=len(rows),
        tokens=sum(row.tokens for row in training),
        longest_tokens=max(row.tokens for row in rows),
        over_long=over_long,
        problems=(*_refused(rows), *_size(training), *([found.problem] if found.problem else [])),
    )


def _rows(request: CheckRequest, part: str) -> Iterator[_Row]:
    for row in read_rows(getattr(request, part), text_fields=("id", "prompt", "completion"), unique=("id",)):
        document = training_row(row, format=request.job.format)
        yield _Row(id=row["id"], part=part, document=document, tokens=likely_tokens(document["messages"]))


def _refused(rows: list[_Row]) -> Iterator[str]:
    wrong = [f"{row.part} row {row.id}: {problem}" for row in rows if (problem := problem_of(row.document))]
    yield from wrong[:SHOWN]
    if len(wrong) > SHOWN:
        yield f"and {len(wrong) - SHOWN} more rows"


def _size(training: list[_Row]) -> Iterator[str]:
    if len(training) < FEWEST_ROWS:
        yield f"{len(training)} training rows, want at least {FEWEST_ROWS}: the provider takes no fewer"
    size = len(as_jsonl(row.document for row in training))
    if size > MOST_BYTES:
        yield f"the training file has {size:,} bytes, want at most {MOST_BYTES:,}: lower dataset.sources[].sample"


def main() -> None:
    """The command line."""
    request = parse(CheckRequest)
    with session() as reporter:
        finish(request, run(request, reporter))


if __name__ == "__main__":
    main()
