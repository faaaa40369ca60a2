"""What the llama_cpp runtime measures of itself."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import pytest

from inference_engine.domain.requests import Complete, Sampling
from inference_engine.domain.results import Delivered
from inference_engine.infra.runtimes.llama_cpp import LlamaCppRuntime
from inference_engine.infra.runtimes.llama_cpp.slots import Gauges
from inference_engine.infra.telemetry import RUNTIME_GAUGES
from inference_engine.testing import FakeClock
from tests.fixtures.tiny_gguf import tiny_gguf
from tests.runtimes.conftest import Recorder, answer, llama_manifest

METRICS = """
llamacpp:prompt_tokens_total {prompt}
llamacpp:prompt_tokens_cached_total {cached}
llamacpp:prompt_seconds_total {prompt_s}
llamacpp:tokens_predicted_total {written}
llamacpp:tokens_predicted_seconds_total {written_s}
llamacpp:spec_decode_num_draft_tokens_total {guessed}
llamacpp:spec_decode_num_accepted_tokens_total {accepted}
"""


class FakeServer:
    """Counters and slots that a test sets; `held` stops an answer."""

    def __init__(self) -> None:
        self.counters = dict.fromkeys(re.findall(r"{(\w+)}", METRICS), 0.0)
        self.state = b"[]"
        self.go = threading.Event()
        self.go.set()

    def metrics(self) -> str:
        self.go.wait(10)
        return METRICS.format(**self.counters)

    def slots(self) -> bytes:
        return self.state


def test_rates_are_of_the_time_since_the_last_reading() -> None:
    server = FakeServer()
    gauges = Gauges(server.metrics, server, context=100)
    server.counters |= {"prompt": 30, "cached": 10, "prompt_s": 0.5, "written": 20, "written_s": 2.0}
    server.counters |= {"guessed": 8, "accepted": 6}
    server.state = b'[{"is_processing": true, "n_prompt_tokens": 40, "params": {}}, {"is_processing": false}]'
    gauges.refresh()
    assert gauges.read() == {
        "slots": 2,
        "busy_slots": 1,
        "kv_cache_usage_ratio": 0.2,
        "prompt_tokens_per_second": 60,
        "generated_tokens_per_second": 10,
        "prefix_cache_hit_ratio": 0.25,
        "draft_tokens": 8,
        "draft_accepted_tokens": 6,
        "draft_acceptance_ratio": 0.75,
    }
    server.counters |= {"prompt": 130, "prompt_s": 1.5}
    gauges.refresh()
    known = gauges.read()
    assert known["prompt_tokens_per_second"] == 100
    assert known["generated_tokens_per_second"] == 10  # nothing was written since: the last speed stays
    assert RUNTIME_GAUGES.keys() == known.keys()


def test_reading_never_waits_and_asks_at_most_once_a_second() -> None:
    server, clock = FakeServer(), FakeClock()
    gauges = Gauges(server.metrics, server, 100, clock)
    server.go.clear()
    started = time.monotonic()
    for _ in range(3):
        assert gauges.read() == {}
        clock.advance(2)
    assert time.monotonic() - started < 1
    assert [thread.name for thread in threading.enumerate()].count("gauges") == 1
    server.go.set()
    gauges.close()
    clock.advance(2)
    assert gauges.read()["slots"] == 0
    assert [thread.name for thread in threading.enumerate()].count("gauges") == 0


def test_a_busy_model_is_seen(tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "model.gguf")
    runtime = LlamaCppRuntime()
    runtime.load(llama_manifest(context_length=512), tmp_path)
    assert runtime._gauges is not None
    sink = Recorder(lambda deltas: len(deltas) > 20 and runtime.gauges().get("busy_slots") == 1)
    thread = threading.Thread(
        target=runtime.generate, args=(Complete("the server " * 20, Sampling(ignore_eos=True)), Delivered(), sink)
    )
    thread.start()
    while thread.is_alive():
        runtime._gauges.refresh()
    thread.join()
    answer(runtime, Complete("the server " * 20, Sampling(max_tokens=8)))
    runtime._gauges.refresh()
    known = runtime.gauges()
    runtime.close()
    assert (known["slots"], known["busy_slots"]) == (2, 0)
    assert 0 < known["kv_cache_usage_ratio"] <= 1
    assert known["prompt_tokens_per_second"] > 1
    assert known["generated_tokens_per_second"] > 1
    assert known["prefix_cache_hit_ratio"] == pytest.approx(0.5, abs=0.2)
    assert runtime.gauges() == {}
