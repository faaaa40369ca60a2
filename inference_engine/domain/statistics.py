"""What a model has done since the server started, in the terms of the Open Inference Protocol's statistics extension.

Counters are changed by services on the event loop and read there between two awaits: nothing is locked or copied.
Adding is on the way of every batch and kept to a few sums; what readers want is made of them when they ask.
"""

from __future__ import annotations

import msgspec

_NS = 1_000_000_000
_MAX_SIZES = 1024  # clients choose the rows of their requests


class Spent(msgspec.Struct):
    """How often something was done, and the nanoseconds it took altogether."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.ns += int(seconds * _NS)


class BatchSize(msgspec.Struct, eq=False):
    """The batches of one size (in rows), and the requests that were in them.

    `input_s`, `infer_s` and `output_s` are sums over the batches; those of `requests` count a batch once for each of
    its requests.
    """

    batches: int = 0
    requests: int = 0
    queued_s: float = 0.0
    input_s: float = 0.0
    infer_s: float = 0.0
    output_s: float = 0.0
    requests_input_s: float = 0.0
    requests_infer_s: float = 0.0
    requests_output_s: float = 0.0

    @property
    def compute_input(self) -> Spent:
        return _spent(self.batches, self.input_s)

    @property
    def compute_infer(self) -> Spent:
        return _spent(self.batches, self.infer_s)

    @property
    def compute_output(self) -> Spent:
        return _spent(self.batches, self.output_s)


class ModelStatistics(msgspec.Struct, eq=False):
    """One model's counts.

    `success` and `fail` are requests, `cache_hit` and `cache_miss` those whose answers may be used again.
    `last_used_s` is a reading of the monotonic clock, None before the first inference. `inferences` counts rows.
    `batches` are by their rows; past 1024 different sizes the others are gathered under 0.
    """

    inferences: int = 0

    success: Spent = msgspec.field(default_factory=Spent)
    fail: Spent = msgspec.field(default_factory=Spent)
    cache_hit: Spent = msgspec.field(default_factory=Spent)
    cache_miss: Spent = msgspec.field(default_factory=Spent)
    last_used_s: float | None = None
    batches: dict[int, BatchSize] = msgspec.field(default_factory=dict)

    # -- counting ------------------------------------------------------------------------------------------------

    def request(self, ok: bool, seconds: float) -> None:
        """A request has ended."""
        (self.success if ok else self.fail).add(seconds)

    def batch(
        self, requests: int, rows: int, queued_s: float, total_s: float, compute_s: float, output_s: float, now_s: float
    ) -> None:
        """A batch was computed. `queued_s` is the sum over its requests, `total_s` from leaving the line to the end.

        A generation is a batch of one row, and its `queued_s` the wait for a slot.
        """
        size = self.batches.get(rows)
        if size is None:
            size = self.batches.setdefault(rows if len(self.batches) < _MAX_SIZES else 0, BatchSize())
        input_s = max(0.0, total_s - compute_s - output_s)
        self.inferences += rows
        size.batches += 1
        size.requests += requests
        size.queued_s += queued_s
        size.input_s += input_s
        size.infer_s += compute_s
        size.output_s += output_s
        size.requests_input_s += input_s * requests
        size.requests_infer_s += compute_s * requests
        size.requests_output_s += output_s * requests
        self.last_used_s = now_s

    # -- reading -------------------------------------------------------------------------------------------------

    @property
    def executions(self) -> int:
        """Batches."""
        return sum(size.batches for size in self.batches.values())

    @property
    def queue(self) -> Spent:
        """Requests that were computed, and their wait in line."""
        return _spent(self._requests, sum(size.queued_s for size in self.batches.values()))

    @property
    def compute_input(self) -> Spent:
        """What batches took beside the runtime and the outputs, for each of their requests.

        That is merging the parts and, with a runner, the way to its process and back.
        """
        return _spent(self._requests, sum(size.requests_input_s for size in self.batches.values()))

    @property
    def compute_infer(self) -> Spent:
        """The runtime's own time, for each request of a batch."""
        return _spent(self._requests, sum(size.requests_infer_s for size in self.batches.values()))

    @property
    def compute_output(self) -> Spent:
        """Giving each request its rows."""
        return _spent(self._requests, sum(size.requests_output_s for size in self.batches.values()))

    @property
    def _requests(self) -> int:
        return sum(size.requests for size in self.batches.values())


def _spent(count: int, seconds: float) -> Spent:
    return Spent(count, round(seconds * _NS))
