"""Turns what a user's class yields into deltas. Knows the pieces that are allowed, stop strings and limits; no class.

A piece is a string, or a dict with one of these keys: `text`, `reasoning`, `tool_call` (with `name`, and `arguments` as
a dict or as JSON text), `arguments` (more JSON text for the last call), `segment` (with `text`, `start_s`, `end_s`),
`usage` (with `prompt_tokens` and others of `Usage`).
"""

from __future__ import annotations

import json
from secrets import token_hex
from typing import Any

import msgspec

from inference_engine.domain.errors import InferenceFailed
from inference_engine.domain.ports import Sink
from inference_engine.domain.requests import Chat, Complete, Generate, ToolChoice
from inference_engine.domain.results import (
    Delivered,
    Done,
    FinishReason,
    ReasoningDelta,
    SegmentDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
    Written,
)

PIECES = ("text", "reasoning", "tool_call", "arguments", "segment", "usage")


class _Call(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    arguments: dict[str, Any] | str = ""
    id: str = ""


class _Segment(msgspec.Struct, forbid_unknown_fields=True):
    text: str
    start_s: float
    end_s: float


class _Counts(msgspec.Struct, forbid_unknown_fields=True):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0
    reasoning_tokens: int | None = None


class Outlet:
    """Passes pieces on: skips what was delivered, holds back what may begin a stop string, counts.

    Deltas come from pieces in one way only, so that a repeated stream is cut at the same places as the first.
    """

    def __init__(self, request: Generate, delivered: Delivered, sink: Sink, prompt_tokens: int) -> None:
        self._stops = request.sampling.stop
        self._limit = request.sampling.max_tokens
        self._tools = frozenset(tool.name for tool in request.tools) if isinstance(request, Chat) else frozenset()
        self._choice = request.tool_choice if isinstance(request, Chat) else ToolChoice()
        self._skip = len(delivered.text)
        self._sink = sink
        self._held = ""
        self._count = 0
        self._thought = 0
        self._counts = _Counts(prompt_tokens)
        self._calls = 0
        self._called = ""
        self._arguments: list[str] = []
        if isinstance(request, Complete) and request.echo and isinstance(request.prompt, str):
            self._emit(TextDelta(request.prompt))

    def put(self, piece: Any) -> bool:
        """Take one piece; True when the answer is over."""
        kind, value = _kind_of(piece)
        if kind == "usage":
            self._counts = _typed(kind, value, _Counts)
            return False
        self._count += 1
        if kind == "text":
            if self._put_text(value):
                return True
        else:
            self._flush()
            self._put_other(kind, value)
        if self._limit is not None and self._count >= self._limit:
            self._flush()
            self._done("length")
            return True
        return False

    def end(self) -> None:
        """The model has nothing more to say."""
        self._flush()
        self._end_call()
        if self._choice.mode == "required" and not self._calls:
            raise InferenceFailed("a tool call was demanded and stream yielded none")
        self._done("tool_calls" if self._calls else "stop")

    def _put_text(self, text: str) -> bool:
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            met = next(stop for stop in self._stops if self._held.startswith(stop, min(found)))
            self._emit(TextDelta(self._held[: min(found)]))
            self._held = ""
            self._done("stop", met)
            return True
        at = len(self._held) - self._possible_stop()
        text, self._held = self._held[:at], self._held[at:]
        self._emit(TextDelta(text))
        return False

    def _put_other(self, kind: str, value: Any) -> None:
        if kind == "reasoning":
            self._thought += 1
            self._emit(ReasoningDelta(_typed(kind, value, str)))
        elif kind == "tool_call":
            self._begin_call(_typed(kind, value, _Call))
        elif kind == "arguments":
            if not self._calls:
                raise InferenceFailed("stream yielded arguments before a tool_call")
            self._more_arguments(_typed(kind, value, str))
        else:
            segment = _typed(kind, value, _Segment)
            self._emit(SegmentDelta(segment.text, start_s=segment.start_s, end_s=segment.end_s))

    def _begin_call(self, call: _Call) -> None:
        self._end_call()
        allowed = {self._choice.name} if self._choice.name else self._tools
        if self._choice.mode == "none" or call.name not in allowed:
            raise InferenceFailed(f"stream called the tool {call.name!r}, which the request does not allow")
        if self._calls and not self._choice.parallel:
            raise InferenceFailed("stream called several tools where the request allows one")
        self._calls, self._called = self._calls + 1, call.name
        text = call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments, ensure_ascii=False)
        self._arguments = [text]
        self._emit(
            ToolCallDelta(
                text,
                raw=f"<tool_call {call.name}>{text}",
                call=self._calls - 1,
                id=call.id or f"call_{token_hex(12)}",
                name=call.name,
            )
        )

    def _more_arguments(self, text: str) -> None:
        self._arguments.append(text)
        self._emit(ToolCallDelta(text, call=self._calls - 1))

    def _end_call(self) -> None:
        """Arguments of a whole call are a JSON object, or the model has failed."""
        if not self._arguments:
            return
        text, self._arguments = "".join(self._arguments), []
        try:
            found = json.loads(text or "null")
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise InferenceFailed(f"the arguments of the tool call {self._called!r} are no JSON object: {text[:200]}")

    def _flush(self) -> None:
        text, self._held = self._held, ""
        self._emit(TextDelta(text))

    def _possible_stop(self) -> int:
        """The length of the longest end of the held text that begins a stop string."""
        longest = min(len(self._held), max(map(len, self._stops), default=1) - 1)
        return next(
            (size for size in range(longest, 0, -1) if any(s.startswith(self._held[-size:]) for s in self._stops)), 0
        )

    def _emit(self, delta: Written) -> None:
        """Hand a delta on, without what of it was delivered."""
        written = delta.raw or delta.text
        skipped, self._skip = min(self._skip, len(written)), max(0, self._skip - len(written))
        if skipped:
            delta = msgspec.structs.replace(delta, text=delta.text[skipped:] if written == delta.text else "")
        if len(written) > skipped:
            self._sink.emit(delta)

    def _done(self, reason: FinishReason, stop: str | None = None) -> None:
        counts = self._counts
        completion = self._count if counts.completion_tokens is None else counts.completion_tokens
        thought = self._thought if counts.reasoning_tokens is None else counts.reasoning_tokens
        usage = Usage(counts.prompt_tokens or 0, completion, counts.cached_tokens, thought)
        self._sink.emit(Done(reason, usage, stop=stop))


def _kind_of(piece: Any) -> tuple[str, Any]:
    if isinstance(piece, str):
        return "text", piece
    if not isinstance(piece, dict):
        raise InferenceFailed(f"stream must yield strings or dicts, it yielded {type(piece).__name__}")
    if len(piece) != 1 or (kind := next(iter(piece))) not in PIECES:
        raise InferenceFailed(
            f"stream yielded a dict with {sorted(map(str, piece))}: give it one of {', '.join(PIECES)}"
        )
    return kind, _typed(kind, piece[kind], str) if kind == "text" else piece[kind]


def _typed(kind: str, value: Any, wanted: Any) -> Any:
    try:
        return msgspec.convert(value, wanted)
    except msgspec.ValidationError as error:
        raise InferenceFailed(f"stream yielded a wrong {kind}: {error}") from None
