"""The JSON of /v1/responses as types. Knows no service.

Source: OpenAI API reference, Responses. Every known field is listed: it is honoured, ignored because the answer would
be the same, or refused by name (`REFUSED`). What is not listed is refused as unknown.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Item = dict[str, Any]
"""An input or output item as it is stored and shown: its `type` says which of the classes below it fits."""


# -- input items ---------------------------------------------------------------------------------------------------


class MessageItem(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[dict[str, Any]]
    type: Literal["message"] = "message"
    id: str | None = None
    status: Any = None
    phase: Any = None


class InputText(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    text: str
    prompt_cache_breakpoint: Any = None


class OutputText(msgspec.Struct, forbid_unknown_fields=True):
    """`parsed` is what the official client adds to what it has parsed, and sends back."""

    type: str
    text: str
    annotations: Any = None
    logprobs: Any = None
    parsed: Any = None


class Refusal(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    refusal: str


class InputImage(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    image_url: str | None = None
    detail: Literal["auto", "low", "high", "original"] | None = None
    file_id: str | None = None
    prompt_cache_breakpoint: Any = None


class CallItem(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    call_id: Annotated[str, Meta(min_length=1)]
    name: str
    arguments: str
    id: str | None = None
    status: Any = None
    caller: Any = None
    parsed_arguments: Any = None


class CallOutputItem(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    call_id: Annotated[str, Meta(min_length=1)]
    output: str | list[dict[str, Any]]
    id: str | None = None
    status: Any = None
    caller: Any = None


class ReasoningText(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    text: str


class ReasoningItem(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    summary: list[ReasoningText] = []
    content: list[ReasoningText] | None = None
    encrypted_content: str | None = None
    id: str | None = None
    status: Any = None


ITEMS: dict[str, type[msgspec.Struct]] = {
    "message": MessageItem,
    "function_call": CallItem,
    "function_call_output": CallOutputItem,
    "reasoning": ReasoningItem,
}
"""The items that are understood, by their `type`."""


# -- the request ---------------------------------------------------------------------------------------------------


class TextFormat(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class TextConfig(msgspec.Struct, forbid_unknown_fields=True):
    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(msgspec.Struct, forbid_unknown_fields=True):
    """`summary` shows what was thought as the item's summary, whole; nothing is summarised."""

    effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class FunctionTool(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: Literal[False] | None = None
    allowed_callers: Any = None
    output_schema: Any = None


class ToolName(msgspec.Struct, omit_defaults=True):
    type: str
    name: str | None = None


class ToolChoice(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One function, or with `allowed_tools` those of `tools` that may be called."""

    type: str
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: list[ToolName] | None = None


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_obfuscation: bool | None = None


Include = Literal[
    "message.output_text.logprobs",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]
LOGPROBS: Include = "message.output_text.logprobs"


class Asked(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What decides the prompt: shared by creating a response and counting its input."""

    input: str | list[dict[str, Any]]
    model: Annotated[str, Meta(min_length=1)] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    truncation: str | None = None
    conversation: Any = None
    personality: Any = None


class ResponseRequest(Asked, kw_only=True, forbid_unknown_fields=True):
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    include: list[Include] | None = None
    metadata: dict[str, str] | None = None
    # refused unless they ask for nothing, see REFUSED
    background: Any = None
    background_options: Any = None
    prompt: Any = None
    context_management: Any = None
    moderation: Any = None
    access_programs: Any = None
    image: Any = None
    # the answer is the same without them
    max_tool_calls: Any = None
    user: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    prompt_cache_options: Any = None


REFUSED: dict[str, tuple[tuple[object, ...], str]] = {
    "truncation": (("disabled",), "an input that is too long is refused, never cut: leave it out, or send disabled"),
    "conversation": ((), "conversations are not kept here: go on with previous_response_id"),
    "personality": ((), "personalities are not known here: say it in instructions"),
    "background": ((False,), "responses are made while you wait: leave it out, or send a batch to /v1/batches"),
    "background_options": ((), "responses are made while you wait: leave it out"),
    "prompt": ((), "prompt templates are not stored here: send input and instructions"),
    "context_management": (([],), "nothing is compacted here: leave it out"),
    "moderation": ((), "moderation is not supported: leave it out"),
    "access_programs": ((), "access programs are not known here: leave it out"),
    "image": ((), "images cannot be made: leave it out"),
}
"""Known fields that would change the answer and are not supported: values that ask for nothing, and the remedy."""


# -- answers -------------------------------------------------------------------------------------------------------


class InputDetails(msgspec.Struct):
    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(msgspec.Struct):
    reasoning_tokens: int


class Usage(msgspec.Struct):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class Problem(msgspec.Struct):
    code: str
    message: str


class Incomplete(msgspec.Struct):
    reason: str


class ServedBy(msgspec.Struct):
    """Which version answered, under which public name, by which rule. Ours, beside OpenAI's fields."""

    name: str
    version: str
    route: str
    rule: str


class Response(msgspec.Struct, kw_only=True):
    id: str
    object: str = "response"
    created_at: int
    status: str
    completed_at: int | None = None
    background: bool = False
    error: Problem | None = None
    incomplete_details: Incomplete | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: Any
    model: str
    output: list[Item]
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: Reasoning
    service_tier: str = "default"
    store: bool
    temperature: float | None
    text: TextConfig
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float | None
    truncation: str = "disabled"
    usage: Usage | None = None
    user: Any
    safety_identifier: Any
    prompt_cache_key: Any
    metadata: dict[str, str]
    served_by: ServedBy


class ItemList(msgspec.Struct):
    object: str
    data: list[Item]
    has_more: bool
    first_id: str | None
    last_id: str | None


class InputTokens(msgspec.Struct):
    object: str
    input_tokens: int
