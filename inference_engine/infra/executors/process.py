"""One runner process from the server's side: spawn, handshake, requests over its socket, death. It does not restart."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import cast

import msgspec
import psutil

from inference_engine.core.logging import get_logger
from inference_engine.domain.errors import InferenceFailed, ModelLoadFailed, RequestCancelled
from inference_engine.domain.ports import BatchResult, Loaded, StoredModel
from inference_engine.domain.requests import Generate
from inference_engine.domain.results import Delivered, Delta, Done
from inference_engine.domain.tensors import Array, Tensors, split
from inference_engine.infra.runner import frames
from inference_engine.infra.runner.arena import Arena, create_file
from inference_engine.infra.runner.wire_tensors import pack, unpack

ARENA_BYTES = 1 << 30
_LOG_LINES = 40
_SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")
_log = get_logger(__name__)


class ProcessLost(Exception):
    """The process died, or was killed because it hung, before it answered."""


class _Stream:
    """The receiving end of one generation or streamed prediction."""

    __slots__ = ("arrived", "items", "over")

    def __init__(self) -> None:
        self.over = False
        self.items: deque[Delta | dict[str, Array] | frames.Ended | None] = deque()
        self.arrived: asyncio.Future[None] | None = None

    def put(self, item: Delta | dict[str, Array] | frames.Ended | None) -> None:
        self.items.append(item)
        if self.arrived is not None and not self.arrived.done():
            self.arrived.set_result(None)

    async def next(self) -> Delta | dict[str, Array] | frames.Ended | None:
        while not self.items:
            self.arrived = asyncio.get_running_loop().create_future()
            await self.arrived
        return self.items.popleft()


class _ResponseStream(msgspec.Struct, eq=False):
    """A streamed prediction that the runner has not ended yet. `responses` is None once nobody reads them; the `blocks`
    of shared memory stay taken until the end: the runner may be reading them."""

    blocks: list[int]
    responses: _Stream | None


class _Batch(msgspec.Struct, eq=False):
    """A batch that the runner has not answered yet, wanted or not. Its `blocks` of shared memory stay taken until then:
    the runner may be reading them."""

    rows: Sequence[int]
    answer: asyncio.Future[BatchResult]
    lost: Callable[[ProcessLost], None]
    blocks: list[int]


class RunnerProcess(asyncio.Protocol):
    """A live process and its socket. Used by one event loop."""

    def __init__(self, popen: subprocess.Popen[bytes], inbox: Arena, outbox: Arena, clock: Callable[[], float]):
        self.popen = popen
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.last_beat_s = clock()
        self.useful = False
        self._clock = clock
        self._to_runner = inbox
        self._from_runner = outbox
        self._reader = frames.server_reader()
        self._transport: asyncio.Transport | None = None
        self._ready: asyncio.Future[Loaded] = asyncio.get_running_loop().create_future()
        self._batches: dict[int, _Batch] = {}
        self._streams: dict[int, _Stream] = {}
        self._responses: dict[int, _ResponseStream] = {}
        self._kill_reason = ""
        self._next_id = 0
        self._cancelled_at: dict[int, float] = {}
        self._tokenizing: dict[int, asyncio.Future[tuple[int, ...]]] = {}
        self.gauges: Mapping[str, float] = {}
        self._log_tail: deque[str] = deque(maxlen=_LOG_LINES)
        self._file = ""

    @classmethod
    async def spawn(
        cls,
        model: StoredModel,
        clock: Callable[[], float],
        load_timeout_s: float,
        environment: Mapping[str, str] = MappingProxyType({}),
        interpreter: str = sys.executable,
    ) -> RunnerProcess:
        """Start a process and have it load `model`; `loaded` is set when it returns.

        `environment` is added to the server's own. `interpreter` is a Python that can import this package.

        Raises:
            ModelError: the model cannot be loaded, or the process died or stayed silent while loading.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        in_fd, out_fd = create_file(ARENA_BYTES), create_file(ARENA_BYTES)
        log_read, log_write = os.pipe()
        try:
            fds = (theirs.fileno(), in_fd, out_fd)
            command = [interpreter, "-m", "inference_engine.infra.runner", *map(str, fds), str(ARENA_BYTES)]
            popen = subprocess.Popen(  # noqa: ASYNC220 - vfork: returns in about a millisecond
                command,
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=log_write,
                stderr=log_write,
                env=_environment(model) | dict(environment),
            )
            process = cls(popen, Arena(in_fd, ARENA_BYTES), Arena(out_fd, ARENA_BYTES), clock)
            process._file = str(model.folder / model.manifest.artifact)
        finally:
            theirs.close()
            for fd in (in_fd, out_fd, log_write):
                os.close(fd)
        try:
            await process._connect(ours, log_read)
            process._send(frames.Load(model.manifest, str(model.folder)))
            async with asyncio.timeout(load_timeout_s):
                process.loaded = await process._ready
        except BaseException as error:
            process.kill()
            await process.ended
            if isinstance(error, TimeoutError):
                raise ModelLoadFailed(f"{model.manifest.ref} did not load within {load_timeout_s:g} s") from error
            raise
        process.last_beat_s = clock()
        return process

    loaded: Loaded
    _socket: socket.socket

    async def _connect(self, ours: socket.socket, log_read: int) -> None:
        loop = asyncio.get_running_loop()
        ours.setblocking(False)
        self._socket = ours
        await loop.create_connection(lambda: self, sock=ours)
        await loop.connect_read_pipe(lambda: _LogReader(self._log_tail, self.popen.pid), os.fdopen(log_read, "rb"))

    # -- asyncio.Protocol -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop has classes of its own

    def data_received(self, data: bytes) -> None:
        self.last_beat_s = self._clock()
        try:
            for frame in self._reader.feed(data):
                self._take(frame)
        except Exception:
            _log.exception("runner sent what cannot be read", pid=self.popen.pid)
            self.kill()

    def connection_lost(self, _: Exception | None) -> None:
        self.kill()
        asyncio.get_running_loop().create_task(self._bury())

    async def _bury(self) -> None:
        """Wait for the process and tell everybody who waits for it."""
        await asyncio.to_thread(self.popen.wait)
        if not self._ready.done():
            self._ready.set_exception(ModelLoadFailed(self._obituary(f"while loading {self._file}")))
        for batch in self._batches.values():
            if not batch.answer.done():
                batch.lost(ProcessLost(self.epitaph))
        self._batches.clear()
        for tokens in self._tokenizing.values():
            if not tokens.done():
                tokens.set_exception(ProcessLost(self.epitaph))
        for stream in self._streams.values():
            stream.put(None)
        for answering in self._responses.values():
            if answering.responses is not None:
                answering.responses.put(None)
        self._responses.clear()
        self._to_runner.close()
        self._from_runner.close()
        if not self.ended.done():
            self.ended.set_result(None)

    @property
    def open(self) -> bool:
        """False from the moment the socket is closed; `ended` follows once the process is gone."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def epitaph(self) -> str:
        """How the process ended, for people."""
        return self._obituary("while running")

    def _obituary(self, when: str) -> str:
        status = self.popen.returncode
        how = f"was killed by {signal.Signals(-status).name}" if status and status < 0 else f"exited with {status}"
        how += f" because {self._kill_reason}" if self._kill_reason else ""
        tail = "; ".join(self._log_tail)[-800:]
        return f"the runner process {how} {when}" + (f"; its last words: {tail}" if tail else "")

    def _take(self, frame: frames.ToServer) -> None:
        match frame:
            case frames.Deltas(deltas):
                self.useful = True
                for id, delta in deltas:
                    if stream := self._streams.get(id):
                        stream.put(delta)
            case frames.Ended(id):
                self._cancelled_at.pop(id, None)
                if stream := self._streams.get(id):
                    stream.over = True
                    stream.put(frame)
                self._responses_ended(frame)
            case frames.Response(id, tensors):
                self._responded(id, tensors)
            case frames.Ran() | frames.RunError():
                self._batch_ended(frame)
            case frames.Ready() | frames.LoadError():
                self._load_ended(frame)
            case frames.Beat(gauges):
                self.gauges = gauges
            case frames.Tokenized():
                self._tokenized(frame)

    def _tokenized(self, frame: frames.Tokenized) -> None:
        waiting = self._tokenizing.get(frame.id)
        if waiting is not None and not waiting.done():
            if frame.error is None:
                waiting.set_result(frame.tokens)
            else:
                waiting.set_exception(frame.error.restore())

    def _responded(self, id: int, tensors: list[frames.WireTensor]) -> None:
        self.useful = True
        answering = self._responses.get(id)
        if answering is None or answering.responses is None:
            self._release(tensors)
        else:
            answering.responses.put(self._collect(tensors))

    def _responses_ended(self, frame: frames.Ended) -> None:
        answering = self._responses.pop(frame.id, None)
        if answering is None:
            return
        for block in answering.blocks:
            self._to_runner.free(block)
        if answering.responses is not None:
            answering.responses.put(frame)

    def _batch_ended(self, frame: frames.Ran | frames.RunError) -> None:
        self._cancelled_at.pop(frame.id, None)
        batch = self._batches.pop(frame.id)
        for block in batch.blocks:
            self._to_runner.free(block)
        wanted = not batch.answer.done()
        if isinstance(frame, frames.RunError):
            if wanted:
                batch.answer.set_exception(frame.error.restore())
            return
        self.useful = True
        if not wanted:
            self._release(frame.tensors)
            return
        try:
            came = time.perf_counter()
            outputs = split(self._collect(frame.tensors), batch.rows)
            result = BatchResult(outputs, frame.compute_s, time.perf_counter() - came)
        except Exception as error:
            batch.answer.set_exception(error)
        else:
            batch.answer.set_result(result)

    def _load_ended(self, frame: frames.Ready | frames.LoadError) -> None:
        if self._ready.done():
            return
        if isinstance(frame, frames.Ready):
            self._ready.set_result(frame.loaded)
        else:
            self._ready.set_exception(frame.error.restore())

    # -- requests -------------------------------------------------------------------------------------------------

    def _send(self, frame: frames.ToRunner) -> None:
        if self._transport is None or not self.open:
            raise ProcessLost(self.epitaph)
        data = frames.encode(frame)
        if self._transport.get_write_buffer_size() == 0:
            # uvloop would write only after everything else that is ready has run, while the runner waits.
            with contextlib.suppress(OSError):
                del data[: self._socket.send(data)]
        if data:
            self._transport.write(data)

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def run(
        self,
        parts: Sequence[Tensors],
        rows: Sequence[int],
        answer: asyncio.Future[BatchResult],
        lost: Callable[[ProcessLost], None],
    ) -> None:
        """Have one merged batch computed and its result put into `answer`; cancelling that cancels the computation.

        `lost` is called instead when the process ends first.

        Raises:
            ProcessLost: it has ended already.
        """
        tensors, blocks = pack(parts, self._to_runner)
        id = self._new_id()
        try:
            self._send(frames.Run(id, tensors))
        except ProcessLost:
            for block in blocks:
                self._to_runner.free(block)
            raise
        self._batches[id] = _Batch(rows, answer, lost, blocks)
        answer.add_done_callback(partial(self._dropped, id))

    def _dropped(self, id: int, answer: asyncio.Future[BatchResult]) -> None:
        """Nobody waits for the batch, unless it was answered; the runner may have done so since."""
        if answer.cancelled() and id in self._batches:
            self._cancel(id)

    def _collect(self, tensors: Sequence[frames.WireTensor]) -> dict[str, Array]:
        """Outputs as arrays of our own: what lies in shared memory is copied, and the block given back."""
        outputs = unpack(tensors, self._from_runner)
        for tensor in tensors:
            if tensor.offset >= 0:
                outputs[tensor.name] = outputs[tensor.name].copy()
        self._release(tensors)
        return outputs

    def _release(self, tensors: Sequence[frames.WireTensor]) -> None:
        for tensor in tensors:
            if tensor.offset >= 0:
                with contextlib.suppress(ProcessLost):
                    self._send(frames.Release(tensor.offset))

    async def run_stream(self, inputs: Tensors) -> AsyncGenerator[dict[str, Array]]:
        """The responses of one streamed prediction. Closing cancels it.

        Raises:
            ProcessLost; EngineError from the runtime.
        """
        tensors, blocks = pack([inputs], self._to_runner)
        id = self._new_id()
        responses = _Stream()
        try:
            self._send(frames.RunStream(id, tensors))
        except ProcessLost:
            for block in blocks:
                self._to_runner.free(block)
            raise
        self._responses[id] = answering = _ResponseStream(blocks, responses)
        try:
            while True:
                item = await responses.next()
                if item is None:
                    raise ProcessLost(self.epitaph)
                if isinstance(item, frames.Ended):
                    if item.error is not None:
                        raise _end_error(item)
                    return
                assert isinstance(item, dict)
                with contextlib.suppress(ProcessLost):  # what has come already is still worth reading
                    self._send(frames.Taken(id))
                yield item
        finally:
            answering.responses = None
            if id in self._responses:
                self._cancel(id)

    async def generate(self, request: Generate, delivered: Delivered) -> AsyncGenerator[Delta]:
        """Stream one generation on from `delivered`. Closing cancels it.

        Raises:
            ProcessLost; EngineError from the runtime.
        """
        id = self._new_id()
        stream = self._streams[id] = _Stream()
        finished = False
        try:
            self._send(frames.Start(id, request, delivered))
            while True:
                item = await stream.next()
                if item is None:
                    finished = True
                    raise ProcessLost(self.epitaph)
                if isinstance(item, frames.Ended):
                    finished = True
                    raise _end_error(item)
                assert not isinstance(item, dict)
                if isinstance(item, Done):
                    finished = True
                yield item
                if finished:
                    return
        finally:
            del self._streams[id]
            if not finished and not stream.over:
                self._cancel(id)

    async def tokenize(self, request: Generate) -> tuple[int, ...]:
        """Raises `ProcessLost`, or what the runtime raised."""
        self._next_id += 1
        id = self._next_id
        answer: asyncio.Future[tuple[int, ...]] = asyncio.get_running_loop().create_future()
        self._tokenizing[id] = answer
        try:
            self._send(frames.Tokenize(id, request))
            return await answer
        finally:
            del self._tokenizing[id]

    def _cancel(self, id: int) -> None:
        with contextlib.suppress(ProcessLost):
            self._send(frames.Cancel(id))
            self._cancelled_at[id] = self._clock()

    @property
    def winding_down(self) -> bool:
        """True while something that was cancelled may still be computed."""
        return bool(self._cancelled_at)

    def overdue_s(self) -> float:
        """For how long the process has been computing something that was cancelled."""
        return self._clock() - min(self._cancelled_at.values(), default=self._clock())

    # -- life -----------------------------------------------------------------------------------------------------

    def memory_bytes(self) -> int:
        """Memory that ending this process would return: its unshared pages (USS, from the kernel)."""
        try:
            return int(psutil.Process(self.popen.pid).memory_full_info().uss)
        except psutil.Error:
            return 0

    def resident_bytes(self) -> int:
        """Memory it occupies now; cheap."""
        try:
            return int(psutil.Process(self.popen.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def kill(self, reason: str = "") -> None:
        """End it at once, also when it is stopped or stuck. `reason` is told to those who wait for an answer."""
        if self.popen.poll() is None:
            self._kill_reason = self._kill_reason or reason
            self.popen.kill()
        if self._transport is not None:
            self._transport.close()

    async def stop(self, grace_s: float) -> None:
        """Ask it to end; after `grace_s` it is killed."""
        with contextlib.suppress(ProcessLost):
            self._send(frames.Stop())
        try:
            async with asyncio.timeout(grace_s):
                await asyncio.shield(self.ended)
        except TimeoutError:
            self.kill()
            await self.ended


class _LogReader(asyncio.Protocol):
    """Takes in what the runner prints: the last lines are kept for its obituary, all go to the debug log."""

    def __init__(self, tail: deque[str], pid: int) -> None:
        self._tail = tail
        self._pid = pid

    def data_received(self, data: bytes) -> None:
        for line in data.decode(errors="replace").splitlines():
            if line.strip():
                self._tail.append(line.strip()[:400])
                _log.debug("runner output", pid=self._pid, line=line)


def _end_error(ended: frames.Ended) -> Exception:
    if ended.error is None:
        return InferenceFailed("the runtime ended without finishing the answer")
    error = ended.error.restore()
    return error if not isinstance(error, RequestCancelled) else InferenceFailed(error.message)


def environment_without_secrets() -> dict[str, str]:
    """The server's environment without anything that looks like a secret: a model has no use for it."""
    return {name: value for name, value in os.environ.items() if not any(w in name.upper() for w in _SECRET_WORDS)}


def _environment(model: StoredModel) -> dict[str, str]:
    kept = environment_without_secrets()
    # Waiting threads of OpenMP spin only briefly: by default a busy neighbour slows a language model to a tenth, and
    # without any spinning one that is alone runs at half its speed.
    kept.setdefault("GOMP_SPINCOUNT", "5000")
    # Tensors of up to this size are taken from memory that the process keeps: to map and fault in a megabyte anew for
    # each batch costs as much as to decode an image.
    kept.setdefault("MALLOC_MMAP_THRESHOLD_", str(16 << 20))
    kept.setdefault("MALLOC_TRIM_THRESHOLD_", str(64 << 20))
    kept["GGML_NO_BACKTRACE"] = "1"  # else a crash starts a debugger
    kept["VLLM_NO_USAGE_STATS"] = "1"  # else vLLM reports its use to its makers
    kept["HF_HUB_OFFLINE"] = "1"  # models are loaded from their folders, never fetched on the way
    if model.manifest.execution.threads:
        kept["OMP_NUM_THREADS"] = str(model.manifest.execution.threads)
    return kept
