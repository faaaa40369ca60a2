"""The benchmark's client for everything that is not load: what the model is, and the server's own counts."""

from __future__ import annotations

import msgspec

from inference_engine.adapters.cli.bench.figures import Snapshot
from inference_engine.adapters.cli.http_client import HttpClient


class _Spent(msgspec.Struct):
    count: int = 0
    ns: int = 0


class _Stats(msgspec.Struct):
    success: _Spent
    fail: _Spent
    queue: _Spent
    compute_input: _Spent
    compute_infer: _Spent
    compute_output: _Spent
    cache_hit: _Spent = msgspec.field(default_factory=_Spent)


class _ModelStats(msgspec.Struct):
    inference_count: int
    execution_count: int
    inference_stats: _Stats


class _AllStats(msgspec.Struct):
    model_stats: list[_ModelStats]


class _Tokens(msgspec.Struct):
    count: int


class BenchClient(HttpClient):
    """Raises what `HttpClient` raises."""

    def count_tokens(self, target: str, text: str, chat: bool) -> int:
        """The tokens of a conversation of one message, or of the bare text."""
        asked = {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
        body = {"model": target, **asked}
        return self._json("POST", "/tokenize", body, kind=_Tokens).count

    def counts(self, name: str, version: str) -> Snapshot:
        """The statistics of one model now."""
        found = self._json("GET", f"/v2/models/{name}/versions/{version}/stats", kind=_AllStats).model_stats[0]
        stats = found.inference_stats
        return Snapshot(
            requests=stats.queue.count,
            failed=stats.fail.count,
            rows=found.inference_count,
            batches=found.execution_count,
            cache_hits=stats.cache_hit.count,
            queue_ns=stats.queue.ns,
            input_ns=stats.compute_input.ns,
            compute_ns=stats.compute_infer.ns,
            output_ns=stats.compute_output.ns,
        )
