"""The statistics extension of v2: what models have done, as Triton reports it."""

from __future__ import annotations

import time

import msgspec

from inference_engine.adapters.http.exchange import Exchange
from inference_engine.domain.errors import ModelNotFound
from inference_engine.domain.model import ModelRef, check_name
from inference_engine.domain.statistics import ModelStatistics, Spent
from inference_engine.services.models import ModelService

_ENCODER = msgspec.json.Encoder()


class InferenceStats(msgspec.Struct):
    success: Spent
    fail: Spent
    queue: Spent
    compute_input: Spent
    compute_infer: Spent
    compute_output: Spent
    cache_hit: Spent
    cache_miss: Spent


class BatchStats(msgspec.Struct):
    batch_size: int
    compute_input: Spent
    compute_infer: Spent
    compute_output: Spent


class ModelStats(msgspec.Struct):
    """`last_inference` is in milliseconds since 1970, 0 for none."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferenceStats
    batch_stats: list[BatchStats]


class AllStats(msgspec.Struct):
    model_stats: list[ModelStats]


class Statistics:
    """The endpoints. Without a version a model's statistics are those of all its versions, each for itself."""

    def __init__(self, models: ModelService) -> None:
        self._models = models

    async def all(self, exchange: Exchange) -> None:
        await self._answer(exchange, [ModelRef(one.name, one.version) for one in self._models.statuses()])

    async def of_model(self, exchange: Exchange) -> None:
        params = exchange.path_params
        name, version = params["model"], params.get("version")
        if version is not None:
            refs = [self._models.resolve(f"{name}:{version}").ref]
        elif ":" in name:
            refs = [self._models.resolve(name).ref]
        else:
            ref = self._models.resolve(check_name(name)).ref  # a pinned route leads to a model of another name
            refs = [ModelRef(one.name, one.version) for one in self._models.statuses() if one.name == ref.name]
        if not refs:
            raise ModelNotFound(f"model {name!r} does not exist", param="model")
        await self._answer(exchange, refs)

    async def _answer(self, exchange: Exchange, refs: list[ModelRef]) -> None:
        ago_from, now = self._models.clock(), time.time()
        stats = [_stats(ref, self._models.statistics(ref), now - ago_from) for ref in refs]
        await exchange.respond(200, _ENCODER.encode(AllStats(stats)))


def _stats(ref: ModelRef, counts: ModelStatistics, epoch_s: float) -> ModelStats:
    """`epoch_s` is what the monotonic clock's zero was on the wall clock."""
    return ModelStats(
        name=ref.name,
        version=ref.version,
        last_inference=0 if counts.last_used_s is None else int((epoch_s + counts.last_used_s) * 1000),
        inference_count=counts.inferences,
        execution_count=counts.executions,
        inference_stats=InferenceStats(
            counts.success,
            counts.fail,
            counts.queue,
            counts.compute_input,
            counts.compute_infer,
            counts.compute_output,
            counts.cache_hit,
            counts.cache_miss,
        ),
        batch_stats=[
            BatchStats(rows, size.compute_input, size.compute_infer, size.compute_output)
            for rows, size in sorted(counts.batches.items())
        ],
    )
