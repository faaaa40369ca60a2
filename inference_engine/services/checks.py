"""What is checked of a request once its model is loaded: whether the model can answer it at all. Knows no queue."""

from __future__ import annotations

from inference_engine.domain.errors import InvalidRequest, InvalidTensor, ModelNotFound, UnsupportedTask
from inference_engine.domain.requests import (
    AudioPart,
    Chat,
    Generate,
    ImagePart,
    Kind,
    Predict,
    SequenceStep,
    Transcribe,
)
from inference_engine.services.live import LiveModel


def checked_rows(live: LiveModel, request: Predict, kind: Kind = "predict") -> int:
    """How many rows a predict request has. Raises `UnsupportedTask`, `InvalidTensor`."""
    check_kind(live, kind)
    if request.sequence is not None and live.sequences is None:
        raise InvalidRequest(
            f"{live.manifest.ref} keeps nothing between requests (its manifest has no execution.sequences): leave "
            "sequence_id, sequence_start and sequence_end out",
            param="sequence_id",
        )
    rows = 1 if live.check is None else live.check.rows(request.inputs)
    for name in request.outputs:
        if live.outputs and name not in live.outputs:
            raise InvalidTensor(f"output {name!r} is unknown; the model gives {sorted(live.outputs)}", param=name)
    return rows


def checked_step(live: LiveModel, request: Predict, rows: int) -> SequenceStep:
    """A request's place in its sequence, where the model keeps sequences. Raises `InvalidRequest`."""
    if request.sequence is None:
        raise InvalidRequest(
            f"{live.manifest.ref} keeps sequences: give a sequence_id other than 0, with sequence_start in the first "
            "request and sequence_end in the last",
            param="sequence_id",
        )
    if rows != 1:
        raise InvalidTensor(
            f"the request has {rows} rows: a request of a sequence has one", param=next(iter(request.inputs), None)
        )
    return request.sequence


def check_kind(live: LiveModel, kind: Kind) -> None:
    """Raises `UnsupportedTask` when the model does not answer such requests."""
    if kind not in live.loaded.kinds:
        can = ", ".join(live.loaded.kinds)
        raise UnsupportedTask(f"{live.manifest.ref} does not answer {kind} requests, it answers: {can}", param="model")


def kind_of(request: Generate) -> Kind:
    if isinstance(request, Chat):
        return "chat"
    return "transcribe" if isinstance(request, Transcribe) else "complete"


def check_generation(live: LiveModel, request: Generate) -> None:
    """Raises `UnsupportedTask` for a kind or media the model does not take, `ModelNotFound` for an unknown adapter."""
    check_kind(live, kind_of(request))
    if request.adapter is not None and request.adapter not in live.loaded.adapters:
        known = ", ".join(live.loaded.adapters) or "none"
        raise ModelNotFound(
            f"{live.manifest.ref} has no adapter {request.adapter!r}; known adapters: {known}", param="model"
        )
    if isinstance(request, Chat):
        _check_media(live, request)


def _check_media(live: LiveModel, request: Chat) -> None:
    for index, message in enumerate(request.messages):
        for part in message.content if isinstance(message.content, tuple) else ():
            medium = "image" if isinstance(part, ImagePart) else "audio" if isinstance(part, AudioPart) else None
            if medium is not None and medium not in live.loaded.media:
                raise UnsupportedTask(
                    f"messages[{index}] holds {medium}, which {live.manifest.ref} does not take: send text only, "
                    "or name a model that does",
                    param=f"messages[{index}].content",
                )
