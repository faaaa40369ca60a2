"""How a transcription is written: as JSON, as text, as subtitles. Knows no service."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import msgspec

from inference_engine.adapters.http.openai import wire_audio as wire
from inference_engine.adapters.http.openai.answers import served_by
from inference_engine.domain.answers import Answer
from inference_engine.domain.errors import UnsupportedTask
from inference_engine.domain.requests import Transcribe
from inference_engine.domain.results import SegmentDelta, Served, Usage

TIMED: tuple[wire.Format, ...] = ("srt", "vtt", "verbose_json")
_ENCODER = msgspec.json.Encoder()
_JSON, _TEXT = b"application/json", b"text/plain; charset=utf-8"
_TYPES: dict[wire.Format, bytes] = {"srt": b"application/x-subrip; charset=utf-8", "vtt": b"text/vtt; charset=utf-8"}


def written(answer: Answer, form: wire.Format, request: Transcribe, served: Served) -> tuple[bytes, bytes]:
    """The body and its content type.

    Raises:
        UnsupportedTask: times were asked for and the model gave none.
    """
    if form == "text":
        return answer.text.strip().encode() + b"\n", _TEXT
    if form == "json":
        return _ENCODER.encode(wire.Transcription(answer.text.strip(), usage(answer.usage), served_by(served))), _JSON
    if answer.text and not answer.segments:
        raise UnsupportedTask(f"{served.ref} gives no times: ask for json or text", param="response_format")
    if form == "verbose_json":
        return _ENCODER.encode(_verbose(answer, request, served)), _JSON
    return subtitles(answer.segments, vtt=form == "vtt").encode(), _TYPES[form]


def subtitles(segments: Sequence[SegmentDelta], *, vtt: bool) -> str:
    """SubRip, or WebVTT."""
    blocks = []
    for number, segment in enumerate(segments, 1):
        times = f"{_clock(segment.start_s, vtt=vtt)} --> {_clock(segment.end_s, vtt=vtt)}"
        text = " ".join(segment.text.split())
        blocks.append(f"{times}\n{text}\n" if vtt else f"{number}\n{times}\n{text}\n")
    return ("WEBVTT\n\n" if vtt else "") + "\n".join(blocks)


def _clock(seconds: float, *, vtt: bool) -> str:
    whole, thousandths = divmod(round(max(0.0, seconds) * 1000), 1000)
    minutes, second = divmod(whole, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02}:{minute:02}:{second:02}{'.' if vtt else ','}{thousandths:03}"


def usage(counted: Usage) -> wire.TokenUsage:
    """Token counts as the audio endpoints write them."""
    total = counted.prompt_tokens + counted.completion_tokens
    return wire.TokenUsage("tokens", counted.prompt_tokens, counted.completion_tokens, total)


def _verbose(answer: Answer, request: Transcribe, served: Served) -> wire.VerboseTranscription:
    temperature = request.sampling.temperature or 0.0
    segments = [_segment(index, segment, temperature) for index, segment in enumerate(answer.segments)]
    return wire.VerboseTranscription(
        "translate" if request.translate else "transcribe",
        "en" if request.translate else request.language,
        segments[-1].end if segments else 0.0,
        answer.text.strip(),
        segments,
        usage(answer.usage),
        served_by(served),
    )


def _segment(index: int, segment: SegmentDelta, temperature: float) -> wire.Segment:
    logprobs = [position.chosen.logprob for position in segment.logprobs]
    raw = segment.text.encode()
    return wire.Segment(
        index,
        0,
        segment.start_s,
        segment.end_s,
        segment.text,
        segment.tokens,
        temperature,
        sum(logprobs) / len(logprobs) if logprobs else None,
        len(raw) / len(zlib.compress(raw)),
        None,
    )
