"""A review queue in MLflow (3.14 or later, on its own database or a server): rows go in as traces, assessments come back as lines.

MLflow's *labeling sessions* are Databricks only; its review queues are not, but are marked experimental. Their status belongs to a queue,
not to a person, so each reviewer has a queue and traces of their own; then nobody sees what another one says. MLflow checks neither the
options of an answer nor who gave it: whoever reads the lines has to.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from fine_tune_pipeline.programs.access import impatient
from fine_tune_pipeline.resources.tracking import mlflow_at

Row = Mapping[str, Any]
"""Of a hand-out: `id`, `content` (by which it is known for ever) and `people` (how many of the reviewers shall see it) beside its texts."""

EVERYBODY = "everybody"
FROM_QUEUE = "mlflow.jsonl"
"""What people said in a queue, as a file among those handed in."""

ASKED_OF = "asked_of"
"""In a line: whose queue the answer was given in. Not there where one queue is everybody's."""

_PREFIX = "fine_tune_pipeline"
CONTENT, ROW, REVIEWER = f"{_PREFIX}.content", f"{_PREFIX}.row", f"{_PREFIX}.reviewer"
_MOST_TRACES = 100_000


class NotInTheQueue(Exception):
    """Rows could not be offered in MLflow."""


class Asked(NamedTuple):
    """One question. `choice` has options, `yes_no` has none, `text` is the right answer in words."""

    name: str
    said: str
    kind: Literal["choice", "yes_no", "text"]
    options: tuple[str, ...] = ()
    comment: bool = False


class Texts(NamedTuple):
    """What a row shows, as input and as output of a trace."""

    inputs: dict[str, str]
    outputs: dict[str, str]


@dataclass(frozen=True)
class ReviewQueue:
    """The queues of one hand-out, in an experiment that holds nothing else.

    Args of the constructor:
        uri: where MLflow keeps its records.
        experiment: name of the experiment, which is there.
        questions: asked of each row. MLflow holds on to them once rows are in a queue.
        texts: what of a row people see; anything else stays out of MLflow.
        reviewers: a queue for each of them; one for everybody if there are none. MLflow writes names in small letters.
    """

    uri: str
    experiment: str
    questions: Sequence[Asked]
    texts: Callable[[Row], Texts]
    reviewers: tuple[str, ...] = ()

    def push(self, rows: Sequence[Row]) -> None:
        """Offer the rows that are not there yet, each to as many people as it needs.

        Raises:
            NotInTheQueue: MLflow kept no trace of some.
        """
        with _tracking(self.uri) as experiment_id_of:
            experiment = experiment_id_of(self.experiment)
            there = defaultdict(set)
            for trace in _traces(experiment):
                there[trace.info.tags[CONTENT]].add(trace.info.tags[REVIEWER])
            new: dict[str, list[Row]] = defaultdict(list)
            for row in rows:
                for reviewer in self._asked(row)[: row["people"]]:
                    if reviewer not in there[row["content"]]:
                        new[reviewer].append(row)
            for reviewer, offered in new.items():
                self._offer(offered, reviewer=reviewer, experiment=experiment)

    def pull(self) -> list[dict[str, Any]]:
        """One line for each row and person, the oldest first, of items that are marked as complete; one without an answer has none."""
        with _tracking(self.uri) as experiment_id_of:
            experiment = experiment_id_of(self.experiment)
            complete = complete_items(experiment)
            lines = [
                line
                for trace in _traces(experiment)
                if (item := complete.get(trace.info.trace_id)) is not None
                for line in _lines(trace, item, self.questions)
            ]
        return [line for _, line in sorted(lines, key=lambda pair: pair[0])]

    def _asked(self, row: Row) -> list[str]:
        """The reviewers in the order in which they get this row: always the same, and fair over many rows."""
        names = [name.strip().lower() for name in self.reviewers] or [EVERYBODY]
        first = int(hashlib.sha256(row["content"].encode()).hexdigest(), 16) % len(names)
        return [*names[first:], *names[:first]]

    def _offer(self, rows: Sequence[Row], *, reviewer: str, experiment: str) -> None:
        """Log the rows as traces, wait until all are written, and attach them to the queue."""
        import mlflow
        from mlflow import MlflowClient
        from mlflow.genai.review_queues import add_items_to_review_queue

        queue, client, ids = _queue(reviewer, experiment, self.questions), MlflowClient(), []
        for row in rows:
            tags = {CONTENT: row["content"], ROW: str(row["id"]), REVIEWER: reviewer}
            inputs, outputs = self.texts(row)
            trace = client.start_trace(name="review", inputs=inputs, experiment_id=experiment, tags=tags)
            client.end_trace(trace.trace_id, outputs=outputs)
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


