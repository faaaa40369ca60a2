"""From OpenAI's requests to the domain's: what is honoured, what is refused by name. Knows no service."""

from __future__ import annotations

from typing import Any

from inference_engine.adapters.http.decoding import shown
from inference_engine.adapters.http.openai.wire import (
    REFUSED,
    ChatMessage,
    ChatRequest,
    Common,
    CompletionRequest,
    ResponseFormat,
)
from inference_engine.domain.errors import InvalidRequest, UnknownField
from inference_engine.domain.requests import Chat, Complete, Constraint, JsonSchema, Message, Role, Sampling

MAX_PROMPTS = 64
_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_NEUTRAL_IN_MESSAGE = ("refusal", "tool_calls", "tool_call_id", "function_call", "audio", "annotations")
_CHAT_REFUSED = tuple(name for name in REFUSED if name in ChatRequest.__struct_fields__)
_COMPLETION_REFUSED = tuple(name for name in REFUSED if name in CompletionRequest.__struct_fields__)


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
        messages=tuple([_message(message, index) for index, message in enumerate(body.messages)]),
        sampling=_sampling(body, _chat_max_tokens(body), logprobs),
        constraint=_constraint(body.response_format),
        choices=1 if body.n is None else body.n,
    )


def completions(body: CompletionRequest) -> list[Complete]:
    """One request for each prompt.

    Raises:
        InvalidRequest; UnknownField: a field would change the answer and is not supported.
    """
    _refuse(body, _COMPLETION_REFUSED)
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise UnknownField("best_of is not supported beyond n: leave it out, and ask for n choices", param="best_of")
    if body.echo and body.logprobs is not None:
        raise InvalidRequest("echo cannot give the logprobs of the prompt: leave one of the two out", param="logprobs")
    sampling = _sampling(body, body.max_tokens, body.logprobs)
    constraint = _constraint(body.response_format)
    choices = 1 if body.n is None else body.n
    return [Complete(prompt, sampling, constraint, choices, bool(body.echo)) for prompt in _prompts(body.prompt)]


def _prompts(prompt: str | list[Any]) -> list[str]:
    if isinstance(prompt, str):
        return [prompt]
    if not 1 <= len(prompt) <= MAX_PROMPTS:
        raise InvalidRequest(f"prompt takes 1 to {MAX_PROMPTS} strings, {len(prompt)} came", param="prompt")
    for part in prompt:
        if not isinstance(part, str):
            raise InvalidRequest("prompt must be text: arrays of token ids are not supported here", param="prompt")
    return prompt


def _refuse(body: Common, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(body, name)
        if value is not None:
            neutral, remedy = REFUSED[name]
            if value not in neutral:
                raise UnknownField(f"{name} is {shown(value)}, but {remedy}", param=name)


def _message(message: ChatMessage, index: int) -> Message:
    place = f"messages[{index}]"
    role = _ROLES.get(message.role)
    if role is None:
        raise InvalidRequest(
            f"{place}.role is {message.role!r}: tool calls are not supported yet, use system, user or assistant",
            param=f"{place}.role",
        )
    for name in _NEUTRAL_IN_MESSAGE:
        if getattr(message, name):
            raise UnknownField(f"{place}.{name} is not supported: leave it out", param=f"{place}.{name}")
    return Message(role, _content(message, place), message.name)


def _content(message: ChatMessage, place: str) -> str:
    content = message.content
    if isinstance(content, str):
        return content
    if content is None:
        raise InvalidRequest(f"{place}.content is missing: send text", param=f"{place}.content")
    texts: list[str] = []
    for index, part in enumerate(content):
        at = f"{place}.content[{index}]"
        if part.get("type") != "text":
            raise UnknownField(
                f"{at} is of type {shown(part.get('type'))}: only text parts are supported here", param=f"{at}.type"
            )
        text = part.get("text")
        if not isinstance(text, str):
            raise InvalidRequest(f"{at}.text must be a string", param=f"{at}.text")
        texts.append(text)
    return "".join(texts)


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


def _constraint(wanted: ResponseFormat | None) -> Constraint | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return JsonSchema({"type": "object"})
    if wanted.json_schema is None or wanted.json_schema.schema is None:
        raise InvalidRequest(
            "response_format of type json_schema needs json_schema.schema", param="response_format.json_schema"
        )
    return JsonSchema(wanted.json_schema.schema)
