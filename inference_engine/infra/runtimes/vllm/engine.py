"""vLLM's engine and the one thread that steps it: requests go in from any thread, their outputs come out by id.

The engine runs in the process of the runner, not in one of its own: when the runner is killed its memory is free, and
nothing is left behind on the GPU.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

from inference_engine.domain.errors import EngineError, InferenceFailed, InvalidRequest, ShuttingDown

_Event = Any  # vLLM's RequestOutput or PoolingRequestOutput, an EngineError, or None: cancelled


class Answering:
    """One request on its way: its outputs, as vLLM gives them out."""

    def __init__(self, id: str, wanted: Callable[[], bool]) -> None:
        """`wanted` is asked before every step whether anybody still waits for the rest."""
        self.id = id
        self.wanted = wanted
        self.events: queue.SimpleQueue[_Event] = queue.SimpleQueue()

    def outputs(self) -> Iterator[Any]:
        """Outputs until the last; fewer once it is cancelled.

        Raises:
            EngineError: the engine failed.
        """
        while True:
            event = self.events.get()
            if isinstance(event, EngineError):
                raise event
            if event is None:
                return
            yield event
            if event.finished:
                return


class SteppedEngine:
    """Owns the engine: every call of it happens in one thread."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._ids = itertools.count()
        self._changed = threading.Condition()
        self._entering: list[tuple[Answering, dict[str, Any]]] = []
        self._running: dict[str, Answering] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="vllm", daemon=True)
        self._thread.start()

    def submit(self, wanted: Callable[[], bool], **request: Any) -> Answering:
        """Let a request be computed; `request` is what `LLMEngine.add_request` takes beside its id."""
        answering = Answering(str(next(self._ids)), wanted)
        with self._changed:
            if self._closed:
                raise ShuttingDown("the model is being unloaded")
            self._entering.append((answering, request))
            self._changed.notify()
        return answering

    def close(self) -> None:
        """End the thread and the engine; what still runs is cut."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self._engine.engine_core.shutdown()

    def gauges(self) -> dict[str, float]:
        return {"sequences_running": float(len(self._running)), "sequences_waiting": float(len(self._entering))}

    def _loop(self) -> None:
        while self._wait():
            self._enter()
            self._leave()
            if not self._running:
                continue
            try:
                for output in self._engine.step():
                    self._give(output)
            except Exception as error:  # the engine is broken: nothing it runs can go on
                self._fail(InferenceFailed(f"vLLM failed: {type(error).__name__}: {error}"))
        self._fail(ShuttingDown("the model is being unloaded"))

    def _wait(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._entering or self._running)
            return not self._closed

    def _enter(self) -> None:
        with self._changed:
            entering, self._entering = self._entering, []
        for answering, request in entering:
            try:
                self._engine.add_request(answering.id, **request)
                self._running[answering.id] = answering
            except ValueError as error:  # what vLLM refuses, refuses by this
                answering.events.put(InvalidRequest(f"vLLM refuses the request: {error}"))
            except Exception as error:  # this request alone is at fault
                answering.events.put(InferenceFailed(f"vLLM failed: {type(error).__name__}: {error}"))

    def _leave(self) -> None:
        for answering in [one for one in self._running.values() if not one.wanted()]:
            self._engine.abort_request([answering.id])
            del self._running[answering.id]
            answering.events.put(None)

    def _give(self, output: Any) -> None:
        answering = self._running.get(output.request_id)
        if answering is None:  # it was cancelled in this very step
            return
        if output.finished:
            del self._running[output.request_id]
        answering.events.put(output)

    def _fail(self, error: EngineError) -> None:
        with self._changed:
            entering, self._entering = self._entering, []
        for answering in [*self._running.values(), *(one for one, _ in entering)]:
            answering.events.put(error)
        self._running.clear()
