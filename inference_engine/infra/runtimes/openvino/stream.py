"""Turns the tokens of one generation into deltas: whole characters, nothing of a stop string, ids that fit the text."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from inference_engine.domain.ports import Sink
from inference_engine.domain.results import Done, FinishReason, PositionLogprobs, TextDelta, TokenLogprob, Usage
from inference_engine.infra.runtimes.openvino.vocabulary import Vocabulary


@dataclass(frozen=True)
class Plan:
    """What one generation asks for. `prompt` tokens without the `delivered` ones; `echo` goes out before the answer."""

    prompt: int
    delivered: int
    stop: tuple[str, ...]
    logprobs: bool
    echo: str = ""


class Stream:
    """Takes tokens, emits deltas. Text that is half a character or may begin a stop string waits, with its tokens."""

    def __init__(self, plan: Plan, vocabulary: Vocabulary, sink: Sink) -> None:
        self._plan = plan
        self._vocabulary = vocabulary
        self._sink = sink
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._text = ""
        self._tokens: list[int] = []
        self._logprobs: list[PositionLogprobs] = []
        self._count = 0
        if plan.echo:
            sink.emit(TextDelta(plan.echo))

    def take(self, tokens: Sequence[int], logprobs: Sequence[float], *, ended: bool) -> bool:
        """Take what one step has brought; `ended` if the last of the tokens ends the answer. True: a stop string."""
        self._count += len(tokens)
        for token, logprob in zip(tokens[: len(tokens) - ended], logprobs, strict=False):
            raw = self._vocabulary.piece(token)
            self._text += self._decoder.decode(raw)
            self._tokens.append(token)
            if self._plan.logprobs:
                self._logprobs.append(PositionLogprobs(TokenLogprob(raw.decode(errors="replace"), logprob, raw)))
            if self._met_stop():
                return True
            if self._text and not self._decoder.getstate()[0] and not self._may_begin_stop():
                self._sink.emit(TextDelta(self._text, tuple(self._tokens), tuple(self._logprobs)))
                self._text, self._tokens, self._logprobs = "", [], []
        return False

    def finish(self, reason: FinishReason) -> None:
        """Emit what waited, and `Done`."""
        self._text += self._decoder.decode(b"", True)
        usage = Usage(self._plan.prompt, self._plan.delivered + self._count)
        rest = [TextDelta(self._text, (), tuple(self._logprobs))] if self._text else []
        self._sink.emit(*rest, Done(reason, usage))

    def _met_stop(self) -> bool:
        """Cut the waiting text before the first stop string in it."""
        found = [at for at in (self._text.find(stop) for stop in self._plan.stop) if at >= 0]
        if not found:
            return False
        self._text = self._text[: min(found)]
        self._decoder.reset()
        return True

    def _may_begin_stop(self) -> bool:
        return any(
            self._text.endswith(stop[:length])
            for stop in self._plan.stop
            for length in range(min(len(stop) - 1, len(self._text)), 0, -1)
        )
