"""Use cases that understand what models give: images, and inputs of several kinds together."""

from __future__ import annotations

from typing import NamedTuple

from inference_engine.services.analysis.images import ImageAnalyzer


class Analysis(NamedTuple):
    """The use cases of this package, as they are handed to those who offer them."""

    images: ImageAnalyzer
