"""The JSON of `POST /inference/batch`, as types."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from inference_engine.adapters.http.inference_api.errors import Problem
from inference_engine.adapters.http.inference_api.wire_images import ImageRequest
from inference_engine.adapters.http.inference_api.wire_texts import (
    MultimodalRequest,
    TextRequest,
)

Id = Annotated[str, Meta(min_length=1, max_length=128)]


class TextItem(TextRequest, kw_only=True, tag_field="type", tag="text"):
    id: Id | None = None


class ImageItem(ImageRequest, kw_only=True, tag_field="type", tag="image"):
    id: Id | None = None


class MultimodalItem(MultimodalRequest, kw_only=True, tag_field="type", tag="multimodal"):
    id: Id | None = None


class Head(msgspec.Struct):
    """What every item has: its type, and perhaps an id of the client's."""

    type: str
    id: Id | None = None


class Envelope(msgspec.Struct, forbid_unknown_fields=True):
    """A batch before its items are read, each by itself, so that a bad one fails alone."""

    items: list[msgspec.Raw]
    stream: bool = False
    timeout_s: Annotated[float, Meta(gt=0)] | None = None


class BatchRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Items of any types, each with the fields of its own route. With `stream` results are sent as they come."""

    items: Annotated[list[TextItem | ImageItem | MultimodalItem], Meta(min_length=1)]
    stream: bool = False
    timeout_s: Annotated[float, Meta(gt=0)] | None = None


_ANY_ANSWER = {
    "anyOf": [
        {"$ref": f"#/components/schemas/inference.{name}"} for name in ("TextAnswer", "ImageAnswer", "MultimodalAnswer")
    ]
}
"""The answers of the other routes, which describe them: msgspec cannot tell untagged structs of a union apart."""


class ItemResult(msgspec.Struct, omit_defaults=True):
    """What became of the item number `index`: a `result`, as its own route gives it, or an `error`."""

    index: int
    status: Literal["succeeded", "failed"]
    type: str | UnsetType = UNSET
    id: str | UnsetType = UNSET
    result: Annotated[Any, Meta(extra_json_schema=_ANY_ANSWER)] = UNSET
    error: Problem | UnsetType = UNSET


class BatchAnswer(msgspec.Struct):
    """The results in the order of the items."""

    results: list[ItemResult]
    succeeded: int
    failed: int
    latency_ms: float


class BatchDone(msgspec.Struct, tag_field="status", tag="done"):
    """The last line or event of a stream."""

    succeeded: int
    failed: int
    latency_ms: float
