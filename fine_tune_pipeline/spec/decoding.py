"""How language models write their answers, and for which tasks that can be."""

from typing import Literal

Decoding = Literal["greedy", "labels", "json_schema"]

TASKS: dict[Decoding, tuple[str, ...]] = {"labels": ("classification", "extraction"), "json_schema": ("extraction",)}
"""Tasks whose answers are a closed list, or have a schema; every task has greedy."""


def refuse_undecodable(decoding: Decoding, *, task: str) -> None:
    """Refuse a decoding that the answers of this task do not have.

    Raises:
        ValueError: names the decodings that the task has.
    """
    if decoding in TASKS and task not in TASKS[decoding]:
        usable = ["greedy", *(name for name, tasks in TASKS.items() if task in tasks)]
        why = "a closed list of answers" if decoding == "labels" else "a JSON Schema"
        raise ValueError(f"evaluation.decoding: got {decoding} for a {task} task, which has not {why}; want {' or '.join(usable)}")
