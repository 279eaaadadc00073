"""Work for tests of parts: small, visible, and broken on demand."""

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.artifacts.parts import Work, Worked
from fine_tune_pipeline.artifacts.quarantine import Quarantined

FUNCTION = "fine_tune_pipeline_tests.programs.part_work:shouting"


HOLDING = "fine_tune_pipeline_tests.programs.part_work:holding"


def holding(settings: Mapping[str, Any]) -> Work:
    """Says who works, in the folder of the settings, and never ends."""

    def work(examples: Sequence[Example]) -> Worked:
        (Path(settings["folder"]) / f"{os.getpid()}.pid").touch()
        threading.Event().wait()
        return Worked(examples)

    return work


def shouting(settings: Mapping[str, Any]) -> Work:
    """Prompts in capitals, without those that hold the word of the settings; `boom` fails as long as the settings' file is there."""

    def work(examples: Sequence[Example]) -> Worked:
        if Path(settings["broken"]).exists() and any("boom" in example.prompt for example in examples):
            raise RuntimeError("boom")
        out = [Quarantined(row.id, "unwanted", settings["word"], row.row()) for row in examples if settings["word"] in row.prompt]
        gone = {row.id for row in out}
        kept = [replace(row, prompt=row.prompt.upper()) for row in examples if row.id not in gone]
        return Worked(kept, out, {"letters": {"e": sum(row.prompt.count("e") for row in examples)}})

    return work
