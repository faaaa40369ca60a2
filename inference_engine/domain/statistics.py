"""What a model has done since the server started, in the terms of the Open Inference Protocol's statistics extension.

Counters are changed by services on the event loop and read there between two awaits: nothing is locked or copied.
"""

from __future__ import annotations

import msgspec

_NS = 1_000_000_000


class Spent(msgspec.Struct):
    """How often something was done, and the nanoseconds it took altogether."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float, count: int = 1) -> None:
        self.count += count
        self.ns += int(seconds * _NS)


class BatchSize(msgspec.Struct):
    """The batches of one size (in rows)."""

    compute_input: Spent
    compute_infer: Spent
    compute_output: Spent


def _batch_size() -> BatchSize:
    return BatchSize(Spent(), Spent(), Spent())


class ModelStatistics(msgspec.Struct, eq=False):
    """One model's counts.

    `inferences` counts rows, `executions` batches. `success`, `fail`, `queue` and the `compute` spans count requests;
    each request of a batch has spent the batch's whole time. `compute_input` is what a batch took beside the runtime
    and the outputs: merging the parts and, with a runner, the way to its process and back. `compute_output` is giving
    each request its rows. A generation is one inference, one execution and one request; its `queue` is the wait for a
    slot.
    `last_used_s` is a reading of the monotonic clock, None before the first inference.
    """

    inferences: int = 0
    executions: int = 0
    last_used_s: float | None = None
    success: Spent = msgspec.field(default_factory=Spent)
    fail: Spent = msgspec.field(default_factory=Spent)
    queue: Spent = msgspec.field(default_factory=Spent)
    compute_input: Spent = msgspec.field(default_factory=Spent)
    compute_infer: Spent = msgspec.field(default_factory=Spent)
    compute_output: Spent = msgspec.field(default_factory=Spent)
    cache_hit: Spent = msgspec.field(default_factory=Spent)
    cache_miss: Spent = msgspec.field(default_factory=Spent)
    batches: dict[int, BatchSize] = msgspec.field(default_factory=dict)

    def request(self, ok: bool, seconds: float) -> None:
        """A request has ended."""
        (self.success if ok else self.fail).add(seconds)

    def batch(
        self, requests: int, rows: int, queued_s: float, total_s: float, compute_s: float, output_s: float, now_s: float
    ) -> None:
        """A batch was computed. `queued_s` is the sum over its requests, `total_s` from leaving the line to the end."""
        input_s = max(0.0, total_s - compute_s - output_s)
        self.inferences += rows
        self.executions += 1
        self.last_used_s = now_s
        self.queue.add(queued_s, requests)
        self.compute_input.add(input_s * requests, requests)
        self.compute_infer.add(compute_s * requests, requests)
        self.compute_output.add(output_s * requests, requests)
        size = self.batches.get(rows)
        if size is None:
            size = self.batches[rows] = _batch_size()
        size.compute_input.add(input_s)
        size.compute_infer.add(compute_s)
        size.compute_output.add(output_s)
