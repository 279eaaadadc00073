"""How language models write their answers in a comparison: which answers can be at all, and where an untrained model's answer ends."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from fine_tune_pipeline.artifacts.named import some
from fine_tune_pipeline.guide.objective.task import ClassificationTask, ExtractionTask, Task, parsed
from fine_tune_pipeline.programs.decoding_requests import Decoding, JsonDecoding, LabelDecoding
from fine_tune_pipeline.programs.requests import PredictJob
from fine_tune_pipeline.spec.use_case import UseCaseSpec

MOST_ANSWERS = 512
"""Of a closed list: each is scored for each row."""

SEPARATORS = ((", ", ": "), (",", ":"), (",", ": "))
"""Between items and after keys, as JSON is usually written in one line."""

_ABSENT = object()


class OpenAnswers(Exception):
    """`decoding: labels` for answers that are no closed list, or a list too long to score."""


def decoding_content(spec: UseCaseSpec) -> dict[str, Any]:
    """What of the decoding decides answers, named as in the YAML; nothing while it is greedy, as it always was."""
    wanted = spec.evaluation.decoding
    return {} if wanted == "greedy" else {"evaluation.decoding": wanted}


def decoded(jobs: Iterable[PredictJob], spec: UseCaseSpec, task: Task, completions: Sequence[str]) -> list[PredictJob]:
    """The jobs with the use case's decoding, the same for all systems; answers of untrained ones end where a worked example ends.

    Args:
        completions: of the training set.

    Raises:
        OpenAnswers: the task's answers are no closed list.
    """
    decoding = decoding_of(spec, task, completions)

    def end(job: PredictJob) -> tuple[str, ...]:
        return () if job.adapter is not None else example_end(completions, style=job.format.style)

    return [job.model_copy(update={"decoding": decoding, "stop": end(job)}) for job in jobs]


def example_end(completions: Iterable[str], *, style: str) -> tuple[str, ...]:
    """What ends an answer in plain style: a line break, when no answer of the training set has one. A base model knows no end of a turn,
    and would go on."""
    return ("\n",) if style == "plain" and not any("\n" in completion.strip() for completion in completions) else ()


def decoding_of(spec: UseCaseSpec, task: Task, completions: Sequence[str]) -> Decoding | None:
    """What answers can be; None: free text.

    Raises:
        OpenAnswers: the task's answers are no closed list.
    """
    if spec.evaluation.decoding == "labels":
        return LabelDecoding(labels=tuple(closed_answers(task, completions)))
    if spec.evaluation.decoding == "json_schema":
        assert isinstance(task, ExtractionTask), task.type
        assert task.schema is not None
        ordered = {name: task.properties[name] for name in _key_order(task, completions)}
        return JsonDecoding(answer_schema={**task.schema, "properties": ordered}, separators=json_separators(completions))
    return None


def closed_answers(task: Task, completions: Sequence[str]) -> list[str]:
    """Every answer that the task allows, written as the training set writes it.

    Raises:
        OpenAnswers: says which field is open, or how many answers there would be.
    """
    if isinstance(task, ClassificationTask):
        written = _most_usual((task.class_of(completion), completion.strip()) for completion in completions)
        return [written.get(label, label) for label in task.classes]
    assert isinstance(task, ExtractionTask), task.type
    values = {name: _closed_values(name, task) for name in _key_order(task, completions)}
    count = 1
    for each in values.values():
        count *= len(each)
    if count > MOST_ANSWERS:
        raise OpenAnswers(
            f"evaluation.decoding: labels would score {count:,} answers for each row, want at most {MOST_ANSWERS}; "
            "write `decoding: json_schema`"
        )
    return _written(task, values, completions)


def json_separators(completions: Iterable[str]) -> tuple[str, str] | None:
    """What most of the training answers have between items and after keys; None when most are written otherwise, such as over lines."""
    found = Counter[tuple[str, str] | None]()
    for completion in completions:
        value = parsed(completion)
        fits = (pair for pair in SEPARATORS if completion.strip() in _dumped(value, pair))
        found[next(fits, None)] += 1
    return found.most_common(1)[0][0] if found else SEPARATORS[0]


def _written(task: ExtractionTask, values: Mapping[str, list[Any]], completions: Sequence[str]) -> list[str]:
    seen = _most_usual((_canonical(parsed(completion)), completion.strip()) for completion in completions)
    separators = json_separators(completions) or SEPARATORS[0]
    answers = []
    for combination in product(*values.values()):
        answer = {name: value for name, value in zip(values, combination, strict=True) if value is not _ABSENT}
        text = seen.get(_canonical(answer), json.dumps(answer, ensure_ascii=False, separators=separators))
        if task.problem(text) is None:
            answers.append(text)
    if len(answers) < 2:
        raise OpenAnswers(f"evaluation.decoding: labels needs two answers at least, the schema allows {some(answers) or 'none'}")
    return answers


def _closed_values(name: str, task: ExtractionTask) -> list[Any]:
    sub = task.properties[name]
    assert task.schema is not None
    absent = [] if name in task.schema.get("required", ()) else [_ABSENT]
    if isinstance(sub, dict):
        if "enum" in sub:
            return [*sub["enum"], *absent]
        if "const" in sub:
            return [sub["const"], *absent]
        if sub.get("type") == "boolean":
            return [True, False, *absent]
    raise OpenAnswers(
        f"evaluation.decoding: labels needs a closed list of values for each field, and {name} has none; write `decoding: json_schema`, "
        f"or give {name} an enum"
    )


def _key_order(task: ExtractionTask, completions: Sequence[str]) -> list[str]:
    """The schema's properties in the order in which most training answers have them."""
    orders = Counter(tuple(value) for value in map(parsed, completions) if isinstance(value, dict))
    usual = orders.most_common(1)[0][0] if orders else ()
    known = [name for name in usual if name in task.properties]
    return [*known, *(name for name in task.properties if name not in known)]


def _most_usual(written: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Of each answer, the text that stands for it most often."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for answer, text in written:
        found[answer][text] += 1
    return {answer: texts.most_common(1)[0][0] for answer, texts in found.items()}


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _dumped(value: Any, separators: tuple[str, str]) -> tuple[str, str]:
    return json.dumps(value, ensure_ascii=False, separators=separators), json.dumps(value, separators=separators)
