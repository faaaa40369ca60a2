"""Usage and log probabilities as OpenAI writes them. Knows the domain, no JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence

from inference_engine.adapters.http.openai import wire
from inference_engine.domain.answers import Answer
from inference_engine.domain.results import Done, PositionLogprobs, Usage, Written


class Tally:
    """Adds up the usage of an answer. The prompt counts once for all `per_prompt` choices that continue it."""

    def __init__(self, per_prompt: int) -> None:
        self._per_prompt = per_prompt
        self._prompts: dict[int, Usage] = {}
        self._completion_tokens = 0
        self._reasoning_tokens = 0

    def add(self, done: Done) -> None:
        self._prompts.setdefault(done.index // self._per_prompt, done.usage)
        self._completion_tokens += done.usage.completion_tokens
        self._reasoning_tokens += done.usage.reasoning_tokens

    def usage(self) -> wire.Usage:
        prompt = sum(usage.prompt_tokens for usage in self._prompts.values())
        cached = sum(usage.cached_tokens for usage in self._prompts.values())
        total = prompt + self._completion_tokens
        details = wire.CompletionDetails(self._reasoning_tokens)
        return wire.Usage(prompt, self._completion_tokens, total, wire.PromptDetails(cached), details)


def best(choices: Sequence[Answer], per_prompt: int, wanted: int) -> list[Answer]:
    """The `wanted` likeliest of each prompt's `per_prompt` choices, by log probability per token."""
    found: list[Answer] = []
    for start in range(0, len(choices), per_prompt):
        found += sorted(choices[start : start + per_prompt], key=_mean_logprob, reverse=True)[:wanted]
    return found


def _mean_logprob(choice: Answer) -> float:
    logprobs = [position.chosen.logprob for position in choice.logprobs]
    return sum(logprobs) / len(logprobs) if logprobs else -math.inf


def text_logprobs(positions: Sequence[PositionLogprobs], offset: int, top: bool) -> wire.CompletionLogprobs:
    """Logprobs as completions write them; `offset` is where the first token starts in the text of its choice."""
    found = wire.CompletionLogprobs(top_logprobs=[] if top else None)
    for position in positions:
        chosen = position.chosen
        found.tokens.append(chosen.token)
        found.token_logprobs.append(chosen.logprob)
        found.text_offset.append(offset)
        offset += len(chosen.token)
        if found.top_logprobs is not None:
            found.top_logprobs.append({other.token: other.logprob for other in position.top})
    return found


def chat_logprobs(positions: Sequence[PositionLogprobs]) -> wire.ChatLogprobs:
    """Logprobs as chat completions write them."""
    return wire.ChatLogprobs(
        [
            wire.ContentLogprob(
                position.chosen.token,
                position.chosen.logprob,
                list(position.chosen.raw),
                [wire.TokenLogprob(other.token, other.logprob, list(other.raw)) for other in position.top],
            )
            for position in positions
        ]
    )


def delta_chars(delta: Written) -> int:
    """How far a delta's tokens move `text_offset`."""
    return sum(len(position.chosen.token) for position in delta.logprobs)
