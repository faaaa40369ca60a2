"""One running generation between the thread that computes it and the thread that writes it down."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from inference_engine.domain.errors import EngineError, InferenceFailed
from inference_engine.domain.ports import Sink
from inference_engine.domain.results import FinishReason
from inference_engine.infra.runtimes.transformers.sampling import Chosen, Sampler

Event = Chosen | FinishReason | EngineError | None
"""A token, the end and its reason, a failure, or None: cancelled."""


class SequenceRun:
    """`ids` are those of the prompt and of what was delivered; at most `limit` more tokens are chosen.

    `inputs` are further inputs of the model's first step (images). The queue holds at most `limit` tokens.
    """

    def __init__(
        self,
        ids: Sequence[int],
        sampler: Sampler,
        limit: int,
        sink: Sink,
        adapter: str | None = None,
        inputs: dict[str, Any] | None = None,
    ) -> None:
        self.ids = list(ids)
        self.limit = limit
        self.sampler = sampler
        self.adapter = adapter
        self.inputs = inputs or {}
        self.ended = False
        self._sink = sink
        self._count = 0
        self._dropped = False
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    @property
    def cancelled(self) -> bool:
        """Nobody wants the rest: the client left, or a stop string was met."""
        return self._dropped or self._sink.cancelled

    def drop(self) -> None:
        """The writer wants no more."""
        self._dropped = True

    def step(self, logits: Any) -> int:
        """Choose the next token from `logits` [vocabulary], tell the writer, and say which it is."""
        return self._chose(self.sampler.choose(logits))

    def took(self, token: int) -> int:
        """Take a token that was chosen elsewhere, where `sampler.plain` allows that."""
        return self._chose(self.sampler.take(token))

    def _chose(self, chosen: Chosen) -> int:
        if chosen.token in self.sampler.ends:
            self.end("stop")
            return chosen.token
        self._count += 1
        self._events.put(chosen)
        if self._count >= self.limit:
            self.end("length")
        return chosen.token

    def end(self, event: FinishReason | EngineError | None) -> None:
        """Nothing follows. Safe to call twice: the first reason counts."""
        if not self.ended:
            self.ended = True
            self._events.put(event)

    def events(self) -> Iterator[Chosen | FinishReason]:
        """Tokens as they are chosen, then the reason of the end; nothing more once it is cancelled.

        Raises:
            EngineError: the computation failed.
        """
        while True:
            event = self._events.get()
            if isinstance(event, EngineError):
                raise event
            if event is None:
                return
            yield event
            if isinstance(event, str):
                return


def failed(error: Exception) -> EngineError:
    """What a library raised, as the engine's error."""
    if isinstance(error, EngineError):
        return error
    return InferenceFailed(f"the computation failed: {type(error).__name__}: {error}")


Switch = Callable[[str | None], None]
"""Makes the model answer with one adapter, or with none."""
