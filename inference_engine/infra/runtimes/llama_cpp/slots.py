"""What llama.cpp's server tells of its slots and its counters, as the gauges of the port."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from inference_engine.infra.runtimes.llama_cpp.http_side import HttpSideError

_SAMPLE = re.compile(r"^llamacpp:(\w+) (\S+)$", re.MULTILINE)
_EVERY_S = 1.0


class _Slot(msgspec.Struct):
    """`n_prompt_tokens` are those it holds in the KV cache, its answer's included."""

    is_processing: bool = False
    n_prompt_tokens: int = 0


class SlotSource(Protocol):
    def slots(self) -> bytes:
        """JSON, one object for each slot."""


class Gauges:
    """Reads the server's counters at most once a second, in a thread of its own.

    The server answers between two decode steps, which may be seconds apart, while `read` is asked by the heartbeat:
    so it gives what was known last and never waits.
    """

    def __init__(
        self, metrics: Callable[[], str], http: SlotSource, context: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`context` is how many tokens one slot's KV cache holds; 0 for models without one."""
        self._metrics = metrics
        self._http = http
        self._context = context
        self._clock = clock
        self._state = threading.Lock()
        self._reader: threading.Thread | None = None
        self._closed = False
        self._known: Mapping[str, float] = {}
        self._counters: dict[str, float] = {}
        self._due = clock()

    def read(self) -> Mapping[str, float]:
        """The latest values. Never waits."""
        with self._state:
            idle = self._reader is None or not self._reader.is_alive()
            if idle and not self._closed and self._clock() >= self._due:
                self._due = self._clock() + _EVERY_S
                self._reader = threading.Thread(target=self.refresh, name="gauges", daemon=True)
                self._reader.start()
            return self._known

    def close(self) -> None:
        """Wait until nobody asks the server any more: it must not end before."""
        with self._state:
            self._closed = True
            reader = self._reader
        if reader is not None:
            reader.join()

    def refresh(self) -> None:
        """Ask the server now. What it does not tell stays as it was."""
        try:
            counters = {name: float(value) for name, value in _SAMPLE.findall(self._metrics())}
            slots = msgspec.json.decode(self._http.slots(), type=list[_Slot])
        except (HttpSideError, RuntimeError, ValueError, msgspec.MsgspecError):
            return
        self._known = {**self._known, **self._slot_gauges(slots), **self._counter_gauges(counters)}
        self._counters = counters

    def _slot_gauges(self, slots: list[_Slot]) -> dict[str, float]:
        found = {"slots": float(len(slots)), "busy_slots": float(sum(slot.is_processing for slot in slots))}
        if self._context and slots:
            held = sum(slot.n_prompt_tokens for slot in slots)
            found["kv_cache_usage_ratio"] = held / (self._context * len(slots))
        return found

    def _counter_gauges(self, counters: dict[str, float]) -> dict[str, float]:
        found = {}
        for name, tokens, seconds in (
            ("prompt_tokens_per_second", "prompt_tokens_total", "prompt_seconds_total"),
            ("generated_tokens_per_second", "tokens_predicted_total", "tokens_predicted_seconds_total"),
        ):
            spent = self._grown(counters, seconds)
            if spent > 0:
                found[name] = self._grown(counters, tokens) / spent
        cached, computed = counters.get("prompt_tokens_cached_total", 0.0), counters.get("prompt_tokens_total", 0.0)
        if cached + computed > 0:
            found["prefix_cache_hit_ratio"] = cached / (cached + computed)
        guessed = counters.get("spec_decode_num_draft_tokens_total", 0.0)
        if guessed > 0:
            accepted = counters.get("spec_decode_num_accepted_tokens_total", 0.0)
            found |= {"draft_tokens": guessed, "draft_accepted_tokens": accepted}
            found["draft_acceptance_ratio"] = accepted / guessed
        return found

    def _grown(self, counters: dict[str, float], name: str) -> float:
        return counters.get(name, 0.0) - self._counters.get(name, 0.0)
