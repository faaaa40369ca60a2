"""Messages, their parts, and tools: from OpenAI's JSON to the domain. Knows no service."""

from __future__ import annotations

from typing import Any

from inference_engine.adapters.http.decoding import convert, shown
from inference_engine.adapters.http.openai import wire
from inference_engine.adapters.http.openai.media import audio, image
from inference_engine.domain.errors import InvalidRequest, UnknownField
from inference_engine.domain.requests import MAX_TOOLS, Message, Part, Role, TextPart, Tool, ToolCall, ToolChoice

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_REFUSED = ("refusal", "function_call", "audio", "annotations")
_OF_ASSISTANT = ("tool_calls", "reasoning_content", "reasoning")
_WITH_MEDIA = ("user", "tool")


def conversation(messages: list[wire.ChatMessage]) -> tuple[Message, ...]:
    """All messages; a tool's message must answer a call that an assistant's message before it has made.

    Raises:
        InvalidRequest; UnknownField
    """
    open_calls: set[str] = set()
    answered: set[str] = set()
    found = []
    for index, given in enumerate(messages):
        message = _message(given, f"messages[{index}]")
        for call in message.tool_calls:
            if call.id in open_calls or not call.id:
                at = f"messages[{index}].tool_calls"
                raise InvalidRequest(f"{at}: the id {shown(call.id)} is empty or not the only one", param=at)
            open_calls.add(call.id)
            answered.discard(call.id)  # histories of other servers count their calls anew in each turn
        if message.role == "tool":
            _check_answers(message, open_calls, answered, f"messages[{index}].tool_call_id")
        found.append(message)
    return tuple(found)


def _check_answers(message: Message, open_calls: set[str], answered: set[str], place: str) -> None:
    id = message.tool_call_id
    if not id:
        raise InvalidRequest(f"{place} is missing: name the call that this message answers", param=place)
    if id in answered:
        raise InvalidRequest(f"{place} names {shown(id)}, which was answered before", param=place)
    if id not in open_calls:
        raise InvalidRequest(f"{place} names {shown(id)}, a call that no assistant message before it made", param=place)
    open_calls.discard(id)
    answered.add(id)


def _message(given: wire.ChatMessage, place: str) -> Message:
    role = _ROLES.get(given.role)
    if role is None:
        raise UnknownField(
            f"{place}.role is {given.role!r}: functions have become tools, send role tool with tool_call_id",
            param=f"{place}.role",
        )
    for name in _REFUSED:
        if getattr(given, name):
            raise UnknownField(f"{place}.{name} is not supported: leave it out", param=f"{place}.{name}")
    for name in _OF_ASSISTANT if role != "assistant" else ():
        if getattr(given, name):
            raise InvalidRequest(f"{place}.{name} belongs in messages of the assistant", param=f"{place}.{name}")
    if given.tool_call_id is not None and role != "tool":
        raise InvalidRequest(f"{place}.tool_call_id belongs in messages of a tool", param=f"{place}.tool_call_id")
    calls = tuple([ToolCall(call.id, call.function.name, call.function.arguments) for call in given.tool_calls or ()])
    reasoning = given.reasoning_content or given.reasoning or ""
    content = _content(given.content, role, place, needed=not (calls or reasoning))
    return Message(role, content, given.name, calls, given.tool_call_id, reasoning)


def _content(
    given: str | list[dict[str, Any]] | None, role: Role, place: str, *, needed: bool
) -> str | tuple[Part, ...]:
    if isinstance(given, str):
        return given
    if given is None:
        if needed:
            raise InvalidRequest(f"{place}.content is missing: send text", param=f"{place}.content")
        return ""
    parts = [_part(part, role, f"{place}.content[{index}]") for index, part in enumerate(given)]
    if all(isinstance(part, TextPart) for part in parts):
        return "".join([part.text for part in parts if isinstance(part, TextPart)])
    return tuple(parts)


def _part(given: dict[str, Any], role: Role, at: str) -> Part:
    kind = given.get("type")
    if kind == "text":
        text = given.get("text")
        if not isinstance(text, str):
            raise InvalidRequest(f"{at}.text must be a string", param=f"{at}.text")
        return TextPart(text)
    if kind not in ("image_url", "input_audio"):
        raise UnknownField(
            f"{at} is of type {shown(kind)}: parts may be of type text, image_url and input_audio", param=f"{at}.type"
        )
    if role not in _WITH_MEDIA:
        raise InvalidRequest(f"{at} is of type {kind}: only the user and tools may send it", param=f"{at}.type")
    if kind == "image_url":
        url = given.get("image_url")
        place = f"{at}.image_url"
        found = wire.ImageUrl(url) if isinstance(url, str) else convert(url, wire.ImageUrl, place)
        return image(found.url, f"{place}.url")
    sound = convert(given.get("input_audio"), wire.InputAudio, f"{at}.input_audio")
    return audio(sound.data, sound.format, f"{at}.input_audio.data")


def tools(given: list[wire.Tool] | None) -> tuple[Tool, ...]:
    """What the model may call; the domain checks names and their number.

    Raises:
        InvalidRequest; UnknownField
    """
    if given and len(given) > MAX_TOOLS:
        raise InvalidRequest(f"{len(given)} tools came, at most {MAX_TOOLS} are taken", param="tools")
    return tuple([_tool(tool, f"tools[{index}]") for index, tool in enumerate(given or ())])


def _tool(given: wire.Tool, place: str) -> Tool:
    if given.type != "function":
        raise UnknownField(f"{place}.type is {shown(given.type)}: only function is supported", param=f"{place}.type")
    if given.function is None:
        raise InvalidRequest(f"{place}.function is missing: it is required", param=f"{place}.function")
    schema = given.function.parameters or {"type": "object", "properties": {}}
    if schema.get("type", "object") != "object":
        at = f"{place}.function.parameters"
        raise InvalidRequest(f"{at} must be the schema of an object: arguments have names", param=at)
    return Tool(given.function.name, given.function.description or "", schema)


def tool_choice(given: str | wire.ToolChoice | None, parallel: bool | None) -> ToolChoice:
    """Whether tools are called.

    Raises:
        InvalidRequest; UnknownField: allowed_tools and custom tools
    """
    several = parallel is not False
    if given is None or given == "auto":
        return ToolChoice(parallel=several)
    if given == "none":
        return ToolChoice("none", parallel=several)
    if given == "required":
        return ToolChoice("required", parallel=several)
    if isinstance(given, str):
        raise InvalidRequest(
            f"tool_choice is {shown(given)}: it may be auto, none, required or one function", param="tool_choice"
        )
    if given.type != "function":
        raise UnknownField(
            f"tool_choice of type {shown(given.type)} is not supported: send only the tools that may be called, "
            "or name one of type function",
            param="tool_choice",
        )
    if given.function is None:
        raise InvalidRequest("tool_choice.function is missing: it is required", param="tool_choice.function")
    return ToolChoice("required", given.function.name, several)
