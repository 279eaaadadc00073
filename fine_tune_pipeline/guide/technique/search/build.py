"""The search as an artifact: `search.json`, `winner.json`, Optuna's journal and a page."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.artifacts.examples import Example, read_examples, write_examples
from fine_tune_pipeline.artifacts.fingerprint import fingerprint
from fine_tune_pipeline.artifacts.manifest import Built
from fine_tune_pipeline.artifacts.store import Artifact, Store
from fine_tune_pipeline.artifacts.taking import taken_file
from fine_tune_pipeline.guide.base_model.price import cost
from fine_tune_pipeline.guide.objective.metrics import UnknownMetric, allowed_metrics, metric_named
from fine_tune_pipeline.guide.objective.task import Task, read_task
from fine_tune_pipeline.guide.technique.build_plan import job_of
from fine_tune_pipeline.guide.technique.plan import Job, Place, Plan, make_plan
from fine_tune_pipeline.guide.technique.recipes import Recipe
from fine_tune_pipeline.guide.technique.search.page import page_of, pictures
from fine_tune_pipeline.guide.technique.search.space import Space, space_of
from fine_tune_pipeline.guide.technique.search.winner import FILE, Winner, as_written
from fine_tune_pipeline.guide.technique.stopping import SCORER, answer_scoring
from fine_tune_pipeline.guide.technique.systems import max_new_tokens, trained_format
from fine_tune_pipeline.pages.document import fenced, html
from fine_tune_pipeline.programs.requests import AnswerScoring, CheckpointPolicy, Technique, Tracking, TrainRequest
from fine_tune_pipeline.programs.search_requests import (
    BASE_MODEL,
    TECHNIQUE,
    Base,
    Budget,
    RecipeRows,
    SearchRequest,
    SearchResult,
    TrialRecord,
)
from fine_tune_pipeline.spec.search import SearchSpec
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    import dagster as dg

    from fine_tune_pipeline.resources.compute.base import Compute

RESULT, PAGE, JOURNAL = "search.json", "search.html", "journal.log"


class NothingToSearch(ValueError):
    """The space holds one point: the plan."""


class NoPrice(ValueError):
    """A search is limited in money, and nothing says what an hour costs."""


class NotBuilt(ValueError):
    """A base model that is to be compared was never this use case's own."""


class TooManyAtOnce(ValueError):
    """The place cannot run so many trials at the same time."""


class PlanDoesNotFit(ValueError):
    """The plan would not run here, and so nothing around it."""


@dataclass(frozen=True)
class Searching:
    """What one search needs. `bases` are those that trials may start from by id, the chosen one first; empty: it alone."""

    spec: UseCaseSpec
    search: SearchSpec
    plan: Plan
    job: Job
    place: Place
    space: Space
    metric: str
    dataset: Artifact
    base: Artifact
    bases: Mapping[str, Artifact]
    tracking: Tracking


def searching_of(
    spec: UseCaseSpec, *, place: Place, dataset: Artifact, base: Artifact, bases: Mapping[str, Artifact], tracking: Tracking
) -> Searching:
    """Everything that is known before a trial is trained.

    Raises:
        PlanDoesNotFit, NothingToSearch, NoPrice, UnknownMetric, EmptyRecipe: the use case asks for a search that cannot be.
    """
    search = spec.training.search
    assert search is not None
    job = job_of(spec, dataset=dataset, base=base)
    plan = make_plan(job, place)[0]
    if not plan.chosen.fits or plan.parts > 1:
        why = plan.chosen.refused or ("one device has no room for it" if plan.parts > 1 else "it does not fit the memory")
        raise PlanDoesNotFit(f"training.search: the plan ({plan.technique.label}) is trained trial by trial on one device, and {why}")
    space = space_of(search.space, plan.chosen, job=job, place=place, train=read_examples(dataset.file("train.jsonl")), bases=list(bases))
    if space.fixed:
        raise NothingToSearch(f"training.search.space: every value is fixed; give two for one of them. {'; '.join(space.notes)}")
    budget_of(search, place)
    metric = metric_of(spec, read_task(spec))
    return Searching(spec, search, plan, job, place, space, metric, dataset, base, bases, tracking)


def metric_of(spec: UseCaseSpec, task: Task) -> str:
    """The metric that chooses: as written, that of the first success criterion that answers alone decide, or the task's most telling one.

    Raises:
        UnknownMetric: what is written is none of the task, or not decided by answers and their references alone.
    """
    assert spec.training.search is not None
    written = spec.training.search.metric
    candidates = [item.metric for item in spec.objective.success] + allowed_metrics(task)
    usable = [name for name in dict.fromkeys(candidates) if _usable(name, task)]
    if written is None:
        return usable[0]
    if written not in usable and not _usable(written, task):
        raise UnknownMetric(f"training.search.metric: got {written}, want one that single answers decide, such as {usable[0]}")
    return written


