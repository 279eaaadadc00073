"""Lines that stand at the begin or end of many prompts and say nothing about them: greetings, signatures, notices."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from sys import intern

import regex

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.guide.dataset.likeness.duplicates import plain_text
from fine_tune_pipeline.guide.objective.task import Task

NAME = "boilerplate"

LEAST_ROWS = 20
LEAST_SHARE = 0.01
"""In so many rows and in this share of them a line must stand. Neither the 2,070 messages of the built-in use case nor 10,003 of
banking77 nor 23,700 of clinc hold such a line."""

MOST_SHARE = 0.5
"""A line in more rows than this is the form of the prompts, such as an instruction; the model will see it in production too."""

MOST_OF_ONE_CLASS = 0.6
"""A line whose rows have one answer so often tells something, unless that answer is as frequent everywhere."""

COUNTED_ROWS = 100_000
"""In more rows than this only every second one, third one, … is looked at for candidates, so that not every line is held in memory."""

_EDGE_LINES = 6
"""So far from either end boilerplate is looked for."""

_WORD = regex.compile(r"[\p{L}\p{N}]")


def without_lines(example: Example, boilerplate: Collection[str]) -> Example:
    """The example without lines of boilerplate at both ends of its prompt; itself if nothing goes.

    Answers are never touched, and a prompt that is nothing else stays whole.
    """
    prompt = _cut(example.prompt, boilerplate)
    return example if prompt == example.prompt else replace(example, prompt=prompt)


def common_lines(examples: Sequence[Example], *, task: Task) -> dict[str, int]:
    """Lines, as `plain_text` writes them, that count as boilerplate, and the rows that each stands in.

    What ends with a colon announces what follows, and what goes with one answer tells something: both stay.
    """
    least = max(LEAST_ROWS, LEAST_SHARE * len(examples))
    candidates = _frequent(examples, least=least)
    rows: dict[str, list[int]] = {line: [] for line in candidates}
    for place, example in enumerate(examples if candidates else []):
        for line in _edges(example.prompt) & candidates:
            rows[line].append(place)
    frequent = {line: places for line, places in rows.items() if least <= len(places) <= MOST_SHARE * len(examples)}
    answers = [intern(task.class_of(example.completion)) for example in examples] if frequent and task.classes else []
    kept = {line: len(places) for line, places in frequent.items() if not _tells(places, answers)}
    return dict(sorted(kept.items(), key=lambda item: (-item[1], item[0])))


def _frequent(examples: Sequence[Example], *, least: float) -> set[str]:
    """Lines that may stand in so many rows. Of very many rows a part is looked at: it holds half of what is expected of a common line."""
    step = 1 + len(examples) // COUNTED_ROWS
    counts = Counter(line for place in range(0, len(examples), step) for line in _edges(examples[place].prompt))
    return {line for line, count in counts.items() if count >= (least if step == 1 else least / step / 2)}


def _edges(prompt: str) -> set[str]:
    """Different lines near the ends of a prompt of several lines."""
    lines = [line for line in prompt.split("\n") if line.strip()]
    if len(lines) < 2:
        return set()
    near = [*lines[:_EDGE_LINES], *lines[-_EDGE_LINES:]]
    return {plain_text(line) for line in near if _WORD.search(line) and not line.rstrip().endswith(":")}


def _tells(places: Sequence[int], answers: Sequence[str]) -> bool:
    if not answers:
        return False
    answer, rows = Counter(answers[place] for place in places).most_common(1)[0]
    everywhere = answers.count(answer) / len(answers)
    return rows / len(places) > max(MOST_OF_ONE_CLASS, everywhere * 1.2)


def _cut(prompt: str, boilerplate: Collection[str]) -> str:
    """The prompt without the boilerplate at its ends; as it was if no words would be left."""
    lines = prompt.split("\n")
    first, last = 0, len(lines)
    while first < last and _goes(lines[first], boilerplate):
        first += 1
    while last > first and _goes(lines[last - 1], boilerplate):
        last -= 1
    left = "\n".join(lines[first:last])
    return left if (first, last) != (0, len(lines)) and _WORD.search(left) else prompt


def _goes(line: str, boilerplate: Collection[str]) -> bool:
    return not line.strip() or (not line.rstrip().endswith(":") and plain_text(line) in boilerplate)
