"""The pieces of JSON llama.cpp streams a completion in, as types; only the fields that are read.

Source: tools/server/server-task.cpp, `to_json_oaicompat`, of the pinned xllamacpp.
"""

from __future__ import annotations

import msgspec

from inference_engine.domain.errors import (
    ContextLengthExceeded,
    EngineError,
    InferenceFailed,
    InvalidRequest,
    Unavailable,
)
from inference_engine.domain.results import PositionLogprobs, TokenLogprob


class Top(msgspec.Struct):
    id: int
    token: str
    bytes: list[int]
    logprob: float


class Position(Top):
    top_logprobs: list[Top] = []


class Logprobs(msgspec.Struct):
    content: list[Position] = []


class Choice(msgspec.Struct):
    text: str = ""
    logprobs: Logprobs | None = None
    finish_reason: str | None = None


class Verbose(msgspec.Struct):
    """`tokens` is the newest id only; `tokens_predicted` counts all so far."""

    tokens: list[int] = []
    tokens_predicted: int = 0


class Progress(msgspec.Struct):
    """`total` prompt tokens, of which `processed` are in the KV cache; `cache` of them were there before."""

    total: int
    cache: int = 0
    processed: int = 0


class PromptDetails(msgspec.Struct, frozen=True):
    cached_tokens: int = 0


class ChunkUsage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: PromptDetails = PromptDetails()


class ChunkError(msgspec.Struct):
    message: str = "no message"
    type: str = ""
    code: int = 500
    n_prompt_tokens: int = 0
    n_ctx: int = 0


class Chunk(msgspec.Struct):
    """One event. `usage` marks the last one."""

    choices: list[Choice] = []
    usage: ChunkUsage | None = None
    prompt_progress: Progress | None = None
    error: ChunkError | None = None
    verbose: Verbose = msgspec.field(default_factory=Verbose, name="__verbose")


decode_chunk = msgspec.json.Decoder(Chunk).decode


def engine_error(error: ChunkError) -> EngineError:
    """llama.cpp's error in the engine's terms."""
    if error.type == "exceed_context_size_error":
        return ContextLengthExceeded(
            f"the prompt has {error.n_prompt_tokens} tokens, the model's context holds {error.n_ctx}: "
            "shorten the prompt or raise context_length in model.yaml",
            param="messages",
        )
    if error.code == 503:
        return Unavailable(error.message)
    if 400 <= error.code < 500:
        return InvalidRequest(f"llama.cpp refuses the request: {error.message}")
    return InferenceFailed(f"llama.cpp failed: {error.message}")


def position_logprobs(position: Position, wanted: int) -> PositionLogprobs:
    """A position's log probabilities. The chosen token's own bytes are among the alternatives when it is there:
    `position.bytes` is the text released at this step, which a stop string may have held back."""
    own = next((top for top in position.top_logprobs if top.id == position.id), position)
    chosen = TokenLogprob(own.token, position.logprob, bytes(own.bytes))
    return PositionLogprobs(
        chosen, tuple(TokenLogprob(top.token, top.logprob, bytes(top.bytes)) for top in position.top_logprobs[:wanted])
    )
