"""What comes back from a model: predictions, and the deltas a generation is streamed in."""

from __future__ import annotations

from typing import Literal

import msgspec

from inference_engine.domain.model import ModelRef
from inference_engine.domain.tensors import Array

FinishReason = Literal["stop", "length"]


class Served(msgspec.Struct, frozen=True):
    """Which exact model answered, under which public name, and the rule that chose it (`exact`, `latest`, ...)."""

    ref: ModelRef
    route: str
    rule: str


class Prediction(msgspec.Struct, frozen=True):
    """Output tensors by name. `queue_s` and `compute_s` are the seconds spent waiting and computing."""

    outputs: dict[str, Array]
    served: Served
    queue_s: float = 0.0
    compute_s: float = 0.0


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """One token with its natural-log probability; `raw` is its bytes, which may be part of a character."""

    token: str
    logprob: float
    raw: bytes


class PositionLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """The chosen token of one position and the likeliest alternatives, best first."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...] = ()


class Usage(msgspec.Struct, frozen=True, array_like=True):
    """Token counts of one generation. `cached_tokens` of the prompt were found in the KV cache."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class TextDelta(msgspec.Struct, frozen=True, array_like=True, tag="t"):
    """More text of choice `index`. `tokens` are the ids it was decoded from, where the runtime knows them."""

    text: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[PositionLogprobs, ...] = ()
    index: int = 0


class Done(msgspec.Struct, frozen=True, array_like=True, tag="d"):
    """The end of choice `index`. Exactly one per choice, and nothing of that choice follows."""

    reason: FinishReason
    usage: Usage
    index: int = 0


Delta = TextDelta | Done


class Delivered(msgspec.Struct, frozen=True, array_like=True):
    """What of a generation has already reached the client, so that another runner can continue it.

    `pieces` holds the text in order; a piece is either token ids (exact) or text where ids are unknown.
    """

    text: str = ""
    pieces: tuple[str | tuple[int, ...], ...] = ()
