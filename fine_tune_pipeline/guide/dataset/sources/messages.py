"""Messages of a conversation, brought to the form of OpenAI's chat API and checked: who may speak after whom, what may be said.

A message is `{"role": "system" | "user" | "assistant" | "tool", "content": text}`; its `tool_calls`, `tool_call_id` and `name` are kept.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fine_tune_pipeline.artifacts.examples import Message

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool", "function": "tool"}
"""OpenAI's names, the older ones among them."""

SHAREGPT_ROLES = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant",
    "function_call": "assistant", "tool": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip

_KEPT = ("name", "tool_call_id")


class UnfitRow(ValueError):
    """A row is not what its layout says; `reason` is the name under which the quarantine keeps it."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def parsed(value: Any, name: str) -> Any:
    """A nested value, which files without nesting (CSV, Excel) hold as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UnfitRow("not_a_conversation", f"{name}: got text that is not JSON ({value[:60]!r}), want a list of messages") from error


def conversation(value: Any, name: str) -> list[Message]:
    """Messages in OpenAI's form.

    Args:
        value: a list of messages, or JSON text of one.
        name: of the column, for errors.

    Raises:
        UnfitRow: not_a_conversation, unknown_role, non_text_content, broken_tools.
    """
    return [_message(item, f"{name}[{place}]") for place, item in enumerate(_items(value, name))]


def sharegpt(value: Any, name: str) -> list[Message]:
    """Messages of a list of `{"from": …, "value": …}`."""
    return [_from_sharegpt(item, f"{name}[{place}]") for place, item in enumerate(_items(value, name))]


def check_order(messages: Sequence[Message], name: str) -> None:
    """Whether each one speaks in turn: system, then user and assistant by turns, calls of tools followed by their results.

    Raises:
        UnfitRow: roles_out_of_order; names the message.
    """
    before: Message = {"role": "system"}
    for place, message in enumerate(messages):
        wanted = _may_follow(before)
        if message["role"] not in wanted:
            after = f"after {before['role']}" if place else "at the beginning"
            raise UnfitRow("roles_out_of_order", f"{name}[{place}]: {message['role']} {after}, want {' or '.join(wanted)}")
        before = message


def tool_schemas(value: Any) -> list[dict[str, Any]]:
    """What the model may call, each `{"type": "function", "function": {"name": …, "parameters": JSON Schema}}`.

    Raises:
        UnfitRow: broken_tools.
    """
    try:
        tools = json.loads(value) if isinstance(value, str) and value.strip() else value
    except json.JSONDecodeError as error:
        raise UnfitRow("broken_tools", f"tools: not JSON ({error.msg} at {error.pos})") from error
    if not tools:
        return []
    if not isinstance(tools, list):
        raise UnfitRow("broken_tools", f"tools: got {type(tools).__name__}, want a list")
    return [_tool(tool, place) for place, tool in enumerate(tools)]


def _items(value: Any, name: str) -> list[Mapping[str, Any]]:
    value = parsed(value, name)
    if not isinstance(value, list):
        raise UnfitRow("not_a_conversation", f"{name}: got {type(value).__name__}, want a list of messages")
    if not value:
        raise UnfitRow("no_answer", f"{name}: the conversation is empty")
    for place, item in enumerate(value):
        if not isinstance(item, Mapping):
            raise UnfitRow("not_a_conversation", f"{name}[{place}]: got {type(item).__name__}, want an object")
    return value


def _message(item: Mapping[str, Any], place: str) -> Message:
    message: Message = {"role": _role(item.get("role"), ROLES, f"{place}.role"), "content": _text(item.get("content"), f"{place}.content")}
    message |= {name: item[name] for name in _KEPT if item.get(name)}
    calls = item.get("tool_calls")
    if not calls and item.get("function_call"):
        calls = [item["function_call"]]
    if calls:
        message["tool_calls"] = [_call(call, f"{place}.tool_calls[{number}]") for number, call in enumerate(parsed(calls, place))]
    if item.get("weight") is not None:
        message["weight"] = item["weight"]
    return message


def _from_sharegpt(item: Mapping[str, Any], place: str) -> Message:
    role, text = _role(item.get("from"), SHAREGPT_ROLES, f"{place}.from"), _text(item.get("value"), f"{place}.value")
    if item.get("from") != "function_call":
        return {"role": role, "content": text}
    calls = _json(text, f"{place}.value")
    return {
        "role": role,
        "content": "",
        "tool_calls": [_call(call, f"{place}.value") for call in (calls if isinstance(calls, list) else [calls])],
    }


def _role(value: Any, known: Mapping[str, str], place: str) -> str:
    if not isinstance(value, str) or value not in known:
        raise UnfitRow("unknown_role", f"{place}: got {value!r}, want one of {', '.join(known)}")
    return known[value]


def _text(value: Any, place: str) -> str:
    """The words of a message: a text, nothing, or OpenAI's list of parts as long as all are text."""
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        raise UnfitRow("non_text_content", f"{place}: got {type(value).__name__}, want text")
    other = [part for part in value if not (isinstance(part, Mapping) and isinstance(part.get("text"), str))]
    if other:
        kind = other[0].get("type") if isinstance(other[0], Mapping) else type(other[0]).__name__
        raise UnfitRow("non_text_content", f"{place}: a part is {kind}, want text only")
    return "\n".join(part["text"] for part in value)


def _call(call: Any, place: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UnfitRow("broken_tools", f"{place}: want a function with a name and arguments")
    arguments = function.get("arguments", {})
    # Chat templates write the arguments as JSON themselves: from text it would be escaped twice.
    arguments = (_json(arguments, f"{place}.arguments") if arguments.strip() else {}) if isinstance(arguments, str) else arguments
    if not isinstance(arguments, Mapping):
        raise UnfitRow("broken_tools", f"{place}.arguments: got {type(arguments).__name__}, want an object")
    named = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {**named, "type": "function", "function": {"name": function["name"], "arguments": dict(arguments)}}


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UnfitRow("broken_tools", f"{place}: not JSON ({text[:60]!r})") from error


def _tool(tool: Any, place: int) -> dict[str, Any]:
    tool = _json(tool, f"tools[{place}]") if isinstance(tool, str) else tool
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UnfitRow("broken_tools", f"tools[{place}]: want a function with a name")
    return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}


def _may_follow(message: Message) -> tuple[str, ...]:
    if message["role"] == "assistant":
        return ("tool",) if message.get("tool_calls") else ("user",)
    return {"system": ("system", "user"), "user": ("assistant",), "tool": ("tool", "assistant")}[message["role"]]
