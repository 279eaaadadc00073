"""A review queue in MLflow (3.14 or later, on its own database or a server): rows go in as traces, assessments come back as verdicts.

MLflow's *labeling sessions* are Databricks only; its review queues are not, but are marked experimental. Their status belongs to a queue,
not to a person, so each reviewer has a queue and traces of their own; then nobody sees what another one says.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fine_tune_pipeline.guide.dataset.review.verdicts import QUESTIONS, VERDICTS
from fine_tune_pipeline.resources.tracking import mlflow_at

EVERYBODY = "everybody"
_PREFIX = "fine_tune_pipeline"
CONTENT, ROW, REVIEWER = f"{_PREFIX}.content", f"{_PREFIX}.row", f"{_PREFIX}.reviewer"
_MOST_TRACES = 100_000


class NotInTheQueue(Exception):
    """Rows could not be offered in MLflow."""


@dataclass(frozen=True)
class ReviewQueue:
    """The queues of one use case, in an experiment that holds nothing else.

    Args:
        uri: where MLflow keeps its records.
        experiment: name of the experiment, which is there.
        reviewers: a queue for each of them; one for everybody if there are none. MLflow writes names in small letters.
    """

    uri: str
    experiment: str
    reviewers: tuple[str, ...] = ()

    def push(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Offer the rows that are not there yet, each to as many people as it needs."""
        with _tracking(self.uri) as experiment_id_of:
            experiment = experiment_id_of(self.experiment)
            there = defaultdict(set)
            for trace in _traces(experiment):
                there[trace.info.tags[CONTENT]].add(trace.info.tags[REVIEWER])
            new: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
            for row in rows:
                for reviewer in self._asked(row)[: row["people"]]:
                    if reviewer not in there[row["content"]]:
                        new[reviewer].append(row)
            for reviewer, offered in new.items():
                _offer(offered, reviewer=reviewer, experiment=experiment, queue=_queue(reviewer, experiment))

    def pull(self) -> list[dict[str, Any]]:
        """One line for each row and person, the oldest first; only items that are marked as complete and have an answer count."""
        with _tracking(self.uri) as experiment_id_of:
            experiment = experiment_id_of(self.experiment)
            complete = _complete(experiment)
            lines = [line for trace in _traces(experiment) if trace.info.trace_id in complete for line in _lines(trace)]
        return [line for _, line in sorted(lines, key=lambda pair: pair[0])]

    def _asked(self, row: Mapping[str, Any]) -> list[str]:
        """The reviewers in the order in which they get this row: always the same, and fair over many rows."""
        names = [name.strip().lower() for name in self.reviewers] or [EVERYBODY]
        first = int(hashlib.sha256(row["content"].encode()).hexdigest(), 16) % len(names)
        return [*names[first:], *names[:first]]


@contextmanager
def _tracking(uri: str) -> Iterator[Any]:
    """MLflow at this address; a function that gives the id of an experiment."""
    from mlflow import MlflowClient

    with mlflow_at(uri):
        yield lambda name: MlflowClient().get_experiment_by_name(name).experiment_id


def _traces(experiment: str) -> list[Any]:
    import mlflow

    found = mlflow.search_traces(locations=[experiment], max_results=_MOST_TRACES, return_type="list", include_spans=False)
    return [trace for trace in found if CONTENT in trace.info.tags]


def _offer(rows: Sequence[Mapping[str, Any]], *, reviewer: str, experiment: str, queue: str) -> None:
    """Log the rows as traces, wait until all are written, and attach them to the queue."""
    import mlflow
    from mlflow import MlflowClient
    from mlflow.genai.review_queues import add_items_to_review_queue

    client, ids = MlflowClient(), []
    for row in rows:
        tags = {CONTENT: row["content"], ROW: str(row["id"]), REVIEWER: reviewer}
        shown = {"prompt": row["prompt"], "why": row["why"], "look": row["look"]}
        trace = client.start_trace(name="review", inputs=shown, experiment_id=experiment, tags=tags)
        client.end_trace(trace.trace_id, outputs={"completion": row["completion"]})
        ids.append(trace.trace_id)
    mlflow.flush_trace_async_logging()
    # MLflow only logs that it could not write a trace, and takes ids of traces that are not there into a queue.
    written = {trace.info.trace_id for trace in _traces(experiment)}
    lost = [id_ for id_ in ids if id_ not in written]
    if lost:
        raise NotInTheQueue(
            f"MLflow kept no trace of {len(lost)} of {len(ids)} rows for {reviewer}; its log says why. Run again after that."
        )
    add_items_to_review_queue(queue, item_ids=ids)


def _queue(reviewer: str, experiment: str) -> str:
    """The queue of a reviewer, made if it is not there."""
    from mlflow.genai.review_queues import create_review_queue, list_review_queues

    name = f"review: {reviewer}"
    found = next((queue for queue in list_review_queues(experiment_id=experiment) if queue.name == name), None)
    if found is None:
        users = [] if reviewer == EVERYBODY else [reviewer]
        found = create_review_queue(name, queue_type="custom", users=users, schema_ids=_questions(experiment), experiment_id=experiment)
    return str(found.queue_id)


def _questions(experiment: str) -> list[str]:
    """The ids of the questions, made if they are not there."""
    from mlflow.genai.label_schemas import InputCategorical, InputPassFail, InputText, create_label_schema, list_label_schemas

    there = {schema.name: schema.schema_id for schema in list_label_schemas(experiment)}

    def made(name: str, kind: Any, said: str, given: Any, *, comment: bool = False) -> str:
        if name not in there:
            schema = create_label_schema(
                name=name, type=kind, input=given, instruction=said, enable_comment=comment, experiment_id=experiment
            )
            there[name] = schema.schema_id
        return str(there[name])

    said = "Follows from the answers below if left open."
    return [
        made("verdict", "feedback", said, InputCategorical(options=list(VERDICTS)), comment=True),
        *(
            made(name, "feedback", question, InputPassFail(positive_label="yes", negative_label="no"))
            for name, question in QUESTIONS.items()
        ),
        made("corrected", "expectation", "The right answer, for a fix.", InputText()),
    ]


def _complete(experiment: str) -> set[str]:
    from mlflow.genai.review_queues import list_review_queue_items, list_review_queues

    done: set[str] = set()
    for queue in list_review_queues(experiment_id=experiment):
        token = None
        while True:
            page = list_review_queue_items(queue.queue_id, status="complete", page_token=token)
            done |= {item.item_id for item in page}
            token = page.token
            if not token:
                break
    return done


def _lines(trace: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """When each person answered last, and what they said; of two answers to a question the later one counts."""
    people: dict[str, dict[str, Any]] = defaultdict(dict)
    for answer in trace.info.assessments:
        if answer.valid is not False and answer.source.source_type == "HUMAN":
            before = people[answer.source.source_id].get(answer.name)
            if before is None or before.last_update_time_ms <= answer.last_update_time_ms:
                people[answer.source.source_id][answer.name] = answer
    for person, answers in people.items():
        given = {name: answers[name].value for name in ("verdict", *QUESTIONS, "corrected") if name in answers}
        note = "; ".join(answer.rationale for answer in answers.values() if answer.rationale)
        line = {"id": trace.info.tags[ROW], "content": trace.info.tags[CONTENT], **given, "note": note, "by": person}
        yield max(answer.last_update_time_ms for answer in answers.values()), line
