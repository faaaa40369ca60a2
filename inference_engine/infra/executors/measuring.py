"""Measures one started executor with synthetic prompts: how fast it generates, and whether it agrees with another.

Knows nothing of which runtime is behind it, nor what follows from the figures.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from inference_engine.domain.errors import InferenceFailed
from inference_engine.domain.ports import Executor
from inference_engine.domain.requests import Complete, Sampling
from inference_engine.domain.results import Delta, Done, PositionLogprobs

PROMPT_WORDS = 40
ANSWER_TOKENS = 48
_PROBE_TOKENS = 16
_TOGETHER = 4
_LEAST_STEPS = 8
_TEXT = (
    "the small server reads a long letter about rivers, mountains and 27 old trains that stop at every second house "
    "while people wait for news from far away and nobody knows when it will come"
)
_PROBES = (
    "The capital of the country lies on a river. In the year 1847",
    "def add(a, b):\n    return a + b\n\n\ndef multiply(",
    "Dear Sir or Madam,\n\nI'm writing to you because 3 of the",
    "Überall sind naïve Fragen: é, ß, 漢字 und 🙂. Why",
)


@dataclass(frozen=True)
class Speed:
    """Of all streams together; `first_token_s` is the median over the streams. Nothing within the limit is a zero."""

    tokens_per_s: float
    first_token_s: float


@dataclass(frozen=True)
class Probe:
    """A greedy answer of the reference: its prompt as tokens, and each token of the answer with its logprob."""

    text: str
    prompt: tuple[int, ...]
    answer: tuple[tuple[int, PositionLogprobs], ...]


@dataclass(frozen=True)
class Agreement:
    """Over the tokens of the reference's answers: the mean difference of logprobs, and the share of equal choices."""

    difference: float
    alike: float


async def measure_speed(executor: Executor, streams: int, limit_s: float, clock: Callable[[], float]) -> Speed:
    """Stream `streams` answers at once, none sharing the beginning of its prompt with another, for `limit_s` at most.

    Raises:
        EngineError: it cannot generate.
    """
    await _listen(executor, _prompt(streams), [], 2, limit_s, clock)  # the first run of a library takes longer
    started = clock()
    arrivals: list[list[tuple[float, int]]] = [[] for _ in range(streams)]
    tasks = [
        asyncio.create_task(_listen(executor, _prompt(index), arrived, ANSWER_TOKENS, limit_s, clock))
        for index, arrived in enumerate(arrivals)
    ]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    last = max((arrived[-1][0] for arrived in arrivals if arrived), default=started)
    tokens = sum(count for arrived in arrivals for _, count in arrived)
    return Speed(
        tokens / (last - started) if last > started else 0.0,
        sorted(arrived[0][0] - started if arrived else limit_s for arrived in arrivals)[streams // 2],
    )


async def reference_answers(executor: Executor, limit_s: float, clock: Callable[[], float]) -> list[Probe]:
    """What the reference answers to the probes, greedily, as far as its tokens are known one by one.

    After `limit_s` no further probe is begun, but one is answered in any case.
    """
    started = clock()
    probes: list[Probe] = []
    for text in _PROBES:
        if probes and clock() - started > limit_s:
            break
        answer: list[tuple[int, PositionLogprobs]] = []
        for delta in await _drain(executor, Complete(text, _greedy(_PROBE_TOKENS))):
            if isinstance(delta, Done) or not delta.tokens or len(delta.tokens) != len(delta.logprobs):
                break
            answer += zip(delta.tokens, delta.logprobs, strict=True)
        probes.append(Probe(text, await executor.tokenize(Complete(text)), tuple(answer)))
    return probes


async def agreement(executor: Executor, probes: list[Probe], limit_s: float, clock: Callable[[], float]) -> Agreement:
    """Walk along the reference's answers: after each of its tokens, which comes next here, and how likely.

    After `limit_s` no further step is made, but a few are in any case.

    Raises:
        InferenceFailed: a text is split into other tokens than by the reference, or there is nothing to compare.
        EngineError: it cannot generate.
    """
    for probe in probes:
        if await executor.tokenize(Complete(probe.text)) != probe.prompt:
            raise InferenceFailed(f"it splits {probe.text[:30]!r} into other tokens than the reference")
    started = clock()
    waiting = [(probe, index) for probe in probes for index in range(len(probe.answer))]
    found: list[tuple[float, bool]] = []
    while waiting and (len(found) < _LEAST_STEPS or clock() - started < limit_s):
        now, waiting = waiting[:_TOGETHER], waiting[_TOGETHER:]
        found += await asyncio.gather(*(_step(executor, probe, index) for probe, index in now))
    if not found:
        raise InferenceFailed("the reference gave no token that could be compared")
    return Agreement(
        sum(difference for difference, _ in found) / len(found), sum(same for _, same in found) / len(found)
    )


async def _step(executor: Executor, probe: Probe, index: int) -> tuple[float, bool]:
    """One token after the reference's first `index`: how far its logprob is off, and whether it is the same."""
    prompt = (*probe.prompt, *(token for token, _ in probe.answer[:index]))
    positions = [
        position
        for delta in await _drain(executor, Complete(prompt, _greedy(1)))
        if not isinstance(delta, Done)
        for position in delta.logprobs
    ]
    theirs = probe.answer[index][1].chosen
    if not positions:  # a token without text
        return abs(theirs.logprob), False
    return abs(positions[0].chosen.logprob - theirs.logprob), positions[0].chosen.raw == theirs.raw


def _greedy(tokens: int) -> Sampling:
    return Sampling(max_tokens=tokens, temperature=0, repeat_penalty=1.0, logprobs=0, ignore_eos=True)


def _prompt(index: int) -> str:
    """A text that differs from those of other indices from its first word on."""
    words = _TEXT.split()
    return f"{index} {' '.join(words[(index + 7 * place) % len(words)] for place in range(PROMPT_WORDS))}"


async def _listen(
    executor: Executor,
    prompt: str,
    arrived: list[tuple[float, int]],
    tokens: int,
    limit_s: float,
    clock: Callable[[], float],
) -> None:
    request = Complete(prompt, Sampling(max_tokens=tokens, temperature=0, ignore_eos=True))
    try:
        async with asyncio.timeout(limit_s), aclosing(executor.generate(request)) as deltas:
            async for delta in deltas:
                if isinstance(delta, Done):  # tokens whose text was held back are counted here
                    missing = delta.usage.completion_tokens - sum(count for _, count in arrived)
                    arrived.append((clock(), max(0, missing)))
                else:
                    arrived.append((clock(), len(delta.tokens) or 1))
    except TimeoutError:
        return


async def _drain(executor: Executor, request: Complete) -> list[Delta]:
    deltas: AsyncGenerator[Delta] = executor.generate(request)
    async with aclosing(deltas):
        return [delta async for delta in deltas]
