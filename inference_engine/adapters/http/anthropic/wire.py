"""The JSON of Anthropic's messages, token counts and models, as types. Knows no service.

Source: Anthropic API reference. Every field that is known is listed: it is honoured, ignored because the answer would
be the same, or refused by name (`REFUSED`). What is not listed is refused as unknown.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

# -- what a request is made of -------------------------------------------------------------------------------------


class Source(msgspec.Struct, forbid_unknown_fields=True):
    """Where an image or a document comes from. Only `base64` and `text` need no other server."""

    type: str
    media_type: str = ""
    data: str = ""
    url: Any = None
    file_id: Any = None
    content: Any = None


class Citations(msgspec.Struct, forbid_unknown_fields=True):
    enabled: bool = False


class TextBlock(msgspec.Struct, tag="text", forbid_unknown_fields=True):
    text: str
    cache_control: Any = None
    citations: Any = None


class ImageBlock(msgspec.Struct, tag="image", forbid_unknown_fields=True):
    source: Source
    cache_control: Any = None
    transformations: Any = None


class DocumentBlock(msgspec.Struct, tag="document", forbid_unknown_fields=True):
    source: Source
    title: str | None = None
    context: str | None = None
    citations: Citations | None = None
    cache_control: Any = None


class ThinkingBlock(msgspec.Struct, tag="thinking", forbid_unknown_fields=True):
    """What the assistant thought. The signature is not checked: the text is the client's to change anyway."""

    thinking: str
    signature: str = ""


class ToolUseBlock(msgspec.Struct, tag="tool_use", forbid_unknown_fields=True):
    id: Annotated[str, Meta(min_length=1)]
    name: Annotated[str, Meta(min_length=1)]
    input: dict[str, Any]
    cache_control: Any = None
    caller: Any = None


class ToolResultBlock(msgspec.Struct, tag="tool_result", forbid_unknown_fields=True):
    tool_use_id: Annotated[str, Meta(min_length=1)]
    content: str | list[dict[str, Any]] = ""
    is_error: bool = False
    cache_control: Any = None


Block = TextBlock | ImageBlock | DocumentBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock
BLOCKS: dict[str, type[Block]] = {
    "text": TextBlock,
    "image": ImageBlock,
    "document": DocumentBlock,
    "thinking": ThinkingBlock,
    "tool_use": ToolUseBlock,
    "tool_result": ToolResultBlock,
}


class InputMessage(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class Tool(msgspec.Struct, forbid_unknown_fields=True):
    """A tool that the client runs."""

    name: str
    input_schema: dict[str, Any]
    description: str = ""
    type: str | None = None
    strict: bool | None = None
    input_examples: Any = None
    allowed_callers: list[str] | None = None
    defer_loading: bool | None = None
    cache_control: Any = None
    eager_input_streaming: Any = None


class ToolChoice(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, forbid_unknown_fields=True):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class CountRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What the prompt is made of; `MessagesRequest` adds how the answer is made."""

    messages: list[InputMessage]
    model: Annotated[str, Meta(min_length=1)] | None = None
    system: str | list[TextBlock] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    # the answer is the same without them
    cache_control: Any = None
    speed: Any = None
    user_profile_id: Any = None
    workspace_id: Any = None
    # refused unless they ask for nothing, see REFUSED
    context_management: Any = None
    mcp_servers: Any = None


class MessagesRequest(CountRequest, kw_only=True, forbid_unknown_fields=True):
    max_tokens: int
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    # the answer is the same without them
    metadata: Any = None
    service_tier: Any = None
    inference_geo: Any = None
    diagnostics: Any = None
    # refused unless they ask for nothing
    container: Any = None
    fallbacks: Any = None
    thread: Any = None


REFUSED: dict[str, tuple[tuple[object, ...], str]] = {
    "context_management": (
        ({"edits": []}, {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}),
        "the conversation is not edited here: leave it out, and send what the model is to see",
    ),
    "mcp_servers": (([],), "this server calls no other servers: offer their tools in `tools` and run them yourself"),
    "container": ((), "no code is run here: leave it out"),
    "fallbacks": (([],), "no other model steps in: leave it out"),
}
"""Known fields that would change the answer and are not supported: values that ask for nothing, and the remedy."""


# -- answers -------------------------------------------------------------------------------------------------------


class OutputDetails(msgspec.Struct):
    thinking_tokens: int


class Usage(msgspec.Struct):
    """`input_tokens` of the prompt were computed, `cache_read_input_tokens` were found in the KV cache."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens_details: OutputDetails | None = None


class ServedBy(msgspec.Struct):
    """Which version answered, under which public name, by which rule. Ours, beside Anthropic's fields."""

    name: str
    version: str
    route: str
    rule: str


class AnswerText(msgspec.Struct, tag="text"):
    text: str


class AnswerThinking(msgspec.Struct, tag="thinking"):
    thinking: str
    signature: str


class AnswerToolUse(msgspec.Struct, tag="tool_use"):
    id: str
    name: str
    input: msgspec.Raw


AnswerBlock = AnswerText | AnswerThinking | AnswerToolUse
StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class Message(msgspec.Struct):
    id: str
    type: str
    role: str
    model: str
    content: list[AnswerBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: Usage
    served_by: ServedBy


class TokenCount(msgspec.Struct):
    input_tokens: int


class Model(msgspec.Struct):
    """A name that can be asked for: a route, or an exact `name:version`."""

    type: str
    id: str
    display_name: str
    created_at: str
    lifecycle: str
    max_input_tokens: int | None


class ModelList(msgspec.Struct):
    data: list[Model]
    has_more: bool
    first_id: str | None
    last_id: str | None


# -- events --------------------------------------------------------------------------------------------------------


class MessageStart(msgspec.Struct, tag="message_start"):
    message: Message


class BlockStart(msgspec.Struct, tag="content_block_start"):
    index: int
    content_block: AnswerBlock


class TextDelta(msgspec.Struct, tag="text_delta"):
    text: str


class ThinkingDelta(msgspec.Struct, tag="thinking_delta"):
    thinking: str


class SignatureDelta(msgspec.Struct, tag="signature_delta"):
    signature: str


class InputJsonDelta(msgspec.Struct, tag="input_json_delta"):
    partial_json: str


class BlockDelta(msgspec.Struct, tag="content_block_delta"):
    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta


class BlockStop(msgspec.Struct, tag="content_block_stop"):
    index: int


class Ending(msgspec.Struct):
    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(msgspec.Struct, tag="message_delta"):
    delta: Ending
    usage: Usage


class MessageStop(msgspec.Struct, tag="message_stop"):
    pass


class Ping(msgspec.Struct, tag="ping"):
    pass


Event = MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop | Ping
