"""What can be asked of a model, and who asks. Dialects decode into these; runtimes read them."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.tensors import Array

Role = Literal["system", "user", "assistant", "tool"]
Kind = Literal["predict", "predict_stream", "chat", "complete", "embed", "rerank", "transcribe"]
Effort = Literal["none", "minimal", "low", "medium", "high"]
ToolMode = Literal["auto", "none", "required"]
Reuse = Literal["auto", "always", "refresh", "never"]


class Principal(msgspec.Struct, frozen=True):
    """Who asks: the tenant that owns the work and the key it came with (never the secret itself)."""

    tenant: str
    key_id: str


class Call(msgspec.Struct, frozen=True):
    """What travels beside a request: who asks, until when, how urgent, and the id that logs and traces share.

    `deadline_s` is a reading of the monotonic clock of the server process, or None for the model's own limit.
    A lower `priority` number is served first. `reuse` says whether an answer that was made before will do: `auto` where
    it would be the same, `always`, only a new one that is then kept (`refresh`), or `never`.
    """

    id: str
    principal: Principal
    deadline_s: float | None = None
    priority: int = 0
    reuse: Reuse = "auto"


class SequenceStep(msgspec.Struct, frozen=True):
    """A request's place in a sequence: the client's `id` for it (a number above 0, or a text), whether it is the first
    and whether it is the last."""

    id: int | str
    start: bool = False
    end: bool = False


class Predict(msgspec.Struct, frozen=True):
    """Tensors in, tensors out. `outputs` names the wanted ones; empty means all."""

    inputs: dict[str, Array]
    outputs: tuple[str, ...] = ()
    sequence: SequenceStep | None = None


class TextPart(msgspec.Struct, frozen=True, tag="text"):
    text: str


class ImagePart(msgspec.Struct, frozen=True, tag="image"):
    """An encoded image, as it came. `media_type` is what the client said it is."""

    data: bytes
    media_type: str = ""


class AudioPart(msgspec.Struct, frozen=True, tag="audio"):
    """Encoded audio, as it came."""

    data: bytes
    media_type: str = ""


Part = TextPart | ImagePart | AudioPart


class ToolCall(msgspec.Struct, frozen=True):
    """A call the assistant made. `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn. `tool_calls` and `reasoning` are of the assistant; a tool's answer names its call in `tool_call_id`."""

    role: Role
    content: str | tuple[Part, ...]
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str = ""

    @property
    def text(self) -> str:
        """The content without its images and sounds."""
        if isinstance(self.content, str):
            return self.content
        return "".join([part.text for part in self.content if isinstance(part, TextPart)])


class Tool(msgspec.Struct, frozen=True):
    """What the model may call. `parameters` is the JSON schema of its arguments object."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}


class ToolChoice(msgspec.Struct, frozen=True):
    """Whether tools are called: `required` forces a call, of the tool `name` where it is given.

    `parallel` allows several calls in one answer.
    """

    mode: ToolMode = "auto"
    name: str | None = None
    parallel: bool = True


class JsonSchema(msgspec.Struct, frozen=True, tag="json_schema"):
    """The answer is JSON that fits `schema`; the empty schema stands for any JSON object."""

    schema: dict[str, Any]


class Regex(msgspec.Struct, frozen=True, tag="regex"):
    """The whole answer matches `pattern`."""

    pattern: str


class Grammar(msgspec.Struct, frozen=True, tag="grammar"):
    """The whole answer is derived from the rule `root` of a GBNF grammar."""

    text: str


Constraint = JsonSchema | Regex | Grammar


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How tokens are chosen. None leaves the model's default. `logprobs` is the count of alternatives per token."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    typical_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    logit_bias: dict[int, float] = {}
    ignore_eos: bool = False


class Chat(msgspec.Struct, frozen=True, tag="chat"):
    """A conversation to be continued by the assistant, as free text, bound by `constraint`, or by calling tools.

    `reasoning` steers how much the model thinks before it answers; None leaves the model's default. `adapter` is the
    LoRA adapter to answer with, and is filled in from the target by the service.
    """

    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    constraint: Constraint | None = None
    choices: int = 1
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    reasoning: Effort | None = None
    adapter: str | None = None


class Complete(msgspec.Struct, frozen=True, tag="complete"):
    """A text, or the ids of its tokens, to be continued. `echo` gives the prompt back before the continuation.

    With a `suffix` the model fills in what stands between prompt and suffix.
    """

    prompt: str | tuple[int, ...]
    sampling: Sampling = Sampling()
    constraint: Constraint | None = None
    choices: int = 1
    echo: bool = False
    suffix: str | None = None
    adapter: str | None = None


class Transcribe(msgspec.Struct, frozen=True, tag="transcribe"):
    """Speech to be written down. `audio` is an encoded file; `language` (ISO 639-1) None is found out.

    `translate` writes English whatever is spoken. With `timestamps` the deltas are segments.
    """

    audio: bytes
    language: str | None = None
    prompt: str = ""
    translate: bool = False
    timestamps: bool = False
    sampling: Sampling = Sampling()
    choices: int = 1
    adapter: str | None = None


Generate = Chat | Complete | Transcribe


class Embed(msgspec.Struct, frozen=True):
    """Texts whose vectors are wanted. `dimensions` cuts them to their first so many values, normalised again."""

    texts: tuple[str, ...]
    dimensions: int | None = None


class Rerank(msgspec.Struct, frozen=True):
    """Documents to be scored by how well they answer `query`."""

    query: str
    documents: tuple[str, ...]


_LIMITS: dict[str, tuple[float, float]] = {
    "max_tokens": (1, 1_000_000),
    "temperature": (0.0, 5.0),
    "top_p": (0.0, 1.0),
    "top_k": (0, 1_000_000),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repeat_penalty": (0.01, 10.0),
    "repeat_last_n": (-1, 1_000_000),
    "typical_p": (0.0, 1.0),
    "logprobs": (0, 20),
    "seed": (-(2**63), 2**64 - 1),
}
MAX_CHOICES = 16
MAX_STOP = 16
MAX_TOOLS = 128
_TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def check_generate(request: Generate) -> None:
    """Refuse values that no runtime could honour; the error names the field and its range.

    Raises:
        InvalidRequest: a sampling value is out of range, NaN, or there is nothing to answer.
    """
    for field, (low, high) in _LIMITS.items():
        value = getattr(request.sampling, field)
        if value is not None and not low <= value <= high:
            raise InvalidRequest(f"{field} is {value}, it must lie between {low:g} and {high:g}", param=field)
    if not 1 <= request.choices <= MAX_CHOICES:
        raise InvalidRequest(f"n is {request.choices}, it must lie between 1 and {MAX_CHOICES}", param="n")
    if len(request.sampling.stop) > MAX_STOP or not all(request.sampling.stop):
        raise InvalidRequest(f"stop takes at most {MAX_STOP} strings, none of them empty", param="stop")
    for bias in request.sampling.logit_bias.values():
        if not -100 <= bias <= 100:
            raise InvalidRequest(f"logit_bias holds {bias}, it must lie between -100 and 100", param="logit_bias")
    if isinstance(request, Chat):
        _check_chat(request)


def _check_chat(request: Chat) -> None:
    if not request.messages:
        raise InvalidRequest("messages is empty: send at least one message", param="messages")
    names = [tool.name for tool in request.tools]
    if len(names) > MAX_TOOLS:
        raise InvalidRequest(f"{len(names)} tools came, at most {MAX_TOOLS} are taken", param="tools")
    for index, name in enumerate(names):
        if not _TOOL_NAME.fullmatch(name):
            raise InvalidRequest(
                f"tool name {name[:80]!r} is not valid: use 1 to 128 letters, digits, '_', '.' and '-'", param="tools"
            )
        if name in names[:index]:
            raise InvalidRequest(f"tools names {name!r} twice", param="tools")
    choice = request.tool_choice
    if choice.mode == "required" and not names:
        raise InvalidRequest("tool_choice demands a call, but there are no tools", param="tool_choice")
    if choice.name is not None and choice.name not in names:
        raise InvalidRequest(f"tool_choice names {choice.name!r}, which is not among the tools", param="tool_choice")
    if request.constraint is not None and choice.mode == "required":
        raise InvalidRequest("an answer cannot be a tool call and fit response_format at once", param="tool_choice")
