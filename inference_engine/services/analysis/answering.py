"""Whole answers of language models, and which one answers when none is named."""

from __future__ import annotations

from contextlib import aclosing

from inference_engine.domain.analysis import MODEL_TASKS
from inference_engine.domain.answers import Answer
from inference_engine.services.analysis.choosing import needed_for
from inference_engine.services.inference import Generation
from inference_engine.services.models import ModelService

WRITING = ("text-generation", "text2text-generation", *MODEL_TASKS["describe"])


async def whole(generation: Generation) -> Answer:
    """Everything a generation gives. Raises what its deltas raise."""
    answer = Answer()
    async with aclosing(generation.deltas) as deltas:
        async for delta in deltas:
            answer.add(delta)
    return answer


class Writers:
    """Chooses language models. `default_model` is the operator's choice for requests that name none."""

    def __init__(self, models: ModelService, default_model: str | None) -> None:
        self._models = models
        self._default = default_model

    def target(self, model: str | None) -> str:
        """The model for text. Raises `ModelNotFound`."""
        return model or self._default or needed_for(self._models, WRITING, "model")
