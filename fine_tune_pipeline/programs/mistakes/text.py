"""Mistakes between tokenizer, chat template and the files that a server reads: what is taught must be what serving sees and stops at."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel
from pydantic import ValidationError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.programs.decoding import end_ids
from fine_tune_pipeline.programs.mistakes.checklist import Verdict, fine, wrong
from fine_tune_pipeline.programs.prompts import ReservedText, end_id
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline.programs.serving.http_errors import Refused
from fine_tune_pipeline.programs.serving.served_prompts import Fed, request_body, served_prompts
from fine_tune_pipeline.programs.training.batches import Row

SAMPLED = 8
"""Rows that are rendered anew, spread over the part; as many of those with earlier turns or tools, if there are any."""


def pad_equals_eos(tokenizer: PreTrainedTokenizerBase, *, format: PromptFormat) -> Verdict:
    """Of the tokenizer as training has it: `load_tokenizer` has looked for another pad token where the files name the end token."""
    pad, end = tokenizer.pad_token_id, end_id(tokenizer=tokenizer, format=format)
    names = {"pad": tokenizer.convert_ids_to_tokens(pad), "end": tokenizer.convert_ids_to_tokens(end)}
    if pad in (end, tokenizer.eos_token_id):
        return wrong(
            f"the pad token {names['pad']!r} is what ends an answer",
            "name an unused vocabulary entry as pad_token in tokenizer_config.json",
        )
    return fine(f"pad token {names['pad']!r}, end token {names['end']!r}")


def chat_template(
    examples: Sequence[Mapping[str, Any]],
    rows: Sequence[Row],
    *,
    folder: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    format: PromptFormat,
) -> Verdict:
    """One template in the folder, and the same tokens of some rows as training has them, as the endpoint makes them of a request's body,
    and as one conversation.

    Args:
        examples: as the file has them, in the order of `rows`.
        folder: of the base model, which serving reads too.
        tokenizer: of that folder.
    """
    hashes = template_hashes(folder)
    if format.style == "chat" and len(set(hashes.values())) > 1:
        said = ", ".join(f"{name} ({digest[:12]})" for name, digest in hashes.items())
        return wrong(f"the folder has two different chat templates: {said}", "keep one: servers differ in which they read")
    conversations = any(Asked.of(example).beside() for example in examples)
    served = served_prompts(folder, format=format, conversations=conversations)
    sample = _sample(examples, rows)
    for example, row in sample:
        differs = _served_differently(example, row, served=served, tokenizer=tokenizer)
        if differs is not None:
            return differs
        whole = _conversation(example, tokenizer=tokenizer) if format.style == "chat" else None
        if whole is not None and not whole.startswith(answered := tokenizer.decode(row.input_ids)):
            return wrong(
                _differ(row.id, answered, whole), "correct chat_template.jinja, clean the answer's ends, or use format.style: plain"
            )
    return fine(_same(tokenizer, format=format, rows=len(sample)))


def _sample(examples: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> list[tuple[Mapping[str, Any], Row]]:
    pairs = list(zip(examples, rows, strict=True))
    talks = [pair for pair in pairs if Asked.of(pair[0]).beside()]
    chosen = [pair for some in (pairs, talks) for pair in some[:: max(1, len(some) // SAMPLED)][:SAMPLED]]
    return list({row.id: (example, row) for example, row in chosen}.values())


def _served_differently(example: Mapping[str, Any], row: Row, *, served: Fed, tokenizer: PreTrainedTokenizerBase) -> Verdict | None:
    """What the endpoint would feed the model for this row, if that is not what training has before the answer."""
    trained = row.input_ids[: row.prompt_tokens]
    try:
        fed = served(request_body(example), context=Asked.of(example).context)
    except (ValidationError, Refused, ReservedText) as error:
        return wrong(f"row {row.id} cannot be asked of the endpoint: {error}", "correct its prompt or its earlier turns, or take it out")
    if fed == trained:
        return None
    texts = tokenizer.decode(trained), tokenizer.decode(fed)
    seen = _differ(row.id, *texts) if texts[0] != texts[1] else _differ(row.id, *(f"tokens {ids}" for ids in (trained, fed)))
    return wrong(seen, "use the template of the base model for both")


def template_hashes(folder: str | Path) -> dict[str, str]:
    """SHA-256 of the chat template in each file of the folder that may hold one; servers read one or the other."""
    found: dict[str, str] = {}
    jinja, config = Path(folder) / "chat_template.jinja", Path(folder) / "tokenizer_config.json"
    if jinja.is_file():
        found[jinja.name] = text_hash(jinja.read_text(encoding="utf-8"))
    named = json.loads(config.read_text(encoding="utf-8")).get("chat_template") if config.is_file() else None
    if isinstance(named, list):
        named = next((entry["template"] for entry in named if entry.get("name") == "default"), None)
    if named is not None:
        found[config.name] = text_hash(named)
    return found


def text_hash(template: str) -> str:
    """SHA-256 of a template, but for the line end that editors add."""
    return hashlib.sha256(template.rstrip("\n").encode()).hexdigest()


def saved_tokenizer(saved: PreTrainedTokenizerBase, *, base: PreTrainedTokenizerBase) -> Verdict | None:
    """What is wrong with the tokenizer that lies beside a whole trained model, which other servers read; None if nothing is."""
    for what in ("chat_template", "eos_token_id", "bos_token_id"):
        if getattr(saved, what) != getattr(base, what):
            return wrong(
                f"saved beside the trained model, {what} is {getattr(saved, what)!r}, in training {getattr(base, what)!r}",
                "take the pinned version of transformers (constraints.txt), or copy the base model's tokenizer files over",
            )
    return None


def generation_never_stops(
    rows: Sequence[Row], *, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, format: PromptFormat
) -> Verdict:
    """Whether the last label of every row is one of the tokens at which the endpoint's own decoding ends an answer."""
    taught = {row.labels[-1] for row in rows}
    stops = end_ids(model, tokenizer=tokenizer, format=format)
    words = _names(taught, tokenizer)
    if never := taught - stops:
        return wrong(
            f"rows end in {_names(never, tokenizer)}, and generation stops at {_names(stops, tokenizer)}",
            "add that token to eos_token_id in generation_config.json",
        )
    if max(taught) >= model.get_input_embeddings().weight.shape[0]:
        return wrong(f"the model has no place for {words}, so it can never write it", "take the tokenizer that belongs to this model")
    generation = model.generation_config
    named = None if generation is None else generation.eos_token_id
    known = {named} if isinstance(named, int) else set(named or ())
    advice = "" if taught <= known else f"to serve it elsewhere, add {sorted(taught - known)} to eos_token_id in generation_config.json"
    return fine(f"rows end in {words}, and generation stops there", advice)


