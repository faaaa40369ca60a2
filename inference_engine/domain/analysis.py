"""What can be asked of images, and what is found in them. Knows no tensors and no wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from inference_engine.domain.requests import ImagePart
from inference_engine.domain.results import Served, Usage
from inference_engine.domain.tensors import Array

ImageTask = Literal["classify", "detect", "describe", "embed"]
IMAGE_TASKS: tuple[ImageTask, ...] = ("classify", "detect", "describe", "embed")
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the upright original, from its upper left corner."""

MODEL_TASKS: Mapping[ImageTask, tuple[str, ...]] = {
    "classify": ("image-classification",),
    "detect": ("object-detection",),
    "describe": ("image-text-to-text", "image-to-text", "visual-question-answering", "any-to-any"),
    "embed": ("image-feature-extraction",),
}
"""The words a manifest's `task` has for each; the first is the usual one."""

MAX_TOP_K = 1000
DEFAULT_LABELS = 5
DEFAULT_PROMPT = "Describe this image."


class Label(msgspec.Struct, frozen=True):
    """A class an image may be of. `name` is the class's number where the model has no names."""

    name: str
    score: float


class Detection(msgspec.Struct, frozen=True):
    """An object in an image, and where it is."""

    label: str
    score: float
    box: Box


class AnalyzeImages(msgspec.Struct, frozen=True):
    """Images, and what is wanted of each.

    Without `tasks` a named `model` does what it can, and without a model images are classified and searched for
    objects, as far as there are models for it. `models` names a model for one task, `model` for all. The `top_k` best
    labels (default 5) and objects (default all) are given, of those that score `threshold` or more. `prompt` and
    `max_tokens` are for descriptions.
    """

    images: tuple[ImagePart, ...]
    tasks: tuple[ImageTask, ...] = ()
    model: str | None = None
    models: Mapping[ImageTask, str] = {}
    top_k: int | None = None
    threshold: float | None = None
    prompt: str = DEFAULT_PROMPT
    max_tokens: int | None = None


class Findings(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was found in one image; None is what was not asked. `embedding` is a float array [dimensions].

    `width` and `height` are those of the upright image, where they are known.
    """

    labels: tuple[Label, ...] | None = None
    objects: tuple[Detection, ...] | None = None
    description: str | None = None
    embedding: Array | None = None
    width: int | None = None
    height: int | None = None


class TaskReport(msgspec.Struct, frozen=True):
    """Which exact model did one task for all images, and what it took.

    `latency_s` is the time until its last image was done; `queue_s` and `compute_s` are of the slowest image. `usage`
    counts the tokens of descriptions.
    """

    task: ImageTask
    served: Served
    latency_s: float
    queue_s: float = 0.0
    compute_s: float = 0.0
    usage: Usage | None = None


class ImageAnalysis(msgspec.Struct, frozen=True):
    """The findings for each image, in order, and a report for each task."""

    images: tuple[Findings, ...]
    reports: tuple[TaskReport, ...]
    latency_s: float
