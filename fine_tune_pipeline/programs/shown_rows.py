"""The rows of a dataset as the model will see them: how long they are, how much of them is learned, and some of them piece by piece."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby, pairwise

from transformers import PreTrainedTokenizerBase

from fine_tune_pipeline.artifacts.lengths import lengths
from fine_tune_pipeline.programs.preflight_requests import Answer, LabelledRow, LongRow, PartTokens, Piece, Rendered, TokenLengths
from fine_tune_pipeline.programs.tokenizer_fit import special_ids
from fine_tune_pipeline.programs.training.batches import IGNORED, Row
from fine_tune_pipeline.programs.training.preference_rows import Judged, Pair

PREVIEW_RANKS = (0.0, 0.5, 1.0)
"""Rows that are shown, by the rank of their length: the shortest, the one in the middle, the longest."""

LEAST_LABELLED = 3
"""Rows that are named for their low share of learned tokens."""

CHARACTER_TOKENS = 4
"""Tokens that one character may be cut into: UTF-8 has four bytes at most."""

Decode = Callable[[list[int]], str]


def part_tokens(part: str, rows: Sequence[Row], *, max_length: int) -> PartTokens:
    """How long the rows of a part are, and how much of them is learned."""
    prompts = [row.prompt_tokens for row in rows]
    wholes = [row.length for row in rows]
    answers = [whole - prompt for whole, prompt in zip(wholes, prompts, strict=True)]
    found = {"prompt": prompts, "completion": answers, "whole": wholes}
    long_rows = tuple(LongRow(id=row.id, tokens=row.length) for row in rows if row.length > max_length)
    least = sorted(rows, key=lambda row: row.own_labelled / len(row.input_ids))[:LEAST_LABELLED]
    return PartTokens(
        part=part,
        lengths={name: TokenLengths(**asdict(lengths(values))) for name, values in found.items()},
        over_long=len(long_rows),
        long_rows=long_rows,
        labelled=sum(row.own_labelled for row in rows),
        least_labelled=tuple(LabelledRow(id=row.id, labelled=row.own_labelled, tokens=len(row.input_ids)) for row in least),
    )


def preview(rows: Sequence[Row], *, tokenizer: PreTrainedTokenizerBase) -> tuple[Rendered, ...]:
    """A few rows as text again, with every special token written out: what is decoded here is what the model is given.

    Where answers are compared, each row comes with the one that people liked less.
    """
    unwanted = {row.id: row for row in rows if isinstance(row, Judged) and not row.desirable}
    ranked = sorted((row for row in rows if not isinstance(row, Judged) or row.desirable), key=lambda row: len(row.input_ids))
    places = sorted({round(rank * (len(ranked) - 1)) for rank in PREVIEW_RANKS}) if ranked else []
    shown = [answer for place in places for answer in _answers(ranked[place], unwanted)]
    return tuple(_rendered(row, tokenizer, answer) for answer, row in shown)


def _answers(row: Row, unwanted: Mapping[str, Row]) -> list[tuple[Answer | None, Row]]:
    if isinstance(row, Pair):
        return [("preferred", row), ("rejected", row.rejected)]
    if not isinstance(row, Judged):
        return [(None, row)]
    wanted: list[tuple[Answer | None, Row]] = [("wanted", row)]
    return [*wanted, ("unwanted", unwanted[row.id])] if row.id in unwanted else wanted


def _rendered(row: Row, tokenizer: PreTrainedTokenizerBase, answer: Answer | None) -> Rendered:
    decode = _decoder(tokenizer)
    prompt, completion = row.input_ids[: row.prompt_tokens], row.input_ids[row.prompt_tokens :]
    shown = pieces(row, tokenizer=tokenizer)
    tokens = len(row.input_ids)
    return Rendered(id=row.id, prompt=decode(prompt), completion=decode(completion), tokens=tokens, pieces=shown, answer=answer)


def pieces(row: Row, *, tokenizer: PreTrainedTokenizerBase) -> tuple[Piece, ...]:
    """A row, cut where tokens begin or cease to be learned and around each special token.

    A character whose tokens stand on both sides of a cut belongs to the later piece.
    """
    special = special_ids(tokenizer)
    # As in `Row.labelled`: nothing stands before the first token to predict it from.
    kinds = [
        (place > 0 and label != IGNORED, id in special) for place, (id, label) in enumerate(zip(row.input_ids, row.labels, strict=True))
    ]
    runs = [list(run) for _, run in groupby(range(len(kinds)), key=lambda place: (kinds[place], place if kinds[place][1] else None))]
    ends = [run[-1] + 1 for run in runs]
    cuts, texts = _texts(row.input_ids, ends, decode=_decoder(tokenizer))
    return tuple(
        Piece(text=text, tokens=stop - start, learned=kinds[run[-1]][0], special=kinds[run[-1]][1])
        for run, text, (start, stop) in zip(runs, texts, pairwise([0, *cuts]), strict=True)
        if stop > start
    )


def _texts(ids: list[int], ends: Sequence[int], *, decode: Decode) -> tuple[list[int], list[str]]:
    """Where the pieces end that should end at `ends`, and their texts, which together are the text of the whole.

    Texts are what the whole grows by: on its own, a piece may lose the space that it begins with. A decoder whose texts do not grow
    evenly (it joins words, say) gets each piece on its own.
    """
    whole = decode(ids)
    cuts = [_cut(ids, end, whole=whole, decode=decode) for end in ends]
    if any(cut is None for cut in cuts):
        return list(ends), [decode(ids[start:stop]) for start, stop in pairwise([0, *ends])]
    found = [cut for cut in cuts if cut is not None]
    lengths_so_far = [0, *(len(decode(ids[:cut])) for cut in found)]
    return found, [whole[start:stop] for start, stop in pairwise(lengths_so_far)]


def _cut(ids: list[int], end: int, *, whole: str, decode: Decode) -> int | None:
    """The last place up to `end` at which no character is half written; None if there is none near by."""
    near = range(end, max(end - CHARACTER_TOKENS, -1), -1)
    return next((place for place in near if whole.startswith(decode(ids[:place]))), None)


def _decoder(tokenizer: PreTrainedTokenizerBase) -> Decode:
    def decode(ids: list[int]) -> str:
        text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    return decode
