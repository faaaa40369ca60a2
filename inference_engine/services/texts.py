"""Rows of text computed by a model that embeds or reranks, in batches that it takes."""

from __future__ import annotations

import asyncio

import numpy as np

from inference_engine.domain.errors import EngineError, InvalidRequest
from inference_engine.domain.tensors import Array, Tensors
from inference_engine.services.live import LiveModel


async def compute_texts(live: LiveModel, inputs: Tensors, deadline_s: float, priority: int) -> dict[str, Array]:
    """The model's outputs for all rows, in order; at most `max_batch_size` rows are computed together.

    Raises:
        InvalidRequest: there are no rows. What `BatchQueue.submit` raises.
    """
    rows = len(next(iter(inputs.values())))
    if rows == 0:
        raise InvalidRequest("there is no text: send at least one", param="input")
    step = live.manifest.execution.max_batch_size
    if rows <= step:
        return (await live.batches.submit(inputs, rows, deadline_s, priority))[0]
    tasks: list[asyncio.Task[tuple[dict[str, Array], float, float]]] = []
    try:
        async with asyncio.TaskGroup() as group:
            for start in range(0, rows, step):
                part = {name: array[start : start + step] for name, array in inputs.items()}
                submitted = live.batches.submit(part, min(step, rows - start), deadline_s, priority)
                tasks.append(group.create_task(submitted))
    except* EngineError as group_error:
        raise _first(group_error) from None
    answers = [task.result()[0] for task in tasks]
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def shortened(vectors: Array, dimensions: int) -> Array:
    """The first values of each vector, scaled to length 1 again.

    Raises:
        InvalidRequest: the vectors have fewer values.
    """
    if not 1 <= dimensions <= vectors.shape[1]:
        raise InvalidRequest(
            f"dimensions is {dimensions}, this model's vectors have 1 to {vectors.shape[1]}", param="dimensions"
        )
    cut = vectors[:, :dimensions]
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    shortened: Array = np.asarray(cut / np.where(lengths == 0, 1, lengths), np.float32)
    return shortened


def _first(group: BaseExceptionGroup[EngineError]) -> EngineError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
