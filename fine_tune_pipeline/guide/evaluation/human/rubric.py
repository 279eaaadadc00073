"""What people are asked of a pair beside which answer they prefer."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from fine_tune_pipeline.spec.use_case import UseCaseSpec

Choice = Literal["A", "B", "equal", "unusable"]
CHOICES: tuple[str, ...] = get_args(Choice)
ASKED = "Which answer is better?"

ANSWERS = ("A", "B", "both", "neither")
"""To a question of the rubric: of which answers it holds."""

CORRECT = "Which answer is correct?"
FOLLOWS = "Which answer follows the instruction: in the form that is asked for, and nothing beside it?"
TONE = "Which answer has the right tone?"

_BY_TASK: Mapping[str, Mapping[str, str]] = {
    "classification": {"correct": CORRECT},
    "extraction": {"correct": CORRECT, "follows": FOLLOWS},
}


def questions(spec: UseCaseSpec) -> dict[str, str]:
    """Name -> question: the use case's own, else the rubric of its voice, else those of its task; a free text is asked for its tone too."""
    own, voice = spec.evaluation.human.questions, spec.objective.voice
    if own is not None:
        return dict(own)
    if voice is not None and voice.rubric:
        return {item.name: item.ask for item in voice.rubric}
    return dict(_BY_TASK.get(spec.objective.task.type, {"correct": CORRECT, "follows": FOLLOWS, "tone": TONE}))


def holds(answer: str, side: str) -> bool:
    """Whether a question of the rubric was answered in favour of a side."""
    return answer in (side, "both")


def contradiction(choice: str, answers: Mapping[str, str], questions: Sequence[str]) -> str | None:
    """Why a choice cannot be meant, if all questions are answered: it is for an answer of which nothing holds, against one of which
    something does, or it throws away an answer of which everything holds."""
    if not questions or any(name not in answers for name in questions):
        return None
    count = {side: sum(holds(answers[name], side) for name in questions) for side in ("A", "B")}
    if choice in ("A", "B"):
        other = "B" if choice == "A" else "A"
        return (
            f"{choice} is chosen, but by the answers nothing holds of it, and something of {other}"
            if count[choice] == 0 < count[other]
            else None
        )
    full = next((side for side in ("A", "B") if count[side] == len(questions)), None)
    if choice == "unusable" and full:
        return f"neither is said to be of use, but by the answers everything holds of {full}"
    return None
