"""A sample of the traffic, as MLflow traces, for people who look at single conversations there: scrubbed, and never in the way of answers.

MLflow takes tens of milliseconds a trace and may be away: rows wait in a short queue, and what does not fit is counted and left out. The
traces lie in an experiment of their own, `<use case>_traffic`, so that they can be deleted by their age, and by the request's id.
"""

import os
import queue
import threading
import time
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from fine_tune_pipeline.artifacts.traffic import ServedRequest

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

QUEUE_ROWS = 256
BATCH_ROWS = 32
REQUEST_TAG = "request_id"
RETRY_SECONDS = 30.0
"""Rest after a failure, in which rows are left out at once."""

MOST_IN_SEARCH = 500


def experiment_name(use_case: str) -> str:
    """Where the copies of a use case's traffic lie."""
    return f"{use_case}_traffic"


def sampled(request_id: str, share: float) -> bool:
    """Whether a request belongs to the sample: the same answer for the same request, whoever asks."""
    return zlib.crc32(request_id.encode("utf-8", "replace")) < share * 2**32


class TraceCopy:
    """Copies rows in a thread of its own."""

    def __init__(self, *, uri: str, use_case: str, share: float) -> None:
        """
        Args:
            uri: of MLflow's server or database.
            share: of the requests, 0 to 1.
        """
        self._uri = uri
        self._use_case = use_case
        self._share = share
        self._waiting: queue.Queue[ServedRequest | None] = queue.Queue(maxsize=QUEUE_ROWS)
        self._rest_until = 0.0
        self.copied = 0
        self.left_out = 0
        self.problem: str | None = None
        self._thread = threading.Thread(target=self._run, name="trace-copy", daemon=True)
        self._thread.start()

    def __call__(self, rows: Sequence[ServedRequest]) -> None:
        """Offer rows; never waits, never raises."""
        for row in rows:
            if not sampled(row.id, self._share):
                continue
            try:
                self._waiting.put_nowait(row)
            except queue.Full:
                self.left_out += 1

    def close(self, timeout_seconds: float) -> None:
        """Copy what waits, as long as there is time."""
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        last = False
        while not last:
            batch, last = self._next()
            if batch:
                self._copy(batch)

    def _next(self) -> tuple[list[ServedRequest], bool]:
        batch: list[ServedRequest] = []
        item = self._waiting.get()
        while item is not None:
            batch.append(item)
            if len(batch) == BATCH_ROWS or self._waiting.empty():
                return batch, False
            item = self._waiting.get()
        return batch, True

    def _copy(self, batch: Sequence[ServedRequest]) -> None:
        if time.monotonic() < self._rest_until:
            self.left_out += len(batch)
            return
        from mlflow.exceptions import MlflowException

        try:
            arrived = self._arrived(batch)
        except (MlflowException, OSError) as error:
            arrived = 0
            self.problem = f"MLflow traces: {type(error).__name__}"
        else:
            self.problem = None if arrived == len(batch) else f"MLflow traces: {len(batch) - arrived} of {len(batch)} did not arrive"
        self.copied += arrived
        self.left_out += len(batch) - arrived
        if not arrived:
            self._rest_until = time.monotonic() + RETRY_SECONDS

    def _arrived(self, batch: Sequence[ServedRequest]) -> int:
        """How many traces are there afterwards: MLflow swallows what goes wrong with a trace, so it is asked."""
        import mlflow
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self._uri)
        experiment = _experiment(client, self._use_case)
        mlflow.set_tracking_uri(self._uri)
        for row in batch:
            _write(row, experiment)
        return len(traces_of(client, experiment, [row.id for row in batch]))


def _write(row: ServedRequest, experiment: str) -> None:
    import mlflow

    start = int((row.ts - row.latency_ms / 1000) * 1e9)
    tags = {REQUEST_TAG: row.id, "version": row.version, "arm": row.arm, "status": str(row.status)}
    span = mlflow.start_span_no_context(
        name="answer",
        inputs={"prompt": row.prompt_scrubbed, **({"before": row.before_scrubbed} if row.before_scrubbed else {})},
        attributes={"prompt_tokens": str(row.prompt_tokens), "new_tokens": str(row.new_tokens), "confidence": str(row.confidence)},
        tags=tags,
        experiment_id=experiment,
        start_time_ns=start,
    )
    span.end(outputs=row.answer_scrubbed, end_time_ns=int(row.ts * 1e9))


def traces_of(client: "MlflowClient", experiment: str, requests: Collection[str]) -> list[str]:
    """Ids of the traces of these requests."""
    wanted, found = set(requests), []
    for trace_id, request_id in _tagged(client, experiment):
        if request_id in wanted:
            found.append(trace_id)
            wanted.discard(request_id)
        if not wanted:
            break
    return found


def delete_traces_of(uri: str, use_case: str, requests: Collection[str]) -> int:
    """Delete the copies of these requests, if there are any; how many there were."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(experiment_name(use_case))
    found = [] if experiment is None or not requests else traces_of(client, experiment.experiment_id, requests)
    for start in range(0, len(found), 100):
        client.delete_traces(experiment.experiment_id, trace_ids=found[start : start + 100])
    return len(found)


def delete_traces_before(uri: str, use_case: str, *, ts: float) -> int:
    """Delete copies that are older than `ts` (seconds since 1970); how many there were."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(experiment_name(use_case))
    return 0 if experiment is None else client.delete_traces(experiment.experiment_id, max_timestamp_millis=int(ts * 1000))


def _tagged(client: "MlflowClient", experiment: str) -> Iterator[tuple[str, str]]:
    """Trace and request, the newest first."""
    token = None
    while True:
        page = client.search_traces(
            locations=[experiment], max_results=MOST_IN_SEARCH, order_by=["timestamp_ms DESC"], page_token=token, include_spans=False
        )
        yield from ((trace.info.trace_id, trace.info.tags.get(REQUEST_TAG, "")) for trace in page)
        token = page.token
        if not token:
            return


def _experiment(client: "MlflowClient", use_case: str) -> str:
    name = experiment_name(use_case)
    found = client.get_experiment_by_name(name)
    return client.create_experiment(name) if found is None else found.experiment_id


def wait_for_each_trace() -> None:
    """Let MLflow write a trace before it goes on, so that one can ask whether it is there; to be called before MLflow is loaded."""
    os.environ.setdefault("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