def finished_in(uri: str, experiment: str) -> str:
    """A digest of what people have finished in the queues of an experiment, without reading an answer; empty where nothing is.

    Raises:
        MlflowException: the server does not answer within seconds.
    """
    from mlflow import MlflowClient

    with impatient(), mlflow_at(uri):
        found = MlflowClient().get_experiment_by_name(experiment)
        items = [] if found is None else complete_items(found.experiment_id).values()
        done = sorted(f"{item.queue_id}:{item.item_id}:{item.last_update_time_ms}" for item in items)
    return hashlib.sha256("\n".join(done).encode()).hexdigest()[:16] if done else ""


def complete_items(experiment: str) -> dict[str, Any]:
    """Trace id -> item, of all items that people marked as complete."""
    from mlflow.genai.review_queues import list_review_queue_items, list_review_queues

    done: dict[str, Any] = {}
    for queue in list_review_queues(experiment_id=experiment):
        token = None
        while True:
            page = list_review_queue_items(queue.queue_id, status="complete", page_token=token)
            done |= {item.item_id: item for item in page}
            token = page.token
            if not token:
                break
    return done


@contextmanager
def _tracking(uri: str) -> Iterator[Callable[[str], str]]:
    """MLflow at this address; a function that gives the id of an experiment."""
    from mlflow import MlflowClient

    with mlflow_at(uri):
        yield lambda name: MlflowClient().get_experiment_by_name(name).experiment_id


def _traces(experiment: str) -> list[Any]:
    import mlflow

    found = mlflow.search_traces(locations=[experiment], max_results=_MOST_TRACES, return_type="list", include_spans=False)
    return [trace for trace in found if CONTENT in trace.info.tags]


def _queue(reviewer: str, experiment: str, questions: Sequence[Asked]) -> str:
    """The queue of a reviewer, made if it is not there."""
    from mlflow.genai.review_queues import create_review_queue, list_review_queues

    name = f"review: {reviewer}"
    found = next((queue for queue in list_review_queues(experiment_id=experiment) if queue.name == name), None)
    if found is None:
        users = [] if reviewer == EVERYBODY else [reviewer]
        schemas = _schemas(experiment, questions)
        found = create_review_queue(name, queue_type="custom", users=users, schema_ids=schemas, experiment_id=experiment)
    return str(found.queue_id)


def _schemas(experiment: str, questions: Sequence[Asked]) -> list[str]:
    """The ids of the questions, made if they are not there."""
    from mlflow.genai.label_schemas import InputCategorical, InputPassFail, InputText, create_label_schema, list_label_schemas

    there = {schema.name: schema.schema_id for schema in list_label_schemas(experiment)}
    for asked in questions:
        if asked.name in there:
            continue
        given = {
            "choice": lambda asked=asked: InputCategorical(options=list(asked.options)),
            "yes_no": lambda: InputPassFail(positive_label="yes", negative_label="no"),
            "text": InputText,
        }[asked.kind]()
        schema = create_label_schema(
            name=asked.name, type="expectation" if asked.kind == "text" else "feedback", input=given, instruction=asked.said,
            enable_comment=asked.comment, experiment_id=experiment,
        )  # fmt: skip
        there[asked.name] = schema.schema_id
    return [str(there[asked.name]) for asked in questions]


def _lines(trace: Any, item: Any, questions: Sequence[Asked]) -> Iterator[tuple[int, dict[str, Any]]]:
    """When each person answered last, and what they said; of two answers to a question the later one counts."""
    people: dict[str, dict[str, Any]] = defaultdict(dict)
    for answer in trace.info.assessments:
        if answer.valid is not False and answer.source.source_type == "HUMAN":
            before = people[answer.source.source_id].get(answer.name)
            if before is None or before.last_update_time_ms <= answer.last_update_time_ms:
                people[answer.source.source_id][answer.name] = answer
    tags = trace.info.tags
    known = {"id": tags[ROW], "content": tags[CONTENT]} | ({} if tags[REVIEWER] == EVERYBODY else {ASKED_OF: tags[REVIEWER]})
    if not people:
        yield item.last_update_time_ms, {**known, "by": item.completed_by or ""}
    for person, answers in people.items():
        given = {asked.name: answers[asked.name].value for asked in questions if asked.name in answers}
        note = "; ".join(answer.rationale for answer in answers.values() if answer.rationale)
        yield max(answer.last_update_time_ms for answer in answers.values()), {**known, **given, "note": note, "by": person}
