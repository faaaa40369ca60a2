"""Continuous batching for decoder models: sequences join and leave between decode steps, each with its own sampling.

Each adapter has a batch and a KV cache of its own, so that no answer is made from another adapter's cache. A
newcomer's prompt is computed in chunks between two decode steps of the others.

Why not the library's own continuous batching: it shares one way of sampling among all requests, knows no constraint,
no log probabilities and no adapter, and it was slower than a plain batch on a CPU.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from inference_engine.domain.errors import EngineError, ShuttingDown
from inference_engine.infra.runtimes.transformers.joint_cache import JointCache, prefill
from inference_engine.infra.runtimes.transformers.sequences import SequenceRun, Switch, failed


class _Batch:
    """The running sequences of one adapter and their common cache."""

    def __init__(self, model: Any) -> None:
        self.runs: list[SequenceRun] = []
        self._cache = JointCache(model)
        self._tokens: list[int] = []

    def join(self, run: SequenceRun, cache: Any, length: int, token: int) -> None:
        """Add a sequence of which `length` tokens are computed in `cache`, and `token` is the next."""
        self._cache.join(cache, length)
        self.runs.append(run)
        self._tokens.append(token)

    def leave(self) -> None:
        """Take out the sequences that have ended or are not wanted any more."""
        for run in self.runs:
            if run.cancelled:
                run.end(None)
        staying = [place for place, run in enumerate(self.runs) if not run.ended]
        self._cache.keep(staying)
        self.runs = [self.runs[place] for place in staying]
        self._tokens = [self._tokens[place] for place in staying]

    def step(self) -> None:
        """The next token of every sequence."""
        self._tokens = choose(self._cache.step(self._tokens), self.runs)

    def fail(self, error: EngineError) -> None:
        for run in self.runs:
            run.end(error)


def choose(logits: Any, runs: list[SequenceRun]) -> list[int]:
    """Choose the next token of each sequence from `logits` [sequences, vocabulary]."""
    greedy = logits.argmax(-1).tolist() if any(run.sampler.plain for run in runs) else []
    tokens = []
    for place, run in enumerate(runs):
        try:
            tokens.append(run.took(greedy[place]) if run.sampler.plain else run.step(logits[place]))
        except Exception as error:  # this sequence alone is at fault
            run.end(failed(error))
            tokens.append(0)
    return tokens


class _Newcomer:
    """A sequence whose prompt is being computed."""

    def __init__(self, run: SequenceRun) -> None:
        from transformers import DynamicCache

        self.run = run
        self.cache = DynamicCache()
        self.done = 0

    def advance(self, model: Any, chunk: int) -> Any:
        """Compute `chunk` more tokens; the logits after the last token of the prompt, None before."""
        part = self.run.ids[self.done : self.done + chunk]
        logits = prefill(model, part, self.cache, self.done)
        self.done += len(part)
        return logits if self.done == len(self.run.ids) else None


class BatchLoop:
    """Decodes up to `parallel` sequences together, in a thread of its own."""

    def __init__(self, model: Any, parallel: int, chunk: int, switch: Switch) -> None:
        self._model = model
        self._parallel = parallel
        self._chunk = chunk
        self._switch = switch
        self._changed = threading.Condition()
        self._waiting: deque[SequenceRun] = deque()
        self._batches: dict[str | None, _Batch] = {}
        self._newcomer: _Newcomer | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="decode", daemon=True)
        self._thread.start()

    def start(self, run: SequenceRun) -> None:
        """Let `run` be computed; its events tell how it goes."""
        with self._changed:
            if self._closed:
                raise ShuttingDown("the model is being unloaded")
            self._waiting.append(run)
            self._changed.notify()

    def close(self) -> None:
        """End the thread; what still runs is cut."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def gauges(self) -> dict[str, float]:
        return {"sequences_running": float(self._running()), "sequences_waiting": float(len(self._waiting))}

    def _running(self) -> int:
        return sum([len(batch.runs) for batch in list(self._batches.values())])

    def _loop(self) -> None:
        import torch

        with torch.inference_mode():
            while self._wait():
                self._admit()
                for adapter, batch in list(self._batches.items()):
                    self._step(adapter, batch)
        running = [run for batch in self._batches.values() for run in batch.runs]
        for run in [*running, *self._waiting, *([self._newcomer.run] if self._newcomer else [])]:
            run.end(ShuttingDown("the model is being unloaded"))

    def _wait(self) -> bool:
        """Until there is something to do; False when it is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting or self._newcomer or self._running())
            return not self._closed

    def _admit(self) -> None:
        """Compute one chunk of the newcomer's prompt; after the last one it joins its batch."""
        for run in [run for run in self._waiting if run.cancelled]:
            self._waiting.remove(run)
            run.end(None)
        if self._newcomer is None:
            if not self._waiting or self._running() >= self._parallel:
                return
            self._newcomer = _Newcomer(self._waiting.popleft())
        newcomer, run = self._newcomer, self._newcomer.run
        if run.cancelled:
            run.end(None)
        else:
            self._prefill(newcomer)
        if run.ended or newcomer.done == len(run.ids):
            self._newcomer = None

    def _prefill(self, newcomer: _Newcomer) -> None:
        run = newcomer.run
        try:
            self._switch(run.adapter)
            logits = newcomer.advance(self._model, self._chunk)
        except Exception as error:  # whatever the library raises: this sequence alone is at fault
            run.end(failed(error))
            return
        if logits is None:
            return
        token = choose(logits, [run])[0]
        if not run.ended:
            self._batches.setdefault(run.adapter, _Batch(self._model)).join(run, newcomer.cache, newcomer.done, token)

    def _step(self, adapter: str | None, batch: _Batch) -> None:
        try:
            batch.leave()
            if not batch.runs:
                del self._batches[adapter]
                return
            self._switch(adapter)
            batch.step()
        except Exception as error:  # the cache may be half written: none of its sequences can go on
            batch.fail(failed(error))
            del self._batches[adapter]
