"""A search small enough for a test: the small training, whose first rung is too short to learn much."""

import json
import os
import signal
import threading
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from fine_tune_pipeline.programs.reporting import Reporter
from fine_tune_pipeline.programs.requests import AnswerScoring, CheckpointPolicy, PredictRequest, TrainRequest, TrainResult
from fine_tune_pipeline.programs.search_requests import Dimension, RungRequest, SearchRequest
from fine_tune_pipeline.programs.searching.nodes import Ended, Order
from fine_tune_pipeline.programs.training.progress import request_sha256
from fine_tune_pipeline_tests.small_training import ROWS, train_request

LABELS = ["duplicate_charge", "lost_card", "change_address"]

SCORING = AnswerScoring(
    function="fine_tune_pipeline.guide.objective.metrics:scorer",
    settings={"task": {"type": "classification", "labels": LABELS, "schema": None}, "metric": "exact_match"},
    max_new_tokens=16,
    higher_is_better=True,
)

SPACE = (
    Dimension(name="learning_rate", default=1e-3, low=5e-4, high=2e-2),
    Dimension(name="rank", default=8, values=(2, 8)),
)
"""The default rate is far too low."""


def search_request(output: Path, *, model: Path, data: Path, **more: Any) -> SearchRequest:
    """Three trials of two epochs, of which the first rung is one."""
    output.mkdir(exist_ok=True)
    plan = train_request(output, model=model, train=data, learning_rate=1e-3, epochs=2.0)
    usual: dict[str, Any] = {
        "plan": plan,
        "space": SPACE,
        "trials": 3,
        "rungs": (0.5, 1.0),
        "keep": 0.25,
        "seed": 0,
        "scoring": SCORING,
        "rows": 12,
        "level": 0.95,
        "predicted_seconds": 10.0,
        "checkpoints": CheckpointPolicy(steps=2),
    }
    return SearchRequest(output=str(output), **usual | more)


def trained_by_rule(request: TrainRequest, reporter: Reporter, preemption: object) -> TrainResult:
    """In no time: the adapter knows its rate and its share. One line of the log comes in the middle, one file at the end."""
    output, wanted = Path(request.output), request.hyperparameters
    reporter.log("in the middle of it")
    (output / "adapter").mkdir(exist_ok=True)
    (output / "adapter" / "known.json").write_text(json.dumps({"rate": wanted.learning_rate, "epochs": wanted.epochs}), encoding="utf-8")
    (output / "curve.jsonl").write_text('{"step": 1, "loss": 1.0, "learning_rate": 0.1}\n', encoding="utf-8")
    steps = round(3 * wanted.epochs)
    return TrainResult(
        adapter=str(output / "adapter"),
        adapter_sha256="0",
        steps=steps,
        rows=24,
        tokens=100 * steps,
        labelled_tokens=30 * steps,
        seconds=100.0 * steps,
        tokens_per_second=100.0,
        first_loss=2.0,
        final_loss=1.0,
        validation_losses=((0, 2.0), (steps, 1.0)),
        peak_memory_bytes=1,
        trainable_parameters=request.technique.rank,
        curve=str(output / "curve.jsonl"),
        request_sha256=request_sha256(request),
    )


class Threads:
    """Nodes that are threads of this process. Each runs the program's own function on the request in the file.

    Args:
        first: how the first tries of trials end, by number, in the place of running them.
    """

    def __init__(self, *, first: Mapping[int, list[Ended]] | None = None) -> None:
        self._pool = ThreadPoolExecutor()
        self._running: dict[Future[Ended], int] = {}
        self._first = {number: list(ends) for number, ends in (first or {}).items()}
        self.orders: list[Order] = []
        self.most = 0
        self.closed = False

    def start(self, order: Order) -> None:
        self.orders.append(order)
        ends = self._first.get(order.number)
        self._running[self._pool.submit(self._ended, order, ends.pop(0) if ends else None)] = order.number
        self.most = max(self.most, len(self._running))

    def ended(self, seconds: float) -> Mapping[int, Ended]:
        done = wait(self._running, timeout=seconds, return_when=FIRST_COMPLETED).done
        return {self._running.pop(future): future.result() for future in done}

    def close(self) -> None:
        self._pool.shutdown()
        self.closed = True

    def _ended(self, order: Order, instead: Ended | None) -> Ended:
        from fine_tune_pipeline.programs import search_rung

        if instead is not None:
            return instead
        search_rung.run(RungRequest.read(order.command[-1]))
        return Ended(0)


def nothing() -> None:
    """In place of looking for memory to free, which takes a second where torch is loaded."""


def answered_by_rule(request: PredictRequest, reporter: Reporter) -> None:
    """The higher the rate, up to 1e-2, and the longer it was trained, the more rows are right."""
    [job] = request.jobs
    known = json.loads((Path(job.adapter or "") / "known.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in Path(job.prompts).read_text(encoding="utf-8").splitlines()]
    right = {id: answer for id, _, answer in ROWS}
    count = round(len(rows) * min(1.0, known["rate"] / 1e-2) * known["epochs"] / 2)
    answers = [{"id": row["id"], "text": right[row["id"]] if place < count else "?"} for place, row in enumerate(rows)]
    Path(job.output).write_text("".join(json.dumps(row) + "\n" for row in answers), encoding="utf-8")


def killed_together(path: str) -> None:
    """As the program does with two threads for nodes, by rule; SIGKILL when two trials after the first are in the middle of it."""
    from fine_tune_pipeline.programs import search
    from fine_tune_pipeline.programs.searching import rung

    two = threading.Barrier(2)

    def trained(request: TrainRequest, reporter: Reporter, preemption: object) -> TrainResult:
        if "/0000/" not in request.output:
            two.wait()
            os.kill(os.getpid(), signal.SIGKILL)
        return trained_by_rule(request, reporter, preemption)

    rung.train.run, rung.predict.run, rung.free_memory = trained, answered_by_rule, nothing  # type: ignore[assignment]
    search.run(SearchRequest.read(path), Reporter(None, speaks=False), nodes=Threads())


def searched(path: str, die_at: str = "", by_rule: bool = False) -> None:
    """As the program does on the request in a file; SIGKILL at a line of the log that has `die_at` in it, or after writing such a file."""
    import sys

    from fine_tune_pipeline.programs import search
    from fine_tune_pipeline.programs.contracts import Contract
    from fine_tune_pipeline.programs.searching import rung

    sys.argv = ["search", "--request", path]
    if by_rule:
        rung.train.run, rung.predict.run, rung.free_memory = trained_by_rule, answered_by_rule, nothing  # type: ignore[assignment]
    log, write = Reporter.log, Contract.write

    def die(said: str) -> None:
        if die_at and die_at in said:
            os.kill(os.getpid(), signal.SIGKILL)

    def logged(self: Reporter, message: str) -> None:
        log(self, message)
        die(message)

    def written(self: Contract, place: str | Path) -> None:
        write(self, place)
        die(f"{'/'.join(Path(place).parts[-3:])} {type(self).__name__}")

    Reporter.log, Contract.write = logged, written  # type: ignore[method-assign]
    search.main()
