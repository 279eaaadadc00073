"""Mistakes in the rows: read as training reads them, and seen as the token ids that it is given."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from fine_tune_pipeline.artifacts.examples import Example
from fine_tune_pipeline.programs.mistakes.checklist import Verdict, fine, not_applicable, wrong
from fine_tune_pipeline.programs.tokenizer_fit import ModelLimits
from fine_tune_pipeline.programs.training import row_checks
from fine_tune_pipeline.programs.training.batches import IGNORED, TEXT_FIELDS, Collate, Row, as_records, over_long, shown_ids
from fine_tune_pipeline.programs.training.row_checks import unanswered

KNOWN = frozenset(field.name for field in fields(Example))
"""Columns that some step of the pipeline reads or keeps."""

COLLATED = 64
"""Rows whose batch is looked at, label by label; the rows themselves are all looked at."""

Raw = dict[str, list[dict[str, Any]]]
"""The rows of each part, as they stand in the file."""


def missing_columns(raw: Raw) -> Counter[str]:
    """Columns that training needs and that are not there as text -> in how many rows."""
    return Counter(name for rows in raw.values() for row in rows for name in TEXT_FIELDS if not isinstance(row.get(name), str))


def unknown_columns(raw: Raw, *, paths: Mapping[str, str]) -> Verdict:
    """Columns that are missing, and columns that nothing reads: a misspelled `history` would be left out in silence."""
    missing = missing_columns(raw)
    extra = Counter(name for rows in raw.values() for row in rows for name in row if name not in KNOWN)
    if missing:
        has = sorted({name for rows in raw.values() for row in rows for name in row})
        return wrong(
            f"{_counted(missing)} not there as text in {', '.join(paths.values())}, whose columns are {', '.join(has)}",
            "give every row id, prompt and completion as text; dataset.sources says which columns they come from",
        )
    if extra:
        return wrong(f"no step reads {_counted(extra)}", f"rename or take out these columns; known are {', '.join(sorted(KNOWN))}")
    return fine(f"id, prompt and completion are text in all rows of {', '.join(raw)}")


def _counted(names: Counter[str]) -> str:
    return ", ".join(f"{name} ({count} rows)" for name, count in names.most_common(10))


def duplicate_ids(raw: Raw) -> Verdict:
    """Within a part and between parts: rows are left out, scored and reviewed by id."""
    places: dict[str, list[str]] = {}
    for part, rows in raw.items():
        for row in rows:
            places.setdefault(row["id"], []).append(part)
    twice = [f"{id} ({', '.join(parts)})" for id, parts in places.items() if len(parts) > 1]
    if twice:
        return wrong(f"{len(twice)} ids stand more than once: {shown_ids(twice)}", "give each row an id of its own, and each row one part")
    return fine(f"{len(places)} rows, as many ids")


def truncation_share(parts: Mapping[str, Sequence[Row]], *, max_length: int, limit: float) -> Verdict:
    """Rows that would be left out; they are never cut. No part may lose all of its rows."""
    rows = [row for part in parts.values() for row in part]
    long = over_long(rows, max_length=max_length)
    share = len(long) / len(rows)
    longest = max(row.length for row in rows)
    emptied = [name for name, part in parts.items() if len(over_long(part, max_length=max_length)) == len(part)]
    seen = f"{len(long)} of {len(rows)} rows ({share:.1%}) are longer than max_length {max_length}; the longest has {longest} tokens"
    if emptied or share > limit:
        none_left = f"; nothing would be left of {' and '.join(emptied)}" if emptied else ""
        return wrong(
            f"{seen}; training.over_long_limit is {limit:.1%}{none_left}: {shown_ids(long)}",
            f"raise training.max_length to {longest}, or shorten these rows; over_long.jsonl names all of them",
        )
    return fine(seen)


def beyond_context(rows: Sequence[Row], *, max_length: int, limits: ModelLimits) -> Verdict:
    """Of the rows that training would keep, those that the model cannot look back on: most models give no error, and learn noise."""
    if limits.context_tokens is None:
        return not_applicable("the model's config.json names no context")
    kept = [row for row in rows if row.length <= max_length]
    longest = max((row.length for row in kept), default=0)
    if long := row_checks.beyond_context(kept, limits):
        return wrong(
            f"{len(long)} of {len(rows)} rows are longer than the model's context of {limits.context_tokens} tokens, the longest has "
            f"{longest}: {shown_ids(long)}",
            f"write training.max_length: {limits.context_tokens}, shorten these rows, or choose a base model with a longer context",
        )
    return fine(f"the longest row to be learned has {longest} tokens, the model's context {limits.context_tokens}")


def wrong_tokenizer(rows: Sequence[Row], *, tokenizer: PreTrainedTokenizerBase, limits: ModelLimits) -> Verdict:
    """Of a tokenizer that `load_tokenizer` has accepted: whether every token of the rows has a place in the model."""
    if limits.places is None:
        return not_applicable("the model's config.json does not say how many tokens it knows")
    highest = max(id for row in rows for id in row.input_ids)
    if placeless := row_checks.without_place(rows, limits):
        return wrong(
            f"{len(placeless)} of {len(rows)} rows hold a token that the model has no place for, such as "
            f"{tokenizer.convert_ids_to_tokens(highest)!r} ({highest} of {limits.places}): {shown_ids(placeless)}",
            "put the tokenizer files of this model into its folder, or take this token out of the chat template",
        )
    return fine(f"the tokenizer knows {len(tokenizer)} tokens, the model {limits.places}; the highest in the rows is {highest}")


def empty_label_mask(rows: Sequence[Row], *, tokenizer: PreTrainedTokenizerBase) -> Verdict:
    """Rows of which nothing but special tokens and white space would be learned as an answer."""
    empty = {row.id for row in rows if not row.labelled}.union(unanswered(rows, tokenizer=tokenizer))
    if empty:
        named = [row.id for row in rows if row.id in empty]
        return wrong(f"{len(named)} of {len(rows)} rows have no token to learn from: {shown_ids(named)}", "give them a completion")
    labelled = sum(row.own_labelled for row in rows)
    return fine(f"{labelled} of {sum(len(row.input_ids) for row in rows)} tokens are learned from, at least one in each row")


def prompt_tokens_in_loss(rows: Sequence[Row], *, collate: Collate, loss_on: Literal["completion", "all"]) -> Verdict:
    """In all rows and, as the loss sees them, in a batch of some of them."""
    if loss_on == "all":
        return not_applicable("training.loss_on is all: the prompts are meant to be learned")
    learned = [row.id for row in rows if any(label != IGNORED for label in row.labels[: row.prompt_tokens])]
    some = list(rows[:COLLATED])
    counted = int((collate(as_records(some))["labels"] != IGNORED).sum())
    wanted = sum(len(row.input_ids) - row.prompt_tokens for row in some)
    if learned or counted != wanted:
        return wrong(
            f"{len(learned)} of {len(rows)} rows learn from their prompt ({shown_ids(learned) or 'none'}); a batch of {len(some)} rows has "
            f"{counted} labels where their answers have {wanted} tokens",
            "the code that masks prompts or makes batches has changed: take the pinned versions of trl and transformers (constraints.txt)",
        )
    return fine(f"only the {wanted} tokens of the answers count in a batch of {len(some)} rows")


def doubled_bos(rows: Sequence[Row], *, bos_id: int | None) -> Verdict:
    """Counted in the ids that training is given. Between the turns of a conversation some templates write one on purpose."""
    if bos_id is None:
        return not_applicable("the tokenizer has no begin token")
    twice = [row.id for row in rows if row.input_ids[:2] == [bos_id] * 2 or row.input_ids[row.prompt_tokens] == bos_id]
    without = [row.id for row in rows if row.input_ids[:1] != [bos_id]]
    if twice or without:
        return wrong(
            f"{len(twice)} of {len(rows)} rows have a second begin token, {len(without)} do not begin with one: "
            f"{shown_ids([*twice, *without])}",
            "let the chat template write bos_token once, in its first place (chat_template.jinja)",
        )
    return fine(f"each of {len(rows)} rows begins with token {bos_id} once")


def eos_never_learned(rows: Sequence[Row], *, end_id: int, collate: Collate) -> Verdict:
    """The last label of every row, and those of a batch of some of them: padding must not have masked it out."""
    endless = [row.id for row in rows if row.labels[-1:] != [end_id]]
    some = list(rows[:COLLATED])
    batch = collate(as_records(some))
    kept = int((batch["labels"] == end_id).sum())
    wanted = sum(row.labels.count(end_id) for row in some)
    if endless or kept != wanted:
        return wrong(
            f"{len(endless)} of {len(rows)} rows do not end in a label of end token {end_id} ({shown_ids(endless) or 'none'}); "
            f"a batch of {len(some)} rows has {kept} of them, want {wanted}",
            "give the tokenizer an end token that is not its pad token (tokenizer_config.json), and cut no row",
        )
    return fine(f"each of {len(rows)} rows ends in a label of token {end_id}; {kept} of {wanted} are left in a batch of {len(some)} rows")
