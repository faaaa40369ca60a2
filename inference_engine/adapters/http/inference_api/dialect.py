"""Puts the `/inference` routes together, with what the documentation says of them."""

from __future__ import annotations

from inference_engine.adapters.http.calls import Calls
from inference_engine.adapters.http.endpoints import Dialect, Doc, Endpoint
from inference_engine.adapters.http.inference_api import errors, examples, wire_images
from inference_engine.adapters.http.inference_api.images import Images
from inference_engine.services.analysis import Analysis

_ERRORS = (400, 401, 404, 413, 415, 429, 500, 501, 503, 504)


def dialect(analysis: Analysis, calls: Calls) -> Dialect:
    """The inference routes of the chat-service API."""
    return Dialect("inference", "Inference", ("/inference/",), errors.render, (_image(Images(analysis.images, calls)),))


def _image(images: Images) -> Endpoint:
    doc = Doc(
        "Classify, search, describe and embed images",
        "Images in base64, as data URLs, or as files of a form. Without a model, one that is served is chosen for each "
        "task; the answer says which.",
        wire_images.ImageRequest,
        examples.IMAGE,
        wire_images.ImageAnswer,
        examples.IMAGE_ANSWER,
        errors=_ERRORS,
        form=wire_images.ImageForm,
    )
    return Endpoint("POST", "/inference/image", images.analyze, doc, hot=True)
