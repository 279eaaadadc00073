"""The place of training is a provider: rows checked as it would check them, and the provider asked, before anything is paid for."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.artifacts.named import some
from fine_tune_pipeline.artifacts.store import Artifact
from fine_tune_pipeline.guide.base_model.hosted import HostedBase
from fine_tune_pipeline.guide.environment.preflight import FILE
from fine_tune_pipeline.guide.technique.hosted_plan import HostedPlan
from fine_tune_pipeline.programs.hosted.requests import CheckRequest, CheckResult
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    import dagster as dg

    from fine_tune_pipeline.resources.compute.base import Compute


@dataclass(frozen=True)
class HostedTrial:
    """What one check needs."""

    spec: UseCaseSpec
    plan: HostedPlan
    base: HostedBase
    dataset: Artifact
    today: date


def build_hosted_preflight(context: "dg.AssetExecutionContext", compute: "Compute", folder: Path, trial: HostedTrial) -> Built:
    """Check rows and provider; write `preflight.json` into `folder`. Nothing is uploaded."""
    work = folder / "work"
    work.mkdir()
    request = CheckRequest(
        output=str(work),
        hosted=trial.base.hosted,
        job=trial.plan.job,
        **{part: str(trial.dataset.file(f"{part}.jsonl")) for part in ("train", "validation")},
    )
    seen = compute.run(context, request, CheckResult)
    shutil.rmtree(work)
    seen.write(folder / FILE)
    metadata = {
        "device": trial.base.hosted.base_url,
        "rows": seen.rows,
        "tokens_longest": seen.longest_tokens,
        "predicted_tokens_per_epoch": seen.tokens,
        "context_tokens": trial.base.hosted.context_tokens,
        "over_long_rows": len(seen.over_long),
        "over_long_ids": list(seen.over_long[:10]),
        "provider_says_shutdown": seen.reach.shutdown_date,
    }
    return Built(metadata=metadata, checks=[_passed(seen, trial, problems_of(seen, trial))])


def read_hosted_preflight(artifact: Artifact) -> CheckResult:
    """What the check saw, of an artifact of `environment`."""
    return CheckResult.read(artifact.file(FILE))


def problems_of(seen: CheckResult, trial: HostedTrial) -> list[str]:
    """Why nothing must be uploaded, each with what to do; empty if it may."""
    last = trial.base.entry.last_job_date
    late = last is not None and last < trial.today
    ended = [f"{trial.base.entry.id} takes no new jobs since {last}: choose another candidate"] if late else []
    shutdown = announced(seen.reach.shutdown_date)
    if shutdown is not None and shutdown <= trial.today:
        ended.append(f"the provider says that {trial.base.hosted.model} was shut down on {shutdown}: choose another candidate")
    share, limit = len(seen.over_long) / seen.rows, trial.spec.training.over_long_limit
    long = [
        f"length: {len(seen.over_long)} of {seen.rows} rows ({share:.1%}) take more than {trial.base.hosted.context_tokens} tokens "
        f"({some(seen.over_long)}), training.over_long_limit is {limit:.1%}; shorten them"
    ]
    return [*seen.problems, *ended, *(long if share > limit else [])]


def announced(day: str | None) -> date | None:
    """The day that a provider names, with or without a time; None where it names none in a form that we know."""
    found = re.match(r"(\d{4})-(\d{2})-(\d{2})", day or "")
    return date(*map(int, found.groups())) if found else None


def _passed(seen: CheckResult, trial: HostedTrial, problems: Sequence[str]) -> Check:
    said = f"{seen.rows} rows are as the provider wants them; {trial.base.hosted.base_url} takes the key and lists the model"
    if problems:
        said = "training must not start: " + "; ".join(problems)
    elif seen.over_long:
        said += f"; {len(seen.over_long)} over-long rows are left out of training: {some(seen.over_long)}"
    return Check(name="preflight_passed", passed=not problems, description=said, metadata={"problems": len(problems)})
