"""The sockets of the domain: what services need from the outside, and what a runtime must offer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

from inference_engine.domain.model import Manifest, ModelRef, Signature
from inference_engine.domain.requests import Generate, Kind
from inference_engine.domain.results import CacheOutcome, Delivered, Delta
from inference_engine.domain.tensors import Tensors

Media = Literal["image", "audio"]


class Loaded(msgspec.Struct, frozen=True):
    """What a runtime says of the model it has loaded.

    `kinds` are the request kinds it answers; `concurrency` is how many generations it runs together;
    `context_length` is the most tokens one generation may use, prompt included; `adapters` are the LoRA adapters a
    request may choose; `media` is what messages may hold beside text; `details` are for people, and the texts in their
    `warnings` are logged. `closing_s` is how long `close` may take to put things away.

    A model that answers `embed` or `rerank` does so in `run`, with the tensors of `domain/text_tensors.py`. One
    with the kind `predict_stream` may give several responses to one prediction (`Runtime.run_stream`).
    """

    kinds: tuple[Kind, ...]
    signature: Signature | None = None
    concurrency: int = 1
    context_length: int | None = None
    adapters: tuple[str, ...] = ()
    media: tuple[Media, ...] = ()
    details: dict[str, Any] = {}
    closing_s: float = 0.0


class Sink(Protocol):
    """Where a runtime puts what it generates. Thread-safe, never blocks for long."""

    @property
    def cancelled(self) -> bool:
        """True once nobody wants the rest: the runtime returns within one token or one prefill batch."""

    def emit(self, *deltas: Delta) -> None:
        """Hand deltas on; those of one call stay together, also when the runner dies.

        The last one is a `Done`, unless `cancelled`.
        """


class TensorSink(Protocol):
    """Where a runtime puts the responses of one streamed prediction. Thread-safe."""

    @property
    def cancelled(self) -> bool:
        """True once nobody wants the rest: the runtime returns before it computes the next response."""

    def send(self, outputs: Tensors) -> None:
        """Hand one response on. Blocks while the reader is some responses behind; does nothing once `cancelled`."""


class Runtime(Protocol):
    """A library that runs one model format. Plain blocking code; one instance holds one loaded model.

    `run` is called by one thread at a time. `generate` and `run_stream` are called from up to `Loaded.concurrency`
    threads together.
    A runtime offers what its `Loaded.kinds` name; the other method raises `UnsupportedTask`.
    """

    def load(self, manifest: Manifest, folder: Path) -> Loaded:
        """Load the artifact in `folder`. Called once, first.

        Raises:
            ModelLoadFailed: the file is missing, damaged, or not of this format; the message names the file.
            InvalidManifest: `manifest.options` holds what this runtime does not know.
            RuntimeMissing: the library is not installed; the message names the extra to install.
        """

    def run(self, batch: Tensors) -> Tensors:
        """Compute one batch. Inputs are read-only and valid only during the call; outputs become the caller's.

        Raises:
            InvalidRequest: the request is at fault. InferenceFailed: the model is.
        """

    def run_stream(self, inputs: Tensors, sink: TensorSink) -> None:
        """Compute one request that has any number of responses, each sent as soon as it is there, until all are sent
        or `sink.cancelled`. Inputs are as in `run`. Raises what `run` raises.
        """

    def generate(self, request: Generate, delivered: Delivered, sink: Sink) -> None:
        """Answer `request`, emitting deltas, until done or `sink.cancelled`. `request.choices` is always 1 here.

        `delivered` is what an earlier runner has already handed out: continue right after it, do not repeat it,
        count its tokens in `Usage.completion_tokens` and against `max_tokens`.

        Raises:
            InvalidRequest: the request cannot be answered (`ContextLengthExceeded`, a schema that cannot be compiled).
            InferenceFailed: the model failed.
        """

    def tokenize(self, request: Generate) -> tuple[int, ...]:
        """The prompt of `request` as the token ids the model would see. Called from any thread.

        Raises:
            UnsupportedTask: the library does not tell. InvalidRequest: the request has no prompt of that model.
        """

    def gauges(self) -> Mapping[str, float]:
        """What is measured now, by the name of its metric (`kv_cache_usage_ratio`). Called often, from any thread."""

    def close(self) -> None:
        """Free what `load` took. Nothing runs any more when it is called."""


class RuntimeCatalog(Protocol):
    """The runtimes that are known here, by the manifest's word for them."""

    def names(self) -> tuple[str, ...]: ...

    def describe(self, name: str) -> RuntimeInfo:
        """Whether its library can be imported here, and which version."""


class RuntimeInfo(msgspec.Struct, frozen=True):
    """A runtime as `doctor` and the console show it. `remedy` says how to get a missing one."""

    name: str
    available: bool
    version: str = ""
    remedy: str = ""


class StoredModel(msgspec.Struct, frozen=True):
    """A model in the repository: its manifest, the folder it lives in, and whether the manifest was assumed."""

    manifest: Manifest
    folder: Path
    assumed: bool = False
    size_bytes: int = 0


class BrokenModel(msgspec.Struct, frozen=True):
    """A folder that looks like a model and cannot be adopted; `message` names the file, the place and the remedy."""

    folder: Path
    message: str


