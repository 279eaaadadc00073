"""Systems that need no training, on any set of rows: majority, plain classifiers, the base model alone, with worked examples, or with what
was looked up for each prompt.

Step 4 runs them on validation rows, step 7 on the test set, through the same functions.
"""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tune_pipeline.artifacts.examples import Example, write_rows
from fine_tune_pipeline.guide.objective.task import ExtractionTask, Task
from fine_tune_pipeline.guide.technique.placement import answering_on
from fine_tune_pipeline.guide.technique.workload import most_tokens
from fine_tune_pipeline.programs.hosted.requests import HostedPredictRequest, read_hosted
from fine_tune_pipeline.programs.requests import EmbedRequest, EmbedResult, PredictJob, PredictRequest, PredictResult, PromptFormat, Shot
from fine_tune_pipeline.spec.use_case import UseCaseSpec

if TYPE_CHECKING:
    import dagster as dg
    import numpy as np

    from fine_tune_pipeline.resources.compute.base import Compute

CLASSIFIER_C = 30.0
"""Inverse regularisation. Unit vectors need more freedom than scikit-learn's default of 1: 600 rows of banking77 (77 classes) gave an
accuracy of 0.56 at 1, 0.76 at 10, 0.78 at 30, 0.79 at 100. Words want as much: 3,000 rows gave 0.817 at 10, 0.823 at 30, 0.822 at 100."""

CLASSIFIER_ITERATIONS = 2000

WORD_CLASSIFIER = "word_classifier"
CLASSIFIER = "classifier"
ZERO_SHOT = "base_zero_shot"
FEW_SHOT = "base_few_shot"
RETRIEVAL = "base_retrieval"

SPARE_TOKENS = 8
"""Room after the longest known answer, for the end token and an answer that is a little longer."""

_ABSENT = ""
"""Class of a field that an answer does not have; a value is written as JSON, which is never empty."""


class NotAtProvider(Exception):
    """A hosted model is to be held to a list of answers or a schema, for which our own code must choose its tokens."""


def untrained_format(spec: UseCaseSpec, task: Task) -> PromptFormat:
    """The prompt of systems that have not been trained: it says what the task is."""
    wanted = spec.dataset.format
    return PromptFormat(style=wanted.style, instruction=wanted.instruction or task.instruction(spec.objective.goal))


def trained_format(spec: UseCaseSpec) -> PromptFormat:
    """The prompt of a fine-tuned model, in training and ever after: it has learned the task, so no instruction is needed."""
    return PromptFormat(style=spec.dataset.format.style)


def majority_answer(train: Sequence[Example]) -> str:
    """The most frequent completion; of equally frequent ones the first."""
    return Counter(example.completion for example in train).most_common(1)[0][0]


def classifier_answers(
    train: Sequence[Example],
    rows: Sequence[Example],
    *,
    task: Task,
    train_vectors: Any,
    row_vectors: Any,
) -> list[str] | None:
    """Answers of logistic regression on vectors of the prompts, in the order of `rows`; None when the task has no classes.

    For extraction there is one classifier for each property with a closed list of values. The JSON answer holds the properties in the
    schema's order, those without a list with their most frequent value.

    Args:
        train: what it learns from.
        rows: what it answers.
        train_vectors: float [train, width], unit length, of the prompts: sentence embeddings, or a sparse matrix of words.
        row_vectors: float [rows, width], alike.
    """
    assert len(train) == train_vectors.shape[0]
    assert len(rows) == row_vectors.shape[0]
    if not task.classes:
        return None
    if not isinstance(task, ExtractionTask):
        return _classified([task.class_of(example.completion) for example in train], train_vectors, row_vectors)
    answers = [json.loads(example.completion) for example in train]
    columns = {}
    for name in task.properties:
        values = [json.dumps(answer[name], ensure_ascii=False) if name in answer else _ABSENT for answer in answers]
        closed = name in task.enum_fields
        columns[name] = _classified(values, train_vectors, row_vectors) if closed else [_most_frequent(values)] * len(rows)
    return [_assembled({name: column[number] for name, column in columns.items()}) for number in range(len(rows))]


def word_classifier_answers(train: Sequence[Example], rows: Sequence[Example], *, task: Task) -> list[str] | None:
    """Answers of logistic regression on the words and pairs of words of the prompts (TF-IDF); None when the task has no classes."""
    if not task.classes:
        return None
    from sklearn.feature_extraction.text import TfidfVectorizer

    # A text of signs alone has no word; the letter in front of each keeps the vocabulary from being empty.
    learned, asked = ([f"x {example.question}" for example in examples] for examples in (train, rows))
    counts = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    train_vectors = counts.fit_transform(learned)
    return classifier_answers(train, rows, task=task, train_vectors=train_vectors, row_vectors=counts.transform(asked))


