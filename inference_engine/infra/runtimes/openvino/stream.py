"""Turns the tokens of one generation into deltas: whole characters, read by `infra/text`, with their ids."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from inference_engine.domain.ports import Sink
from inference_engine.domain.results import Done, FinishReason, PositionLogprobs, TextDelta, TokenLogprob, Usage
from inference_engine.infra.runtimes.openvino.vocabulary import Vocabulary
from inference_engine.infra.text.reading import AnswerReader


@dataclass(frozen=True)
class Plan:
    """What one generation asks for. `prompt` tokens without the `delivered` ones; `echo` goes out before the answer.

    `reasoning` of the delivered tokens were thought. `shown` are control tokens whose names stay in the text, because
    the reader looks for them.
    """

    prompt: int
    delivered: int
    reasoning: int
    logprobs: bool
    echo: str = ""
    shown: frozenset[int] = frozenset()


class Stream:
    """Takes tokens, emits deltas. Half a character waits, with its tokens, for the other half.

    A control token without text lends its id to the text after it.
    """

    def __init__(self, plan: Plan, vocabulary: Vocabulary, reader: AnswerReader, sink: Sink) -> None:
        self._plan = plan
        self._vocabulary = vocabulary
        self._reader = reader
        self._sink = sink
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._text = ""
        self._tokens: list[int] = []
        self._logprobs: list[PositionLogprobs] = []
        self._count = 0
        self._begun = False

    def take(self, tokens: Sequence[int], logprobs: Sequence[float], *, ended: bool) -> bool:
        """Take what one step has brought; `ended` if the last of the tokens ends the answer.

        True: a stop string was met, everything has been emitted, and nothing more is wanted.
        """
        self._begin()
        for token, logprob in zip(tokens[: len(tokens) - ended], logprobs, strict=False):
            self._count += 1
            if self._one(token, logprob):
                return True
        self._count += ended
        return False

    def finish(self, reason: FinishReason) -> None:
        """Emit what waited, and `Done`."""
        self._begin()
        rest = self._text + self._decoder.decode(b"", True)
        deltas = self._reader.feed(rest, (), tuple(self._logprobs)) if rest else []
        self._sink.emit(*deltas, *self._reader.finish(), self._done(self._reader.reason(reason)))

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            if self._plan.echo:
                self._sink.emit(TextDelta(self._plan.echo))

    def _one(self, token: int, logprob: float) -> bool:
        piece = self._vocabulary.name(token) if token in self._plan.shown else self._vocabulary.piece(token)
        self._text += self._decoder.decode(piece)
        self._tokens.append(token)
        if self._plan.logprobs:
            self._logprobs.append(PositionLogprobs(TokenLogprob(piece.decode(errors="replace"), logprob, piece)))
        if not self._text or self._decoder.getstate()[0]:
            return False
        deltas = self._reader.feed(self._text, tuple(self._tokens), tuple(self._logprobs))
        self._text, self._tokens, self._logprobs = "", [], []
        if self._reader.stopped:
            # what stands before a stop string goes out together with Done, so that no cut can fall between
            self._sink.emit(*deltas, self._done("stop"))
            return True
        if deltas:
            self._sink.emit(*deltas)
        return False

    def _done(self, reason: FinishReason) -> Done:
        plan = self._plan
        thought = plan.reasoning + self._reader.reasoning_tokens
        return Done(reason, Usage(plan.prompt, plan.delivered + self._count, reasoning_tokens=thought))
