"""From a response's request to the domain's: what is honoured, what is refused by name. Knows no service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inference_engine.adapters.http.decoding import convert, shown
from inference_engine.adapters.http.openai.responses import wire
from inference_engine.adapters.http.openai.responses.items import messages
from inference_engine.adapters.http.openai.responses.wire import Item
from inference_engine.domain.errors import InvalidRequest, UnknownField
from inference_engine.domain.requests import Chat, Constraint, JsonSchema, Sampling, Tool, ToolChoice


def refuse(body: wire.Asked) -> None:
    """Raises `UnknownField`: a field would change the answer and is not supported."""
    for name, (neutral, remedy) in wire.REFUSED.items():
        value = getattr(body, name, None)
        if value is not None and value not in neutral:
            raise UnknownField(f"{name} is {shown(value)}, but {remedy}", param=name)
    if body.text is not None and body.text.verbosity not in (None, "medium"):
        raise UnknownField(
            "text.verbosity is not supported: say in instructions how long the answer should be", param="text.verbosity"
        )
    if summary_of(body.reasoning) == "concise":
        raise UnknownField(
            "reasoning.summary cannot be concise, nothing is summarised here: send auto to get all that was thought",
            param="reasoning.summary",
        )


def summary_of(reasoning: wire.Reasoning | None) -> str | None:
    """Whether what was thought is to be shown as a summary."""
    return None if reasoning is None else reasoning.summary or reasoning.generate_summary


def chat(body: wire.Asked, history: Sequence[Item], items: Sequence[Item], sampling: Sampling) -> Chat:
    """The conversation to be continued: `history` of earlier responses, then `items`.

    Raises:
        InvalidRequest; UnknownField
    """
    tools = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(body.tools or ())]
    choice, offered = _choice(body, tools)
    return Chat(
        messages=messages(history, items, body.instructions),
        sampling=sampling,
        constraint=_constraint(body.text.format if body.text else None),
        tools=tuple(offered),
        tool_choice=choice,
        reasoning=body.reasoning.effort if body.reasoning else None,
    )


def sampling(body: wire.ResponseRequest) -> Sampling:
    """How tokens are chosen. Log probabilities come where they are included, or alternatives are asked for."""
    logprobs = body.top_logprobs or 0 if body.top_logprobs or wire.LOGPROBS in (body.include or ()) else None
    return Sampling(
        max_tokens=body.max_output_tokens, temperature=body.temperature, top_p=body.top_p, logprobs=logprobs
    )


def _constraint(wanted: wire.TextFormat | None) -> Constraint | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return JsonSchema({"type": "object"})
    if wanted.schema is None:
        raise InvalidRequest("text.format of type json_schema needs schema", param="text.format.schema")
    return JsonSchema(wanted.schema)


def _tool(given: dict[str, Any], place: str) -> Tool:
    kind = given.get("type")
    if kind != "function":
        raise UnknownField(
            f"{place} is of type {shown(kind)}: this server has no tools of its own, only functions that you call",
            param=f"{place}.type",
        )
    tool = convert(given, wire.FunctionTool, place)
    parameters = tool.parameters or {"type": "object", "properties": {}}
    if parameters.get("type", "object") != "object":
        at = f"{place}.parameters"
        raise InvalidRequest(f"{at} must be the schema of an object: arguments have names", param=at)
    return Tool(tool.name, tool.description or "", parameters)


def _choice(body: wire.Asked, tools: list[Tool]) -> tuple[ToolChoice, list[Tool]]:
    """Whether tools are called, and which of them."""
    parallel = body.parallel_tool_calls is not False
    given = body.tool_choice
    if given is None or given == "auto":
        return ToolChoice("auto", parallel=parallel), tools
    if given in ("none", "required"):
        return ToolChoice("none" if given == "none" else "required", parallel=parallel), tools
    if isinstance(given, str):
        raise InvalidRequest(
            f"tool_choice is {shown(given)}: it may be auto, none, required or one function", param="tool_choice"
        )
    if given.type == "function":
        if given.name is None:
            raise InvalidRequest("tool_choice.name is missing: name the function", param="tool_choice.name")
        return ToolChoice("required", given.name, parallel), tools
    if given.type == "allowed_tools":
        return ToolChoice(given.mode or "auto", parallel=parallel), _allowed(given, tools)
    raise UnknownField(
        f"tool_choice is of type {shown(given.type)}: it may be function or allowed_tools", param="tool_choice.type"
    )


def _allowed(given: wire.ToolChoice, tools: list[Tool]) -> list[Tool]:
    names = {tool.name for tool in given.tools or ()}
    for name in names:
        if name not in {tool.name for tool in tools}:
            raise InvalidRequest(
                f"tool_choice allows {shown(name)}, which is not among the tools", param="tool_choice.tools"
            )
    return [tool for tool in tools if tool.name in names]
