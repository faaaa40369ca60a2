"""Images and sounds in messages: checked, put where llama.cpp's marker says, and sent over its HTTP side.

xllamacpp's own calls take no media with a raw prompt; the server's native completion endpoint does. Its events are
brought to the shape of the others here, so that one reader serves both.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import msgspec

from inference_engine.domain.errors import InvalidRequest, ModelLoadFailed
from inference_engine.domain.ports import Media
from inference_engine.domain.requests import AudioPart, Chat, Complete, ImagePart, Message, TextPart
from inference_engine.infra.formats.gguf import GgufHead, read_head
from inference_engine.infra.images import checked_image
from inference_engine.infra.runtimes.files import file_inside
from inference_engine.infra.runtimes.llama_cpp.chunks import (
    Choice,
    Chunk,
    ChunkError,
    ChunkUsage,
    Logprobs,
    Position,
    Progress,
    PromptDetails,
    Verbose,
)

MAX_MEDIA = 64
MAX_AUDIO_BYTES = 64 << 20
_AUDIO_HEADS = (b"RIFF", b"ID3", b"fLaC", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")
# these projectors want an image computed in one piece; a smaller batch makes llama.cpp abort
_WHOLE_IMAGES = {"gemma3": 256, "gemma4v": 2048, "gemma4uv": 2048, "deepseek4v": 2048}


class MediaDesk:
    """Takes the media out of requests for a model that sees or hears."""

    def __init__(self, properties: dict[str, Any]) -> None:
        """`properties` are those of the loaded server: what its projector takes, and the marker it looks for."""
        modalities = properties.get("modalities", {})
        self._marker = str(properties.get("media_marker", ""))
        self.kinds: tuple[Media, ...] = (
            *(("image",) if modalities.get("vision") else ()),
            *(("audio",) if modalities.get("audio") else ()),
        )

    def taken(self, request: Chat | Complete) -> tuple[Chat | Complete, list[str]]:
        """The request with a marker in the place of each image or sound, and these in base64, in order.

        Raises:
            InvalidRequest: one of them is not what it says, damaged or too large.
        """
        if not isinstance(request, Chat) or not any(isinstance(message.content, tuple) for message in request.messages):
            return request, []
        media: list[str] = []
        messages = tuple(
            [
                self._message(message, f"messages[{index}].content", media)
                for index, message in enumerate(request.messages)
            ]
        )
        return msgspec.structs.replace(request, messages=messages), media

    def _message(self, message: Message, field: str, media: list[str]) -> Message:
        if isinstance(message.content, str):
            return message
        texts = []
        for part in message.content:
            if isinstance(part, TextPart):
                texts.append(part.text)
                continue
            if len(media) == MAX_MEDIA:
                raise InvalidRequest(f"messages hold more than {MAX_MEDIA} images and sounds", param="messages")
            media.append(base64.b64encode(_checked(part, field)).decode())
            texts.append(self._marker)
        return msgspec.structs.replace(message, content="".join(texts))


def _checked(part: ImagePart | AudioPart, field: str) -> bytes:
    if isinstance(part, ImagePart):
        return checked_image(part.data, field)
    if len(part.data) > MAX_AUDIO_BYTES:
        raise InvalidRequest(f"{field} holds a sound of more than {MAX_AUDIO_BYTES} bytes", param=field)
    if not part.data.startswith(_AUDIO_HEADS):
        raise InvalidRequest(f"{field} holds no sound that can be read: send WAV, MP3 or FLAC", param=field)
    return part.data


def load_projector(params: Any, name: str, base: GgufHead, folder: Path) -> None:
    """Check the projector file and have `params` load it.

    Raises:
        InvalidManifest: the name leads out of the folder.
        ModelLoadFailed: the file is missing, damaged, no projector, or made for another base.
    """
    field = "options.mmproj"
    path = file_inside(folder, name, field)
    try:
        head = read_head(path)
    except ModelLoadFailed as error:
        error.param = field
        raise
    if head.architecture != "clip":
        raise ModelLoadFailed(f"{path} is a GGUF file of {head.architecture!r}, not a projector (mmproj)", param=field)
    width, own = base.of_architecture("embedding_length"), _width(head)
    if own is not None and own != width:
        raise ModelLoadFailed(
            f"{path} was made for another base model: it gives vectors of {own} values, the base takes {width}",
            param=field,
        )
    params.mmproj.path = str(path)
    kind = head.metadata.get("clip.vision.projector_type", head.metadata.get("clip.projector_type"))
    params.n_batch = params.n_ubatch = max(params.n_batch, _WHOLE_IMAGES.get(str(kind), 1))


def _width(head: GgufHead) -> int | None:
    """How long the vectors are, where the usual last layers of a projector tell."""
    for name in ("mm.2.weight", "mm.model.fc.weight"):
        if name in head.tensors and len(head.tensors[name]) == 2:
            return head.tensors[name][1]
    return None


def media_body(body: dict[str, Any], prompt: str | tuple[int, ...], answer: str, media: list[str]) -> dict[str, Any]:
    """`body` for the native endpoint. With media the prompt is text only: a continuation gives its `answer` as text."""
    changed = {name: value for name, value in body.items() if name != "response_fields"}
    if media:
        changed["prompt"] = {"prompt_string": f"{prompt}{answer}", "multimodal_data": media}
    return changed


class _NativeTimings(msgspec.Struct):
    cache_n: int = 0


class _NativeEvent(msgspec.Struct):
    """One event of llama.cpp's own completion endpoint (tools/server/server-task.cpp, `to_json_non_oaicompat`)."""

    content: str = ""
    tokens: list[int] = []
    stop: bool = False
    stop_type: str = ""
    tokens_predicted: int = 0
    tokens_evaluated: int = 0
    timings: _NativeTimings | None = None
    prompt_progress: Progress | None = None
    completion_probabilities: list[Position] = []
    error: ChunkError | None = None


_decode_event = msgspec.json.Decoder(_NativeEvent).decode
_encode = msgspec.json.Encoder().encode


def as_chunk(raw: bytes) -> bytes:
    """A native event in the JSON that in-process completions are streamed in."""
    event = _decode_event(raw)
    logprobs = Logprobs(event.completion_probabilities) if event.completion_probabilities else None
    usage = None
    if event.stop:
        cached = event.timings.cache_n if event.timings else 0
        usage = ChunkUsage(event.tokens_evaluated, event.tokens_predicted, PromptDetails(cached))
    reason = ("stop" if event.stop_type in ("eos", "word") else "length") if event.stop else None
    return _encode(
        Chunk(
            choices=[Choice(event.content, logprobs, reason)],
            usage=usage,
            prompt_progress=event.prompt_progress,
            error=event.error,
            verbose=Verbose(event.tokens, event.tokens_predicted),
        )
    )
