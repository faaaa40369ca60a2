"""The forms and the JSON of transcriptions, as types. Knows no service. Source: OpenAI API reference, audio."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from inference_engine.adapters.http.openai.wire import ServedBy

Format = Literal["json", "text", "srt", "vtt", "verbose_json"]


class TranslationForm(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The fields of the form; `file` is the encoded audio, as bytes.

    It is not typed so, because the schema would then speak of base64.
    """

    file: Annotated[Any, Meta(extra_json_schema={"type": "string", "format": "binary"})]
    model: Annotated[str, Meta(min_length=1)] | None = None
    prompt: str = ""
    response_format: Format = "json"
    temperature: float | None = None


class TranscriptionForm(TranslationForm, forbid_unknown_fields=True, kw_only=True):
    language: Annotated[str, Meta(pattern="^[A-Za-z]{2,3}$")] | None = None
    timestamp_granularities: list[str] = []
    stream: bool = False
    include: list[str] = []
    chunking_strategy: Any = None


class TokenUsage(msgspec.Struct):
    type: str
    input_tokens: int
    output_tokens: int
    total_tokens: int


class Transcription(msgspec.Struct):
    text: str
    usage: TokenUsage
    served_by: ServedBy


class Segment(msgspec.Struct):
    """A stretch of speech, in seconds. What the model does not tell is null."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float | None
    compression_ratio: float
    no_speech_prob: float | None


class VerboseTranscription(msgspec.Struct):
    """`language` is what the request said; `duration` is the end of the last segment, in seconds."""

    task: str
    language: str | None
    duration: float
    text: str
    segments: list[Segment]
    usage: TokenUsage
    served_by: ServedBy


class TextEvent(msgspec.Struct):
    type: str
    delta: str


class DoneEvent(msgspec.Struct):
    type: str
    text: str
    usage: TokenUsage
