"""From OpenAI's requests to the domain's: what is honoured, what is refused by name. Knows no service."""

from __future__ import annotations

from typing import Any

import msgspec

from inference_engine.adapters.http.decoding import shown
from inference_engine.adapters.http.openai.constraints import constraint
from inference_engine.adapters.http.openai.messages import conversation, tool_choice, tools
from inference_engine.adapters.http.openai.wire import REFUSED, ChatRequest, Common, CompletionRequest
from inference_engine.domain.errors import InvalidRequest, UnknownField
from inference_engine.domain.requests import MAX_CHOICES, Chat, Complete, Effort, Sampling

MAX_PROMPTS = 64
MAX_TOKEN_ID = 2**31 - 1
_EFFORTS: tuple[Effort, ...] = ("none", "minimal", "low", "medium", "high")
_CHAT_REFUSED = tuple(name for name in REFUSED if name in ChatRequest.__struct_fields__)


def chat(body: ChatRequest) -> Chat:
    """The conversation to be continued.

    Raises:
        InvalidRequest; UnknownField: a field would change the answer and is not supported.
    """
    _refuse(body, _CHAT_REFUSED)
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs: true", param="top_logprobs")
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    return Chat(
        messages=conversation(body.messages),
        sampling=_sampling(body, _chat_max_tokens(body), logprobs),
        constraint=constraint(body),
        choices=1 if body.n is None else body.n,
        tools=tools(body.tools),
        tool_choice=tool_choice(body.tool_choice, body.parallel_tool_calls),
        reasoning=_effort(body.reasoning_effort),
    )


def _effort(given: str | None) -> Effort | None:
    for effort in _EFFORTS:
        if given == effort:
            return effort
    if given is None:
        return None
    raise InvalidRequest(
        f"reasoning_effort is {shown(given)}: it may be {', '.join(_EFFORTS)}", param="reasoning_effort"
    )


def completions(body: CompletionRequest) -> list[Complete]:
    """One request for each prompt. With `best_of` beyond `n`, that many choices with their log probabilities.

    Raises:
        InvalidRequest; UnknownField: a field would change the answer and is not supported.
    """
    if body.echo and body.logprobs is not None:
        raise InvalidRequest("echo cannot give the logprobs of the prompt: leave one of the two out", param="logprobs")
    sampling = _sampling(body, body.max_tokens, body.logprobs)
    choices = 1 if body.n is None else body.n
    best_of = choices if body.best_of is None else body.best_of
    if best_of != choices:
        _check_best_of(body, best_of, choices)
        sampling = msgspec.structs.replace(sampling, logprobs=sampling.logprobs or 0)
    bound, echo, suffix = constraint(body), bool(body.echo), body.suffix or None
    return [Complete(prompt, sampling, bound, best_of, echo, suffix) for prompt in _prompts(body.prompt)]


def _check_best_of(body: CompletionRequest, best_of: int, choices: int) -> None:
    if best_of > MAX_CHOICES:
        raise InvalidRequest(f"best_of is {best_of}, it can be at most {MAX_CHOICES}", param="best_of")
    if best_of < choices:
        raise InvalidRequest(f"best_of is {best_of}, it cannot be less than n, which is {choices}", param="best_of")
    if body.stream:
        raise InvalidRequest("best_of beyond n cannot be streamed: leave one of the two out", param="best_of")


def _prompts(prompt: str | list[Any]) -> list[str | tuple[int, ...]]:
    """One or many prompts, each a text or token ids."""
    if isinstance(prompt, str):
        return [prompt]
    if prompt and isinstance(prompt[0], int):
        return [token_ids(prompt, "prompt")]
    if not 1 <= len(prompt) <= MAX_PROMPTS:
        raise InvalidRequest(f"prompt takes 1 to {MAX_PROMPTS} prompts, {len(prompt)} came", param="prompt")
    return [_prompt(part, f"prompt[{index}]") for index, part in enumerate(prompt)]


def _prompt(part: object, place: str) -> str | tuple[int, ...]:
    if isinstance(part, list):
        return token_ids(part, place)
    if not isinstance(part, str):
        raise InvalidRequest(f"{place} must be text or an array of token ids", param=place)
    return part


def token_ids(given: list[Any], place: str) -> tuple[int, ...]:
    """Token ids, checked to be numbers that could be some.

    Raises:
        InvalidRequest
    """
    for token in given:
        if type(token) is not int or not 0 <= token <= MAX_TOKEN_ID:
            raise InvalidRequest(f"{place} holds {shown(token)}, which is no token id", param=place)
    if not given:
        raise InvalidRequest(f"{place} holds no token ids", param=place)
    return tuple(given)


def _refuse(body: Common, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(body, name)
        if value is not None:
            neutral, remedy = REFUSED[name]
            if value not in neutral:
                raise UnknownField(f"{name} is {shown(value)}, but {remedy}", param=name)


def _chat_max_tokens(body: ChatRequest) -> int | None:
    newer, older = body.max_completion_tokens, body.max_tokens
    if newer is not None and older is not None and newer != older:
        raise InvalidRequest(
            "max_completion_tokens and max_tokens differ: send max_completion_tokens alone", param="max_tokens"
        )
    return older if newer is None else newer


def _sampling(body: Common, max_tokens: int | None, logprobs: int | None) -> Sampling:
    stop = body.stop
    return Sampling(
        max_tokens=max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=_top_k(body.top_k),
        min_p=body.min_p,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repeat_penalty=body.repeat_penalty if body.repetition_penalty is None else body.repetition_penalty,
        repeat_last_n=body.repeat_last_n,
        typical_p=body.typical_p,
        seed=body.seed,
        stop=() if stop is None else (stop,) if isinstance(stop, str) else tuple(stop),
        logprobs=logprobs,
        logit_bias=_bias(body.logit_bias) if body.logit_bias else {},
        ignore_eos=bool(body.ignore_eos),
    )


def _top_k(top_k: int | None) -> int | None:
    """vLLM writes "no limit" as -1, llama-server as 0."""
    return 0 if top_k == -1 else top_k


def _bias(bias: dict[str, float]) -> dict[int, float]:
    for token in bias:
        if not (token.isascii() and token.isdigit()) or len(token) > 9:
            raise InvalidRequest(f"logit_bias maps token ids to biases, {shown(token)} is no id", param="logit_bias")
    return {int(token): value for token, value in bias.items()}
