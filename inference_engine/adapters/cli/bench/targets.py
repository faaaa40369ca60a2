"""What is measured: a model on a server, or the same in this process. Gives loads for it and reads its counters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import msgspec

from inference_engine.adapters.cli.bench import posts
from inference_engine.adapters.cli.bench.client import BenchClient
from inference_engine.adapters.cli.bench.figures import Snapshot
from inference_engine.adapters.cli.bench.http_load import HttpLoad, Post
from inference_engine.adapters.cli.bench.other_loads import GrpcLoad, InsideGenerations, InsideLoad, InsideTexts
from inference_engine.adapters.cli.bench.own_server import Place
from inference_engine.adapters.cli.bench.processes import Processes, busy_cpu_s, server_at
from inference_engine.adapters.cli.client import ModelView
from inference_engine.domain.errors import EngineError, InvalidRequest

if TYPE_CHECKING:
    from inference_engine.adapters.cli.bench.measuring import Load
    from inference_engine.adapters.python_api import AsyncEngine
    from inference_engine.domain.model import Manifest
    from inference_engine.domain.tensors import Array

_LOCAL = ("127.0.0.1", "::1", "localhost")


class Target(Protocol):
    """A loaded model. `where` says for people what is measured. Raises `EngineError`."""

    where: str
    view: ModelView
    manifest: Manifest

    async def open(self, model: str) -> None:
        """Load the model."""

    async def close(self) -> None: ...

    async def snapshot(self) -> Snapshot: ...

    async def prompt_tokens(self, text: str, *, chat: bool) -> int | None:
        """The tokens of a conversation of this one message, or of the bare text; None where nobody tells."""

    def predictions(self, pool: Sequence[Mapping[str, Array]]) -> Load: ...

    def generations(self, prompts: posts.Prompts, max_tokens: int, *, chat: bool) -> Load: ...

    def embeddings(self, prompts: posts.Prompts, rows: int) -> Load: ...

    def reranks(self, prompts: posts.Prompts, rows: int) -> Load: ...


class ServerTarget:
    """A model on the server at `place`, over HTTP, or gRPC for tensors."""

    view: ModelView
    manifest: Manifest

    def __init__(self, place: Place, protocol: str, timeout_s: float) -> None:
        self._place = place
        self._grpc = protocol == "grpc"
        self._timeout_s = timeout_s
        self._client = BenchClient(place.url, place.api_key)
        self._processes: Processes | None = None
        self.where = f"{place.grpc} over gRPC" if self._grpc else f"{place.url} over HTTP"

    async def open(self, model: str) -> None:
        await asyncio.to_thread(self._open, model)

    def _open(self, model: str) -> None:
        self.view = self._client.load(model)
        self.manifest = self._client.show(self.view.target)[1]
        parts = urlsplit(self._place.url)
        if self._place.pid is not None:
            self._processes = Processes(self._place.pid)
        elif parts.hostname in _LOCAL and parts.port:
            self._processes = server_at(parts.port, self.view.pid)

    async def close(self) -> None:
        self._client.__exit__()

    async def snapshot(self) -> Snapshot:
        counts = await asyncio.to_thread(self._client.counts, self.view.name, self.view.version)
        generator_cpu_s = time.process_time()
        used = self._processes.read() if self._processes else None
        if used is None:
            return msgspec.structs.replace(counts, generator_cpu_s=generator_cpu_s)
        server_cpu_s, runner_cpu_s, server_bytes, runner_bytes = used
        return msgspec.structs.replace(
            counts,
            generator_cpu_s=generator_cpu_s,
            server_cpu_s=server_cpu_s,
            runner_cpu_s=runner_cpu_s,
            server_bytes=server_bytes,
            runner_bytes=runner_bytes,
            busy_cpu_s=busy_cpu_s(),
        )

    async def prompt_tokens(self, text: str, *, chat: bool) -> int | None:
        try:
            return await asyncio.to_thread(self._client.count_tokens, self.view.target, text, chat)
        except EngineError:
            return None

    def predictions(self, pool: Sequence[Mapping[str, Array]]) -> Load:
        name, version = self.view.name, self.view.version
        if self._grpc:
            assert self._place.grpc is not None
            return GrpcLoad(self._place.grpc, self._place.api_key, name, version, pool, self._timeout_s)
        path = posts.infer_path(name, version)
        return self._http(posts.in_turn([posts.infer_post(path, inputs) for inputs in pool]))

    def generations(self, prompts: posts.Prompts, max_tokens: int, *, chat: bool) -> Load:
        return self._http(posts.generations(self.view.target, prompts, max_tokens, chat=chat), streams=True)

    def embeddings(self, prompts: posts.Prompts, rows: int) -> Load:
        return self._http(posts.embeddings(self.view.target, prompts, rows))

    def reranks(self, prompts: posts.Prompts, rows: int) -> Load:
        return self._http(posts.reranks(self.view.target, prompts, rows))

    def _http(self, source: Callable[[], Post], *, streams: bool = False) -> HttpLoad:
        if self._grpc:
            raise InvalidRequest("over gRPC only tensors are measured: take --protocol http for texts")
        return HttpLoad(self._place.url, self._place.api_key, source, streams=streams, timeout_s=self._timeout_s)


class InsideTarget:
    """A model in this process. Entered and left in the loop that measures; the CPU of server and load are one."""

    view: ModelView
    manifest: Manifest

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._processes: Processes | None = None
        self.where = "this process, without a protocol"

    async def open(self, model: str) -> None:
        await self._engine.__aenter__()
        status = await self._engine.load(model)
        self.view = msgspec.convert(msgspec.to_builtins(status), ModelView)
        self.manifest = self._engine.show(self.view.target)[1]
        self._processes = Processes.of_this_process()

    async def close(self) -> None:
        await self._engine.__aexit__(None, None, None)

    async def snapshot(self) -> Snapshot:
        counts = self._engine.statistics(self.view.target)
        used = self._processes.read() if self._processes else None
        server_cpu_s, runner_cpu_s, server_bytes, runner_bytes = used or (None, None, None, None)
        return Snapshot(
            requests=counts.queue.count,
            failed=counts.fail.count,
            rows=counts.inferences,
            batches=counts.executions,
            cache_hits=counts.cache_hit.count,
            queue_ns=counts.queue.ns,
            input_ns=counts.compute_input.ns,
            compute_ns=counts.compute_infer.ns,
            output_ns=counts.compute_output.ns,
            server_cpu_s=server_cpu_s,
            runner_cpu_s=runner_cpu_s,
            server_bytes=server_bytes,
            runner_bytes=runner_bytes,
            busy_cpu_s=busy_cpu_s(),
        )

    async def prompt_tokens(self, text: str, *, chat: bool) -> int | None:
        try:
            asked = {"messages": text} if chat else {"prompt": text}
            return len(await self._engine.tokenize(self.view.target, **asked))
        except EngineError:
            return None

    def predictions(self, pool: Sequence[Mapping[str, Array]]) -> Load:
        return InsideLoad(self._engine, self.view.target, pool)

    def generations(self, prompts: posts.Prompts, max_tokens: int, *, chat: bool) -> Load:
        return InsideGenerations(self._engine, self.view.target, prompts, max_tokens, chat=chat)

    def embeddings(self, prompts: posts.Prompts, rows: int) -> Load:
        return InsideTexts(lambda: self._engine.embed(self.view.target, _some(prompts, rows)))

    def reranks(self, prompts: posts.Prompts, rows: int) -> Load:
        return InsideTexts(lambda: self._engine.rerank(self.view.target, next(prompts), _some(prompts, rows)))


def _some(prompts: Iterator[str], count: int) -> list[str]:
    return [next(prompts) for _ in range(count)]
