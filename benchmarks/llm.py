"""Tokens per second through HTTP streaming, against xllamacpp called in process with the same parameters.

Both processes stay loaded; they are measured in turns, never at the same time.
"""

from __future__ import annotations

import asyncio
import json
import re
import time

import psutil

from benchmarks.compare import Result, Target, interleaved, ratio_row
from benchmarks.load import Post
from benchmarks.models import llm_root
from benchmarks.plan import Plan
from benchmarks.processes import HOST, BenchmarkError, Peer, cores, engine

_STREAMS = (1, 16)
_CONTEXT = 512
_N_BATCH = 256
_LIMIT_S = 120.0
_TARGET = Target("at least", 0.95, 0.99)
_TOKENS = re.compile(rb'"completion_tokens": *(\d+)')
_LINE = "the rest of the line can not be seen on this page and no one here has an answer to it"


def measure(plan: Plan) -> Result:
    parallel, threads = max(_STREAMS), len(cores())
    root, file = llm_root(_CONTEXT, parallel, _N_BATCH, threads)
    arguments = [str(file), *map(str, (parallel, _CONTEXT, _N_BATCH, threads))]
    front_s: list[float] = []
    tokens_served = 0
    with engine(plan.folder, root) as ours, Peer("llama_direct", plan.folder / "llama.log", *arguments) as direct:
        front = psutil.Process(ours.pid)

        def served(prompts: list[str]) -> float:
            nonlocal tokens_served
            before = sum(front.cpu_times()[:2])
            started = time.perf_counter()
            tokens = asyncio.run(_streamed(ours.port, prompts, plan.tokens))
            elapsed = time.perf_counter() - started
            front_s.append(sum(front.cpu_times()[:2]) - before)
            tokens_served += tokens
            return tokens / elapsed

        def computed(prompts: list[str]) -> float:
            answer = direct.ask(prompts=prompts, max_tokens=plan.tokens)
            if answer["tokens"] != len(prompts) * plan.tokens:
                raise BenchmarkError(f"the peer generated {answer['tokens']} tokens")
            return float(answer["tokens"] / answer["seconds"])

        served(_prompts(1))
        computed(_prompts(1))
        front_s, tokens_served = [], 0
        rows = []
        for streams in _STREAMS:
            prompts = _prompts(streams)
            found = interleaved(
                plan.rounds,
                {"ours": lambda given=prompts: served(given), "peer": lambda given=prompts: computed(given)},  # type: ignore[misc]
            )
            what = f"LLM, {streams} stream{'s' if streams > 1 else ''}"
            rows.append(
                ratio_row(what, "tokens/s", found["ours"], found["peer"], "xllamacpp in process", target=_TARGET)
            )
    per_token_ms = sum(front_s) / tokens_served * 1000
    return Result(
        rows,
        [
            f"Qwen3, 335 M random weights, Q8_0; {plan.tokens} tokens for each stream, {threads} threads.",
            f"CPU time of the server process: {per_token_ms:.2f} ms per token.",
        ],
    )


def _prompts(count: int) -> list[str]:
    """As many prompts that differ from the first word on, so that no prefix is shared."""
    words = _LINE.split()
    return [" ".join(words[index:] + words[:index]) for index in range(count)]


async def _streamed(port: int, prompts: list[str], max_tokens: int) -> int:
    """Stream an answer to every prompt at once; the count of tokens they have together."""
    async with asyncio.timeout(_LIMIT_S):
        counts = await asyncio.gather(*(_one(port, prompt, max_tokens) for prompt in prompts))
    return sum(counts)


async def _one(port: int, prompt: str, max_tokens: int) -> int:
    body = {
        "model": "llm",
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(Post("/v1/completions", json.dumps(body).encode()).wire())
        answer = bytearray()
        while b"data: [DONE]" not in answer[-64:]:
            data = await reader.read(65536)
            if not data:
                raise BenchmarkError(f"the stream ended early: {bytes(answer[-500:])!r}")
            answer += data
    finally:
        writer.close()
    counted = _TOKENS.findall(answer)
    if not counted or int(counted[-1]) != max_tokens:
        raise BenchmarkError(f"the stream did not bring {max_tokens} tokens: {bytes(answer[-500:])!r}")
    return int(counted[-1])
