"""The inside of a runner process: hosts one runtime with one loaded model and serves frames until told to stop.

One thread reads frames and computes batches in turn (so that a cancelled batch behind the running one is never
computed); each generation has a thread of its own; one thread writes deltas, one sends heartbeats.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inference_engine.domain.errors import EngineError, InferenceFailed, ModelLoadFailed
from inference_engine.domain.model import Manifest
from inference_engine.domain.ports import Runtime
from inference_engine.domain.results import Delta
from inference_engine.domain.tensors import Tensors
from inference_engine.infra.runner import frames
from inference_engine.infra.runner.arena import Arena
from inference_engine.infra.runner.outbox import Outbox
from inference_engine.infra.runner.wire_tensors import pack, unpack

_READ_BYTES = 1 << 18
BEAT_INTERVAL_S = 0.5


class _RunnerSink:
    """Where one generation puts its deltas."""

    __slots__ = ("_cancelled", "_outbox", "id")

    def __init__(self, id: int, outbox: Outbox) -> None:
        self.id = id
        self._outbox = outbox
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        self._cancelled = True

    def emit(self, *deltas: Delta) -> None:
        if not self._cancelled:
            self._outbox.put(self.id, deltas)


class _ResponseSink:
    """Where one streamed prediction puts its responses; a few at a time are on their way to the reader."""

    def __init__(self, id: int, send: Callable[[frames.ToServer], None], arena: Arena) -> None:
        self._id = id
        self._send = send
        self._arena = arena
        self._room = threading.Semaphore(frames.RESPONSES_AHEAD)
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        self._cancelled = True
        self._room.release()

    def taken(self) -> None:
        self._room.release()

    def send(self, outputs: Tensors) -> None:
        self._room.acquire()
        if self._cancelled:
            self._room.release()
            return
        tensors, _ = pack([outputs], self._arena)
        self._send(frames.Response(self._id, tensors))


class Host:
    """Serves one socket. `create` makes the runtime that a manifest asks for."""

    def __init__(
        self, connection: socket.socket, inbox: Arena, outbox: Arena, create: Callable[[Manifest], Runtime]
    ) -> None:
        self._socket = connection
        self._inbox_arena = inbox
        self._outbox_arena = outbox
        self._create = create
        self._reader = frames.runner_reader()
        self._incoming = memoryview(bytearray(_READ_BYTES))
        self._writing = threading.Lock()
        self._outbox = Outbox(self._send)
        self._batches: deque[frames.Run] = deque()
        self._generations: dict[int, tuple[_RunnerSink, threading.Thread]] = {}
        self._streams: dict[int, tuple[_ResponseSink, threading.Thread]] = {}
        self._stopping = False

    def serve(self) -> int:
        """Load, then answer until a `Stop` frame or the server's end; returns the exit status."""
        load = self._first_frame()
        if load is None:
            return 0
        try:
            runtime, loaded = self._load(load)
        except EngineError as error:
            self._send(frames.LoadError(frames.WireError.of(error)))
            return 1
        self._send(frames.Ready(loaded))
        self._outbox.start()
        threading.Thread(target=self._beat, args=(runtime,), name="beat", daemon=True).start()
        while not self._stopping:
            self._receive(runtime, wait=not self._batches)
            if self._batches and not self._stopping:
                self._run(runtime, self._batches.popleft())
        self._finish(runtime)
        return 0

    def _first_frame(self) -> frames.Load | None:
        while data := self._read(wait=True):
            for frame in list(self._reader.feed(data)):
                if not isinstance(frame, frames.Load):
                    raise TypeError(f"the first frame must be Load, not {type(frame).__name__}")
                return frame
        return None

    def _load(self, load: frames.Load) -> tuple[Runtime, Any]:
        runtime = self._create(load.manifest)
        try:
            return runtime, runtime.load(load.manifest, Path(load.folder))
        except EngineError:
            raise
        except Exception as error:
            raise ModelLoadFailed(f"{load.manifest.artifact}: {type(error).__name__}: {error}") from error

    def _receive(self, runtime: Runtime, *, wait: bool) -> None:
        """Take in what has arrived; with nothing to compute, wait for something."""
        try:
            data = self._read(wait=wait)
        except BlockingIOError:
            return
        if not data:
            self._stopping = True
            return
        for frame in self._reader.feed(data):
            self._take(runtime, frame)

    def _read(self, *, wait: bool) -> memoryview:
        """What has arrived, valid until the next read; empty at the end of the stream."""
        size = self._socket.recv_into(self._incoming, 0, 0 if wait else socket.MSG_DONTWAIT)
        return self._incoming[:size]

    def _take(self, runtime: Runtime, frame: frames.ToRunner) -> None:
        match frame:
            case frames.Run():
                self._batches.append(frame)
            case frames.Start():
                self._start(runtime, frame)
            case frames.RunStream():
                self._start_stream(runtime, frame)
            case frames.Taken(id):
                if stream := self._streams.get(id):
                    stream[0].taken()
            case frames.Cancel(id):
                self._cancel(id)
            case frames.Release(offset):
                self._outbox_arena.free(offset)
            case frames.Stop():
                self._stopping = True
            case frames.Tokenize():
                threading.Thread(target=self._tokenize, args=(runtime, frame), daemon=True).start()
            case frames.Load():
                raise TypeError("a runner loads one model")

    # -- batches --------------------------------------------------------------------------------------------------

    def _run(self, runtime: Runtime, frame: frames.Run) -> None:
        try:
            inputs = unpack(frame.tensors, self._inbox_arena)
            started = time.perf_counter()
            outputs = runtime.run(inputs)
            compute_s = time.perf_counter() - started
            tensors, _ = pack([outputs], self._outbox_arena)
        except EngineError as error:
            self._send(frames.RunError(frame.id, frames.WireError.of(error)))
        except Exception as error:
            failed = InferenceFailed(f"{type(error).__name__}: {error}")
            self._send(frames.RunError(frame.id, frames.WireError.of(failed)))
        else:
            self._send(frames.Ran(frame.id, tensors, compute_s))

    # -- predictions with several responses -------------------------------------------------------------------------

    def _start_stream(self, runtime: Runtime, frame: frames.RunStream) -> None:
        sink = _ResponseSink(frame.id, self._send, self._outbox_arena)
        thread = threading.Thread(target=self._run_stream, args=(runtime, frame, sink), name=f"stream-{frame.id}")
        self._streams[frame.id] = (sink, thread)
        thread.start()

    def _run_stream(self, runtime: Runtime, frame: frames.RunStream, sink: _ResponseSink) -> None:
        error: EngineError | None = None
        try:
            runtime.run_stream(unpack(frame.tensors, self._inbox_arena), sink)
        except EngineError as raised:
            error = raised
        except Exception as raised:
            error = InferenceFailed(f"{type(raised).__name__}: {raised}")
        finally:
            self._streams.pop(frame.id, None)
            self._send(frames.Ended(frame.id, frames.WireError.of(error) if error else None))

    # -- generations ----------------------------------------------------------------------------------------------

    def _start(self, runtime: Runtime, frame: frames.Start) -> None:
        sink = _RunnerSink(frame.id, self._outbox)
        thread = threading.Thread(target=self._generate, args=(runtime, frame, sink), name=f"generation-{frame.id}")
        self._generations[frame.id] = (sink, thread)
        self._outbox.opened()
        thread.start()

    def _generate(self, runtime: Runtime, frame: frames.Start, sink: _RunnerSink) -> None:
        error: EngineError | None = None
        try:
            runtime.generate(frame.request, frame.delivered, sink)
        except EngineError as raised:
            error = raised
        except Exception as raised:
            error = InferenceFailed(f"{type(raised).__name__}: {raised}")
        finally:
            self._generations.pop(frame.id, None)
            self._outbox.closed(frames.Ended(frame.id, frames.WireError.of(error) if error else None))

    def _tokenize(self, runtime: Runtime, frame: frames.Tokenize) -> None:
        try:
            answer = frames.Tokenized(frame.id, runtime.tokenize(frame.request))
        except EngineError as error:
            answer = frames.Tokenized(frame.id, error=frames.WireError.of(error))
        except Exception as error:
            failed = InferenceFailed(f"{type(error).__name__}: {error}")
            answer = frames.Tokenized(frame.id, error=frames.WireError.of(failed))
        self._send(answer)

    def _cancel(self, id: int) -> None:
        running = self._generations.get(id) or self._streams.get(id)
        if running:
            running[0].cancel()
            return
        waiting = [batch for batch in self._batches if batch.id == id]
        for batch in waiting:
            self._batches.remove(batch)
            self._send(frames.RunError(id, frames.WireError("cancelled", "cancelled before it was computed")))

    # -- life -----------------------------------------------------------------------------------------------------

    def _send(self, frame: frames.ToServer) -> None:
        data = frames.encode(frame)
        with self._writing:
            try:
                self._socket.sendall(data)
            except OSError:
                # The server is gone: the reading side sees the end of the stream and stops the process.
                self._stopping = True

    def _beat(self, runtime: Runtime) -> None:
        while not self._stopping:
            self._send(frames.Beat(dict(runtime.gauges())))
            time.sleep(BEAT_INTERVAL_S)

    def _finish(self, runtime: Runtime) -> None:
        running: list[tuple[_RunnerSink | _ResponseSink, threading.Thread]] = []
        running += [*self._generations.values(), *self._streams.values()]
        for sink, _ in running:
            sink.cancel()
        for _, thread in running:
            thread.join(timeout=5)
        if not any(thread.is_alive() for _, thread in running):
            runtime.close()


def leave(status: int) -> None:
    """End the process at once: libraries with threads of their own abort when the interpreter is torn down."""
    os._exit(status)
