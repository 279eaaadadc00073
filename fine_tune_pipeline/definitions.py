"""The door: every use case of `defs/`, those that the environment names, and the in-process executor."""

from pathlib import Path

import dagster as dg

from fine_tune_pipeline.places import own_use_cases
from fine_tune_pipeline.use_case import use_cases_at


@dg.definitions
def defs() -> dg.Definitions:
    """The whole code location. Heavy work runs in programs of its own, so one process is enough for the assets."""
    return dg.Definitions.merge(
        dg.load_from_defs_folder(path_within_project=Path(__file__).parent),
        use_cases_at(own_use_cases(), beside=Path(__file__).parent / "defs"),
        dg.Definitions(executor=dg.in_process_executor),
    )
