"""From Anthropic's requests to the domain's: settings, tools, constraint; messages are in `turns.py`."""

from __future__ import annotations

from typing import Any

import msgspec

from inference_engine.adapters.http.anthropic.errors import NO_THREADS
from inference_engine.adapters.http.anthropic.turns import conversation
from inference_engine.adapters.http.anthropic.wire import (
    REFUSED,
    CountRequest,
    MessagesRequest,
    Thinking,
    Tool,
    ToolChoice,
)
from inference_engine.adapters.http.decoding import convert, shown
from inference_engine.adapters.http.exchange import HttpError
from inference_engine.domain.errors import InvalidRequest, UnknownField
from inference_engine.domain.requests import Chat, Effort, JsonSchema, Sampling, ToolMode
from inference_engine.domain.requests import Tool as DomainTool
from inference_engine.domain.requests import ToolChoice as DomainToolChoice

MIN_BUDGET = 1024
MAX_STOPS = 16
_LOW_BUDGET, _MEDIUM_BUDGET = 2048, 8192
_EFFORTS: dict[str, Effort] = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
_MODES: dict[str, ToolMode] = {"auto": "auto", "any": "required", "tool": "required", "none": "none"}
_COUNT_REFUSED = tuple(name for name in REFUSED if name in CountRequest.__struct_fields__)


def messages(body: MessagesRequest) -> Chat:
    """The conversation to be continued.

    Raises:
        InvalidRequest; UnknownField: a field would change the answer and is not supported. HttpError: the conversation
            is to be kept here; the official client reads the code and sends it whole.
    """
    _refuse(body, tuple(REFUSED))
    if body.thread is not None:
        raise HttpError(
            400, NO_THREADS, "thread: conversations are not kept here: send the whole of it", param="thread"
        )
    if body.max_tokens < 1:
        raise InvalidRequest(f"max_tokens is {body.max_tokens}, it must be at least 1", param="max_tokens")
    if body.temperature is not None and not 0 <= body.temperature <= 1:
        raise InvalidRequest(f"temperature is {body.temperature}, it must lie between 0 and 1", param="temperature")
    stops = tuple(body.stop_sequences or ())
    if len(stops) > MAX_STOPS or not all(stops):
        raise InvalidRequest(
            f"stop_sequences takes at most {MAX_STOPS} strings, none of them empty", param="stop_sequences"
        )
    budget = body.thinking.budget_tokens if body.thinking else None
    if budget is not None and budget >= body.max_tokens:
        raise InvalidRequest(
            f"thinking.budget_tokens is {budget}, it must be less than max_tokens ({body.max_tokens})",
            param="thinking.budget_tokens",
        )
    sampling = Sampling(
        max_tokens=body.max_tokens, temperature=body.temperature, top_p=body.top_p, top_k=body.top_k, stop=stops
    )
    return _chat(body, sampling)


def counted(body: CountRequest) -> Chat:
    """The conversation whose prompt is to be counted. Raises what `messages` raises."""
    _refuse(body, _COUNT_REFUSED)
    return _chat(body, Sampling())


def unthinking(request: Chat, body: CountRequest, error: InvalidRequest) -> Chat:
    """The request again, without thinking, for a model that refused it with `error`: adaptive thinking lets it.

    Raises:
        InvalidRequest: the error is about something else, or the client insists on thinking.
    """
    if error.param != "reasoning" or body.thinking is None:
        raise error
    if body.thinking.type != "adaptive":
        raise InvalidRequest("this model does not think before it answers: leave thinking out", param="thinking")
    return msgspec.structs.replace(request, reasoning=None)


def _chat(body: CountRequest, sampling: Sampling) -> Chat:
    tools = tuple([_tool(tool, f"tools[{index}]") for index, tool in enumerate(body.tools or ())])
    return Chat(
        messages=conversation(body.system, body.messages),
        sampling=sampling,
        constraint=_constraint(body),
        tools=tools,
        tool_choice=_tool_choice(body.tool_choice),
        reasoning=_reasoning(body),
    )


def _refuse(body: CountRequest, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(body, name)
        if value is not None:
            neutral, remedy = REFUSED[name]
            if value not in neutral:
                raise UnknownField(f"{name} is {shown(value)}, but {remedy}", param=name)


def _tool(given: dict[str, Any], place: str) -> DomainTool:
    kind = given.get("type")
    if kind not in (None, "custom"):
        raise UnknownField(
            f"{place} is of type {shown(kind)}, a tool of Anthropic's own: offer a tool with name and input_schema, "
            "and run it yourself",
            param=f"{place}.type",
        )
    tool = convert(given, Tool, place)
    if tool.defer_loading:
        raise UnknownField(
            f"{place}.defer_loading is true, but tools are not searched here: leave it out",
            param=f"{place}.defer_loading",
        )
    if tool.allowed_callers not in (None, ["direct"]):
        raise UnknownField(
            f'{place}.allowed_callers may only be ["direct"]: no code is run here', param=f"{place}.allowed_callers"
        )
    if tool.input_schema.get("type") != "object":
        raise InvalidRequest(f'{place}.input_schema must have "type": "object"', param=f"{place}.input_schema.type")
    return DomainTool(tool.name, tool.description, tool.input_schema)


def _tool_choice(choice: ToolChoice | None) -> DomainToolChoice:
    if choice is None:
        return DomainToolChoice()
    if (choice.type == "tool") != (choice.name is not None):
        raise InvalidRequest(
            "tool_choice of type tool names one tool in `name`, the other types none", param="tool_choice.name"
        )
    return DomainToolChoice(_MODES[choice.type], choice.name, not choice.disable_parallel_tool_use)


def _reasoning(body: CountRequest) -> Effort | None:
    """How much to think; None is as the model likes. Without `thinking` there is none, as in Anthropic's API."""
    thinking = body.thinking
    if thinking is None or thinking.type == "disabled":
        return "none"
    effort = body.output_config.effort if body.output_config else None
    if thinking.type == "adaptive":
        return _EFFORTS[effort] if effort else None
    return _of_budget(thinking)


def _of_budget(thinking: Thinking) -> Effort:
    budget = thinking.budget_tokens
    if budget is None or budget < MIN_BUDGET:
        raise InvalidRequest(
            f"thinking.budget_tokens must be at least {MIN_BUDGET} where thinking is enabled",
            param="thinking.budget_tokens",
        )
    return "low" if budget <= _LOW_BUDGET else "medium" if budget <= _MEDIUM_BUDGET else "high"


def _constraint(body: CountRequest) -> JsonSchema | None:
    wanted = body.output_format or (body.output_config.format if body.output_config else None)
    return JsonSchema(wanted.schema) if wanted else None
