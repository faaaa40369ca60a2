"""The JSON of OpenAI's models, chat completions and completions, as types. Knows no service.

Source: OpenAI API reference. Every field that is known is listed: it is honoured, ignored because the answer would be
the same, or refused by name (`REFUSED`). What is not listed is refused as unknown.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta


class TextPart(msgspec.Struct, tag="text", forbid_unknown_fields=True):
    text: str


class OtherPart(msgspec.Struct):
    """A content part of another kind; kept only to refuse it by its name."""

    type: str


class ChatMessage(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    refusal: Any = None
    tool_calls: Any = None
    tool_call_id: Any = None
    function_call: Any = None
    audio: Any = None
    annotations: Any = None
    reasoning_content: Any = None


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class JsonSchema(msgspec.Struct, forbid_unknown_fields=True):
    name: str = ""
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Common(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What chat completions and completions share."""

    model: Annotated[str, Meta(min_length=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[str, float] | None = None
    response_format: ResponseFormat | None = None
    # as vLLM and llama-server have them
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    repetition_penalty: float | None = None
    ignore_eos: bool | None = None
    # the answer is the same without them
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None


class ChatRequest(Common, kw_only=True, forbid_unknown_fields=True):
    messages: list[ChatMessage]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    # refused unless they ask for nothing, see REFUSED
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: Any = None
    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    web_search_options: Any = None
    moderation: Any = None


class CompletionRequest(Common, kw_only=True, forbid_unknown_fields=True):
    prompt: str | list[Any]
    echo: bool | None = None
    logprobs: int | None = None
    best_of: int | None = None
    suffix: Any = None


REFUSED: dict[str, tuple[tuple[object, ...], str]] = {
    "tools": (([],), "tool calls are not supported yet: leave it out"),
    "tool_choice": (("none", "auto"), "tool calls are not supported yet: leave it out"),
    "functions": (([],), "function calls are not supported yet: leave it out"),
    "function_call": (("none", "auto"), "function calls are not supported yet: leave it out"),
    "modalities": ((["text"], []), 'only text can be answered: leave it out, or send ["text"]'),
    "audio": ((), "audio cannot be answered: leave it out"),
    "prediction": ((), "predicted outputs are not supported: leave it out"),
    "reasoning_effort": (("none",), "reasoning cannot be steered here yet: leave it out"),
    "verbosity": ((), "verbosity is not supported: say in a system message how long the answer should be"),
    "web_search_options": ((), "this server searches nothing: leave it out"),
    "moderation": ((), "moderation is not supported: leave it out"),
    "suffix": (("",), "text cannot be inserted before a suffix: leave it out"),
}
"""Known fields that would change the answer and are not supported: values that ask for nothing, and the remedy."""


# -- answers -------------------------------------------------------------------------------------------------------


class TokenLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]


class ContentLogprob(TokenLogprob):
    top_logprobs: list[TokenLogprob]


class ChatLogprobs(msgspec.Struct):
    content: list[ContentLogprob]
    refusal: None = None


class CompletionLogprobs(msgspec.Struct):
    tokens: list[str] = []
    token_logprobs: list[float] = []
    top_logprobs: list[dict[str, float]] | None = None
    text_offset: list[int] = []


class PromptDetails(msgspec.Struct):
    cached_tokens: int = 0


class Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class ServedBy(msgspec.Struct):
    """Which version answered, under which public name, by which rule. Ours, beside OpenAI's fields."""

    name: str
    version: str
    route: str
    rule: str


class AnswerMessage(msgspec.Struct):
    role: str
    content: str
    refusal: None = None


class ChatChoice(msgspec.Struct):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: str


class ChatCompletion(msgspec.Struct):
    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str
    served_by: ServedBy


class ChatDelta(msgspec.Struct, omit_defaults=True):
    role: str | None = None
    content: str | None = None


class ChatChunkChoice(msgspec.Struct):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None


class ChatChunk(msgspec.Struct, omit_defaults=True):
    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    served_by: ServedBy | None = None
    usage: Usage | None = None


class CompletionChoice(msgspec.Struct):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None


class Completion(msgspec.Struct, omit_defaults=True):
    """An answer, and also a chunk of a streamed one."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    served_by: ServedBy | None = None
    usage: Usage | None = None


class Model(msgspec.Struct):
    """A name that can be asked for: a route, or an exact `name:version`."""

    id: str
    object: str
    created: int
    owned_by: str
    name: str
    version: str
    rule: str
    task: str
    state: str
    description: str
    context_length: int | None
    capabilities: tuple[str, ...]


class ModelList(msgspec.Struct):
    object: str
    data: list[Model]
