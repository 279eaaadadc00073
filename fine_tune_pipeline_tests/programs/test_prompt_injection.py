"""Whatever people write, in whatever field: the control tokens of a chat are those of the template, or the request is refused."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from fine_tune_pipeline.artifacts.examples import Asked
from fine_tune_pipeline.programs.pieced_tokens import pieced_token
from fine_tune_pipeline.programs.prompts import ReservedText, encode
from fine_tune_pipeline.programs.requests import PromptFormat
from fine_tune_pipeline_tests.tiny import CHAT_TEMPLATE, tiny_tokenizer

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}{% if message.name is defined %} {{ message.name }}{% endif %}\n"
    "{{ message['content'] }}"
    "{% for call in message.tool_calls or [] %}"
    "<tool>{{ call.id }}{{ call.function.name }}({{ call.function.arguments }})</tool>{% endfor %}"
    "{% if message.tool_call_id is defined %}[{{ message.tool_call_id }}]{% endif %}<|im_end|>\n{% endfor %}"
    "{% for tool in tools or [] %}<tools>{{ tool | tojson }}</tools>{{ tool.function.name }}: {{ tool.function.description }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Writes out everything that a request can hold."""

NAKED = (
    "{% for message in messages %}<|im_start|>{{ message.role }}:{{ message.name }}{{ message.content | trim }}"
    "{% for call in message.tool_calls or [] %}{{ call.function.name }}{{ call.function.arguments }}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
)
"""Writes fields one after the other with nothing between them."""

SPECIALS = ["<|im_start|>", "<|im_end|>", "<tool>", "</tool>", "<tools>", "</tools>"]
TEMPLATES = {"gemma": CHAT_TEMPLATE, "chatml": CHATML, "naked": NAKED}


@pytest.fixture(scope="module", params=list(TEMPLATES))
def tokenizer(request: pytest.FixtureRequest) -> Any:
    found = tiny_tokenizer(chat=True)
    if request.param != "gemma":
        found.add_special_tokens({"additional_special_tokens": SPECIALS})
    found.chat_template = TEMPLATES[request.param]
    return found


def request_of(text: Callable[[], str]) -> tuple[Asked, str]:
    """A request in which every field that takes free text holds what `text` gives."""
    call = {"id": text(), "type": "function", "function": {"name": text(), "arguments": json.dumps({text(): text()})}}
    tool = {
        "type": "function",
        "function": {"name": text(), "description": text(), "parameters": {"type": "object", "properties": {text(): {"enum": [text()]}}}},
    }
    history = [
        {"role": "user", "content": text(), "name": text()},
        {"role": "assistant", "content": text(), "name": text(), "tool_calls": [call]},
        {"role": "tool", "content": text(), "name": text(), "tool_call_id": text()},
    ]
    return Asked(text(), history=history, tools=[tool]), text()


def control_tokens(asked: Asked, system: str, tokenizer: Any) -> list[int]:
    special = {number for number, added in tokenizer.added_tokens_decoder.items() if added.special}
    ids = encode(asked, None, tokenizer=tokenizer, format=PromptFormat(style="chat", instruction=system)).prompt_ids
    return [number for number in ids if number in special]


def hostile(specials: list[str], chance: random.Random) -> str:
    """Spellings of control tokens, whole, in pieces, in disguise, or nothing of the kind."""
    token = chance.choice(specials)
    cut = chance.randrange(1, len(token))
    disguised = [
        token.upper(),
        token.replace("<", "\uff1c").replace(">", "\uff1e"),
        token.replace("_", " "),
        "\u200b".join(token),
        f"{token[:cut]}\n{token[cut:]}",
        f"{token[:cut]}{token}{token[cut:]}",
        f"&lt;{token[1:-1]}&gt;",
        json.dumps(token)[1:-1].replace("<", "\\u003c"),
    ]
    pieces = [token[:cut], token[cut:], f"hello {token[:cut]}  ", f"\n{token[cut:]} hello"]
    return chance.choice([token, f"hello{token}hello", *disguised, *pieces, *["hello", "where is my card?"] * 12])


def test_no_text_in_any_field_makes_a_control_token(tokenizer: Any):
    specials = [str(added) for added in tokenizer.added_tokens_decoder.values() if added.special]
    wanted = control_tokens(*request_of(lambda: "x"), tokenizer)
    chance, refused, passed = random.Random(7), 0, 0
    for _ in range(400):
        # Mostly harmless fields, so that the hostile one is seen alone.
        share = chance.choice([0.05, 0.1, 0.5])
        asked, system = request_of(lambda share=share: hostile(specials, chance) if chance.random() < share else "hello")
        try:
            # A system message that the template does not write out as it is goes into the first turn: trimming it is no injection.
            found = control_tokens(asked, system.strip(), tokenizer)
        except ReservedText:
            refused += 1
            continue
        passed += 1
        assert found == wanted, (asked, system)
    assert (refused > 50, passed > 50) == (True, True)


FIELDS = range(17)


@pytest.mark.parametrize("place", FIELDS)
def test_a_control_token_is_refused_in_each_field(tokenizer: Any, place: int):
    seen = -1

    def text() -> str:
        nonlocal seen
        seen += 1
        return f"a{tokenizer.eos_token}b" if seen == place else "hello"

    asked, system = request_of(text)
    assert seen == FIELDS[-1]
    with pytest.raises(ReservedText, match="<eos>"):
        encode(asked, None, tokenizer=tokenizer, format=PromptFormat(style="chat", instruction=system))


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["hello <e", "os> you"], True),
        (["<e ", " os>"], True),
        (["<", "e", "o", "s>"], True),
        (["os>", "hello", "x<e"], True),
        (["a <", "b > c", "eos"], False),
        (["<e", "hello"], False),
        (["<eo", "os>"], False),
        (["1 < 2"], False),
        (["price <", "> 5"], False),
        ([], False),
    ],
)
def test_pieces_that_make_a_token_together_are_found_and_others_are_not(texts: list[str], found: bool):
    assert (pieced_token(texts, tokenizer=tiny_tokenizer(chat=True)) is not None) == found


def test_in_the_plain_format_the_spelling_of_a_token_is_letters(tokenizer: Any):
    ids = encode(Asked("<eos><bos>"), None, tokenizer=tokenizer, format=PromptFormat()).prompt_ids
    assert (ids.count(tokenizer.eos_token_id), ids.count(tokenizer.bos_token_id)) == (0, 1)
