"""How an example becomes tokens: the one place, so that training, preflight, prediction and serving cannot drift apart.

Prompt and completion are tokenised apart and concatenated: the boundary is the same whether the completion is known (training) or
about to be written (serving). No torch here.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError

from fine_tune_pipeline.artifacts.examples import Asked, Message, said
from fine_tune_pipeline.programs.pieced_tokens import pieced_token, texts_in
from fine_tune_pipeline.programs.requests import PromptFormat, Shot

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN_STOP = "\nInput:"
"""A base model that has answered goes on with the next example; here it is cut."""

SYSTEM_ROLES = ("system", "developer")

_PLAIN_NAMES = {"user": "Input", "assistant": "Output", "tool": "Result"}

SHORT_CHARACTERS = 64

_MARK = "answer-goes-here"
"""Stands for the completion while a chat template is asked what it puts after one."""


class NoChatTemplate(ValueError):
    """The format is `chat`, and the tokenizer has no chat template."""


class UnusableChatTemplate(ValueError):
    """The chat template does not continue its own generation prompt, so training and serving would see different tokens."""


class NoEndOfTurn(UnusableChatTemplate):
    """The chat template ends an answer with plain text: a model could not learn to stop."""


class NoEndToken(ValueError):
    """The tokenizer has no end token: a model could never learn to stop."""


class ReservedText(ValueError):
    """A text holds the spelling of a special token, which the chat format would read as the token itself."""


@dataclass(frozen=True)
class Encoded:
    """Token ids of one example; the model sees `prompt_ids + completion_ids`. Without a completion (serving) the second list is empty."""

    prompt_ids: list[int]
    completion_ids: list[int]


def encode(
    asked: str | Asked,
    completion: str | None,
    *,
    tokenizer: "PreTrainedTokenizerBase",
    format: PromptFormat,
    shots: Sequence[Shot] = (),
) -> Encoded:
    """Tokens of one example, with exactly one begin token (if the tokenizer has one) and, after a completion, the end token.

    Args:
        asked: what the user wrote, and what came before it.
        completion: the wanted answer, or None when the model is to write it.
        tokenizer: of the base model.
        format: style and instruction.
        shots: worked examples that stand before the prompt.

    Raises:
        NoChatTemplate, UnusableChatTemplate, ReservedText: the chat format cannot be used with this tokenizer or this text.
        NoEndToken: the tokenizer has no end token.
    """
    asked = Asked(asked) if isinstance(asked, str) else asked
    if format.style == "plain":
        prompt_ids = _ids(plain_prompt(asked, instruction=format.instruction, shots=shots), tokenizer=tokenizer)
        answer = None if completion is None else f" {completion}"
    else:
        _refuse_reserved(_written(asked, completion, instruction=format.instruction, shots=shots), tokenizer=tokenizer)
        text = _chat_prompt(asked, instruction=format.instruction, shots=shots, tokenizer=tokenizer)
        prompt_ids = _ids(text, tokenizer=tokenizer, parse_special=True)
        answer = completion
    completion_ids = [] if answer is None else [*_ids(answer, tokenizer=tokenizer), end_id(tokenizer=tokenizer, format=format)]
    return Encoded(prompt_ids=_with_one_bos(prompt_ids, tokenizer=tokenizer), completion_ids=completion_ids)


def plain_prompt(asked: Asked, *, instruction: str = "", shots: Sequence[Shot] = ()) -> str:
    """The text before the answer in plain style; the answer follows as `" " + completion`."""
    systems = [said(message) for message in asked.history if message["role"] in SYSTEM_ROLES]
    tools = [f"Tools: {_json(asked.tools)}"] if asked.tools else []
    head = "".join(f"{part}\n\n" for part in (instruction, *systems, *tools) if part)
    worked = "".join(f"Input: {shot.prompt}\nOutput: {shot.completion}\n\n" for shot in all_shots(asked, shots))
    before = "".join(_plain_turn(message) for message in asked.history if message["role"] not in SYSTEM_ROLES)
    return f"{head}{worked}{documents(asked)}{before}{_PLAIN_NAMES[asked.role]}: {asked.prompt}\nOutput:"


def all_shots(asked: Asked, shots: Sequence[Shot] = ()) -> list[Shot]:
    """Worked examples that stand before what is asked: the same for every prompt, then those that were looked up for this one."""
    pairs = [passage for passage in asked.context if "completion" in passage]
    return [*shots, *(Shot(prompt=pair["prompt"], completion=pair["completion"]) for pair in pairs)]


def documents(asked: Asked) -> str:
    """Parts of documents that were looked up, as they stand before what is asked; empty if there are none."""
    return "".join(f"Context: {passage['text']}\n\n" for passage in asked.context if "text" in passage)


def _json(tools: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(list(tools), ensure_ascii=False)


def _plain_turn(message: Message) -> str:
    return f"{_PLAIN_NAMES[message['role']]}: {said(message)}\n" + ("\n" if message["role"] == "assistant" else "")


def stops(format: PromptFormat) -> tuple[str, ...]:
    """Strings that end an answer beside the end token."""
    return (PLAIN_STOP,) if format.style == "plain" else ()


def stopped(generated: str, *, format: PromptFormat, stop: Sequence[str] = ()) -> bool:
    """Whether a stop string ends the generated text; those of `stop` count once the answer has begun."""
    return any(each in generated for each in stops(format)) or any(each in generated.lstrip() for each in stop)


def answer_text(generated: str, *, format: PromptFormat, stop: Sequence[str] = ()) -> str:
    """The answer within the generated text: up to the first stop string, without the white space around it."""
    for each in stops(format):
        generated = generated.split(each, 1)[0]
    # White space at the end stays until then: a stop string may end in some.
    generated = generated.lstrip()
    for each in stop:
        generated = generated.split(each, 1)[0]
    return generated.strip()


def end_id(*, tokenizer: "PreTrainedTokenizerBase", format: PromptFormat) -> int:
    """The token that ends a completion: the tokenizer's end token or, in chat style, the template's end of turn.

    Raises:
        NoEndToken: there is none.
        NoChatTemplate, UnusableChatTemplate: chat style, and the template does not say.
    """
    if format.style == "chat":
        return _end_of_turn(tokenizer)
    if not isinstance(tokenizer.eos_token_id, int):
        raise NoEndToken(f"{tokenizer.name_or_path}: the tokenizer names no eos_token; name one in tokenizer_config.json")
    return tokenizer.eos_token_id


def _ids(text: str, *, tokenizer: "PreTrainedTokenizerBase", parse_special: bool = False) -> list[int]:
    # Without parse_special, a user who types "<eos>" gets the five characters, not the token.
    return tokenizer(text, add_special_tokens=False, split_special_tokens=not parse_special, verbose=False)["input_ids"]


def _with_one_bos(ids: list[int], *, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    bos = tokenizer.bos_token_id
    if not isinstance(bos, int) or ids[:1] == [bos]:
        return ids
    return [bos, *ids]


def _written(asked: Asked, completion: str | None, *, instruction: str, shots: Sequence[Shot]) -> list[str]:
    """Every text that the chat template is given, as its writer wrote it: names, ids and keys too, which some templates write out."""
    worked = [text for shot in shots for text in (shot.prompt, shot.completion)]
    worked += [text for passage in asked.context for text in passage.values()]
    beside = texts_in([[{**message, "content": ""} for message in asked.history], list(asked.tools)])
    return [asked.prompt, completion or "", instruction, *map(said, asked.history), _json(asked.tools), *worked, *dict.fromkeys(beside)]


def _refuse_reserved(texts: Sequence[str], *, tokenizer: "PreTrainedTokenizerBase") -> None:
    for text in _joined(texts):
        parsed, literal = _ids(text, tokenizer=tokenizer, parse_special=True), _ids(text, tokenizer=tokenizer)
        if parsed != literal:
            reserved = _reserved(parsed, literal, tokenizer=tokenizer)
            holder = next((one for one in texts if reserved in one), text)
            raise ReservedText(
                f"{holder[:80]!r} holds {reserved!r}, a special token that the chat format would read as the begin or the end of a turn; "
                "take it out of the text, or use the format style 'plain'"
            )
    if (pieced := pieced_token(texts, tokenizer=tokenizer)) is not None:
        raise ReservedText(
            f"the texts could be put together to {pieced!r}, a special token of the chat format; change where they begin or end"
        )


def _reserved(parsed: Sequence[int], literal: Sequence[int], *, tokenizer: "PreTrainedTokenizerBase") -> str:
    """The first special token among those that a text is read as, and would not be letter by letter."""
    added = tokenizer.added_tokens_decoder
    special = (str(added[number]) for number in parsed if number in added and added[number].special and number not in literal)
    return next(special, "the spelling of one")


def _joined(texts: Sequence[str]) -> list[str]:
    """Short texts in one: looking into each costs more than its tokens."""
    short = [text for text in texts if len(text) < SHORT_CHARACTERS]
    return [*(text for text in texts if len(text) >= SHORT_CHARACTERS), *(["\n".join(short)] if short else [])]


def _chat_prompt(asked: Asked, *, instruction: str, shots: Sequence[Shot], tokenizer: "PreTrainedTokenizerBase") -> str:
    systems = [said(message) for message in asked.history if message["role"] in SYSTEM_ROLES]
    system = "\n\n".join(filter(None, [instruction, *systems]))
    turns: list[Message] = []
    for shot in all_shots(asked, shots):
        turns += [{"role": "user", "content": shot.prompt}, {"role": "assistant", "content": shot.completion}]
    # The endpoint says "" where a turn is a call of a tool alone; a template would write "None" of a null.
    turns += [{**message, "content": message.get("content") or ""} for message in asked.history if message["role"] not in SYSTEM_ROLES]
    turns.append({"role": asked.role, "content": documents(asked) + asked.prompt})
    if not system:
        return _render(turns, tools=asked.tools, tokenizer=tokenizer)
    try:
        text = _render([{"role": "system", "content": system}, *turns], tools=asked.tools, tokenizer=tokenizer)
    except TemplateError:
        # Gemma's and Mistral's templates raise on a system turn.
        text = ""
    if system in text:
        return text
    merged = {**turns[0], "content": f"{system}\n\n{said(turns[0])}"}
    return _render([merged, *turns[1:]], tools=asked.tools, tokenizer=tokenizer)


def _render(
    turns: list[Message], *, tokenizer: "PreTrainedTokenizerBase", tools: Sequence[Mapping[str, Any]] = (), open_answer: bool = True
) -> str:
    if not tokenizer.chat_template:
        raise NoChatTemplate(
            f"{tokenizer.name_or_path}: the format style is 'chat', but the tokenizer has no chat template; "
            "use the format style 'plain', or choose an instruction-tuned base model"
        )
    # `enable_thinking` is read by reasoning models only: their empty thought belongs to the prompt, not to the answer.
    text = tokenizer.apply_chat_template(
        turns, tools=[dict(tool) for tool in tools] or None, tokenize=False, add_generation_prompt=open_answer, enable_thinking=False
    )
    assert isinstance(text, str)
    return text


def _end_of_turn(tokenizer: "PreTrainedTokenizerBase") -> int:
    turns: list[Message] = [{"role": "user", "content": "question"}]
    prompt = _render(turns, tokenizer=tokenizer)
    whole = _render([*turns, {"role": "assistant", "content": _MARK}], tokenizer=tokenizer, open_answer=False)
    if not whole.startswith(prompt + _MARK):
        raise UnusableChatTemplate(
            f"{tokenizer.name_or_path}: the chat template writes an answered turn as {whole!r}, which does not continue its generation "
            f"prompt {prompt!r}; use the format style 'plain'"
        )
    tail = whole.removeprefix(prompt + _MARK)
    ids, literal = _ids(tail, tokenizer=tokenizer, parse_special=True), _ids(tail, tokenizer=tokenizer)
    if ids[:1] != literal[:1]:
        return ids[0]
    raise NoEndOfTurn(
        f"{tokenizer.name_or_path}: the chat template ends an answer with {tail!r}, which does not begin with a special token, "
        "so a model could not learn to stop; use the format style 'plain'"
    )
