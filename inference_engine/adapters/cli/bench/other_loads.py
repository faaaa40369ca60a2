"""Keeps a model busy over gRPC, or in this process without any protocol. Workers are tasks: each asks and waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

from inference_engine.adapters.cli.bench.recorder import Recorder
from inference_engine.domain.errors import (
    AccessError,
    EngineError,
    InvalidRequest,
    NotFound,
    QueueFull,
    RuntimeMissing,
    Unavailable,
    error_from_code,
)
from inference_engine.domain.results import Done, ReasoningDelta, TextDelta

if TYPE_CHECKING:
    from inference_engine.adapters.python_api import AsyncEngine
    from inference_engine.domain.tensors import Array

_PAUSE_S = 0.05
_CONNECT_LIMIT_S = 5.0
_WORKERS_PER_CHANNEL = 16
_HOPELESS = (InvalidRequest, AccessError, NotFound)
Ask = Callable[[Recorder], Awaitable[None]]


@asynccontextmanager
async def _busy(concurrency: int, recorder: Recorder, asks: Sequence[Ask]) -> AsyncIterator[None]:
    """So many workers, which share `asks`; those in flight at the end are cancelled."""
    workers = [asyncio.create_task(_work(recorder, asks[index % len(asks)])) for index in range(concurrency)]
    try:
        yield
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _work(recorder: Recorder, ask: Ask) -> None:
    while True:
        try:
            await ask(recorder)
        except EngineError as error:
            recorder.failed("rejected" if isinstance(error, QueueFull) else error.code, error.message)
            if isinstance(error, _HOPELESS):
                recorder.give_up(error)
                return
            await asyncio.sleep(_PAUSE_S)


class InsideLoad:
    """Predictions through the Python API: what a model can do without a server."""

    streams = False

    def __init__(self, engine: AsyncEngine, target: str, pool: Sequence[Mapping[str, Array]]) -> None:
        self._engine = engine
        self._target = target
        self._pool = pool
        self._next = 0

    @asynccontextmanager
    async def running(self, concurrency: int, recorder: Recorder) -> AsyncIterator[None]:
        async with _busy(concurrency, recorder, [self._ask]):
            yield

    async def _ask(self, recorder: Recorder) -> None:
        self._next = (self._next + 1) % len(self._pool)
        sent_s = time.perf_counter()
        await self._engine.predict(self._target, self._pool[self._next])
        recorder.answered(time.perf_counter() - sent_s)


class InsideGenerations:
    """Conversations, or completions, through the Python API."""

    streams = True

    def __init__(
        self, engine: AsyncEngine, target: str, prompts: Iterator[str], max_tokens: int, *, chat: bool
    ) -> None:
        self._engine = engine
        self._target = target
        self._prompts = prompts
        self._max_tokens = max_tokens
        self._chat = chat

    @asynccontextmanager
    async def running(self, concurrency: int, recorder: Recorder) -> AsyncIterator[None]:
        async with _busy(concurrency, recorder, [self._ask]):
            yield

    async def _ask(self, recorder: Recorder) -> None:
        sent_s = first_s = last_s = time.perf_counter()
        pieces = tokens = prompt_tokens = 0
        text = next(self._prompts)
        options: dict[str, Any] = {"max_tokens": self._max_tokens, "ignore_eos": True}
        deltas = (
            self._engine.generate(self._target, text, **options)
            if self._chat
            else self._engine.generate(self._target, prompt=text, **options)
        )
        async with aclosing(deltas):
            async for delta in deltas:
                now = time.perf_counter()
                if isinstance(delta, Done):
                    tokens, prompt_tokens = delta.usage.completion_tokens, delta.usage.prompt_tokens
                elif isinstance(delta, TextDelta | ReasoningDelta) and delta.text:
                    if pieces:
                        recorder.went_on(now - last_s)
                    else:
                        first_s = now
                        recorder.began(now - sent_s)
                    pieces += 1
                    last_s = now
        recorder.answered(time.perf_counter() - sent_s)
        recorder.streamed(pieces, tokens, prompt_tokens, last_s - first_s)


class InsideTexts:
    """Embeddings or reranks through the Python API; `ask` computes one request."""

    streams = False

    def __init__(self, ask: Callable[[], Awaitable[object]]) -> None:
        self._compute = ask

    @asynccontextmanager
    async def running(self, concurrency: int, recorder: Recorder) -> AsyncIterator[None]:
        async with _busy(concurrency, recorder, [self._ask]):
            yield

    async def _ask(self, recorder: Recorder) -> None:
        sent_s = time.perf_counter()
        await self._compute()
        recorder.answered(time.perf_counter() - sent_s)


class GrpcLoad:
    """`ModelInfer` over gRPC with raw tensors. A channel for every sixteen workers: one is one connection.

    Raises:
        RuntimeMissing: grpcio is not installed.
    """

    streams = False

    def __init__(
        self,
        address: str,
        api_key: str | None,
        name: str,
        version: str,
        pool: Sequence[Mapping[str, Array]],
        timeout_s: float = 60.0,
    ) -> None:
        self._address = address
        self._metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        self._requests = [_request(name, version, inputs) for inputs in pool]
        self._timeout_s = timeout_s
        self._next = 0

    @asynccontextmanager
    async def running(self, concurrency: int, recorder: Recorder) -> AsyncIterator[None]:
        import grpc

        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
        count = -(-concurrency // _WORKERS_PER_CHANNEL)
        channels = [grpc.aio.insecure_channel(self._address, options) for _ in range(count)]
        try:
            await asyncio.wait_for(channels[0].channel_ready(), min(_CONNECT_LIMIT_S, self._timeout_s))
        except TimeoutError:
            await channels[0].close()
            raise Unavailable(
                f"nothing answers gRPC at {self._address}: is the server's grpc_port another? Say it with --grpc"
            ) from None
        try:
            async with _busy(concurrency, recorder, [self._asks(channel) for channel in channels]):
                yield
        finally:
            await asyncio.gather(*[channel.close() for channel in channels])

    def _asks(self, channel: Any) -> Ask:
        import grpc

        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        async def ask(recorder: Recorder) -> None:
            self._next = (self._next + 1) % len(self._requests)
            sent_s = time.perf_counter()
            try:
                await call(self._requests[self._next], timeout=self._timeout_s, metadata=self._metadata)
            except grpc.aio.AioRpcError as error:
                raise _engine_error(error) from None
            recorder.answered(time.perf_counter() - sent_s)

        return ask


def _request(name: str, version: str, inputs: Mapping[str, Array]) -> bytes:
    try:
        from inference_engine.adapters.grpc.protocol import InferRequest
    except ImportError:
        raise RuntimeMissing(
            "gRPC needs the package grpcio: pip install 'inference-engine[grpc]', or take --protocol http"
        ) from None
    from inference_engine.domain.datatypes import datatype_of, to_raw

    request = InferRequest(model_name=name, model_version=version)
    for input_name, array in inputs.items():
        request.inputs.add(name=input_name, datatype=datatype_of(input_name, array), shape=array.shape)
        request.raw_input_contents.append(to_raw(array))
    serialized: bytes = request.SerializeToString()
    return serialized


def _engine_error(error: Any) -> EngineError:
    code = dict(error.trailing_metadata() or ()).get("error-code", "")
    if not code:
        return Unavailable(f"gRPC {error.code().name}: {error.details()}")
    return error_from_code(str(code), str(error.details()))
