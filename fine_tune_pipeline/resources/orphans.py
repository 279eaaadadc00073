"""Runs whose process died without a word: found at the next start, ended, and their pool slots freed.

After kill -9 of a command-line run Dagster leaves it STARTED and its slot taken for ever; `free_slots_after_run_end_seconds` looks at
ended runs only.
"""

import socket

import dagster as dg

from fine_tune_pipeline.programs.process_identity import ProcessIdentity, own_identity

HOST_TAG = "fine_tune_pipeline/host"
PROCESS_TAG = "fine_tune_pipeline/process"


def claim(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Write into the run which process of which host executes it."""
    instance.add_run_tags(run.run_id, {HOST_TAG: socket.gethostname(), PROCESS_TAG: own_identity().model_dump_json()})


def end_orphans(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs failed whose process is gone, free their slots; gives back their ids."""
    active = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING])
    orphans = [run for run in instance.get_runs(filters=active) if is_orphan(run)]
    for run in orphans:
        said = f"The process that executed this run ({run.tags[PROCESS_TAG]}) is gone without a word, as after kill -9."
        instance.report_run_failed(run, said)
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return [run.run_id for run in orphans]


def is_orphan(run: dg.DagsterRun) -> bool:
    """Whether the process of a run is surely gone; of another host, or of a run that nobody claimed, nothing is known."""
    if run.tags.get(HOST_TAG) != socket.gethostname() or PROCESS_TAG not in run.tags:
        return False
    return not ProcessIdentity.model_validate_json(run.tags[PROCESS_TAG]).alive
