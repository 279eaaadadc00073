"""Pairs in review queues of MLflow, an experiment for each hand-out. The key stays in the artifact store; a trace holds prompt, A and B."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from fine_tune_pipeline.artifacts.examples import read_rows, write_rows
from fine_tune_pipeline.artifacts.reviews import ReviewFolder
from fine_tune_pipeline.guide.evaluation.human.build import Comparison
from fine_tune_pipeline.guide.evaluation.human.pairs import Pair
from fine_tune_pipeline.guide.evaluation.human.rubric import ANSWERS, ASKED, CHOICES
from fine_tune_pipeline.people.review_queue import FROM_QUEUE, Asked, NotInTheQueue, ReviewQueue, Row, Texts
from fine_tune_pipeline.resources.tracking import ExperimentTracking
from fine_tune_pipeline.spec.use_case import UseCaseSpec


def experiment_named(use_case: str, handout: str) -> str:
    """The experiment of one hand-out: MLflow holds on to questions once pairs are in a queue, so the next hand-out has its own."""
    return f"{use_case}_pairs_{handout}"


def asked_in_mlflow(spec: UseCaseSpec, tracking: ExperimentTracking, folder: ReviewFolder, compared: Comparison) -> str | None:
    """Take in what people said in MLflow and offer the pairs there; what went wrong, if anything.

    Whatever goes wrong, what was taken in before counts, and the next run asks again: no model waits for MLflow to be up.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        experiment = tracking.experiment(experiment_named(spec.name, folder.folder.name))
        queue = pair_queue(tracking.uri, experiment, questions=compared.questions, reviewers=spec.evaluation.human.reviewers)
        exchange(queue, folder, compared.handed_out.pairs)
    except (MlflowException, SQLAlchemyError, NotInTheQueue, OSError) as error:
        return f"not asked now, what it gave before counts ({type(error).__name__}: {str(error).splitlines()[0][:300]})"
    return None


def pair_queue(uri: str, experiment: str, *, questions: Mapping[str, str], reviewers: Sequence[str]) -> ReviewQueue:
    """The queues of one hand-out."""
    asked = (
        Asked("choice", ASKED, "choice", CHOICES, comment=True),
        *(Asked(name, said, "choice", ANSWERS) for name, said in questions.items()),
    )
    return ReviewQueue(uri, experiment, asked, _texts, tuple(reviewers))


def exchange(queue: ReviewQueue, folder: ReviewFolder, pairs: Sequence[Pair]) -> None:
    """Take in what people said in MLflow, and offer there what is not there yet: every pair to every reviewer.

    Raises:
        NotInTheQueue: MLflow kept no trace of some.
    """
    pulled, file = queue.pull(), folder.handed_in / FROM_QUEUE
    # Written again only when somebody has said more: the age of files decides which verdict is the later one.
    if pulled and not (file.exists() and read_rows(file) == pulled):
        folder.handed_in.mkdir(parents=True, exist_ok=True)
        write_rows(file, pulled)
    people = max(1, len(queue.reviewers))
    queue.push([{**asdict(pair), "content": pair.id, "people": people} for pair in pairs])


def _texts(row: Row) -> Texts:
    return Texts({"prompt": row["prompt"]}, {"A": row["A"], "B": row["B"]})
