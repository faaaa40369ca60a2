"""From Ollama's requests to the domain's: what is honoured, what is refused by name. Knows no service."""

from __future__ import annotations

from typing import Any, get_args

import msgspec

from inference_engine.adapters.http.decoding import shown
from inference_engine.adapters.http.ollama import wire
from inference_engine.adapters.http.ollama.values import image
from inference_engine.domain.errors import InvalidRequest, UnknownField
from inference_engine.domain.requests import (
    Chat,
    Complete,
    Constraint,
    Effort,
    JsonSchema,
    Message,
    Part,
    Role,
    Sampling,
    TextPart,
    Tool,
    ToolCall,
)

_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_UNLIMITED = (-1, -2)


def chat(body: wire.ChatRequest) -> Chat:
    """The conversation to be continued.

    Raises:
        InvalidRequest; UnknownField: a field would change the answer and is not supported.
    """
    return Chat(
        messages=messages(body.messages or []),
        sampling=sampling(body),
        constraint=constraint(body),
        tools=tuple([_tool(tool, index) for index, tool in enumerate(body.tools or [])]),
        reasoning=reasoning(body),
    )


def generate(body: wire.GenerateRequest, *, chats: bool) -> Chat | Complete:
    """The prompt to be answered: as a conversation where the model `chats`, else as the text it is.

    Raises:
        InvalidRequest; UnknownField: a field would change the answer and is not supported.
    """
    prompt = body.prompt or ""
    plain = bool(body.raw or body.suffix or not chats)
    if plain and (body.system or body.images):
        field = "system" if body.system else "images"
        raise InvalidRequest(
            f"{field} has no place in a prompt without a template: leave it out, or raw and suffix", param=field
        )
    if plain:
        if body.think not in (None, False):
            raise InvalidRequest("think needs a model with a chat template, and neither raw nor suffix", param="think")
        return Complete(prompt, sampling(body), constraint(body), suffix=body.suffix or None)
    first = (Message("system", body.system),) if body.system else ()
    return Chat((*first, Message("user", _content(prompt, body.images, ""))), sampling(body), constraint(body),
                reasoning=reasoning(body))  # fmt: skip


def refuse(body: msgspec.Struct, refused: dict[str, str]) -> None:
    """Raises `UnknownField` for the first of the refused fields that says anything."""
    for name, remedy in refused.items():
        if getattr(body, name):
            raise UnknownField(f"{name} is not supported: {remedy}", param=name)


def messages(given: list[wire.Message]) -> tuple[Message, ...]:
    """The messages with ids for the tool calls, which Ollama's clients leave out: a tool's answer belongs to the first
    call of its name that has none yet, or without a name to the first of all."""
    made: list[Message] = []
    waiting: list[ToolCall] = []
    for index, message in enumerate(given):
        place = f"messages[{index}]"
        role = _ROLES.get(message.role)
        if role is None:
            raise InvalidRequest(
                f"{place}.role is {shown(message.role)}: use system, user, assistant or tool", param=f"{place}.role"
            )
        calls = tuple(
            [
                ToolCall(call.id or f"call_{index}_{number}", call.function.name, _json(call.function.arguments))
                for number, call in enumerate(message.tool_calls or [])
            ]
        )
        if calls and role != "assistant":
            raise InvalidRequest(f"{place}.tool_calls is for the assistant alone", param=f"{place}.tool_calls")
        answered = _answered(message, waiting, place) if role == "tool" else None
        waiting = [call for call in waiting if answered is None or call.id != answered.id] + list(calls)
        made.append(
            Message(
                role,
                _content(message.content or "", message.images, place + "."),
                answered.name if answered else message.name,
                calls,
                answered.id if answered else None,
                message.thinking or "" if role == "assistant" else "",
            )
        )
    return tuple(made)


def _answered(message: wire.Message, waiting: list[ToolCall], place: str) -> ToolCall:
    name = message.tool_name or message.name
    for call in waiting:
        if message.tool_call_id == call.id or (not message.tool_call_id and name in (None, call.name)):
            return call
    if message.tool_call_id or not name:
        raise InvalidRequest(f"{place} answers a tool call that was not made before it", param=place)
    return ToolCall(f"call_{place}", name, "{}")  # its call was left out of the conversation, its name says enough


def _content(text: str, images: list[str] | None, place: str) -> str | tuple[Part, ...]:
    if not images:
        return text
    parts: list[Part] = [image(data, f"{place}images[{index}]") for index, data in enumerate(images)]
    return (*parts, TextPart(text)) if text else tuple(parts)


def _json(value: dict[str, Any]) -> str:
    return msgspec.json.encode(value).decode()


def _tool(tool: wire.Tool, index: int) -> Tool:
    if tool.type not in (None, "function"):
        raise InvalidRequest(
            f"tools[{index}].type is {shown(tool.type)}: only functions are tools", param=f"tools[{index}].type"
        )
    function = tool.function
    return Tool(function.name, function.description or "", function.parameters or {})


def sampling(body: wire.Common) -> Sampling:
    """How tokens are chosen.

    Raises:
        InvalidRequest; UnknownField.
    """
    options = body.options or wire.Options()
    check_options(options)
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs: true", param="top_logprobs")
    stop = options.stop
    return Sampling(
        max_tokens=_num_predict(options.num_predict),
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        min_p=options.min_p,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        repeat_penalty=options.repeat_penalty,
        repeat_last_n=options.repeat_last_n,
        typical_p=options.typical_p,
        seed=None if options.seed == -1 else options.seed,
        stop=() if stop is None else (stop,) if isinstance(stop, str) else tuple(stop),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )


def check_options(options: wire.Options) -> None:
    """Raises `UnknownField` for an option that would change the answer and is not supported."""
    for name, (neutral, remedy) in wire.REFUSED_OPTIONS.items():
        value = getattr(options, name)
        if value is not None and value not in neutral:
            raise UnknownField(f"options.{name} is {shown(value)}, but {remedy}", param=f"options.{name}")
    if options.num_ctx is not None and options.num_ctx < 1:
        raise InvalidRequest(f"options.num_ctx is {options.num_ctx}, it must be at least 1", param="options.num_ctx")


def _num_predict(wanted: int | None) -> int | None:
    if wanted is None or wanted in _UNLIMITED:
        return None
    if wanted < 1:
        raise InvalidRequest(
            f"options.num_predict is {wanted}: ask for 1 token or more, or -1 for as many as the context holds",
            param="options.num_predict",
        )
    return wanted


def constraint(body: wire.Common) -> Constraint | None:
    """What binds the answer: nothing, JSON, or JSON of a schema."""
    wanted = body.format
    if wanted is None or wanted == "":
        return None
    if wanted == "json":
        return JsonSchema({"type": "object"})
    if isinstance(wanted, str):
        raise InvalidRequest(f"format is {shown(wanted)}: write 'json' or a JSON schema", param="format")
    return JsonSchema(wanted)


def reasoning(body: wire.Common) -> Effort | None:
    """How much is thought before the answer; None leaves it to the model."""
    think = body.think
    if think is None:
        return None
    if isinstance(think, bool):
        return "medium" if think else "none"
    if think not in get_args(Effort):
        raise InvalidRequest(f"think is {shown(think)}: write true, false, low, medium or high", param="think")
    effort: Effort = think  # type: ignore[assignment] # just checked
    return effort
