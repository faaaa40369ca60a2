"""Puts the `/inference` routes together, with what the documentation says of them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from inference_engine.adapters.http.calls import Calls
from inference_engine.adapters.http.endpoints import Dialect, Doc, Endpoint
from inference_engine.adapters.http.inference_api import (
    errors,
    examples,
    wire_batches,
    wire_images,
    wire_texts,
)
from inference_engine.adapters.http.inference_api.batches import Batches, BatchLimits, Kind
from inference_engine.adapters.http.inference_api.images import WORDS as IMAGE_WORDS
from inference_engine.adapters.http.inference_api.images import Images
from inference_engine.adapters.http.inference_api.multimodal import WORDS as MULTIMODAL_WORDS
from inference_engine.adapters.http.inference_api.multimodal import MultimodalTexts
from inference_engine.adapters.http.inference_api.texts import WORDS as TEXT_WORDS
from inference_engine.adapters.http.inference_api.texts import Texts
from inference_engine.services.analysis import Analysis
from inference_engine.services.inference import InferenceService

_ERRORS = (400, 401, 404, 413, 415, 429, 500, 501, 503, 504)


def dialect(
    analysis: Analysis, inference: InferenceService, calls: Calls, limits: BatchLimits, clock: Callable[[], float]
) -> Dialect:
    """The inference routes of the chat-service API."""
    texts = Texts(inference, analysis.writers, calls)
    images = Images(analysis.images, calls)
    multimodal = MultimodalTexts(analysis.multimodal, calls)
    kinds = {
        "text": Kind(msgspec.json.Decoder(wire_batches.TextItem), texts.item, TEXT_WORDS),
        "image": Kind(msgspec.json.Decoder(wire_batches.ImageItem), images.item, IMAGE_WORDS),
        "multimodal": Kind(msgspec.json.Decoder(wire_batches.MultimodalItem), multimodal.item, MULTIMODAL_WORDS),
    }
    endpoints = (_text(texts), _image(images), _multimodal(multimodal), _batch(Batches(kinds, calls, limits, clock)))
    return Dialect("inference", "Inference", ("/inference/",), errors.render, endpoints)


def _text(texts: Texts) -> Endpoint:
    doc = Doc(
        "Continue a text, or answer messages",
        "With `stream` the answer is server-sent events: pieces of type text, then one of type done, or error.",
        wire_texts.TextRequest,
        examples.TEXT,
        wire_texts.TextAnswer,
        examples.TEXT_ANSWER,
        errors=_ERRORS,
    )
    return Endpoint("POST", "/inference/text", texts.generate, doc, hot=True)


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


def _multimodal(multimodal: MultimodalTexts) -> Endpoint:
    doc = Doc(
        "Answer texts, images and sounds together",
        "In the mode direct the model gets the parts as they are; in the mode combine, those it does not take are "
        "analysed by other models and told to it as text, which the answer shows as context.",
        wire_texts.MultimodalRequest,
        examples.MULTIMODAL,
        wire_texts.MultimodalAnswer,
        examples.MULTIMODAL_ANSWER,
        errors=_ERRORS,
        form=wire_texts.MultimodalForm,
    )
    return Endpoint("POST", "/inference/multimodal", multimodal.answer, doc, hot=True)


def _batch(batches: Batches) -> Endpoint:
    doc = Doc(
        "Do several of these at once",
        "Every item gets its own result or error, in the order of the items. With `stream` they are sent as they come, "
        "as events, or as JSON lines where Accept says application/x-ndjson.",
        wire_batches.BatchRequest,
        examples.BATCH,
        wire_batches.BatchAnswer,
        examples.BATCH_ANSWER,
        errors=_ERRORS,
    )
    return Endpoint("POST", "/inference/batch", batches.run, doc, hot=True)
