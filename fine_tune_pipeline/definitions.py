"""The door: every use case of `defs/`, those that the environment names, and the in-process executor."""

import os
from pathlib import Path

import dagster as dg

from fine_tune_pipeline.use_case import use_cases_at

USE_CASES_VARIABLE = "FINE_TUNE_PIPELINE_USE_CASES"
"""More use cases: YAML files, or folders of them, separated as in PATH."""


@dg.definitions
def defs() -> dg.Definitions:
    """The whole code location. Heavy work runs in programs of its own, so one process is enough for the assets."""
    extra = [Path(name) for name in os.environ.get(USE_CASES_VARIABLE, "").split(os.pathsep) if name]
    return dg.Definitions.merge(
        dg.load_from_defs_folder(path_within_project=Path(__file__).parent),
        use_cases_at(extra),
        dg.Definitions(executor=dg.in_process_executor),
    )