def choose_shots(train: Sequence[Example], k: int, *, task: Task, seed: int) -> tuple[Shot, ...]:
    """`k` worked examples spread over the task's classes: one of each class in turn, in an order drawn by `seed`.

    The first examples of a larger `k` are those of a smaller one. Fewer than `k` only when the training set is smaller.
    """
    draw = random.Random(seed)
    by_class: dict[str, list[Example]] = defaultdict(list)
    for example in train:
        by_class[task.class_of(example.completion)].append(example)
    groups = list(by_class.values())
    draw.shuffle(groups)
    for group in groups:
        draw.shuffle(group)
    rounds = range(max((len(group) for group in groups), default=0))
    in_turn = [group[number] for number in rounds for group in groups if number < len(group)]
    return tuple(Shot(prompt=example.question, completion=example.completion) for example in in_turn[:k])


def max_new_tokens(train_completions: Sequence[str]) -> int:
    """Tokens that an answer may take: enough for the longest completion of the training set, without asking a tokenizer."""
    return max((most_tokens(text) for text in train_completions), default=0) + SPARE_TOKENS


@dataclass(frozen=True)
class Embedded:
    """Sentence embeddings of some prompts (float32 [rows, width], unit length, in order), and the seconds that one of them took.

    Loading the encoder is left aside.
    """

    vectors: "np.ndarray"
    seconds: float


def embed_rows(context: "dg.AssetExecutionContext", compute: "Compute", folder: Path, rows: Sequence[Example]) -> "np.ndarray":
    """Sentence embeddings of the prompts: float32 [rows, width], unit length, in order."""
    return embedded(context, compute, folder, rows).vectors


def embedded(context: "dg.AssetExecutionContext", compute: "Compute", folder: Path, rows: Sequence[Example]) -> Embedded:
    """The same with its price.

    Args:
        folder: the program's own; made if it is not there, and no longer needed afterwards.
    """
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "texts.jsonl", ({"id": row.id, "text": row.question} for row in rows))
    request = EmbedRequest(output=str(folder), texts=str(folder / "texts.jsonl"), threads=answering_on(compute.inventory()).threads)
    result = compute.run(context, request, EmbedResult)
    return Embedded(np.load(result.vectors, allow_pickle=False), max(0.0, result.seconds - result.load_seconds) / max(1, result.rows))


def predict(
    context: "dg.AssetExecutionContext",
    compute: "Compute",
    *,
    model: Path,
    jobs: Sequence[PredictJob],
    folder: Path,
    replies: Path,
) -> PredictResult:
    """Run all jobs in one program, so that the base model is loaded once; the answers lie where the jobs say.

    Args:
        model: folder of the base model, which may be a hosted one.
        folder: the program's own; made if it is not there.
        replies: where answers are kept, so that none is made or paid twice; should outlive a run that breaks off.

    Raises:
        NotAtProvider: a hosted model cannot be held to a list or a schema.
    """
    folder.mkdir(parents=True, exist_ok=True)
    hosted = read_hosted(model)
    if hosted is not None:
        if decoding := next((job.decoding for job in jobs if job.decoding is not None), None):
            raise NotAtProvider(
                f"evaluation.decoding: got {decoding.type}, but {hosted.model} stays at its provider; write `decoding: greedy`"
            )
        asked = HostedPredictRequest(output=str(folder), hosted=hosted, jobs=tuple(jobs), replies=str(replies))
        return compute.run(context, asked, PredictResult)
    place = answering_on(compute.inventory())
    request = PredictRequest(
        output=str(folder),
        model=str(model),
        jobs=tuple(jobs),
        threads=place.threads,
        dtype=place.dtype,
        device=place.device,
        parts=str(replies),
    )
    replies.mkdir(parents=True, exist_ok=True)
    return compute.run(context, request, PredictResult)


def write_prompts(path: Path, rows: Sequence[Example]) -> Path:
    """What a prediction may see of the rows, never the answer."""
    write_rows(path, (row.without_answer() for row in rows))
    return path


def write_answers(path: Path, rows: Sequence[Example], answers: Sequence[str]) -> None:
    """Answers of a system that is no language model, in the form of the others."""
    write_rows(path, ({"id": row.id, "text": answer} for row, answer in zip(rows, answers, strict=True)))


def _classified(labels: Sequence[str], train_vectors: Any, row_vectors: Any) -> list[str]:
    if len(set(labels)) == 1:
        return [labels[0]] * int(row_vectors.shape[0])
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=CLASSIFIER_C, max_iter=CLASSIFIER_ITERATIONS)
    return [str(label) for label in model.fit(train_vectors, labels).predict(row_vectors)]


def _most_frequent(values: Sequence[str]) -> str:
    return Counter(values).most_common(1)[0][0]


def _assembled(values: Mapping[str, str]) -> str:
    answer: dict[str, Any] = {name: json.loads(value) for name, value in values.items() if value != _ABSENT}
    return json.dumps(answer, ensure_ascii=False)
