"""Use cases that understand what models give: images, and inputs of several kinds together."""

from __future__ import annotations

from typing import NamedTuple

from inference_engine.services.analysis.answering import Writers
from inference_engine.services.analysis.images import ImageAnalyzer
from inference_engine.services.analysis.multimodal import MultimodalAnswerer


class Analysis(NamedTuple):
    """The use cases of this package, as they are handed to those who offer them."""

    images: ImageAnalyzer
    multimodal: MultimodalAnswerer
    writers: Writers