def _conversation(example: Mapping[str, Any], *, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """A row as a trainer or a server renders a whole conversation; None where it has earlier turns, tools or passages."""
    asked = Asked.of(example)
    if asked.beside() or asked.context:
        return None
    turns = [{"role": "user", "content": asked.prompt}, {"role": "assistant", "content": example["completion"]}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False, enable_thinking=False)
    assert isinstance(text, str)
    # Through the tokens and back, as the row that it is compared with.
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    bos = tokenizer.bos_token_id
    return tokenizer.decode(ids if bos is None or ids[:1] == [bos] else [bos, *ids])


def _differ(id: str, one: str, other: str) -> str:
    place = next((index for index, (left, right) in enumerate(zip(one, other, strict=False)) if left != right), min(len(one), len(other)))
    start = max(0, place - 20)
    return f"row {id} is {one[start : place + 40]!r} in training and {other[start : place + 40]!r} in serving, from character {place} on"


def _same(tokenizer: PreTrainedTokenizerBase, *, format: PromptFormat, rows: int) -> str:
    if format.style == "plain":
        return f"plain style, no template; {rows} rows have the same tokens in training and serving"
    template = tokenizer.chat_template
    assert isinstance(template, str)
    return f"template {text_hash(template)[:12]}; {rows} rows have the same tokens in training and serving"


def _names(ids: set[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return ", ".join(f"{tokenizer.convert_ids_to_tokens(id)!r} ({id})" for id in sorted(ids))