def bases_of(spec: UseCaseSpec, store: Store, base: Artifact) -> dict[str, Artifact]:
    """Base models that trials may start from, by id, the chosen one first; empty if the use case asks for no other.

    Raises:
        NotBuilt: names those that the store does not hold.
    """
    assert spec.training.search is not None
    wanted, own = spec.training.search.space.base_model, _id(base)
    others = [name for name in wanted if name != own]
    if not others:
        return {}
    found = {}
    for manifest in store.history(spec.name, "base_model"):
        artifact = store.find(spec.name, "base_model", manifest.fingerprint)
        if artifact is not None and not manifest.failed:
            found[_id(artifact)] = artifact
    missing = [name for name in others if name not in found]
    if missing:
        raise NotBuilt(
            f"training.search.space.base_model: {', '.join(missing)} is not in the store, there are {', '.join(found)}; write it first "
            "among base_model.candidates and materialize base_model once, then put the chosen one first again"
        )
    return {own: base, **{name: found[name] for name in others}}


def content(searching: Searching) -> dict[str, Any]:
    """What decides the outcome: the plan's mathematics, the space, how it is judged, and the limits."""
    search, plan = searching.search, searching.plan
    return {
        "training.search": search,
        "technique": plan.technique,
        "training": plan.hyperparameters,
        "training_plan.dtype": plan.placement.dtype,
        "dataset.format.style": searching.spec.dataset.format.style,
        "objective.task": read_task(searching.spec).described(),
        "objective.evidence.level": searching.spec.objective.evidence.level,
        "metric": searching.metric,
        "space": searching.space.dimensions,
        "environment.prices": [searching.place.price] if search.budget_cost is not None else [],
        "base_models": {name: artifact.fingerprint for name, artifact in searching.bases.items()},
    }


def build_search(context: "dg.AssetExecutionContext", compute: "Compute", folder: Path, work: Path, searching: Searching) -> Built:
    """Search, and write what was found into `folder`; `work` stays when it breaks off, so that the next try goes on there.

    Raises:
        TooManyAtOnce: the place cannot do what training.search.parallel asks for.
    """
    parallel = searching.search.parallel
    if parallel > 1 and (refused := compute.refused(parallel)):
        raise TooManyAtOnce(f"training.search.parallel: got {parallel}, but {refused}; or leave parallel out")
    request = request_of(searching, work)
    result = compute.run(context, request, SearchResult)
    result.write(folder / RESULT)
    winner = winner_of(result, request)
    winner.write(folder / FILE)
    if (work / JOURNAL).exists():
        taken_file(work / JOURNAL, folder / JOURNAL)
    (folder / PAGE).write_text(html(page_of(result, searching.space, winner, name=searching.spec.name)), encoding="utf-8")
    return _built(result, searching, winner)


def request_of(searching: Searching, work: Path) -> SearchRequest:
    """What the program is asked; files of data recipes are written into `work`."""
    spec, plan, search = searching.spec, searching.plan, searching.search
    scoring = _scoring(searching)
    train = searching.dataset.file("train.jsonl")
    task, answers = read_task(spec), [row.completion for row in read_examples(train)]
    return SearchRequest(
        output=str(work),
        plan=TrainRequest(
            output=str(work),
            model=str(searching.base.file("model")),
            train=str(train),
            validation=str(searching.dataset.file("validation.jsonl")),
            format=trained_format(spec),
            technique=plan.technique,
            hyperparameters=plan.hyperparameters,
            placement=plan.placement,
            answers=answer_scoring(spec.training.early_stopping, task, answers),
        ),
        space=searching.space.dimensions,
        techniques=searching.space.techniques,
        recipes=_recipes(searching.space, work / "recipes"),
        bases=tuple(Base(id=name, model=str(artifact.file("model"))) for name, artifact in searching.bases.items()),
        trials=search.trials,
        rungs=tuple(search.rungs),
        keep=search.keep,
        seed=search.seed,
        scoring=scoring,
        rows=search.rows,
        level=spec.objective.evidence.level,
        at_once=search.parallel,
        budget=budget_of(search, searching.place),
        predicted_seconds=plan.predicted_seconds,
        checkpoints=CheckpointPolicy(**spec.training.checkpoints.model_dump()),
        stall_seconds=60 * spec.training.stall_minutes,
        tracking=searching.tracking,
    )


