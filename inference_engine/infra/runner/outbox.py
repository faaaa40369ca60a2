"""Gathers the deltas of one decode step of all running generations and sends them as one frame."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from inference_engine.domain.results import Delta
from inference_engine.infra.runner import frames

_STEP_WINDOW_S = 0.001


class Outbox:
    """Thread-safe. After the first delta of a step it waits until every running generation has reported,
    at most a millisecond, so that a step costs one frame however many sequences are decoded together."""

    def __init__(self, send: Callable[[frames.ToServer], None]) -> None:
        self._send = send
        self._changed = threading.Condition()
        self._deltas: list[tuple[int, Delta]] = []
        self._ended: list[frames.Ended] = []
        self._running = 0

    def start(self) -> None:
        threading.Thread(target=self._write, name="outbox", daemon=True).start()

    def opened(self) -> None:
        with self._changed:
            self._running += 1

    def put(self, id: int, deltas: Iterable[Delta]) -> None:
        """Deltas of one generation that belong into one frame."""
        with self._changed:
            first = not self._deltas
            self._deltas.extend((id, delta) for delta in deltas)
            if first or len(self._deltas) >= self._running:
                self._changed.notify()

    def closed(self, ended: frames.Ended) -> None:
        with self._changed:
            self._running -= 1
            self._ended.append(ended)
            self._changed.notify()

    def _write(self) -> None:
        while True:
            deltas, ended = self._take()
            if deltas:
                self._send(frames.Deltas(deltas))
            for frame in ended:
                self._send(frame)

    def _take(self) -> tuple[list[tuple[int, Delta]], list[frames.Ended]]:
        with self._changed:
            self._changed.wait_for(lambda: self._deltas or self._ended)
            if self._running > 1 and not self._ended:
                self._changed.wait_for(
                    lambda: len(self._deltas) >= self._running or self._ended, timeout=_STEP_WINDOW_S
                )
            deltas, self._deltas = self._deltas, []
            ended, self._ended = self._ended, []
            return deltas, ended
