"""The JSON of OpenAI's models, chat completions and completions, as types. Knows no service.

Source: OpenAI API reference. Every field that is known is listed: it is honoured, ignored because the answer would be
the same, or refused by name (`REFUSED`). What is not listed is refused as unknown.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType


class FunctionCall(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    arguments: str


class ToolCall(msgspec.Struct, forbid_unknown_fields=True):
    """A call that the assistant made. `index` is what a streamed one had."""

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"
    index: int | None = None


class ChatMessage(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    # what the assistant thought, as DeepSeek and llama-server, and as newer vLLM write it
    reasoning_content: str | None = None
    reasoning: str | None = None
    # what LiteLLM notes for itself; the answer is the same without it
    provider_specific_fields: Any = None
    # refused unless they say nothing
    refusal: Any = None
    function_call: Any = None
    audio: Any = None
    annotations: Any = None


class ImageUrl(msgspec.Struct, forbid_unknown_fields=True):
    url: str
    detail: Literal["auto", "low", "high"] | None = None


class InputAudio(msgspec.Struct, forbid_unknown_fields=True):
    data: str
    format: Literal["wav", "mp3", "flac", "ogg"]


class Function(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    function: Function | None = None


class FunctionName(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class ToolChoice(msgspec.Struct):
    """A choice of one tool; other types are refused by name."""

    type: str
    function: FunctionName | None = None


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class JsonSchema(msgspec.Struct, forbid_unknown_fields=True):
    name: str = ""
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, forbid_unknown_fields=True):
    """OpenAI's, with `schema` as llama-server has it, and with a pattern or a grammar."""

    type: Literal["text", "json_object", "json_schema", "regex", "grammar"]
    json_schema: JsonSchema | None = None
    schema: dict[str, Any] | None = None
    regex: str | None = None
    pattern: str | None = None
    grammar: str | None = None


class StructuredOutputs(msgspec.Struct, forbid_unknown_fields=True):
    """vLLM's; exactly one is given."""

    json: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


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
    typical_p: float | None = None
    repeat_penalty: float | None = None
    repetition_penalty: float | None = None
    repeat_last_n: int | None = None
    ignore_eos: bool | None = None
    priority: int | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    grammar: str | None = None
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
    tools: list[Tool] | None = None
    tool_choice: str | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    # refused unless they ask for nothing, see REFUSED
    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    verbosity: Any = None
    web_search_options: Any = None
    moderation: Any = None
    chat_template_kwargs: Any = None


class CompletionRequest(Common, kw_only=True, forbid_unknown_fields=True):
    prompt: str | list[Any]
    echo: bool | None = None
    logprobs: int | None = None
    best_of: int | None = None
    suffix: str | None = None


REFUSED: dict[str, tuple[tuple[object, ...], str]] = {
    "functions": (([],), "functions have become tools: send them as tools of type function"),
    "function_call": (("none", "auto"), "functions have become tools: send tool_choice"),
    "modalities": ((["text"], []), 'only text can be answered: leave it out, or send ["text"]'),
    "audio": ((), "audio cannot be answered: leave it out"),
    "prediction": ((), "predicted outputs are not supported: leave it out"),
    "verbosity": ((), "verbosity is not supported: say in a system message how long the answer should be"),
    "web_search_options": ((), "this server searches nothing: leave it out"),
    "moderation": ((), "moderation is not supported: leave it out"),
    "chat_template_kwargs": (({},), "templates take no arguments here: steer reasoning with reasoning_effort"),
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


class CompletionDetails(msgspec.Struct):
    reasoning_tokens: int = 0


class Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class ServedBy(msgspec.Struct):
    """Which version answered, under which public name, by which rule. Ours, beside OpenAI's fields."""

    name: str
    version: str
    route: str
    rule: str
    adapter: str | UnsetType = UNSET


class AnswerMessage(msgspec.Struct):
    """`reasoning_content` and `tool_calls` are there only where the model gave any."""

    role: str
    content: str | None
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[AnswerToolCall] | UnsetType = UNSET


class AnswerToolCall(msgspec.Struct):
    id: str
    type: str
    function: FunctionCall


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


class FunctionDelta(msgspec.Struct, omit_defaults=True):
    """More of a call: its name comes once and first, its arguments in pieces."""

    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(msgspec.Struct, omit_defaults=True):
    index: int
    id: str | None = None
    type: str | None = None
    function: FunctionDelta | None = None


class ChatDelta(msgspec.Struct, omit_defaults=True):
    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


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
    """A name that can be asked for: a route, or an exact `name:version`, each with `@adapter` behind it or not."""

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
    parent: str | None = None


class ModelList(msgspec.Struct):
    object: str
    data: list[Model]
