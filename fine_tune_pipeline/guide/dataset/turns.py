"""The words of a turn of a conversation, and the turn with other words; roles, names and ids stay as they are."""

import json
from collections.abc import Mapping
from typing import Any

from fine_tune_pipeline.artifacts.examples import Message
from fine_tune_pipeline.programs.serving.nested import mapped, strings


def words(message: Message) -> list[str]:
    """What somebody wrote in the turn: its content, and what tools are called with, value by value."""
    return [*strings(message.get("content")), *(text for call in _calls(message) for text in strings(_arguments(call)))]


def with_words(message: Message, new: Mapping[str, str]) -> Message:
    """The turn with words replaced; those that are not in `new` stay."""
    changed = {**message, "content": mapped(message["content"], new)} if "content" in message else dict(message)
    calls = [_with_arguments(call, mapped(_arguments(call), new)) for call in _calls(message)]
    return {**changed, "tool_calls": calls} if calls else changed


def _calls(message: Message) -> list[Mapping[str, Any]]:
    return message.get("tool_calls") or []


def _arguments(call: Mapping[str, Any]) -> Any:
    """What a tool is called with: OpenAI writes JSON into a text, others an object."""
    given = call.get("function", call).get("arguments")
    try:
        return json.loads(given) if isinstance(given, str) else given
    except json.JSONDecodeError:
        return given


def _with_arguments(call: Mapping[str, Any], arguments: Any) -> dict[str, Any]:
    function = call.get("function", call)
    if arguments == _arguments(call):
        # As it was written, spaces and all.
        return dict(call)
    packed = isinstance(function["arguments"], str) and not isinstance(arguments, str)
    new = {**function, "arguments": json.dumps(arguments, ensure_ascii=False) if packed else arguments}
    return {**call, "function": new} if "function" in call else new
