"""Text in and out as tensors, as Triton's language model backends have it: text_input, stream, text_output.

What steers the sampling comes as parameters of the request, as tensors of one element, or as the JSON object in
`sampling_parameters`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple

import msgspec
import numpy as np

from inference_engine.domain.errors import InvalidRequest, InvalidTensor, UnknownField
from inference_engine.domain.requests import Chat, Complete, Generate, Message, Sampling
from inference_engine.domain.results import Delta, Done, TextDelta
from inference_engine.domain.tensors import Array

TEXT_INPUT, TEXT_OUTPUT = "text_input", "text_output"
_STREAM, _CHAT, _SAMPLING = "stream", "chat", "sampling_parameters"
_FIELDS = (
    *("max_tokens", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty"),
    *("repeat_penalty", "repeat_last_n", "typical_p", "seed", "stop", "ignore_eos"),
)


class Wanted(NamedTuple):
    """What to generate, and whether in parts."""

    request: Generate
    stream: bool


class Part(NamedTuple):
    """More text, or with `done` the end of it."""

    text: str
    done: Done | None = None

    @property
    def tensor(self) -> Array:
        array = np.empty(1, object)
        array[0] = self.text.encode()
        return array


def decoded(inputs: dict[str, Array], parameters: dict[str, Any], *, as_chat: bool = False) -> Wanted:
    """The generation that a request's tensors and parameters ask for; `as_chat` where `chat` is not said.

    Raises:
        InvalidTensor; InvalidRequest; UnknownField: named after the tensor or parameter at fault.
    """
    given = dict(parameters)
    text = ""
    for name, array in inputs.items():
        value = _one(name, array)
        if name == TEXT_INPUT:
            if not isinstance(value, str):
                raise InvalidTensor(f"input {name!r} must be BYTES", param=name)
            text = value
        elif name in given:
            raise InvalidRequest(f"{name} is given as a tensor and as a parameter", param=name)
        else:
            given[name] = value
    stream, chat = _flag(given, _STREAM, False), _flag(given, _CHAT, as_chat)
    sampling = _sampling(given)
    request: Generate = Chat((Message("user", text),), sampling) if chat else Complete(text, sampling)
    return Wanted(request, stream)


def _one(name: str, array: Array) -> Any:
    if array.size != 1:
        raise InvalidTensor(
            f"input {name!r} has {array.size} elements: a generation takes one text, send one request for each",
            param=name,
        )
    value = array.ravel()[0]
    if not isinstance(value, bytes):
        return value.item()
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidTensor(f"input {name!r} is not UTF-8 text", param=name) from None


def _flag(given: dict[str, Any], name: str, default: bool) -> bool:
    value = given.pop(name, default)
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name} must be true or false", param=name)
    return value


def _sampling(given: dict[str, Any]) -> Sampling:
    text = given.pop(_SAMPLING, None)
    if text is not None:
        given = _object(text) | given
    for name in given:
        if name not in _FIELDS:
            raise UnknownField(
                f"{name[:80]!r} is not supported by a generation, these are: {', '.join(_FIELDS)}", param=name[:80]
            )
    if isinstance(given.get("stop"), str):
        given["stop"] = [given["stop"]]
    try:
        return msgspec.convert(given, Sampling)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"sampling: {error}", param="parameters") from None


def _object(text: Any) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"{_SAMPLING} is no JSON: {error}", param=_SAMPLING) from None
    if not isinstance(found, dict):
        raise InvalidRequest(f"{_SAMPLING} must be a JSON object", param=_SAMPLING)
    return found


async def parts(deltas: AsyncGenerator[Delta], *, whole: bool) -> AsyncGenerator[Part]:
    """The text as it comes and an empty last part, or with `whole` one part. `deltas` is closed by the end.

    Thoughts are left out.
    """
    texts: list[str] = []
    try:
        async for delta in deltas:
            if isinstance(delta, Done):
                yield Part("".join(texts), delta)
                return
            if not isinstance(delta, TextDelta) or not delta.text:
                continue
            if whole:
                texts.append(delta.text)
            else:
                yield Part(delta.text)
    finally:
        await deltas.aclose()
