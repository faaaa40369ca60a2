"""Turns the chunks of one completion into deltas: which text may go out, with which token ids, and when to stop."""

from __future__ import annotations

from dataclasses import dataclass

from inference_engine.domain.errors import ContextLengthExceeded, EngineError, InvalidRequest
from inference_engine.domain.ports import Sink
from inference_engine.domain.results import Delivered, Done, FinishReason, PositionLogprobs, TextDelta, Usage
from inference_engine.infra.runtimes.llama_cpp.chunks import (
    Choice,
    Chunk,
    ChunkUsage,
    Progress,
    decode_chunk,
    engine_error,
    position_logprobs,
)
from inference_engine.infra.text.answers import AnswerForm
from inference_engine.infra.text.reading import AnswerReader


@dataclass(frozen=True)
class Plan:
    """What one generation asks for. `delivered` tokens of an earlier runner are part of the prompt llama.cpp sees.

    `prompt_field` names the request's field to blame; `echo` is text to give before the answer.
    """

    prompt_field: str
    context: int
    max_tokens: int | None
    delivered: int = 0
    reasoning_tokens: int = 0
    logprobs: int | None = None
    echo: str = ""


def reader_after(form: AnswerForm, delivered: Delivered, echo: str) -> AnswerReader:
    """A reader that has read what an earlier runner delivered after the echoed prompt."""
    reader = AnswerReader(form)
    reader.skip(delivered.text[len(echo) :])
    return reader


class Stream:
    """The callback of one completion. Never raises: llama.cpp's binding would swallow it; see `error` instead.

    A character made of several tokens arrives as one chunk that names only the last of them: its text carries no ids.
    A control token without text lends its id to the text after it.
    """

    def __init__(self, plan: Plan, reader: AnswerReader, sink: Sink) -> None:
        self.error: BaseException | None = None
        self.finished = False
        self._plan = plan
        self._reader = reader
        self._sink = sink
        self._predicted = 0
        self._tokens: list[int] = []
        self._exact = True
        self._logprobs: list[PositionLogprobs] = []
        self._progress: Progress | None = None

    @property
    def cancelled(self) -> bool:
        return self._sink.cancelled

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
            self._finish(chunk.choices[0], chunk.usage)
        else:
            self._token(chunk)
        return self.finished

    def _start(self, progress: Progress) -> None:
        if self._progress is not None:
            return
        self._progress = progress
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
        ids = tuple(self._tokens) if self._exact else ()
        deltas = self._reader.feed(choice.text, ids, tuple(self._logprobs))
        self._tokens, self._exact, self._logprobs = [], True, []
        if self._reader.stopped and self._progress is not None:
            # what stands before a stop string goes out together with Done, so that no cut can fall between
            self._sink.emit(*deltas, self._done("stop", self._progress.total, self._predicted, self._progress.cache))
            self.finished = True
        elif deltas:
            self._sink.emit(*deltas)

    def _finish(self, choice: Choice, usage: ChunkUsage) -> None:
        if usage.prompt_tokens == 0:
            raise InvalidRequest(f"{self._plan.prompt_field} holds no tokens", param=self._plan.prompt_field)
        deltas = self._reader.finish()
        reason = self._reader.reason("stop" if choice.finish_reason == "stop" else "length")
        cached = usage.prompt_tokens_details.cached_tokens
        self._sink.emit(*deltas, self._done(reason, usage.prompt_tokens, usage.completion_tokens, cached))
        self.finished = True

    def _done(self, reason: FinishReason, total: int, predicted: int, cached: int) -> Done:
        """`total` tokens were in the prompt llama.cpp saw, `cached` of them known; `predicted` it wrote itself."""
        plan = self._plan
        prompt = total - plan.delivered
        thought = plan.reasoning_tokens + self._reader.reasoning_tokens
        usage = Usage(prompt, predicted + plan.delivered, min(cached, prompt), thought)
        return Done(reason, usage, stop=self._reader.stop)

    def _blame(self, error: EngineError) -> EngineError:
        if isinstance(error, ContextLengthExceeded):
            error.param = self._plan.prompt_field
        return error
