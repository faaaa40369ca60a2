"""POST /inference/batch: items of several types at once, each with its own result or error."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, NamedTuple

import msgspec

from inference_engine.adapters.http.calls import Calls
from inference_engine.adapters.http.decoding import decode, shown
from inference_engine.adapters.http.exchange import EVENTS, JSON_LINES, Exchange
from inference_engine.adapters.http.inference_api import wire_batches as wire
from inference_engine.adapters.http.inference_api.bodies import words
from inference_engine.adapters.http.inference_api.streams import problem
from inference_engine.adapters.http.inference_api.wire import ms
from inference_engine.domain.errors import DeadlineExceeded, InvalidRequest
from inference_engine.domain.requests import Call
from inference_engine.services.analysis.batch import finished

_ENVELOPE = msgspec.json.Decoder(wire.Envelope)
_HEAD = msgspec.json.Decoder(wire.Head)
_ENCODER = msgspec.json.Encoder()


class Kind(NamedTuple):
    """A type of items: how one is read, what answers it, and its fields that take few words (see `words`).

    A route that offers one adds it to the table."""

    decoder: msgspec.json.Decoder[Any]
    answer: Callable[[Any, Call], Awaitable[msgspec.Struct]]
    words: Mapping[str, Sequence[str]] = {}


class BatchLimits(NamedTuple):
    """The most items of a batch, and how many of them are done at once."""

    items: int
    concurrency: int


class Batches:
    """The endpoint. `kinds` are the types of items by name; `clock` is the monotonic clock of the calls."""

    def __init__(
        self, kinds: Mapping[str, Kind], calls: Calls, limits: BatchLimits, clock: Callable[[], float]
    ) -> None:
        self._kinds = kinds
        self._calls = calls
        self._limits = limits
        self._clock = clock

    async def run(self, exchange: Exchange) -> None:
        started = time.perf_counter()
        body = decode(_ENVELOPE, await exchange.body())
        heads = self._checked(body)
        call = self._calls.of(exchange, body.timeout_s)
        exchange.cancel_when_gone()
        results = self._results(exchange, body, heads, call)
        async with aclosing(results):
            if body.stream:
                await _stream(exchange, results, started)
                return
            found = [result async for result in results]
        found.sort(key=lambda result: result.index)
        done = sum(result.status == "succeeded" for result in found)
        answer = wire.BatchAnswer(found, done, len(found) - done, ms(time.perf_counter() - started))
        await exchange.respond(200, _ENCODER.encode(answer), compress=True)

    def _checked(self, body: wire.Envelope) -> list[wire.Head | InvalidRequest]:
        """The head of each item, or what is wrong with it. Raises `InvalidRequest` for the batch as a whole."""
        if not 1 <= len(body.items) <= self._limits.items:
            raise InvalidRequest(
                f"items holds {len(body.items)} items, it must hold 1 to {self._limits.items}: send several batches",
                param="items",
            )
        heads: list[wire.Head | InvalidRequest] = []
        ids: set[str] = set()
        for place, item in enumerate(body.items):
            head = self._head(item, place)
            if isinstance(head, wire.Head) and head.id is not None:
                if head.id in ids:
                    raise InvalidRequest(
                        f"items[{place}].id is {shown(head.id)}, which another item has: ids must differ",
                        param=f"items[{place}].id",
                    )
                ids.add(head.id)
            heads.append(head)
        return heads

    def _head(self, item: msgspec.Raw, place: int) -> wire.Head | InvalidRequest:
        try:
            return decode(_HEAD, memoryview(item))
        except InvalidRequest as error:
            at = f"items[{place}]"
            return error if error.param else InvalidRequest(f"{at} must be an object with a type", param=at)

    async def _results(
        self, exchange: Exchange, body: wire.Envelope, heads: list[wire.Head | InvalidRequest], call: Call
    ) -> AsyncGenerator[wire.ItemResult]:
        works = [partial(self._one, item, head, call) for item, head in zip(body.items, heads, strict=True)]
        outcomes = finished(works, self._limits.concurrency, lambda: self._left_s(call))
        async with aclosing(outcomes):
            async for place, outcome in outcomes:
                result = wire.ItemResult(place, "succeeded")
                head = heads[place]
                if isinstance(head, wire.Head):
                    result.type, result.id = head.type, msgspec.UNSET if head.id is None else head.id
                if isinstance(outcome, Exception):
                    result.status, result.error = "failed", problem(exchange, _named(outcome))
                else:
                    result.result = outcome
                yield result

    async def _one(self, item: msgspec.Raw, head: wire.Head | InvalidRequest, call: Call) -> msgspec.Struct:
        if isinstance(head, InvalidRequest):
            raise head
        kind = self._kinds.get(head.type)
        if kind is None:
            raise InvalidRequest(
                f"type is {shown(head.type)}: items may be of type {', '.join(self._kinds)}", param="type"
            )
        with words(**kind.words):
            body = decode(kind.decoder, memoryview(item))
        return await kind.answer(body, call)

    def _left_s(self, call: Call) -> float | None:
        return None if call.deadline_s is None else max(0.0, call.deadline_s - self._clock())


def _named(error: Exception) -> Exception:
    if isinstance(error, TimeoutError):
        return DeadlineExceeded(
            "the batch reached its deadline before this item was done: send fewer, or allow more time"
        )
    return error


async def _stream(exchange: Exchange, results: AsyncGenerator[wire.ItemResult], started: float) -> None:
    """Results as they come: events, or JSON lines for a client that accepts these."""
    lines = JSON_LINES in exchange.headers.get(b"accept", b"").lower()
    form = b"%b\n" if lines else b"data: %b\n\n"
    await exchange.start_events((), JSON_LINES if lines else EVENTS)
    done = failed = 0
    async for result in results:
        done, failed = done + (result.status == "succeeded"), failed + (result.status == "failed")
        await exchange.send_events(form % _ENCODER.encode(result))
    last = wire.BatchDone(done, failed, ms(time.perf_counter() - started))
    await exchange.end_events(form % _ENCODER.encode(last))