class ModelRepository(Protocol):
    """Where models are stored. `scan` is blocking and may be called again at any time."""

    def scan(self) -> tuple[list[StoredModel], list[BrokenModel]]:
        """Everything that is there now, in order of name and version."""

    def verify(self, model: StoredModel) -> None:
        """Compare the files with the manifest's digests.

        Raises:
            ModelLoadFailed: a file is missing or its digest differs.
        """


ExecutorState = Literal["starting", "ready", "restarting", "failed", "stopped"]


class ExecutorStatus(msgspec.Struct, frozen=True):
    """One executor at this moment. `memory_bytes` is measured: the unshared memory of its process (0 in a thread).

    `gauges` is the latest that the runtime measured of itself.
    """

    kind: str
    state: ExecutorState
    pid: int | None = None
    memory_bytes: int = 0
    restarts: int = 0
    error: str | None = None
    gauges: Mapping[str, float] = {}


class BatchResult(msgspec.Struct, frozen=True):
    """Outputs for each part of a batch, in order, and the seconds the runtime computed.

    `output_s` is what splitting the outputs took.
    """

    outputs: list[dict[str, Any]]
    compute_s: float
    output_s: float = 0.0


class Executor(Protocol):
    """Runs one loaded model: a supervised process, a thread, later a cluster. The async side of a `Runtime`.

    An executor keeps itself alive: a runner that dies or hangs is replaced, work in flight is done again
    (`run`) or continued from what was delivered (`generate`), and callers only see a pause.
    """

    async def start(self) -> Loaded:
        """Load the model.

        Raises:
            ModelError: it cannot be loaded; nothing is left running.
        """

    def run(self, parts: Sequence[Tensors], rows: Sequence[int]) -> Awaitable[BatchResult]:
        """Compute the `parts` as one batch of `sum(rows)` rows and split the outputs again.

        Up to `batches_in_flight` calls may overlap. What is returned is a future, which costs the caller no task, or a
        coroutine. Cancelling it cancels the computation. Raises what `Runtime.run` raises, or `RunnerLost`.
        """

    def run_stream(self, inputs: Tensors) -> AsyncGenerator[dict[str, Any]]:
        """The responses of one streamed prediction as they come; few are made ahead of the reader. Closing the
        generator ends the computation before its next response.

        Raises what `Runtime.run_stream` raises. `RunnerLost`: the runner died after the first response; what the model
        knew went with it, so nothing is continued.
        """

    def generate(self, request: Generate) -> AsyncGenerator[Delta]:
        """Stream one generation. Closing the generator stops the compute within one token or prefill batch."""

    async def tokenize(self, request: Generate) -> tuple[int, ...]:
        """The prompt's token ids. Raises what `Runtime.tokenize` raises, or `RunnerLost`."""

    async def stop(self, grace_s: float) -> None:
        """End it: wait up to `grace_s` for work in flight, then cut. Safe to call twice."""

    def status(self) -> ExecutorStatus: ...

    @property
    def batches_in_flight(self) -> int:
        """How many `run` calls are useful at once: 2 hides the hop to a process, 1 for a thread."""


@runtime_checkable
class Instanced(Protocol):
    """An executor before several others of the same model."""

    @property
    def instances(self) -> Sequence[Executor]:
        """Those behind it, always in the same order."""


@runtime_checkable
class Restarting(Protocol):
    """An executor whose process may be replaced; what the model knew is lost with each."""

    @property
    def restarts(self) -> int:
        """How often that has happened. Cheap: asked for every batch of a sequence."""

    @property
    def state(self) -> ExecutorState: ...


@runtime_checkable
class PromptExecutor(Executor, Protocol):
    """An executor that can compute within the caller's own turn."""

    def run_now(self, inputs: Tensors, rows: int) -> BatchResult | None:
        """Compute one request here and now, blocking; None, and nothing done, where that would hold up others.

        Raises what `Runtime.run` raises.
        """


class ExecutorFactory(Protocol):
    def __call__(self, model: StoredModel) -> Executor:
        """A fresh, not yet started executor of the kind the manifest asks for."""


class RouteStore(Protocol):
    """Keeps routes over restarts. Blocking, small."""

    def read(self) -> Mapping[str, ModelRef]:
        """Pinned routes by public name."""

    def write(self, routes: Mapping[str, ModelRef]) -> None: ...


class Telemetry(Protocol):
    """Counts what happens. Cheap and never raises."""

    def request(self, ref: ModelRef, kind: Kind, outcome: str, seconds: float) -> None:
        """One request ended: `outcome` is `ok`, `cancelled` or an error code."""

    def batch(self, ref: ModelRef, rows: int, queue_s: float, compute_s: float) -> None: ...

    def first_token(self, ref: ModelRef, seconds: float) -> None: ...

    def tokens(self, ref: ModelRef, prompt: int, completion: int, seconds: float) -> None: ...

    def restart(self, ref: ModelRef) -> None: ...

    def reused(self, ref: ModelRef, outcome: CacheOutcome) -> None:
        """A request whose answer may be used again was answered."""
