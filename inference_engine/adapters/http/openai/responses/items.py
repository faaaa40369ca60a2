"""Input items: as they are stored and shown, and as the messages of a conversation. Knows no service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inference_engine.adapters.http.decoding import convert, shown
from inference_engine.adapters.http.openai.media import image
from inference_engine.adapters.http.openai.responses import wire
from inference_engine.adapters.http.openai.responses.wire import Item
from inference_engine.domain.errors import InvalidRequest, UnknownField
from inference_engine.domain.files import new_id
from inference_engine.domain.requests import Message, Part, Role, TextPart, ToolCall

_PREFIXES = {"message": "msg_", "function_call": "fc_", "function_call_output": "fco_", "reasoning": "rs_"}
_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_MAX_ID = 128


def input_items(given: str | list[dict[str, Any]]) -> list[Item]:
    """What a request gives as `input`, each item with its type and an id, text as parts.

    Raises:
        InvalidRequest; UnknownField: an item of a kind that is not known here.
    """
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not given:
        raise InvalidRequest("input is empty: send a text or at least one item", param="input")
    return [_item(item, f"input[{index}]") for index, item in enumerate(given)]


def _item(given: dict[str, Any], place: str) -> Item:
    given = _said(given)
    kind = given.get("type", "message" if "role" in given else None)
    form = wire.ITEMS.get(kind) if isinstance(kind, str) else None
    if form is None:
        known = ", ".join(wire.ITEMS)
        raise UnknownField(
            f"{place} is of type {shown(kind)}, which is not supported here; there are: {known}", param=f"{place}.type"
        )
    convert(given, form, place)
    id = given.get("id")
    item: Item = {
        **given,
        "type": kind,
        "id": id if id and len(id) <= _MAX_ID else new_id(_PREFIXES[str(kind)]),
        "status": given.get("status") or "completed",
    }
    if isinstance(item.get("content"), str) and kind == "message":
        item["content"] = [_text_part(item["role"], item["content"])]
    return item


def _said(given: dict[str, Any]) -> dict[str, Any]:
    """Without the fields that are null: clients send items back with all the fields that they know."""
    return {name: value for name, value in given.items() if value is not None}


def _text_part(role: str, text: str) -> dict[str, Any]:
    if role == "assistant":
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "input_text", "text": text}


def messages(history: Sequence[Item], items: Sequence[Item], instructions: str | None) -> tuple[Message, ...]:
    """The conversation: instructions, what was said before, what is said now.

    Raises:
        InvalidRequest; UnknownField: a part is wrong, or calls and their outputs do not go together.
    """
    turns = _Turns()
    if instructions:
        turns.other(Message("system", instructions))
    for index, item in enumerate(history):
        _add(turns, item, f"previous[{index}]")
    for index, item in enumerate(items):
        _add(turns, item, f"input[{index}]")
    return turns.ended()


class _Turns:
    """Messages as they grow. Items of the assistant that follow each other become one message."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._open: dict[str, str] = {}
        self._reasoning = ""
        self._text: str | None = None
        self._calls: list[ToolCall] = []

    def reasoning(self, text: str) -> None:
        if self._text is not None or self._calls:
            self._flush()
        self._reasoning += text

    def text(self, text: str) -> None:
        if self._text is not None or self._calls:
            self._flush()
        self._text = text

    def call(self, call: ToolCall, place: str) -> None:
        if call.id in self._open:
            raise InvalidRequest(
                f"{place}.call_id is {shown(call.id)}, as of an earlier call", param=f"{place}.call_id"
            )
        self._open[call.id] = call.name
        self._calls.append(call)

    def output(self, call_id: str, content: str | tuple[Part, ...], place: str) -> None:
        name = self._open.pop(call_id, None)
        if name is None:
            raise InvalidRequest(
                f"{place}.call_id is {shown(call_id)}, but no function_call before it waits for its output: send that "
                "call too, or name its response in previous_response_id",
                param=f"{place}.call_id",
            )
        self.other(Message("tool", content, name, tool_call_id=call_id))

    def other(self, message: Message) -> None:
        self._flush()
        self._messages.append(message)

    def ended(self) -> tuple[Message, ...]:
        if self._open:
            raise InvalidRequest(
                f"the function_call {shown(next(iter(self._open)))} has no output: send a function_call_output for it",
                param="input",
            )
        self._flush()
        return tuple(self._messages)

    def _flush(self) -> None:
        if self._text is not None or self._calls or self._reasoning:
            content = self._text or ""
            self._messages.append(
                Message("assistant", content, tool_calls=tuple(self._calls), reasoning=self._reasoning)
            )
        self._reasoning, self._text, self._calls = "", None, []


def _add(turns: _Turns, item: Item, place: str) -> None:
    kind = item["type"]
    if kind == "message":
        _add_message(turns, item, place)
    elif kind == "function_call":
        turns.call(ToolCall(item["call_id"], item["name"], item["arguments"]), place)
    elif kind == "function_call_output":
        output = item["output"]
        content = output if isinstance(output, str) else _parts(output, "tool", f"{place}.output")
        turns.output(item["call_id"], content, place)
    else:
        turns.reasoning(_thought(item, place))


def _add_message(turns: _Turns, item: Item, place: str) -> None:
    role = _ROLES[item["role"]]
    content = _parts(item["content"], role, f"{place}.content")
    if role == "assistant":
        turns.text(content if isinstance(content, str) else "")
    else:
        turns.other(Message(role, content))


def _thought(item: Item, place: str) -> str:
    texts = item.get("content") or item.get("summary") or []
    if not texts and item.get("encrypted_content"):
        at = f"{place}.encrypted_content"
        raise UnknownField(f"{at} cannot be read here: send content, or leave the item out", param=at)
    return "".join([text["text"] for text in texts])


def _parts(given: list[dict[str, Any]], role: Role, place: str) -> str | tuple[Part, ...]:
    parts = [_part(part, role, f"{place}[{index}]") for index, part in enumerate(given)]
    if all(isinstance(part, TextPart) for part in parts):
        return "".join([part.text for part in parts if isinstance(part, TextPart)])
    return tuple(parts)


def _part(given: dict[str, Any], role: Role, place: str) -> Part:
    given = _said(given)
    kind = given.get("type")
    if kind in ("input_text", "text"):
        return TextPart(convert(given, wire.InputText, place).text)
    if kind == "output_text" and role == "assistant":
        return TextPart(convert(given, wire.OutputText, place).text)
    if kind == "refusal" and role == "assistant":
        return TextPart(convert(given, wire.Refusal, place).refusal)
    if kind == "input_image" and role in ("user", "tool"):
        found = convert(given, wire.InputImage, place)
        if found.image_url is None:
            raise UnknownField(
                f"{place}.file_id is not read here: send the image itself in image_url, as data:image/png;base64,...",
                param=f"{place}.file_id",
            )
        return image(found.image_url, f"{place}.image_url")
    allowed = "output_text" if role == "assistant" else "input_text" if role == "system" else "input_text, input_image"
    raise UnknownField(
        f"{place} is of type {shown(kind)}, which is not supported there; there are: {allowed}", param=f"{place}.type"
    )
