"""What can be asked of a model, and who asks. Dialects decode into these; runtimes read them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.tensors import Array

Role = Literal["system", "user", "assistant", "tool"]
Kind = Literal["predict", "chat", "complete"]


class Principal(msgspec.Struct, frozen=True):
    """Who asks: the tenant that owns the work and the key it came with (never the secret itself)."""

    tenant: str
    key_id: str


class Call(msgspec.Struct, frozen=True):
    """What travels beside a request: who asks, until when, how urgent, and the id that logs and traces share.

    `deadline_s` is a reading of the monotonic clock of the server process, or None for the model's own limit.
    A lower `priority` number is served first.
    """

    id: str
    principal: Principal
    deadline_s: float | None = None
    priority: int = 0


class Predict(msgspec.Struct, frozen=True):
    """Tensors in, tensors out. `outputs` names the wanted ones; empty means all."""

    inputs: dict[str, Array]
    outputs: tuple[str, ...] = ()


class Message(msgspec.Struct, frozen=True):
    role: Role
    content: str
    name: str | None = None


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How tokens are chosen. None leaves the model's default. `logprobs` is the count of alternatives per token."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    logit_bias: dict[int, float] = {}
    ignore_eos: bool = False


class Chat(msgspec.Struct, frozen=True, tag="chat"):
    """A conversation to be continued by the assistant. `json_schema` constrains the answer to that schema."""

    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    json_schema: dict[str, Any] | None = None
    choices: int = 1


class Complete(msgspec.Struct, frozen=True, tag="complete"):
    """A text to be continued. `echo` gives the prompt back before the continuation."""

    prompt: str
    sampling: Sampling = Sampling()
    json_schema: dict[str, Any] | None = None
    choices: int = 1
    echo: bool = False


Generate = Chat | Complete

_LIMITS: dict[str, tuple[float, float]] = {
    "max_tokens": (1, 1_000_000),
    "temperature": (0.0, 5.0),
    "top_p": (0.0, 1.0),
    "top_k": (0, 1_000_000),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repeat_penalty": (0.01, 10.0),
    "logprobs": (0, 20),
    "seed": (-(2**63), 2**64 - 1),
}
MAX_CHOICES = 16
MAX_STOP = 16


def check_generate(request: Generate) -> None:
    """Refuse values that no runtime could honour; the error names the field and its range.

    Raises:
        InvalidRequest: a sampling value is out of range, NaN, or there is nothing to answer.
    """
    for field, (low, high) in _LIMITS.items():
        value = getattr(request.sampling, field)
        if value is not None and not low <= value <= high:
            raise InvalidRequest(f"{field} is {value}, it must lie between {low:g} and {high:g}", param=field)
    if not 1 <= request.choices <= MAX_CHOICES:
        raise InvalidRequest(f"n is {request.choices}, it must lie between 1 and {MAX_CHOICES}", param="n")
    if len(request.sampling.stop) > MAX_STOP or not all(request.sampling.stop):
        raise InvalidRequest(f"stop takes at most {MAX_STOP} strings, none of them empty", param="stop")
    for bias in request.sampling.logit_bias.values():
        if not -100 <= bias <= 100:
            raise InvalidRequest(f"logit_bias holds {bias}, it must lie between -100 and 100", param="logit_bias")
    if isinstance(request, Chat) and not request.messages:
        raise InvalidRequest("messages is empty: send at least one message", param="messages")
