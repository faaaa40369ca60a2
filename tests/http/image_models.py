"""Fake models of images for a `World`, which has none by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from inference_engine.domain.errors import InvalidTensor
from inference_engine.domain.model import Signature, TensorSpec
from inference_engine.domain.tensors import Tensors
from inference_engine.testing import FakeExecutor, manifest
from tests.http.support import World

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4z8AAAAMBAQAY3Y2wAAAAAElFTkSuQmCC"
"""A PNG of one pixel, in base64."""


def _of_images(*outputs: TensorSpec) -> Signature:
    return Signature((TensorSpec("pixels", "bytes", (-1,)),), outputs)


OF_IMAGES = {
    "sorter": (
        "image-classification",
        _of_images(TensorSpec("labels", "bytes", (-1, 3)), TensorSpec("scores", "float32", (-1, 3))),
    ),
    "finder": (
        "object-detection",
        _of_images(
            TensorSpec("boxes", "float32", (-1, 3, 4)),
            TensorSpec("scores", "float32", (-1, 3)),
            TensorSpec("labels", "bytes", (-1, 3)),
        ),
    ),
    "hasher": ("image-feature-extraction", _of_images(TensorSpec("embedding", "float32", (-1, 2)))),
}
"""Fake models of images: their task and their signature."""


def seen(signature: Signature) -> Callable[[Tensors], dict[str, Any]]:
    """What such a model makes of any image: two labels and an empty place, and a vector with the file's bytes."""
    made = {
        "labels": np.array([b"cat", b"dog", b""], dtype=object),
        "scores": np.array([0.75, 0.25, 0.0], np.float32),
        "boxes": np.array([[1, 2, 30, 40], [0, 0, 5, 5], [0, 0, 0, 0]], np.float32),
    }

    def compute(batch: Tensors) -> dict[str, Any]:
        files = batch["pixels"]
        if any(file.endswith(b"broken") for file in files):
            raise InvalidTensor("input 'pixels' row 0 holds an image that cannot be read", param="pixels")
        vectors = np.array([(len(file), 1) for file in files], np.float32)
        outputs = {name: np.stack([row] * len(files)) for name, row in made.items()} | {"embedding": vectors}
        return {spec.name: outputs[spec.name] for spec in signature.outputs}

    return compute


def add_image_models(world: World) -> None:
    """`sorter`, `finder` and `hasher` classify, search and embed images, `seer` answers chats with them."""
    for name, (task, signature) in OF_IMAGES.items():
        world.repository.models.append(manifest(name, signature=signature, task=task))
        world.executors.executors[f"{name}:1"] = FakeExecutor(signature, compute=seen(signature))
    world.repository.models.append(manifest("seer", task="image-text-to-text"))
    world.executors.executors["seer:1"] = FakeExecutor(
        kinds=("chat",), words=("A ", "grey ", "dot."), media=("image",), concurrency=8
    )
