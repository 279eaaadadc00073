"""What a search has done, as files: each trial has a folder; its record appears whole or not at all. They decide, not Optuna's journal."""

import hashlib
import json
import shutil
from pathlib import Path

from fine_tune_pipeline.programs.contracts import Contract
from fine_tune_pipeline.programs.search_requests import RungRecord, SearchRequest, TrialRecord

TRIALS, RECORD, JOURNAL, WORK = "trials", "trial.json", "journal.log", "work.json"


class Begun(Contract):
    """Whose records lie here: a hash of what is searched, and the run of the whole search."""

    sha256: str
    run_id: str | None = None


class Records:
    """The trials of one search, in its output folder. Those of another one are removed."""

    def __init__(self, request: SearchRequest) -> None:
        self.folder = Path(request.output)
        sha256 = _sha256(request)
        path = self.folder / WORK
        begun = Begun.read(path) if path.exists() else None
        if begun is None or begun.sha256 != sha256:
            shutil.rmtree(self.folder / TRIALS, ignore_errors=True)
            (self.folder / JOURNAL).unlink(missing_ok=True)
            begun = Begun(sha256=sha256)
            begun.write(path)
        self.begun = begun

    @property
    def journal(self) -> Path:
        return self.folder / JOURNAL

    def all(self) -> list[TrialRecord]:
        """By number."""
        return [TrialRecord.read(path) for path in sorted((self.folder / TRIALS).glob(f"*/{RECORD}"))]

    def keep(self, trial: TrialRecord) -> None:
        """Write down a new trial, or what is new of one."""
        folder = self.place(trial.number)
        folder.mkdir(parents=True, exist_ok=True)
        trial.write(folder / RECORD)

    def add(self, trial: TrialRecord, rung: RungRecord) -> None:
        """The trial as it is written down, with one rung more."""
        now = TrialRecord.read(self.place(trial.number) / RECORD)
        self.keep(now.model_copy(update={"rungs": (*now.rungs, rung)}))

    def tracked(self, run_id: str | None) -> None:
        """Remember the run of the whole search."""
        self.begun = self.begun.model_copy(update={"run_id": run_id})
        self.begun.write(self.folder / WORK)

    def place(self, number: int) -> Path:
        """Folder of a trial."""
        return self.folder / TRIALS / f"{number:04d}"


def _sha256(request: SearchRequest) -> str:
    """What is tried and how it is judged, wherever its files lie; a larger budget goes on with what is there."""
    plan = request.plan
    document = {
        "plan": [one.model_dump(mode="json") for one in (plan.technique, plan.hyperparameters, plan.format)],
        "dtype": plan.placement.dtype,
        "space": [one.model_dump(mode="json") for one in request.space],
        "techniques": {name: one.model_dump(mode="json") for name, one in request.techniques.items()},
        "recipes": [(recipe.parameters, recipe.rows) for recipe in request.recipes],
        "bases": [base.id for base in request.bases],
        "scoring": request.scoring.model_dump(mode="json"),
        "numbers": (request.rungs, request.seed, request.rows),
        # It decides which results a proposal knows of.
        **({} if request.at_once == 1 else {"at_once": request.at_once}),
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode("utf-8")).hexdigest()
