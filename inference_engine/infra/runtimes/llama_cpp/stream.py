"""Turns the chunks of one completion into deltas: which text may go out, with which token ids, and when to stop."""

from __future__ import annotations

from dataclasses import dataclass

from inference_engine.domain.errors import ContextLengthExceeded, EngineError, InvalidRequest
from inference_engine.domain.ports import Sink
from inference_engine.domain.results import Done, FinishReason, PositionLogprobs, TextDelta, Usage
from inference_engine.infra.runtimes.llama_cpp.chunks import (
    Choice,
    Chunk,
    ChunkUsage,
    Progress,
    decode_chunk,
    engine_error,
    position_logprobs,
)


@dataclass(frozen=True)
class Plan:
    """What one generation asks for. `delivered` tokens of an earlier runner are part of the prompt llama.cpp sees.

    `prompt_field` names the request's field to blame; `echo` is text to give before the answer.
    """

    prompt_field: str
    context: int
    max_tokens: int | None
    delivered: int = 0
    logprobs: int | None = None
    echo: str = ""


class Stream:
    """The callback of one completion. Never raises: llama.cpp's binding would swallow it; see `error` instead.

    A token whose text is held back (it may begin a stop string) waits for its text. A character made of several
    tokens arrives as one chunk that names only the last of them: its delta carries no ids.
    """

    def __init__(self, plan: Plan, sink: Sink) -> None:
        self.error: BaseException | None = None
        self.finished = False
        self._plan = plan
        self._sink = sink
        self._predicted = 0
        self._tokens: list[int] = []
        self._exact = True
        self._logprobs: list[PositionLogprobs] = []
        self._last: TextDelta | None = None
        self._started = False

    def __call__(self, raw: bytes) -> bool:
        """Take one chunk; True ends the completion."""
        try:
            return self._sink.cancelled or self._take(decode_chunk(raw))
        except BaseException as error:  # handed to the caller of `generate`
            self.error = error
            return True

    def _take(self, chunk: Chunk) -> bool:
        if chunk.error is not None:
            raise self._blame(engine_error(chunk.error))
        if chunk.prompt_progress is not None:
            self._start(chunk.prompt_progress)
        elif chunk.usage is not None:
            self._finish(chunk.choices[0], chunk.usage, chunk.verbose.stopping_word or None)
        else:
            self._token(chunk)
        return False

    def _start(self, progress: Progress) -> None:
        if self._started:
            return
        self._started = True
        plan = self._plan
        prompt = progress.total - plan.delivered
        if prompt + (plan.max_tokens or 0) > plan.context:
            raise ContextLengthExceeded(
                f"the prompt has {prompt} tokens and max_tokens is {plan.max_tokens}, together more than the "
                f"{plan.context} tokens of the model's context: shorten the prompt or lower max_tokens",
                param=plan.prompt_field,
            )
        if plan.echo:
            self._sink.emit(TextDelta(plan.echo))

    def _token(self, chunk: Chunk) -> None:
        choice, verbose = chunk.choices[0], chunk.verbose
        self._exact = self._exact and verbose.tokens_predicted == self._predicted + 1
        self._predicted = verbose.tokens_predicted
        self._tokens += verbose.tokens
        if choice.logprobs is not None and self._plan.logprobs is not None:
            wanted = self._plan.logprobs
            self._logprobs += [position_logprobs(position, wanted) for position in choice.logprobs.content]
        if not choice.text:
            return
        stopped = chunk.timings is not None
        ids = tuple(self._tokens) if self._exact and not stopped else ()
        delta = TextDelta(choice.text, ids, tuple(self._logprobs))
        self._tokens, self._exact, self._logprobs = [], True, []
        if stopped:  # the text before a stop string goes out together with Done, so that no cut can fall between
            self._last = delta
        else:
            self._sink.emit(delta)

    def _finish(self, choice: Choice, usage: ChunkUsage, stop: str | None) -> None:
        if usage.prompt_tokens == 0:
            raise InvalidRequest(f"{self._plan.prompt_field} holds no tokens", param=self._plan.prompt_field)
        delivered = self._plan.delivered
        prompt = usage.prompt_tokens - delivered
        cached = min(usage.prompt_tokens_details.cached_tokens, prompt)
        reason: FinishReason = "stop" if choice.finish_reason == "stop" else "length"
        done = Done(reason, Usage(prompt, usage.completion_tokens + delivered, cached), stop=stop)
        self._sink.emit(*(() if self._last is None else (self._last,)), done)
        self.finished = True

    def _blame(self, error: EngineError) -> EngineError:
        if isinstance(error, ContextLengthExceeded):
            error.param = self._plan.prompt_field
        return error
