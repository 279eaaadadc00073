"""One trial of a search for one rung, as a program of its own: what a node of a cluster does for a search that runs several at a time."""

import socket
import time
from pathlib import Path

import psutil

from fine_tune_pipeline.programs.quiet import quiet_libraries
from fine_tune_pipeline.programs.reporting import parse, session
from fine_tune_pipeline.programs.search_requests import RungRecord, RungRequest
from fine_tune_pipeline.programs.searching.rung import RECORD, Judged, climbed
from fine_tune_pipeline.programs.searching.telling import LiveFile
from fine_tune_pipeline.programs.training.preemption import Preemption


def run(request: RungRequest, preemption: Preemption | None = None) -> RungRecord:
    """Train and judge; the record is also written, last.

    Raises:
        NotAsked: the search has handed the trial to another node.
        Preempted: a signal has come.
    """
    # Loading the libraries takes a place on the node too.
    folder, began = Path(request.output), psutil.Process().create_time()
    reporter = LiveFile(Path(request.live))
    reporter.log(f"begins on {socket.gethostname()}")
    record = climbed(
        request.search,
        request.trial,
        request.rung,
        judged=Judged.of(request.search, folder=folder),
        folder=folder,
        reporter=reporter,
        preemption=preemption or Preemption(),
    )
    record = record.model_copy(update={"node": socket.gethostname(), "began": began, "ended": time.time()})
    record.write(folder / RECORD)
    return record


def main() -> None:
    """The command line."""
    preemption = Preemption()
    preemption.listen()
    request = parse(RungRequest)
    quiet_libraries()
    with session(speaks=False):
        run(request, preemption)


if __name__ == "__main__":
    main()
