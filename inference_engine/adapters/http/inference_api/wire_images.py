"""The JSON of `POST /inference/image`, as types."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from inference_engine.adapters.http.inference_api.wire import Report
from inference_engine.domain.analysis import DEFAULT_PROMPT, MAX_TOP_K, ImageTask

TopK = Annotated[int, Meta(ge=1, le=MAX_TOP_K)]
Tokens = Annotated[int, Meta(ge=1)]


class ImageOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is wanted of images, however they come. `tasks` may be one word."""

    tasks: list[ImageTask] | ImageTask = []
    model: str | None = None
    models: dict[ImageTask, str] = {}
    top_k: TopK | None = None
    threshold: float | None = None
    prompt: str = DEFAULT_PROMPT
    max_tokens: Tokens | None = None


class ImageRequest(ImageOptions, kw_only=True):
    """Images in base64 or as `data:` URLs: one in `image`, or several in `images`."""

    image: str | None = None
    images: list[str] = []


class ImageForm(ImageOptions, kw_only=True):
    """The same as a form. `file` may come several times; `tasks` too, or its words separated by commas."""

    file: Annotated[list[Annotated[str, Meta(extra_json_schema={"format": "binary"})]], Meta(min_length=1)] = []


class LabelScore(msgspec.Struct):
    label: str
    score: float


class Object(msgspec.Struct):
    """`box` is x0, y0, x1, y1 in pixels of the upright image."""

    label: str
    score: float
    box: tuple[float, float, float, float]


class ImageResult(msgspec.Struct, omit_defaults=True):
    """What was found in one image, of `width` x `height` pixels when upright; what was not asked is not there."""

    width: int | UnsetType = UNSET
    height: int | UnsetType = UNSET
    labels: list[LabelScore] | UnsetType = UNSET
    objects: list[Object] | UnsetType = UNSET
    description: str | UnsetType = UNSET
    embedding: list[float] | UnsetType = UNSET


class ImageAnswer(msgspec.Struct):
    """A result for each image, in order, and for each task the model that did it."""

    results: list[ImageResult]
    models: dict[ImageTask, Report]
    latency_ms: float
