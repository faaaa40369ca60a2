"""What the workers of a load tell, gathered until somebody takes it. One event loop; appending is all it does."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import Counter

import numpy as np

from inference_engine.adapters.cli.bench.figures import Window
from inference_engine.domain.errors import EngineError
from inference_engine.domain.tensors import Array


class Recorder:
    """Events since the last `take`. Times are seconds."""

    def __init__(self) -> None:
        self.fatal: EngineError | None = None
        self.broken = asyncio.Event()
        self.messages: dict[str, str] = {}
        self._begin()

    def _begin(self) -> None:
        self._since = time.perf_counter()
        self._latencies, self._first, self._gaps, self._speeds = (array("d") for _ in range(4))
        self._errors: Counter[str] = Counter()
        self._pieces = self._token_pieces = self._tokens = self._prompt_tokens = 0

    @property
    def ended(self) -> int:
        """Requests that were answered or failed."""
        return len(self._latencies) + self._errors.total()

    @property
    def events(self) -> int:
        """Answers, failures and pieces of streams."""
        return self.ended + self._pieces

    def answered(self, latency_s: float) -> None:
        self._latencies.append(latency_s)

    def failed(self, code: str, message: str) -> None:
        """A request that came to nothing. The first message of each code is kept."""
        self._errors[code] += 1
        self.messages.setdefault(code, message)

    def give_up(self, error: EngineError) -> None:
        """Nothing can come of this load: the same request would fail again."""
        self.fatal = self.fatal or error
        self.broken.set()

    def began(self, first_s: float) -> None:
        """The first piece of a stream came so long after its request."""
        self._first.append(first_s)
        self._pieces += 1

    def went_on(self, gap_s: float) -> None:
        """A further piece came so long after the one before."""
        self._gaps.append(gap_s)
        self._pieces += 1

    def streamed(self, pieces: int, tokens: int, prompt_tokens: int, seconds: float) -> None:
        """A stream has ended; `seconds` is the time from its first to its last piece."""
        tokens = tokens or pieces
        self._token_pieces += pieces
        self._tokens += tokens
        self._prompt_tokens += prompt_tokens
        if tokens > 1 and seconds > 0:
            self._speeds.append((tokens - 1) / seconds)

    def take(self) -> Window:
        """What has come since the last call; the next window begins here."""
        window = Window(
            max(1e-9, time.perf_counter() - self._since),
            _floats(self._latencies),
            self._errors,
            _floats(self._first),
            _floats(self._gaps),
            _floats(self._speeds),
            self._pieces,
            self._token_pieces,
            self._tokens,
            self._prompt_tokens,
        )
        self._begin()
        return window


def _floats(values: array[float]) -> Array:
    return np.frombuffer(values, np.float64) if values else np.empty(0)
