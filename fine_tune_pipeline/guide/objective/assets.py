"""Step 1: the objective."""

import dagster as dg

from fine_tune_pipeline.artifacts.fingerprint import file_sha256
from fine_tune_pipeline.guide.objective.statement import build_objective, looked_at, state
from fine_tune_pipeline.guide.objective.task import task_files
from fine_tune_pipeline.resources.store import ArtifactStore
from fine_tune_pipeline.spec.use_case import UseCaseSpec
from fine_tune_pipeline.ui import advisory, blocking, materialized


def objective(spec: UseCaseSpec) -> dg.AssetsDefinition:
    """The asset that everything begins with: it refuses a goal that could not be measured."""
    key = [spec.name, "objective"]
    checks = [
        *blocking(key, criteria_measurable="Every criterion can be measured and missed, and the test set is large enough for it."),
        *advisory(key, test_set_shows_gain="The held-out rows are enough to show the smallest gain that matters."),
    ]

    @dg.asset(key=key, group_name=spec.name, owners=spec.owners, tags={"guide/step": "1"}, kinds={"yaml"}, check_specs=checks)
    def asset(context: dg.AssetExecutionContext, store: ArtifactStore) -> dg.MaterializeResult:
        """What the model must achieve: the business goal, the task, measurable success criteria, and what the test set can show of them."""
        statement = state(spec)
        what = {
            "objective": spec.objective,
            "dataset.format.instruction": spec.dataset.format.instruction,
            "held_out_rows": statement.held_out.rows,
            "files_sha256": {field: file_sha256(path) for field, path in task_files(spec).items()},
            **looked_at(spec),
        }
        return materialized(store.made(context, version=2, what=what, build=lambda folder: build_objective(statement, folder)))

    return asset
