"""The JSON of Ollama's API, as types. Knows no service.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md and the types of its Python client. Every known field is
listed; it is honoured, or refused by name. What is not listed is refused as unknown.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

KeepAlive = str | float | None
Name = Annotated[str, Meta(min_length=1)]


class Options(msgspec.Struct, forbid_unknown_fields=True):
    """Sampling values and limits. Those after `stop` say how to compute and are without effect on the answer."""

    num_ctx: int | None = None
    num_predict: int | None = None
    seed: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_last_n: int | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: str | list[str] | None = None
    num_thread: Any = None
    num_gpu: Any = None
    main_gpu: Any = None
    num_batch: Any = None
    num_keep: Any = None
    num_gqa: Any = None
    numa: Any = None
    low_vram: Any = None
    f16_kv: Any = None
    use_mmap: Any = None
    use_mlock: Any = None
    logits_all: Any = None
    embedding_only: Any = None
    penalize_newline: Any = None
    # refused unless they ask for nothing, see REFUSED_OPTIONS
    mirostat: Any = None
    mirostat_tau: Any = None
    mirostat_eta: Any = None
    tfs_z: Any = None
    vocab_only: Any = None


REFUSED_OPTIONS: dict[str, tuple[tuple[object, ...], str]] = {
    "mirostat": ((0,), "mirostat sampling is not supported: leave it out"),
    "tfs_z": ((1, 0), "tail free sampling is not supported: leave it out"),
    "vocab_only": ((False,), "a model is always loaded whole: leave it out"),
}
"""Options that would change the answer and are not supported: values that ask for nothing, and the remedy.

`mirostat_tau` and `mirostat_eta` say nothing without `mirostat`.
"""


class Function(msgspec.Struct):
    """Of a tool call; clients send more beside it, which says nothing to a model."""

    name: Name
    arguments: dict[str, Any] = {}


class ToolCall(msgspec.Struct):
    function: Function
    id: str = ""


class Message(msgspec.Struct, forbid_unknown_fields=True):
    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None
    name: str | None = None


class ToolFunction(msgspec.Struct, forbid_unknown_fields=True):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, forbid_unknown_fields=True):
    function: ToolFunction
    type: str | None = "function"


class Common(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What chat and generate share."""

    model: Name
    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    options: Options | None = None
    keep_alive: KeepAlive = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    truncate: bool | None = None
    shift: bool | None = None


class ChatRequest(Common, kw_only=True, forbid_unknown_fields=True):
    messages: list[Message] | None = None
    tools: list[Tool] | None = None


class GenerateRequest(Common, kw_only=True, forbid_unknown_fields=True):
    prompt: str | None = None
    suffix: str | None = None
    images: list[str] | None = None
    system: str | None = None
    raw: bool | None = None
    # refused unless they ask for nothing, see REFUSED
    template: str | None = None
    context: list[int] | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None


REFUSED: dict[str, str] = {
    "template": "a request cannot bring its own template: create a model with it (POST /api/create), or send raw: true",
    "context": "a conversation is not continued by its tokens: send its messages to /api/chat",
    "width": "images are not generated here: leave it out",
    "height": "images are not generated here: leave it out",
    "steps": "images are not generated here: leave it out",
}
"""Fields of generate that would change the answer and are not supported, with the remedy."""


class EmbedRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    model: Name
    input: str | list[str] = []
    truncate: bool | None = None
    dimensions: int | None = None
    options: Options | None = None
    keep_alive: KeepAlive = None


class EmbeddingsRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    model: Name
    prompt: str = ""
    options: Options | None = None
    keep_alive: KeepAlive = None


class NameRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Names one model; `name` is what older clients write for `model`."""

    model: str | None = None
    name: str | None = None


class ShowRequest(NameRequest, kw_only=True, forbid_unknown_fields=True):
    verbose: bool | None = None
    # what older clients send along, and what says nothing about a stored model
    system: str | None = None
    template: str | None = None
    options: Any = None


class PullRequest(NameRequest, kw_only=True, forbid_unknown_fields=True):
    stream: bool | None = None
    insecure: bool | None = None
    username: Any = None
    password: Any = None


class CopyRequest(msgspec.Struct, forbid_unknown_fields=True):
    source: Name
    destination: Name


class CreateRequest(NameRequest, kw_only=True, forbid_unknown_fields=True):
    base: str | None = msgspec.field(name="from", default=None)
    files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    template: str | None = None
    license: str | list[str] | None = None
    system: str | None = None
    parameters: dict[str, Any] | None = None
    messages: list[Message] | None = None
    stream: bool | None = None
    info: dict[str, Any] | None = None
    # refused unless they ask for nothing, see REFUSED_CREATE
    quantize: str | None = None
    quantization: str | None = None
    modelfile: str | None = None
    path: str | None = None
    renderer: str | None = None
    parser: str | None = None
    remote_host: str | None = None
    requires: str | None = None


REFUSED_CREATE: dict[str, str] = {
    "quantize": "files are not quantized here: upload one that is",
    "quantization": "files are not quantized here: upload one that is",
    "modelfile": "send its parts as fields: from, parameters, system, template, license, adapters, messages",
    "path": "files of this machine are not read: upload them to /api/blobs and name them in files",
    "renderer": "how chats are written is in the template: leave it out",
    "parser": "how answers are read is found out from the template: leave it out",
    "remote_host": "models of other servers are not passed on: leave it out",
    "info": "the file's own metadata is not changed: leave it out",
}
"""Fields of create that are known and refused, with the remedy."""


# -- answers -------------------------------------------------------------------------------------------------------


class Logprob(msgspec.Struct, omit_defaults=True):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[Logprob] = []


class CalledFunction(msgspec.Struct):
    name: str
    arguments: msgspec.Raw
    index: int = 0


class Called(msgspec.Struct):
    id: str
    function: CalledFunction


class AnswerMessage(msgspec.Struct, omit_defaults=True):
    content: str
    role: str | UnsetType = UNSET
    thinking: str = ""
    tool_calls: list[Called] = []


class Figures(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What the last line tells. Durations are nanoseconds."""

    done_reason: str | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET


class ChatAnswer(Figures, omit_defaults=True, kw_only=True):
    model: str
    created_at: str
    message: AnswerMessage
    done: bool
    logprobs: list[Logprob] = []


class GenerateAnswer(Figures, omit_defaults=True, kw_only=True):
    model: str
    created_at: str
    response: str
    done: bool
    thinking: str = ""
    logprobs: list[Logprob] = []


class EmbedAnswer(msgspec.Struct):
    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class EmbeddingsAnswer(msgspec.Struct):
    embedding: list[float]


class Details(msgspec.Struct):
    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class ListedModel(msgspec.Struct):
    name: str
    model: str
    modified_at: datetime
    size: int
    digest: str
    details: Details
    capabilities: list[str]


class Tags(msgspec.Struct):
    models: list[ListedModel]


class RunningModel(msgspec.Struct):
    name: str
    model: str
    size: int
    digest: str
    details: Details
    expires_at: datetime
    size_vram: int
    context_length: int


class Running(msgspec.Struct):
    models: list[RunningModel]


class Shown(msgspec.Struct, omit_defaults=True):
    details: Details
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: datetime
    modelfile: str
    license: str = ""
    parameters: str = ""
    template: str = ""
    system: str = ""
    messages: list[dict[str, str]] = []
    projector_info: dict[str, Any] = {}


class ProgressLine(msgspec.Struct, omit_defaults=True):
    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


class Status(msgspec.Struct):
    status: str


class Version(msgspec.Struct):
    version: str
    server: str
