"""The JSON of `POST /inference/text` and of `POST /inference/multimodal`, as types."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from inference_engine.adapters.http.inference_api.errors import Problem
from inference_engine.adapters.http.inference_api.wire import Report
from inference_engine.domain.multimodal import Mode
from inference_engine.domain.results import FinishReason


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """How tokens are chosen; what is left out is the model's own default."""

    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    seed: int | None = None
    stop: list[str] | str = []


class Turn(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["system", "user", "assistant"]
    content: str


class Generated(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What all texts have. With `stream` the answer is server-sent events."""

    model: str | None = None
    parameters: Parameters = msgspec.field(default_factory=Parameters)
    stream: bool = False


class TextRequest(Generated, kw_only=True):
    """A `prompt` to be continued as it stands, or `messages` to be answered."""

    prompt: str | None = None
    messages: list[Turn] = []


class TextIn(msgspec.Struct, forbid_unknown_fields=True, tag_field="type", tag="text"):
    text: str


class ImageIn(msgspec.Struct, forbid_unknown_fields=True, tag_field="type", tag="image"):
    """`data` is base64, or a `data:` URL."""

    data: str


class AudioIn(msgspec.Struct, forbid_unknown_fields=True, tag_field="type", tag="audio"):
    """`data` is base64, or a `data:` URL."""

    data: str


class VideoIn(msgspec.Struct, forbid_unknown_fields=True, tag_field="type", tag="video"):
    """`data` is base64, or a `data:` URL. It is told as text: send `mode: combine`."""

    data: str


PartIn = TextIn | ImageIn | AudioIn | VideoIn


class MultimodalRequest(Generated, kw_only=True):
    """Texts, images, sounds and videos in the order they are told in; `system` stands before them."""

    parts: list[PartIn]
    mode: Mode = "direct"
    system: str = ""


class MultimodalForm(Generated, kw_only=True):
    """The same as a form: the images, sounds and videos first, then the `text`. `parameters` is JSON."""

    text: str = ""
    image: list[Annotated[str, Meta(extra_json_schema={"format": "binary"})]] = []
    audio: list[Annotated[str, Meta(extra_json_schema={"format": "binary"})]] = []
    video: list[Annotated[str, Meta(extra_json_schema={"format": "binary"})]] = []
    mode: Mode = "direct"
    system: str = ""


class TextAnswer(Report, kw_only=True, omit_defaults=True):
    """A text, who wrote it, and why it ended: `stop`, or `length` where max_tokens or the context was used up.

    `reasoning` is what the model thought before it.
    """

    text: str
    finish_reason: FinishReason
    reasoning: str | UnsetType = UNSET


class Helper(msgspec.Struct):
    """A model that analysed a part for the one that answered."""

    task: str
    model: str
    version: str


class Context(msgspec.Struct):
    """What the model was told instead of the part number `part`, from 0."""

    part: int
    text: str
    models: list[Helper]


class MultimodalAnswer(TextAnswer, kw_only=True, omit_defaults=True):
    """A text, and what was told of the parts that its model does not take."""

    context: list[Context] = msgspec.field(default_factory=list)


class TextEvent(msgspec.Struct, tag_field="type", tag="text"):
    """More of the text."""

    text: str


class ReasoningEvent(msgspec.Struct, tag_field="type", tag="reasoning"):
    """More of what the model thinks before it answers."""

    text: str


class ContextEvent(msgspec.Struct, tag_field="type", tag="context"):
    """What the model was told of parts it does not take; the first event."""

    context: list[Context]


class DoneEvent(Report, kw_only=True, tag_field="type", tag="done", omit_defaults=True):
    """The last event."""

    finish_reason: FinishReason


class ErrorEvent(msgspec.Struct, tag_field="type", tag="error"):
    """The last event of a stream that broke; what came before is not the whole answer."""

    error: Problem
