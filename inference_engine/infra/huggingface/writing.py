"""Turns the ids a model writes, one after another, into deltas in a sink: for every runtime that yields ids."""

from __future__ import annotations

from collections.abc import Sequence

from inference_engine.domain.errors import ContextLengthExceeded
from inference_engine.domain.ports import Sink
from inference_engine.domain.requests import Chat, Complete
from inference_engine.domain.results import (
    Delivered,
    Done,
    FinishReason,
    PositionLogprobs,
    TextDelta,
    TokenLogprob,
    Usage,
)
from inference_engine.infra.huggingface.prompts import Prompt, prompt_field
from inference_engine.infra.huggingface.vocabulary import Detokenizer, Vocabulary
from inference_engine.infra.text.answers import AnswerForm
from inference_engine.infra.text.reading import AnswerReader


def delivered_ids(delivered: Delivered, echo: str, vocabulary: Vocabulary) -> list[int]:
    """The tokens of the delivered answer. `echo` is the prompt that was given back before it.

    Text pieces (a token that lay over a border) are tokenized again, which finds the same ids but for rare splits.
    """
    ids: list[int] = []
    rest = len(echo)
    for piece in delivered.pieces:
        if isinstance(piece, str):
            skipped = min(rest, len(piece))
            rest -= skipped
            ids += vocabulary.ids_inside(piece[skipped:]) if skipped < len(piece) else []
        else:
            ids += piece
    return ids


def check_context(request: Chat | Complete, prompt_tokens: int, context: int) -> int:
    """The most tokens the answer may have, those already delivered included.

    Raises:
        ContextLengthExceeded: prompt and answer do not fit; names the field and both numbers.
    """
    wanted = request.sampling.max_tokens
    if prompt_tokens >= context:
        raise ContextLengthExceeded(
            f"the prompt has {prompt_tokens} tokens, the model's context holds {context}: "
            "shorten the prompt or raise context_length in model.yaml",
            param=prompt_field(request),
        )
    if prompt_tokens + (wanted or 0) > context:
        raise ContextLengthExceeded(
            f"the prompt has {prompt_tokens} tokens and max_tokens is {wanted}, together more than the "
            f"{context} tokens of the model's context: shorten the prompt or lower max_tokens",
            param=prompt_field(request),
        )
    return context - prompt_tokens if wanted is None else wanted


def token_logprob(vocabulary: Vocabulary, token: int, logprob: float) -> TokenLogprob:
    """One token with its log probability, as results carry it."""
    raw = vocabulary.token_bytes(token)
    return TokenLogprob(raw.decode(errors="replace"), logprob, raw)


class AnswerWriter:
    """Writes one answer into `sink`; goes on after what was delivered."""

    def __init__(
        self,
        form: AnswerForm,
        prompt: Prompt,
        prompt_tokens: int,
        delivered: Delivered,
        ids: Sequence[int],
        vocabulary: Vocabulary,
        sink: Sink,
    ) -> None:
        """`ids` are those of `delivered`."""
        self.prompt_tokens = prompt_tokens
        self._tokens = len(ids)
        self._thought = delivered.reasoning_tokens
        self._sink = sink
        self._logprobs: list[PositionLogprobs] = []
        self._reader = AnswerReader(form)
        self._reader.skip(delivered.text[len(prompt.echo) :])
        self._detokenizer = Detokenizer(vocabulary, vocabulary.marks(form.markers), ids)
        if prompt.echo and not delivered.text:
            sink.emit(TextDelta(prompt.echo))

    def token(self, token: int, logprobs: PositionLogprobs | None = None, cached_tokens: int = 0) -> bool:
        """Take the next token; False once a stop string was met: the answer is finished and `Done` was given."""
        self._tokens += 1
        if logprobs is not None:
            self._logprobs.append(logprobs)
        piece = self._detokenizer.add(token)
        if piece is None:
            return True
        deltas = self._reader.feed(*piece, self._taken_logprobs())
        if self._reader.stopped:
            # what stands before a stop string goes out together with Done, so that no cut can fall between
            self._sink.emit(*deltas, self._done("stop", cached_tokens))
            return False
        if deltas:
            self._sink.emit(*deltas)
        return True

    def finish(self, reason: FinishReason, cached_tokens: int = 0) -> None:
        """The model has ended by itself (`stop`) or at the limit (`length`)."""
        rest = self._detokenizer.end()
        deltas = [] if rest is None else self._reader.feed(*rest, self._taken_logprobs())
        deltas += self._reader.finish()
        self._sink.emit(*deltas, self._done(self._reader.reason(reason), cached_tokens))

    def _taken_logprobs(self) -> tuple[PositionLogprobs, ...]:
        taken, self._logprobs = tuple(self._logprobs), []
        return taken

    def _done(self, reason: FinishReason, cached_tokens: int) -> Done:
        thought = self._thought + self._reader.reasoning_tokens
        return Done(reason, Usage(self.prompt_tokens, self._tokens, cached_tokens, thought))
