"""The rows as training will be given them, and every mistake that shows in them before a model is loaded."""

from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from fine_tune_pipeline.programs.mistakes.checklist import Checklist, Verdict, wrong
from fine_tune_pipeline.programs.mistakes.data import (
    Raw,
    beyond_context,
    doubled_bos,
    duplicate_ids,
    empty_label_mask,
    eos_never_learned,
    missing_columns,
    prompt_tokens_in_loss,
    truncation_share,
    unknown_columns,
    wrong_tokenizer,
)
from fine_tune_pipeline.programs.mistakes.text import chat_template, pad_equals_eos
from fine_tune_pipeline.programs.models import NoPadToken, load_tokenizer
from fine_tune_pipeline.programs.preflight_requests import PreflightRequest
from fine_tune_pipeline.programs.prompts import NoChatTemplate, NoEndOfTurn, NoEndToken, ReservedText, UnusableChatTemplate, end_id
from fine_tune_pipeline.programs.rows import read_rows
from fine_tune_pipeline.programs.tokenizer_fit import WrongTokenizer, model_limits
from fine_tune_pipeline.programs.training.batches import Collate, Row, tokenised
from fine_tune_pipeline.programs.training.preference_rows import learned_rows
from fine_tune_pipeline.programs.training.recipe import pad_id

TEST = "test"
"""The part that no training sees."""


@dataclass(frozen=True)
class Texts:
    """The rows of each part as tokens, in the order of the file; `parts` is empty where a mistake keeps them from becoming tokens."""

    rows: int
    parts: dict[str, list[Row]] = field(default_factory=dict)
    tokenizer: PreTrainedTokenizerBase | None = None

    @property
    def learned(self) -> list[Row]:
        """Rows that go through the model in training."""
        return [row for name, part in self.parts.items() if name != TEST for row in part]


def read_texts(request: PreflightRequest, checks: Checklist) -> Texts:
    """Read every part as training does, and look at it.

    Raises:
        BadRows: a file is missing, empty or no JSONL.
    """
    named = {"train": request.train, "validation": request.validation, TEST: request.test}
    paths = {name: path for name, path in named.items() if path is not None}
    raw: Raw = {name: read_rows(path, text_fields=()) for name, path in paths.items()}
    checks.look("unknown_columns", lambda: unknown_columns(raw, paths=paths))
    if missing_columns(raw):
        return Texts(rows=0)
    checks.look("duplicate_ids", lambda: duplicate_ids(raw))
    return _tokens(request, raw, checks)


def _tokens(request: PreflightRequest, raw: Raw, checks: Checklist) -> Texts:
    rows = sum(len(part) for name, part in raw.items() if name != TEST)
    loss_on = request.hyperparameters.loss_on
    try:
        tokenizer = load_tokenizer(request.model)
        end = end_id(tokenizer=tokenizer, format=request.format)
        parts = {
            name: [tokenised(row, tokenizer=tokenizer, format=request.format, loss_on=loss_on) for row in part]
            if name == TEST
            else learned_rows(part, source=name, tokenizer=tokenizer, format=request.format, hyperparameters=request.hyperparameters).rows
            for name, part in raw.items()
        }
    except WrongTokenizer as error:
        checks.set("wrong_tokenizer", _said(error))
    except NoPadToken as error:
        checks.set("pad_equals_eos", _said(error))
    except (NoEndToken, NoEndOfTurn) as error:
        checks.set("eos_never_learned", _said(error))
    except (NoChatTemplate, UnusableChatTemplate, ReservedText) as error:
        checks.set("chat_template", _said(error))
    else:
        texts = Texts(rows, parts, tokenizer)
        _look(request, raw, texts, tokenizer=tokenizer, end=end, checks=checks)
        return texts
    return Texts(rows)


def _look(request: PreflightRequest, raw: Raw, texts: Texts, *, tokenizer: PreTrainedTokenizerBase, end: int, checks: Checklist) -> None:
    wanted, rows = request.hyperparameters, texts.learned
    collate = Collate(pad_id=pad_id(tokenizer), flat=False)
    bos = tokenizer.bos_token_id if isinstance(tokenizer.bos_token_id, int) else None
    limits = model_limits(request.model)
    seen = {name: part for name, part in texts.parts.items() if name != TEST}
    checks.look("wrong_tokenizer", lambda: wrong_tokenizer(rows, tokenizer=tokenizer, limits=limits))
    checks.look("pad_equals_eos", lambda: pad_equals_eos(tokenizer, format=request.format))
    checks.look(
        "chat_template",
        lambda: chat_template(*_alike(raw, texts), folder=request.model, tokenizer=tokenizer, format=request.format),
    )
    checks.look("truncation_share", lambda: truncation_share(seen, max_length=wanted.max_length, limit=request.over_long_limit))
    checks.look("beyond_context", lambda: beyond_context(rows, max_length=wanted.max_length, limits=limits))
    checks.look("empty_label_mask", lambda: empty_label_mask(rows, tokenizer=tokenizer))
    checks.look("prompt_tokens_in_loss", lambda: prompt_tokens_in_loss(rows, collate=collate, loss_on=wanted.loss_on))
    checks.look("doubled_bos", lambda: doubled_bos(rows, bos_id=bos))
    checks.look("eos_never_learned", lambda: eos_never_learned(rows, end_id=end, collate=collate))


def _alike(raw: Raw, texts: Texts) -> tuple[list[dict[str, Any]], list[Row]]:
    """Training examples beside their rows; of answers that are compared, the preferred one."""
    examples, rows = raw["train"], texts.parts["train"]
    if len(examples) == len(rows):
        return examples, rows
    first = {row.id: row for row in reversed(rows)}
    found = [example for example in examples if example["id"] in first]
    return found, [first[example["id"]] for example in found]


def _said(error: ValueError) -> Verdict:
    seen, _, change = str(error).partition("; ")
    return wrong(seen, change)
