"""Texts, images, sounds and videos in one request, and how they were made fit for the model that answers."""

from __future__ import annotations

from typing import Literal

import msgspec

from inference_engine.domain.requests import Part, Sampling
from inference_engine.domain.results import Served

Mode = Literal["direct", "combine"]
"""`direct`: the model gets every part as it is. `combine`: what it does not take is told to it as text."""


class VideoPart(msgspec.Struct, frozen=True):
    """A video file, as it came. No model takes one as it is: it is always told as text."""

    data: bytes


AnyPart = Part | VideoPart


class Multimodal(msgspec.Struct, frozen=True):
    """Parts to be answered together, in the order they are told in. `system` is what the model is told before them."""

    parts: tuple[AnyPart, ...]
    model: str | None = None
    mode: Mode = "direct"
    system: str = ""
    sampling: Sampling = Sampling()


class Helper(msgspec.Struct, frozen=True):
    """A model that analysed a part, and the task it did."""

    task: str
    served: Served


class Context(msgspec.Struct, frozen=True):
    """What a model was told of the part number `part`, which it does not take itself, and who found it out."""

    part: int
    text: str
    helpers: tuple[Helper, ...]
