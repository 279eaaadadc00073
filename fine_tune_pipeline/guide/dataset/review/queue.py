"""Examples in a review queue of MLflow: what people see of them, and what they are asked."""

from fine_tune_pipeline.guide.dataset.review.verdicts import QUESTIONS, VERDICTS
from fine_tune_pipeline.people.review_queue import Asked, ReviewQueue, Row, Texts

ASKED = (
    Asked("verdict", "Follows from the answers below if left open.", "choice", VERDICTS, comment=True),
    *(Asked(name, question, "yes_no") for name, question in QUESTIONS.items()),
    Asked("corrected", "The right answer, for a fix.", "text"),
)


def experiment_of(use_case: str) -> str:
    """The experiment that holds the queues of a use case, and nothing else."""
    return f"{use_case}_review"


def example_queue(uri: str, experiment: str, reviewers: tuple[str, ...] = ()) -> ReviewQueue:
    """The queues of one use case's examples."""
    return ReviewQueue(uri, experiment, ASKED, _texts, reviewers)


def _texts(row: Row) -> Texts:
    return Texts({"prompt": row["prompt"], "why": row["why"], "look": row["look"]}, {"completion": row["completion"]})
