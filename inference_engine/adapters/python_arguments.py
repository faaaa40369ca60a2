"""What callers of the Python API may pass, as the domain's requests. Knows no service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec
import numpy as np

from inference_engine.domain.analysis import AnalyzeImages
from inference_engine.domain.errors import InvalidRequest, InvalidTensor
from inference_engine.domain.model import Signature
from inference_engine.domain.requests import (
    Chat,
    Complete,
    Constraint,
    Effort,
    Grammar,
    ImagePart,
    JsonSchema,
    Message,
    Regex,
    Sampling,
    Tool,
    ToolChoice,
)
from inference_engine.domain.tensors import Array

Messages = str | Sequence[Mapping[str, Any] | Message]
Kind = TypeVar("Kind")
_SAMPLING_FIELDS = frozenset(Sampling.__struct_fields__)
_OF_CHATS = ("tools", "tool_choice", "reasoning")
_CONSTRAINTS = {"json_schema": JsonSchema, "regex": Regex, "grammar": Grammar}


def generation_request(messages: Messages | None, prompt: str | None, options: dict[str, Any]) -> Chat | Complete:
    """Decode the arguments of `generate`.

    Raises:
        InvalidRequest: both or neither of messages and prompt, or a keyword that is not known.
    """
    if (messages is None) == (prompt is None):
        raise InvalidRequest("give either messages or prompt")
    constraint = _constraint(options)
    acting = {name: options.pop(name) for name in _OF_CHATS if name in options}
    sampling = _sampling(options)
    if prompt is not None:
        if acting:
            raise InvalidRequest(f"{next(iter(acting))} goes with messages, not with a prompt")
        return Complete(prompt, sampling, constraint)
    if isinstance(messages, str):
        messages = (Message("user", messages),)
    return Chat(
        tuple([_typed(message, Message, "messages") for message in messages or ()]),
        sampling,
        constraint,
        tools=tuple([_typed(tool, Tool, "tools") for tool in acting.get("tools") or ()]),
        tool_choice=_tool_choice(acting.get("tool_choice")),
        reasoning=_effort(acting.get("reasoning")),
    )


def _constraint(options: dict[str, Any]) -> Constraint | None:
    given = {name: options.pop(name) for name in _CONSTRAINTS if name in options}
    found = [_CONSTRAINTS[name](value) for name, value in given.items() if value is not None]
    if len(found) > 1:
        raise InvalidRequest(f"give one of {', '.join(_CONSTRAINTS)}")
    return found[0] if found else None


def _sampling(options: dict[str, Any]) -> Sampling:
    for name in options:
        if name not in _SAMPLING_FIELDS:
            known = sorted({*_SAMPLING_FIELDS, *_CONSTRAINTS, *_OF_CHATS})
            raise InvalidRequest(f"{name!r} is not a sampling field: use {', '.join(known)}")
    if isinstance(options.get("stop"), str):
        options["stop"] = (options["stop"],)
    return Sampling(**options)


def _tool_choice(given: Any) -> ToolChoice:
    """`auto`, `none`, `required`, or the fields of `ToolChoice`."""
    if given is None:
        return ToolChoice()
    return _typed({"mode": given} if isinstance(given, str) else given, ToolChoice, "tool_choice")


def _effort(given: str | None) -> Effort | None:
    try:
        effort: Effort | None = msgspec.convert(given, Effort | None)
        return effort
    except msgspec.ValidationError:
        known = ", ".join(get_args(Effort))
        raise InvalidRequest(f"reasoning is {given!r}: it may be {known}", param="reasoning") from None


def _typed(given: Any, kind: type[Kind], field: str) -> Kind:
    if isinstance(given, kind):
        return given
    try:
        return msgspec.convert(dict(given) if isinstance(given, Mapping) else given, kind)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"{field}: this is no {kind.__name__}: {error}", param=field) from None


def audio_bytes(audio: bytes | str | Path) -> bytes:
    """The encoded audio itself, or what is in the file. Blocking. Raises what `file_bytes` raises."""
    return file_bytes(audio, "audio")


def file_bytes(file: bytes | str | Path, name: str) -> bytes:
    """The bytes themselves, or what is in the file; `name` is the argument. Blocking.

    Raises:
        InvalidRequest: the file cannot be read.
    """
    if isinstance(file, bytes):
        return file
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}", param=name) from None


def image_request(
    images: Sequence[bytes | str | Path],
    *,
    tasks: str | Sequence[str] = (),
    model: str | Mapping[str, str] | None = None,
    **options: Any,
) -> AnalyzeImages:
    """Decode the arguments of `analyze_images`. Blocking: it reads files.

    Raises:
        InvalidRequest: a file cannot be read, or an argument is not known or of a wrong type.
    """
    fields: dict[str, Any] = {
        "images": (),
        "tasks": (tasks,) if isinstance(tasks, str) else tuple(tasks),
        "model": model if isinstance(model, str) else None,
        "models": dict(model) if isinstance(model, Mapping) else {},
        **options,
    }
    for name in fields:
        if name not in AnalyzeImages.__struct_fields__:
            raise InvalidRequest(f"{name!r} is not an argument: use {', '.join(AnalyzeImages.__struct_fields__)}")
    try:
        request = msgspec.convert(fields, AnalyzeImages)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"these arguments are wrong: {error}") from None
    files = tuple([ImagePart(file_bytes(image, f"images[{place}]")) for place, image in enumerate(images)])
    return msgspec.structs.replace(request, images=files)


def as_arrays(inputs: Mapping[str, Any], signature: Signature | None) -> dict[str, Array]:
    """Arrays as they are; lists as arrays of the dtype that the signature declares.

    Raises:
        InvalidTensor: a value is ragged or does not fit the dtype.
    """
    dtypes = {spec.name: spec.dtype for spec in signature.inputs} if signature else {}
    return {name: _as_array(name, value, dtypes.get(name)) for name, value in inputs.items()}


def _as_array(name: str, value: Any, dtype: str | None) -> Array:
    if isinstance(value, np.ndarray):
        return value
    try:
        if dtype == "bytes":
            texts = np.asarray(value, dtype=object)
            encoded = [item.encode() if isinstance(item, str) else bytes(item) for item in texts.ravel()]
            array = np.empty(len(encoded), dtype=object)
            array[:] = encoded
            return array.reshape(texts.shape)
        return np.asarray(value, dtype=dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidTensor(
            f"input {name!r} cannot be made a {dtype or 'numeric'} tensor: {error}", param=name
        ) from None