def budget_of(search: SearchSpec, place: Place) -> Budget | None:
    """The tighter of hours and money.

    Raises:
        NoPrice: nothing says what an hour of the device costs.
    """
    found = []
    if search.budget_hours is not None:
        found.append(Budget(seconds=3600 * search.budget_hours, said=f"{search.budget_hours:g} hours"))
    if search.budget_cost is not None:
        if place.price is None or not place.price.per_hour:
            device = place.inventory.devices[0].name
            raise NoPrice(f"training.search.budget_cost: want a price of {device} in environment.prices; or give budget_hours")
        seconds = 3600 * search.budget_cost / place.price.per_hour
        found.append(Budget(seconds=seconds, said=f"{search.budget_cost:g} {place.price.currency}"))
    return min(found, key=lambda budget: budget.seconds) if found else None


def winner_of(result: SearchResult, request: SearchRequest) -> Winner:
    """The trial that is taken, with its technique in whole."""
    chosen = result.chosen
    return Winner(
        number=chosen.number,
        trials=len(result.trials),
        parameters={name: value for name, value in chosen.parameters.items() if name != BASE_MODEL},
        technique=_technique(chosen, request),
        why=result.choice.why,
    )


def _technique(trial: TrialRecord, request: SearchRequest) -> Technique:
    label = trial.parameters.get(TECHNIQUE)
    technique = request.plan.technique if label is None else request.techniques[str(label)]
    return technique.model_copy(update={"rank": trial.parameters["rank"]}) if "rank" in trial.parameters else technique


def _scoring(searching: Searching) -> AnswerScoring:
    task = read_task(searching.spec)
    answers = [row.completion for row in read_examples(searching.dataset.file("train.jsonl"))]
    return AnswerScoring(
        function=SCORER,
        settings={"task": task.described(), "metric": searching.metric},
        max_new_tokens=max_new_tokens(answers),
        higher_is_better=metric_named(searching.metric, task).better == "higher",
    )


def _recipes(space: Space, folder: Path) -> tuple[RecipeRows, ...]:
    """The rows of each recipe as a file; recipes with the same rows share one."""
    names = [one.name for one in space.dimensions if one.name in Recipe.model_fields]
    if not names:
        return ()
    folder.mkdir(exist_ok=True)
    return tuple(
        RecipeRows(parameters={name: getattr(recipe, name) for name in names}, train=str(_written(rows, folder)), rows=len(rows))
        for recipe, rows in space.recipes.items()
    )


def _written(rows: list[Example], folder: Path) -> Path:
    path = folder / f"{fingerprint({'rows': [row.id for row in rows]})}.jsonl"
    if not path.exists():
        write_examples(path, rows)
    return path


def _usable(name: str, task: Task) -> bool:
    try:
        metric = metric_named(name, task)
    except UnknownMetric:
        return False
    return metric.plain and metric.better != "neither"


def _id(base: Artifact) -> str:
    return str(base.json("base_model.json")["id"])


def _built(result: SearchResult, searching: Searching, winner: Winner) -> Built:
    first, chosen = result.trials[0].rungs[-1], result.chosen.rungs[-1]
    spent = cost(result.seconds, searching.place.price)
    metadata = {
        "found": f"{winner.source}: {result.said}",
        "trials": [result.row(trial) for trial in result.trials],
        "trial": result.choice.number,
        **winner.parameters,
        f"{result.metric}/plan": first.score,
        f"{result.metric}/chosen": chosen.score,
        "gain": result.choice.gain,
        "gain_lower_bound": result.choice.gain_bound,
        "validation_rows": result.answered,
        "not_told_from_the_best": list(result.choice.ties) or "none",
        "search_minutes": result.seconds / 60,
        "cost": None if spent is None else str(spent),
        "left_out": list(searching.space.notes) or "nothing",
        "mlflow_run_id": result.mlflow_run_id,
        **_another_base(result),
    }
    shown = {name: value for name, value in metadata.items() if value is not None}
    written = as_written(winner)
    keep = {"to_keep_without_search": fenced(written, "yaml")} if written else {}
    return Built(metadata=shown, markdown={**pictures(result, searching.space), **keep})


def _another_base(result: SearchResult) -> dict[str, Any]:
    """What to change to have the better base model: it is chosen in step 2, before this."""
    if result.other_base is None:
        return {}
    other = next(trial for trial in result.trials if trial.number == result.other_base.number)
    name = other.parameters[BASE_MODEL]
    return {"better_base_model": f"{name}: {result.other_base.why}; write it first: base_model: {{candidates: [{name}]}}"}
