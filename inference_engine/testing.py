"""Public fakes for tests of models, dialects and services: they keep the ports' contracts, without files or processes.

Give a `ModelService` a `FakeRepository(manifest("echo", signature=ECHO_SIGNATURE))` and
`FakeExecutors({"echo:1": FakeExecutor(ECHO_SIGNATURE)})`, and everything above it runs as it would for a real model.
"""
# ruff: noqa: ARG002 - fakes keep the ports' signatures

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from inference_engine.domain.errors import EngineError, InvalidRequest, InvalidTensor, ModelNotFound, UnsupportedTask
from inference_engine.domain.facts import ModelFacts
from inference_engine.domain.model import Manifest, ModelRef, Signature, TensorSpec
from inference_engine.domain.model_store import Recipe, RemoteFile, RemoteModel, RemoteName
from inference_engine.domain.ports import (
    BatchResult,
    BrokenModel,
    ExecutorState,
    ExecutorStatus,
    Loaded,
    Media,
    Sink,
    StoredModel,
    TensorSink,
)
from inference_engine.domain.requests import Chat, Complete, Generate, Kind, Transcribe
from inference_engine.domain.results import (
    CacheOutcome,
    Delivered,
    Delta,
    Done,
    FinishReason,
    PositionLogprobs,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from inference_engine.domain.runtime_defaults import RuntimeDefaults
from inference_engine.domain.tensors import Tensors, concatenate, split
from inference_engine.domain.text_tensors import DOCUMENT, EMBEDDING, QUERY, SCORE, TEXT, TOKENS, texts_of

ANY_ROWS = -1
ECHO_SIGNATURE = Signature(
    inputs=(TensorSpec("x", "float32", (ANY_ROWS, 4)),), outputs=(TensorSpec("y", "float32", (ANY_ROWS, 4)),)
)


def manifest(name: str, version: str = "1", signature: Signature | None = None, **fields: Any) -> Manifest:
    """A manifest with the least that is needed; `fields` are any others of `Manifest`."""
    return Manifest(name=name, version=version, runtime="fake", artifact="model.fake", signature=signature, **fields)


class FakeRepository:
    """`ModelRepository` in memory. `models` and `broken` may be changed; `refuse` makes `verify` fail for a model."""

    def __init__(self, *manifests: Manifest, broken: Iterable[BrokenModel] = ()) -> None:
        self.models = list(manifests)
        self.broken = list(broken)
        self.refuse: dict[ModelRef, EngineError] = {}

    def scan(self) -> tuple[list[StoredModel], list[BrokenModel]]:
        ordered = sorted(self.models, key=lambda model: model.ref)
        found = [StoredModel(model, Path("models") / model.name / model.version, size_bytes=1024) for model in ordered]
        return found, list(self.broken)

    def verify(self, model: StoredModel) -> None:
        error = self.refuse.get(model.manifest.ref)
        if error is not None:
            raise error


class FakeFacts:
    """`FactsReader` that knows what manifests say."""

    def read(self, model: StoredModel) -> ModelFacts:
        digest = hashlib.sha256(str(model.manifest.ref).encode()).hexdigest()
        return ModelFacts(digest, datetime(2026, 1, 1, tzinfo=UTC), "fake", "fake", 1_500_000, "F32", 4096, "TEMPLATE")


class FakeDepot:
    """`ModelDepot` in memory: what is installed appears in `repository`. `blobs` are contents by digest."""

    def __init__(self, repository: FakeRepository) -> None:
        self.repository = repository
        self.blobs: dict[str, bytes] = {}
        self.recipes: list[Recipe] = []

    def check_writable(self) -> None: ...

    def has_blob(self, digest: str) -> bool:
        return digest in self.blobs

    def open_upload(self, digest: str, size_bytes: int | None) -> FakeUpload:
        return FakeUpload(self, digest)

    def prepare(self, recipe: Recipe) -> FakePrepared:
        self.recipes.append(recipe)
        for name, digest in recipe.files.items():
            if digest not in self.blobs:
                raise InvalidRequest(f"the file {name!r} with {digest} is not here: upload it first", param="files")
        base = recipe.base.manifest if recipe.base else manifest("new")
        made = msgspec.structs.replace(base, name=recipe.ref.name, version=recipe.ref.version)
        return FakePrepared(self.repository, made)

    def check_owned(self, model: StoredModel) -> None: ...

    def remove(self, model: StoredModel) -> None:
        self.repository.models.remove(model.manifest)

    def prune(self) -> None: ...


class FakePrepared:
    """`Prepared` of a `FakeDepot`."""

    def __init__(self, repository: FakeRepository, made: Manifest) -> None:
        self.notes: list[str] = []
        self._repository = repository
        self._made = made

    def put_in_place(self) -> None:
        others = [model for model in self._repository.models if model.ref != self._made.ref]
        self._repository.models = [*others, self._made]

    def close(self) -> None: ...


class FakeUpload:
    """`Upload` into a `FakeDepot`."""

    def __init__(self, depot: FakeDepot, digest: str) -> None:
        self._depot = depot
        self._digest = digest
        self._data = b""

    def write(self, data: bytes) -> None:
        self._data += data

    def commit(self) -> None:
        actual = f"sha256:{hashlib.sha256(self._data).hexdigest()}"
        if actual != self._digest:
            raise InvalidRequest(f"the file has the digest {actual}, not {self._digest}", param="digest")
        self._depot.blobs[actual] = self._data

    def close(self) -> None: ...


class FakeSource:
    """`ModelSource` with the `models` that were put into it by full name (`tiny:latest`), each a file's content.

    A fetch stops in the middle until `go` is set.
    """

    def __init__(self, depot: FakeDepot) -> None:
        self.models: dict[str, bytes] = {}
        self.go = asyncio.Event()
        self.go.set()
        self.waiting = asyncio.Event()
        self.fetched: list[str] = []
        self._depot = depot

    async def find(self, name: RemoteName) -> RemoteModel:
        if str(name) not in self.models:
            raise ModelNotFound(f"model {name} is not found: check the name and the tag", param="model")
        data = self.models[str(name)]
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        return RemoteModel((RemoteFile("model.gguf", digest, len(data), str(name)),))

    async def fetch(self, file: RemoteFile) -> AsyncGenerator[int]:
        self.fetched.append(file.url)
        yield 0
        self.waiting.set()
        await self.go.wait()
        self._depot.blobs[file.digest] = self.models[file.url]
        yield file.size_bytes


class FakeRoutes:
    """`RouteStore` in memory."""

    def __init__(self, routes: Mapping[str, ModelRef] | None = None) -> None:
        self.routes = dict(routes or {})

    def read(self) -> Mapping[str, ModelRef]:
        return dict(self.routes)

    def write(self, routes: Mapping[str, ModelRef]) -> None:
        self.routes = dict(routes)


class NullTelemetry:
    """`Telemetry` that counts nothing."""

    def request(self, ref: ModelRef, kind: Kind, outcome: str, seconds: float) -> None: ...

    def batch(self, ref: ModelRef, rows: int, queue_s: float, compute_s: float) -> None: ...

    def first_token(self, ref: ModelRef, seconds: float) -> None: ...

    def tokens(self, ref: ModelRef, prompt: int, completion: int, seconds: float) -> None: ...

    def restart(self, ref: ModelRef) -> None: ...

    def reused(self, ref: ModelRef, outcome: CacheOutcome) -> None: ...


class RecordingTelemetry(NullTelemetry):
    """`Telemetry` that remembers how requests ended: `(ref, kind, outcome)`."""

    def __init__(self) -> None:
        self.requests: list[tuple[ModelRef, Kind, str]] = []

    def request(self, ref: ModelRef, kind: Kind, outcome: str, seconds: float) -> None:
        self.requests.append((ref, kind, outcome))


class FakeClock:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def renamed(batch: Tensors, outputs: Sequence[str]) -> dict[str, Any]:
    """Inputs given back as outputs of other names, in order: what an echo model computes."""
    return dict(zip(outputs, batch.values(), strict=True))


def text_outputs(batch: Tensors) -> dict[str, Any]:
    """What a fake that embeds or reranks computes, one token for each word.

    The vector of a text is its length in characters, its words and 1; the score of a document is the share of the
    query's words that it holds.
    """
    if TEXT in batch:
        words = [text.split() for text in texts_of(batch[TEXT])]
        vectors = [(sum(map(len, found)), len(found), 1) for found in words]
        return {EMBEDDING: np.array(vectors, np.float32), TOKENS: np.array([len(found) for found in words], np.int32)}
    pairs = zip(texts_of(batch[QUERY]), texts_of(batch[DOCUMENT]), strict=True)
    split_pairs = [(query.split(), document.split()) for query, document in pairs]
    scores = [sum(word in document for word in query) / max(1, len(query)) for query, document in split_pairs]
    tokens = [len(query) + len(document) for query, document in split_pairs]
    return {SCORE: np.array(scores, np.float32), TOKENS: np.array(tokens, np.int32)}


def last_text(request: Generate) -> str:
    """What a request says last: the text a fake answers to."""
    if isinstance(request, Chat):
        return request.messages[-1].text
    if isinstance(request, Transcribe):
        return request.prompt
    return request.prompt if isinstance(request.prompt, str) else " ".join(map(str, request.prompt))


class FakeExecutor:
    """`Executor` without a model.

    Predict requests are answered by `compute` (default: the inputs come back under the signature's output names, and
    with the kinds `embed` or `rerank` what `text_outputs` says). Generations are answered with `words`, one delta
    each, or with what `script` gives for the request: any deltas, to which a `Done` is added if they have none. `hold`
    stops before the word of that index until `go` is set. `fail` is raised instead of computing; with `fail_after`,
    only after that many words. `closed` counts generations that were closed before their end; `started` is set when one
    begins to wait.
    """

    batches_in_flight = 1

    def __init__(
        self,
        signature: Signature | None = None,
        *,
        kinds: tuple[Kind, ...] = ("predict",),
        compute: Callable[[Tensors], dict[str, Any]] | None = None,
        words: Sequence[str] = ("Hello", ", ", "world", "!"),
        script: Callable[[Generate], Iterable[Delta]] | None = None,
        reason: FinishReason = "stop",
        hold: int | None = None,
        fail: Exception | None = None,
        fail_after: int | None = None,
        concurrency: int = 4,
        context_length: int | None = 4096,
        adapters: tuple[str, ...] = (),
        media: tuple[Media, ...] = (),
    ) -> None:
        self.loaded = Loaded(kinds, signature, concurrency, context_length, adapters, media)
        self.words = list(words)
        self.script = script
        self.reason: FinishReason = reason
        self.hold = hold
        self.fail = fail
        self.fail_after = fail_after
        self.go = asyncio.Event()
        self.waiting = asyncio.Event()
        self.ended = asyncio.Event()
        self.closed = 0
        self.requests: list[Generate] = []
        self.state: ExecutorState = "stopped"
        self._compute = compute or (text_outputs if {"embed", "rerank"} & set(kinds) else self._echo)

    async def start(self) -> Loaded:
        self.state = "ready"
        return self.loaded

    async def run(self, parts: Sequence[Tensors], rows: Sequence[int]) -> BatchResult:
        if self.hold is not None:
            self.waiting.set()
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.closed += 1
                self.ended.set()
                raise
        if self.fail is not None:
            raise self.fail
        if len(parts) == 1:
            return BatchResult([self._compute(parts[0])], 0.0)
        return BatchResult(split(self._compute(concatenate(parts)), rows), 0.0)

    async def run_stream(self, inputs: Tensors) -> AsyncGenerator[dict[str, Any]]:
        """One response for each of `words`; `hold`, `fail` and `closed` are as for generations."""
        finished = False
        try:
            for index in range(len(self.words)):
                if index == self.hold:
                    self.waiting.set()
                    await self.go.wait()
                if self.fail is not None and index == (self.fail_after or 0):
                    raise self.fail
                yield self._compute(inputs)
            finished = True
        finally:
            self.closed += not finished
            self.ended.set()

    def _echo(self, batch: Tensors) -> dict[str, Any]:
        signature = self.loaded.signature
        return renamed(batch, [spec.name for spec in signature.outputs]) if signature else dict(batch)

    async def generate(self, request: Generate) -> AsyncGenerator[Delta]:
        self.requests.append(request)
        finished = False
        try:
            async for delta in self._deltas(request):
                yield delta
            finished = True
        finally:
            self.closed += not finished
            self.ended.set()

    async def _deltas(self, request: Generate) -> AsyncGenerator[Delta]:
        if self.script is not None:
            async for delta in self._scripted(request, self.script(request)):
                yield delta
            return
        prompt = last_text(request)
        if isinstance(request, Complete) and request.echo:
            yield TextDelta(prompt)
        limit = request.sampling.max_tokens or len(self.words)
        for index, word in enumerate(self.words[:limit]):
            if index == self.hold:
                self.waiting.set()
                await self.go.wait()
            if self.fail is not None and index == (self.fail_after or 0):
                raise self.fail
            yield TextDelta(word, (index,), self._logprobs(word, request.sampling.logprobs))
        reason: FinishReason = "length" if limit < len(self.words) else self.reason
        yield Done(reason, Usage(len(prompt.split()), min(limit, len(self.words)), 0))

    async def _scripted(self, request: Generate, deltas: Iterable[Delta]) -> AsyncGenerator[Delta]:
        reason, count = self.reason, 0
        for delta in deltas:
            if self.fail is not None and count == (self.fail_after or 0):
                raise self.fail
            yield delta
            if isinstance(delta, Done):
                return
            count += 1
            reason = "tool_calls" if isinstance(delta, ToolCallDelta) else reason
        yield Done(reason, Usage(len(last_text(request).split()), count))

    @staticmethod
    def _logprobs(word: str, count: int | None) -> tuple[PositionLogprobs, ...]:
        if count is None:
            return ()
        others = tuple(TokenLogprob(f"{word}{rank}", -1.0 - rank, f"{word}{rank}".encode()) for rank in range(count))
        return (PositionLogprobs(TokenLogprob(word, -0.5, word.encode()), others),)

    async def tokenize(self, request: Generate) -> tuple[int, ...]:
        """One token for each word."""
        return tuple(range(len(last_text(request).split())))

    async def stop(self, grace_s: float) -> None:
        self.state = "stopped"

    def status(self) -> ExecutorStatus:
        return ExecutorStatus("fake", self.state, memory_bytes=4096 if self.state == "ready" else 0)


class PromptFakeExecutor(FakeExecutor):
    """A `FakeExecutor` that computes in the caller's own turn, unless it is to `hold`; `now` counts how often."""

    now = 0

    def run_now(self, inputs: Tensors, rows: int) -> BatchResult | None:
        if self.hold is not None:
            return None
        self.now += 1
        if self.fail is not None:
            raise self.fail
        return BatchResult([self._compute(inputs)], 0.0)


class FakeExecutors:
    """`ExecutorFactory` that gives out prepared executors by exact reference; `made` counts how often."""

    def __init__(self, executors: Mapping[str, FakeExecutor]) -> None:
        self.executors = dict(executors)
        self.made: list[ModelRef] = []

    def __call__(self, model: StoredModel) -> FakeExecutor:
        self.made.append(model.manifest.ref)
        return self.executors[str(model.manifest.ref)]


class FakeRuntime(RuntimeDefaults):
    """`Runtime` that echoes: `run` gives its inputs back, `generate` the words of the prompt, one delta each."""

    def __init__(self, *kinds: Kind, signature: Signature | None = None) -> None:
        self._loaded = Loaded(kinds or ("predict", "chat", "complete"), signature)
        self.closed = False

    def load(self, manifest: Manifest, folder: Path) -> Loaded:
        return self._loaded

    def run(self, batch: Tensors) -> dict[str, Any]:
        if "predict" not in self._loaded.kinds:
            raise UnsupportedTask("this fake only generates", param="model")
        if not batch:
            raise InvalidTensor("there is no input")
        return dict(batch)

    def run_stream(self, inputs: Tensors, sink: TensorSink) -> None:
        """The inputs come back twice."""
        for _ in range(2):
            sink.send(dict(inputs))

    def generate(self, request: Generate, delivered: Delivered, sink: Sink) -> None:
        words = last_text(request).split()
        for word in words[len(delivered.pieces) :]:
            if sink.cancelled:
                return
            sink.emit(TextDelta(word + " "))
        sink.emit(Done("stop", Usage(len(words), len(words))))

    def close(self) -> None:
        self.closed = True
