"""Turns what a model writes into deltas: `AnswerReader`, the same for every runtime.

Pieces go in as they are decoded, with their token ids and log probabilities; text, thoughts and tool calls come out,
with `raw` and the ids filled so that a continuation on another runner reads the same text again and is in the same
state.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from inference_engine.domain.results import (
    FinishReason,
    PositionLogprobs,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Written,
)
from inference_engine.infra.text.answers import AnswerForm
from inference_engine.infra.text.scanning import Scanner, Span


def new_call_id() -> str:
    """An id for a tool call, unique beyond one conversation."""
    return f"call_{secrets.token_hex(12)}"


@dataclass(frozen=True)
class _Piece:
    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[PositionLogprobs, ...]


@dataclass(frozen=True)
class _Stretch:
    """A part of a span that is given out as one delta, with the pieces that lie in it as a whole."""

    span: Span
    head: bool
    text: str
    raw: str
    tokens: tuple[int, ...]
    logprobs: tuple[PositionLogprobs, ...]
    pieces: int


class AnswerReader:
    """Reads one answer. First `skip` what was already delivered, then `feed` each piece, at last `finish`.

    Deltas of one call of `feed` belong together and must be emitted together. Pieces wait while their text may become
    a marker or a stop string. `stopped` tells that a stop string was met: nothing more is wanted of the model.
    `reasoning_tokens` counts what was given out as thought (a piece without ids counts as one).
    """

    def __init__(self, form: AnswerForm, new_id: Callable[[], str] = new_call_id) -> None:
        self._scanner = Scanner(form)
        self._new_id = new_id
        self._pieces: list[_Piece] = []
        self.reasoning_tokens = 0

    @property
    def stopped(self) -> bool:
        return self._scanner.stopped

    @property
    def stop(self) -> str | None:
        """The stop string that was met."""
        return self._scanner.stop

    def skip(self, text: str) -> None:
        """Read what an earlier runner has delivered (`Delivered.text`, without an echoed prompt), in silence."""
        self._scanner.feed(text)
        self._scanner.spans.clear()
        self._scanner.take_markup()
        if self._scanner.held:
            self._pieces.append(_Piece(self._scanner.held, (), ()))

    def feed(
        self, text: str, tokens: tuple[int, ...] = (), logprobs: tuple[PositionLogprobs, ...] = ()
    ) -> list[Written]:
        """The next piece the model wrote. `tokens` are the ids of exactly this text, empty where they are unknown."""
        self._pieces.append(_Piece(text, tokens, logprobs))
        self._scanner.feed(text)
        if self._scanner.held and not self._scanner.stopped:
            return []
        return self._given_out()

    def finish(self) -> list[Written]:
        """The model has ended: what was held back. To be emitted together with the `Done`."""
        if not self._scanner.stopped:
            self._scanner.end()
        return self._given_out()

    def reason(self, reason: FinishReason) -> FinishReason:
        """Why the answer ended, given why the model did: `tool_calls` where it stopped after whole calls."""
        scanner = self._scanner
        if scanner.stopped:
            return "stop"
        return "tool_calls" if reason == "stop" and 0 < scanner.completed == scanner.begun else reason

    def _given_out(self) -> list[Written]:
        spans, self._scanner.spans = self._scanner.spans, []
        if not spans:
            return []
        spans[-1].after = self._scanner.take_markup()
        pieces, self._pieces = self._pieces, []
        return [self._delta(stretch) for stretch in _stretches(spans, pieces)]

    def _delta(self, stretch: _Stretch) -> Written:
        raw = stretch.raw if stretch.raw != stretch.text else ""
        span = stretch.span
        if span.kind == "text":
            return TextDelta(stretch.text, stretch.tokens, stretch.logprobs, raw=raw)
        if span.kind == "reasoning":
            self.reasoning_tokens += len(stretch.tokens) or stretch.pieces
            return ReasoningDelta(stretch.text, stretch.tokens, stretch.logprobs, raw=raw)
        id_, name = (self._new_id(), span.name) if stretch.head and span.name else ("", "")
        return ToolCallDelta(stretch.text, stretch.tokens, stretch.logprobs, raw=raw, call=span.call, id=id_, name=name)


def _stretches(spans: list[Span], pieces: list[_Piece]) -> list[_Stretch]:
    """The spans, cut where pieces with ids and pieces without meet.

    A piece that lies over the border of two spans lends its ids to neither: their text is what is known of them.
    """
    span = spans[0]
    size = len(span.before) + len(span.text) + len(span.after)
    if size == sum(len(piece.text) for piece in pieces) and all(piece.tokens for piece in pieces):
        tokens = tuple([token for piece in pieces for token in piece.tokens])
        logprobs = tuple([position for piece in pieces for position in piece.logprobs])
        raw = span.before + span.text + span.after
        return [_Stretch(span, True, span.text, raw, tokens, logprobs, len(pieces))]
    found: list[_Stretch] = []
    start = 0
    for span in spans:
        end = start + len(span.before) + len(span.text) + len(span.after)
        found += _cut(span, start, end, pieces)
        start = end
    return found


def _cut(span: Span, start: int, end: int, pieces: list[_Piece]) -> list[_Stretch]:
    """The stretches of a span that lies from `start` to `end` in the text of all pieces."""
    runs: list[tuple[bool, int, int, list[_Piece]]] = []  # whether ids are known, from, to, the pieces that begin there
    at = 0
    for piece in pieces:
        low, high = at, at + len(piece.text)
        at = high
        if high <= start or low >= end:
            continue
        known = bool(piece.tokens) and start <= low and high <= end
        begins = [piece] if low >= start else []
        if runs and runs[-1][0] == known:
            runs[-1] = (known, runs[-1][1], min(high, end), runs[-1][3] + begins)
        else:
            runs.append((known, max(low, start), min(high, end), begins))
    raw = span.before + span.text + span.after
    first = start + len(span.before)
    return [
        _Stretch(
            span,
            head=place == 0,
            text=span.text[max(low - first, 0) : max(high - first, 0)],
            raw=raw[low - start : high - start],
            tokens=tuple([token for piece in begun for token in piece.tokens]) if known else (),
            logprobs=tuple([position for piece in begun for position in piece.logprobs]),
            pieces=len(begun),
        )
        for place, (known, low, high, begun) in enumerate(runs)
    ]
