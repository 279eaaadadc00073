"""Requests of the traffic log whose answer a person should look at: somebody did not like it, or nothing known is like the request."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, func, select

from fine_tune_pipeline.artifacts.traffic import VALUES_IN_STATEMENT, TrafficLog

THUMB_DOWN = "thumbs_down: somebody did not like this answer"
UNLIKE = "far: the request is unlike all that the model was made for"
ANSWERED = 200


def doubted(log: TrafficLog, *, thumbs: bool, far: Collection[str] = ()) -> list[dict[str, str]]:
    """Rows of id, prompt, completion (what the model answered), version and why, oldest first; `before` as of corrections.

    Neither requests that somebody has corrected, since the right answer is known, nor those whose texts could not be kept.

    Args:
        thumbs: those with a thumb down.
        far: ids of further ones.
    """
    request, said = log.tables.request, log.tables.feedback
    found: dict[str, tuple[RowMapping, str]] = {}
    for part in _parts(sorted(far)):
        found |= {row["id"]: (row, UNLIKE) for row in _answered(log, request.c.id.in_(part))}
    if thumbs:
        disliked = request.c.id.in_(select(said.c.request_id).where(said.c.thumb == "down"))
        found |= {row["id"]: (row, THUMB_DOWN) for row in _answered(log, disliked)}
    return [_row(row, why) for row, why in sorted(found.values(), key=lambda one: (one[0]["ts"], one[0]["id"]))]


def _answered(log: TrafficLog, condition: "ColumnElement[bool]") -> Sequence[RowMapping]:
    """Requests with an answer that nobody has corrected."""
    request, said = log.tables.request, log.tables.feedback
    corrected = select(said.c.request_id).where(said.c.corrected.is_not(None))
    query = (
        select(
            request.c.id,
            request.c.ts,
            request.c.prompt_scrubbed.label("prompt"),
            request.c.answer_scrubbed.label("completion"),
            request.c.version,
            func.coalesce(request.c.before_scrubbed, "").label("before"),
        )
        .where(condition, request.c.id.not_in(corrected), request.c.status == ANSWERED, log.own(request))
        .where(request.c.prompt_scrubbed.is_not(None), request.c.answer_scrubbed.is_not(None))
    )
    with log.database.reading() as connection:
        return [] if connection is None else connection.execute(query).mappings().all()


def _row(row: RowMapping, why: str) -> dict[str, str]:
    names: dict[str, Any] = {name: row[name] for name in ("id", "prompt", "completion", "version", "before")}
    return {name: value for name, value in names.items() if name != "before" or value} | {"why": why}


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), VALUES_IN_STATEMENT):
        yield ids[start : start + VALUES_IN_STATEMENT]
