"""What production gives back: corrections that people sent, and requests that people should look at. The endpoint's log has both."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.examples import Example, read_rows
from fine_tune_pipeline.artifacts.store import Store
from fine_tune_pipeline.artifacts.traffic import TrafficLog
from fine_tune_pipeline.artifacts.traffic_doubts import doubted
from fine_tune_pipeline.guide.dataset.sources.rows import canonical
from fine_tune_pipeline.guide.dataset.steps import MARK
from fine_tune_pipeline.spec.use_case import UseCaseSpec

FEEDBACK = "production_feedback"
"""Source of the examples that people corrected at the endpoint."""

REQUEST = "production_request"
"""Source of requests with the model's own answer, which nobody has found right yet: they go on only when a person says so."""

PRODUCTION = frozenset({FEEDBACK, REQUEST})

REPORT = "drift_report"
"""The asset that names the requests that are unlike all that the model was made for."""

FAR = "far.jsonl"

Row = Mapping[str, str]


@dataclass(frozen=True)
class Production:
    """Rows of the traffic log: of `corrections` the completion is what a person says, of `questions` what the model said, with a `why`.

    `left_out` corrections are above the limit.
    """

    corrections: Sequence[Row] = ()
    questions: Sequence[Row] = ()
    left_out: int = 0

    def what(self) -> dict[str, Any]:
        """Their content, for the fingerprint; nothing of questions where there are none."""
        named = {"dataset.questions": _sha256(self.questions)} if self.questions else {}
        return {"dataset.feedback": _sha256(self.corrections) if self.corrections else None, **named}

    def examples(self) -> Iterator[Example]:
        """All of them, corrections first."""
        yield from map(_corrected, self.corrections)
        for row in self.questions:
            example = _corrected(row)
            yield replace(example, source=REQUEST, metadata={**example.metadata, MARK: row["why"]})

    def shown(self) -> list[dict[str, Any]]:
        """Lines of the table of sources."""
        counts = {FEEDBACK: (len(self.corrections) + self.left_out, len(self.corrections)), REQUEST: (len(self.questions),) * 2}
        return [
            {
                "source": name,
                "held_out": False,
                "rows": rows,
                "taken": taken,
                "examples": taken,
                "quarantined": 0,
                "licence": "own traffic",
            }
            for name, (rows, taken) in counts.items()
            if rows
        ]


def production_rows(spec: UseCaseSpec, log: TrafficLog, store: Store) -> Production:
    """What a use case takes from its traffic: corrections up to the limit; requests in doubt only where people review."""
    if not spec.dataset.feedback:
        return Production()
    rules = spec.deployment.retrain
    corrections = log.corrections()
    taken = corrections if rules.production_rows is None else drawn(corrections, rules.production_rows, seed=spec.dataset.split.seed)
    questions = []
    if spec.dataset.review.policy == "experts" and rules.ask:
        questions = doubted(log, thumbs="thumbs_down" in rules.ask, far=_far(store, spec.name) if "far" in rules.ask else ())
    return Production(taken, questions, left_out=len(corrections) - len(taken))


def drawn(rows: Sequence[Row], most: int, *, seed: int) -> list[Row]:
    """At most so many rows in their own order: the answers take turns, so that a rare one is not crowded out by a frequent one.

    Which rows of an answer are taken depends on seed and prompt only, so that a row stays when others come.
    """
    by_answer: dict[str, list[tuple[bytes, int]]] = defaultdict(list)
    for place, row in enumerate(rows):
        by_answer[row["completion"]].append((hashlib.sha256(f"{seed}:{row['prompt']}".encode()).digest(), place))
    turns = [(turn, rank, place) for ranked in by_answer.values() for turn, (rank, place) in enumerate(sorted(ranked))]
    return [rows[place] for place in sorted(place for _, _, place in sorted(turns)[:most])]


def holds_production(examples: Path) -> bool:
    """Whether a file of examples has a row of production."""
    with examples.open(encoding="utf-8") as lines:
        return any(f'"source": "{name}"' in line for line in lines for name in PRODUCTION)


def asked_of(example: Example) -> str:
    """What decides on which side of the dataset a row lies: of production's the question, since its answer may be corrected later."""
    return canonical({"prompt": example.prompt, **example.asked.beside()}) if example.source in PRODUCTION else example.id


def _far(store: Store, use_case: str) -> list[str]:
    """Ids of the requests that the drift report found unlike all that the model was made for."""
    report = store.peek(use_case, REPORT)
    if report is None or FAR not in report.manifest.files:
        return []
    return [row["id"] for row in read_rows(report.file(FAR))]


def _corrected(row: Row) -> Example:
    # The endpoint's ids are random: by them the same corrections would fall into other parts of the dataset each time.
    texts = {name: row[name] for name in ("prompt", "completion", "before") if row.get(name)}
    id_ = hashlib.sha256(canonical(texts).encode("utf-8")).hexdigest()[:16]
    before = json.loads(row["before"]) if row.get("before") else {}
    metadata = {"model_version": str(row["version"]), "request_id": row["id"]}
    return Example(id=id_, prompt=row["prompt"], completion=row["completion"], source=FEEDBACK, metadata=metadata, **before)


def _sha256(rows: Sequence[Row]) -> str:
    text = json.dumps([dict(row) for row in rows], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
