"""Whether a tokenizer belongs to the model beside it: a foreign one trains and serves without an error, and the model learns noise."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

LEAST_SHARE = 0.5
"""Of the model's places, what its own tokenizer fills at least; places are padded to round numbers, hardly ever by more than a tenth."""


class WrongTokenizer(ValueError):
    """The tokenizer in a model's folder is that of another model."""


@dataclass(frozen=True)
class ModelLimits:
    """What config.json says of a model; None where it says nothing. `places` are the rows of its embedding, one a token."""

    places: int | None = None
    context_tokens: int | None = None
    end_ids: tuple[int, ...] = ()


def model_limits(folder: str | Path) -> ModelLimits:
    """Of a model's folder; without a config.json, as of an adapter, or of a tokenizer from nowhere (""), nothing is known."""
    if folder == "":
        return ModelLimits()
    config = _json(Path(folder) / "config.json")
    # A model for images and text keeps what belongs to the text apart.
    texts = [config, config.get("text_config") or {}]
    ends = [*_ids(texts, "eos_token_id"), *_ids([_json(Path(folder) / "generation_config.json")], "eos_token_id")]
    return ModelLimits(
        places=_number(texts, "vocab_size"), context_tokens=_number(texts, "max_position_embeddings"), end_ids=tuple(dict.fromkeys(ends))
    )


def refuse_foreign(tokenizer: PreTrainedTokenizerBase, *, folder: str | Path) -> None:
    """Compare a tokenizer with the model that it lies beside.

    A few added tokens may have no place (Gemma 3's mark of an image has none in the models without images); those in use must have one.

    Raises:
        WrongTokenizer: it has more words than the model has places, or far fewer, a special token has no place, or what the model ends
            an answer with is no special token of the tokenizer.
    """
    limits = model_limits(folder)
    if limits.places is None:
        return
    if wrong := _misfit(tokenizer, limits, places=limits.places):
        raise WrongTokenizer(f"{folder}: {wrong}; put the tokenizer files (tokenizer.json, tokenizer_config.json) of this model there")


def _misfit(tokenizer: PreTrainedTokenizerBase, limits: ModelLimits, *, places: int) -> str | None:
    words, all_tokens = tokenizer.vocab_size, len(tokenizer)
    if words > places:
        return f"the tokenizer has a vocabulary of {words:,} tokens and the model places for {places:,}"
    if all_tokens < LEAST_SHARE * places:
        return f"the tokenizer knows {all_tokens:,} tokens and the model has places for {places:,}: it is that of another model"
    named = {name: getattr(tokenizer, f"{name}_id") for name in ("bos_token", "eos_token", "pad_token")}
    if beyond := {name: id for name, id in named.items() if isinstance(id, int) and id >= places}:
        said = ", ".join(f"{name} {getattr(tokenizer, name)!r} is token {id:,}" for name, id in beyond.items())
        return f"{said}, and the model has places for {places:,}"
    if limits.end_ids and not special_ids(tokenizer).intersection(limits.end_ids):
        meant = ", ".join(f"{id} ({tokenizer.convert_ids_to_tokens(id)!r} to the tokenizer)" for id in limits.end_ids)
        return f"the model ends an answer with token {meant}, which is no special token: the tokenizer is that of another model"
    return None


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that stand for no text: begin, end, turns, padding."""
    return {*tokenizer.all_special_ids, *(id for id, token in tokenizer.added_tokens_decoder.items() if token.special)}


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _number(configs: Sequence[dict[str, Any]], name: str) -> int | None:
    return next((config[name] for config in reversed(configs) if isinstance(config.get(name), int)), None)


def _ids(configs: Sequence[dict[str, Any]], name: str) -> list[int]:
    found = [config.get(name) for config in configs]
    return [id for ids in found for id in (ids if isinstance(ids, list) else [ids]) if isinstance(id, int)]
