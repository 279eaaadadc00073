"""How well the answers of a model in training are, on a few validation rows: greedily generated and scored by a metric of the task."""

import random
from collections.abc import Callable, Mapping, Sequence

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fine_tune_pipeline.programs.decoding import generate_batch
from fine_tune_pipeline.programs.head import base_of
from fine_tune_pipeline.programs.named_work import named
from fine_tune_pipeline.programs.predict import batches
from fine_tune_pipeline.programs.requests import AnswerScoring, EarlyStopping, PromptFormat, TrainRequest
from fine_tune_pipeline.programs.rows import read_rows
from fine_tune_pipeline.programs.training.adapters import evaluate
from fine_tune_pipeline.programs.training.batches import TEXT_FIELDS, Row
from fine_tune_pipeline.programs.training.early_stopping import BestWeights, Stopping
from fine_tune_pipeline.programs.training.flat_rows import use_rows_attention
from fine_tune_pipeline.programs.training.progress import Seen
from fine_tune_pipeline.programs.training.trainer import CompletionTrainer, Endurance

BATCH_ROWS, BATCH_TOKENS = 32, 16384
"""At most in one batch of answers: half of what `predict` takes, since here a training is in memory too."""


class Answers:
    """Always the same sample, so that its scores can be compared.

    Args:
        references: right answers by the rows' ids.
        size: rows of the sample.
        flat: whether the model reads rows laid end to end, which answering does not do.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        references: Mapping[str, str],
        wanted: AnswerScoring,
        *,
        size: int,
        tokenizer: PreTrainedTokenizerBase,
        format: PromptFormat,
        flat: bool,
    ) -> None:
        chosen = random.Random(0).sample(list(rows), min(size, len(rows)))
        self.rows = sorted(chosen, key=lambda row: row.prompt_tokens, reverse=True)
        self._references = references
        self._wanted = wanted
        self._score: Callable[[str, str], float] = named(wanted.function)(wanted.settings)
        self._tokenizer = tokenizer
        self._format = format
        self._flat = flat

    def score(self, model: PreTrainedModel | PeftModel, *, endurance: Endurance) -> float:
        """The mean over the sample.

        Raises:
            Interrupted: a signal wants the program to end.
            PromptTooLong: a prompt and its answer do not fit into the model's context.
        """
        base = base_of(model)
        evaluate(model)
        if self._flat:
            base.set_attn_implementation("sdpa")
        try:
            return sum(self._scores(model, endurance)) / len(self.rows)
        finally:
            if self._flat:
                use_rows_attention(base)
            model.train()

    def _scores(self, model: PreTrainedModel | PeftModel, endurance: Endurance) -> list[float]:
        scores: list[float] = []
        widths = [row.prompt_tokens + self._wanted.max_new_tokens for row in self.rows]
        for part in batches(widths, rows=BATCH_ROWS, tokens=BATCH_TOKENS):
            rows = self.rows[part]
            with endurance.preemption.interruptible():
                written = generate_batch(
                    model,
                    self._tokenizer,
                    [row.input_ids[: row.prompt_tokens] for row in rows],
                    format=self._format,
                    max_new_tokens=self._wanted.max_new_tokens,
                )
            endurance.beat()
            scores += [self._score(answer.text, self._references[row.id]) for row, answer in zip(rows, written, strict=True)]
        return scores


def stopping(
    wanted: EarlyStopping,
    weights: BestWeights,
    *,
    request: TrainRequest,
    rows: Sequence[Row],
    trainer: CompletionTrainer,
    tokenizer: PreTrainedTokenizerBase,
    endurance: Endurance,
    seen: Seen,
) -> Stopping:
    """What judges a training: its validation loss, or its answers to some of `rows`."""
    asked = request.answers
    if asked is None:
        return Stopping(wanted, weights, score=None, higher_is_better=False, scores=(), say=endurance.log)
    references = {row["id"]: row["completion"] for row in read_rows(request.validation, text_fields=TEXT_FIELDS, unique=("id",))}
    answers = Answers(rows, references, asked, size=wanted.rows, tokenizer=tokenizer, format=request.format, flat=trainer.collate.flat)
    return Stopping(
        wanted,
        weights,
        score=lambda: answers.score(trainer.trained, endurance=endurance),
        higher_is_better=asked.higher_is_better,
        scores=seen.scores,
        say=endurance.log,
    )
