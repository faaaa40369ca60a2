"""Streams completions over HTTP, many at once, and notes when each piece came: the client of both sides."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.load import Post
from benchmarks.processes import HOST, BenchmarkError

_LIMIT_S = 150.0
_TOKENS = re.compile(rb'"completion_tokens": *(\d+)')
_WORDS = ["".join(letters) for letters in itertools.product("etaoinshrdlucmfwypvbgkjqxz", repeat=2)]  # a token each


def prompt(tokens: int, seed: int) -> str:
    """A text of so many tokens of the benchmark's vocabulary; other seeds differ from the first word on."""
    chosen = random.Random(seed)
    return "".join(f" {chosen.choice(_WORDS)}" for _ in range(tokens))


@dataclass
class Timeline:
    """One streamed answer. Times are of `time.perf_counter`."""

    started: float
    arrivals: list[float] = field(default_factory=list)
    tokens: int = 0

    @property
    def first_s(self) -> float:
        return self.arrivals[0] - self.started

    def longest_gap_s(self, since: float, until: float) -> float:
        """The longest time between two pieces, of which any part lies within these moments."""
        pairs = itertools.pairwise(self.arrivals)
        return max((after - before for before, after in pairs if after > since and before < until), default=0.0)


async def stream(port: int, model: str, text: str, max_tokens: int, timeline: Timeline | None = None) -> Timeline:
    """Stream one answer to its end. `timeline` can be watched from outside while it grows.

    Raises:
        BenchmarkError: it was refused, cut, or has another number of tokens.
    """
    timeline = timeline or Timeline(time.perf_counter())
    body = {
        "model": model,
        "prompt": text,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    reader, writer = await asyncio.open_connection(HOST, port)
    timeline.started = time.perf_counter()
    try:
        writer.write(Post("/v1/completions", json.dumps(body).encode()).wire())
        tail = bytearray()
        while b"data: [DONE]" not in tail:
            data = await reader.read(65536)
            if not data:
                raise BenchmarkError(f"the stream ended early: {bytes(tail[-500:])!r}")
            if b'"text"' in data:
                timeline.arrivals.append(time.perf_counter())
            tail = (tail + data)[-2000:]
    finally:
        writer.close()
    counted = _TOKENS.findall(bytes(tail))
    if not counted or int(counted[-1]) != max_tokens:
        raise BenchmarkError(f"the stream did not bring {max_tokens} tokens: {bytes(tail[-500:])!r}")
    timeline.tokens = int(counted[-1])
    return timeline


async def together(port: int, model: str, texts: Sequence[str], max_tokens: int) -> list[Timeline]:
    """Stream an answer to every text at once.

    Raises:
        BenchmarkError: it takes too long; what `stream` raises.
    """
    try:
        async with asyncio.timeout(_LIMIT_S):
            return await asyncio.gather(*(stream(port, model, text, max_tokens) for text in texts))
    except TimeoutError:
        raise BenchmarkError(f"{len(texts)} streams were not answered within {_LIMIT_S:g} s") from None


def tokens_per_s(port: int, model: str, texts: Sequence[str], max_tokens: int) -> float:
    """The tokens of all answers, streamed at once, by the time until the last."""
    started = time.perf_counter()
    found = asyncio.run(together(port, model, texts, max_tokens))
    return sum(timeline.tokens for timeline in found) / (time.perf_counter() - started)


def first_token_s(port: int, model: str, text: str) -> float:
    """The time to the first piece of one answer."""
    return asyncio.run(together(port, model, [text], 2))[0].first_s


@dataclass(frozen=True)
class Intrusion:
    """What a long prompt did to running streams: the longest gap of any, and its own first token, in seconds."""

    gap_s: float
    first_s: float


async def intrude(port: int, model: str, running: Sequence[str], newcomer: str, max_tokens: int) -> Intrusion:
    """Let `running` streams get going, then send `newcomer`; they are left when it has its first tokens.

    Raises:
        BenchmarkError: a running stream ended before the newcomer was answered, or it takes too long.
    """
    try:
        async with asyncio.timeout(_LIMIT_S):
            return await _intrude(port, model, running, newcomer, max_tokens)
    except TimeoutError:
        raise BenchmarkError(f"the newcomer was not answered within {_LIMIT_S:g} s") from None


async def _intrude(port: int, model: str, running: Sequence[str], newcomer: str, max_tokens: int) -> Intrusion:
    lines = [Timeline(time.perf_counter()) for _ in running]
    tasks = [
        asyncio.create_task(stream(port, model, text, max_tokens, line))
        for text, line in zip(running, lines, strict=True)
    ]
    try:
        while not all(len(line.arrivals) >= 8 for line in lines):
            await asyncio.wait(tasks, timeout=0.01)
        answer = await stream(port, model, newcomer, 2)
        now = time.perf_counter()
        if any(task.done() for task in tasks):
            raise BenchmarkError("a running stream ended before the newcomer was answered: raise max_tokens")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    gap = max(max(line.longest_gap_s(answer.started, now), now - line.arrivals[-1]) for line in lines)
    return Intrusion(gap, answer.first_s)
