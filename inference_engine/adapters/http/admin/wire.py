"""The JSON of the admin API beside `services.models.ModelStatus`, as types."""

from __future__ import annotations

from typing import Any

import msgspec

from inference_engine.domain.routing import Route
from inference_engine.services.models import ModelStatus


class Broken(msgspec.Struct):
    """A folder that looks like a model and could not be adopted."""

    folder: str
    message: str


class Models(msgspec.Struct):
    models: list[ModelStatus]
    broken: list[Broken]


class Routes(msgspec.Struct):
    routes: list[Route]


class PinRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`target` is an exact `name:version`."""

    target: str


class ModelDetails(msgspec.Struct):
    """A model's status with its manifest; see `with_fields`. `assumed`: the folder holds no model.yaml."""

    manifest: dict[str, Any]
    folder: str
    assumed: bool


class Unloaded(msgspec.Struct):
    """The measured bytes that came back; beside the model's status."""

    memory_returned_bytes: int


class Cleared(msgspec.Struct):
    """How many answers were forgotten; beside the cache's statistics."""

    cleared: int
