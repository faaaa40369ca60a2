"""What comes back from a model: predictions, and the deltas a generation is streamed in."""

from __future__ import annotations

from typing import Literal

import msgspec

from inference_engine.domain.model import ModelRef
from inference_engine.domain.tensors import Array

FinishReason = Literal["stop", "length", "tool_calls"]
CacheOutcome = Literal["hit", "miss", "shared"]


class Served(msgspec.Struct, frozen=True):
    """Which exact model answered, under which public name, and the rule that chose it (`exact`, `latest`, ...).

    `adapter` is the LoRA adapter that was on top of it. `cache` tells of an answer that may be used again: whether it
    was kept, is new, or is that of an equal request that was just being computed; None where that was no question.
    """

    ref: ModelRef
    route: str
    rule: str
    adapter: str | None = None
    cache: CacheOutcome | None = None


class Prediction(msgspec.Struct, frozen=True):
    """Output tensors by name. `queue_s` and `compute_s` are the seconds spent waiting and computing."""

    outputs: dict[str, Array]
    served: Served
    queue_s: float = 0.0
    compute_s: float = 0.0


class Embeddings(msgspec.Struct, frozen=True):
    """One float32 vector per text, as an array of shape [texts, dimensions]; `prompt_tokens` for all texts."""

    vectors: Array
    prompt_tokens: int
    served: Served


class Ranking(msgspec.Struct, frozen=True):
    """A float32 score per document, in the order of the documents, higher is better."""

    scores: Array
    prompt_tokens: int
    served: Served


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
    """Token counts of one generation. `cached_tokens` of the prompt were found in the KV cache.

    `reasoning_tokens` are those of the completion that were thought, where the runtime can tell.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class TextDelta(msgspec.Struct, frozen=True, array_like=True, tag="t"):
    """More text of choice `index`. `tokens` are the ids it was decoded from, where the runtime knows them.

    `raw` is what the model wrote, where that is more than `text`: markup that was taken off. The raw texts of a
    choice's deltas, in order, are what the model has written so far; `tokens` are those of the raw text.
    """

    text: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[PositionLogprobs, ...] = ()
    index: int = 0
    raw: str = ""


class ReasoningDelta(msgspec.Struct, frozen=True, array_like=True, tag="r"):
    """More of what the model thinks before it answers. Fields as in `TextDelta`."""

    text: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[PositionLogprobs, ...] = ()
    index: int = 0
    raw: str = ""


class ToolCallDelta(msgspec.Struct, frozen=True, array_like=True, tag="c"):
    """More of the answer's tool call number `call`. `text` is more of its arguments' JSON.

    The first delta of a call carries its `id` and `name`, the later ones leave them empty. Other fields as in
    `TextDelta`.
    """

    text: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[PositionLogprobs, ...] = ()
    index: int = 0
    raw: str = ""
    call: int = 0
    id: str = ""
    name: str = ""


class SegmentDelta(msgspec.Struct, frozen=True, array_like=True, tag="s"):
    """The next stretch of a transcription: `text` was spoken from `start_s` to `end_s`."""

    text: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[PositionLogprobs, ...] = ()
    index: int = 0
    raw: str = ""
    start_s: float = 0.0
    end_s: float = 0.0


class Done(msgspec.Struct, frozen=True, array_like=True, tag="d"):
    """The end of choice `index`. Exactly one per choice, and nothing of that choice follows.

    `stop` is the request's stop string that ended it, where one did and the runtime can tell.
    """

    reason: FinishReason
    usage: Usage
    index: int = 0
    stop: str | None = None


Written = TextDelta | ReasoningDelta | ToolCallDelta | SegmentDelta
Delta = Written | Done


class Delivered(msgspec.Struct, frozen=True, array_like=True):
    """What of a generation has already reached the client, so that another runner can continue it.

    `text` is what the model wrote, markup included. `pieces` holds it in order; a piece is either token ids (exact) or
    text where ids are unknown. `reasoning_tokens` of them were delivered as thoughts.
    """

    text: str = ""
    pieces: tuple[str | tuple[int, ...], ...] = ()
    reasoning_tokens: int = 0
