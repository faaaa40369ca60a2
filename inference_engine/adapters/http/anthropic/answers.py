"""How an answer is written: as one message, or as the events of a stream. Knows the domain, no service."""

from __future__ import annotations

import hashlib
from secrets import token_hex
from typing import Any, Literal

import msgspec

from inference_engine.adapters.http.anthropic import wire
from inference_engine.domain.answers import Answer
from inference_engine.domain.errors import InferenceFailed
from inference_engine.domain.results import Delta, Done, ReasoningDelta, Served, ToolCallDelta, Usage, Written

_ENCODER = msgspec.json.Encoder()
_NO_INPUT = msgspec.Raw(b"{}")
_REASONS: dict[str, wire.StopReason] = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_Kind = Literal["text", "thinking", "tool_use"]


class Show(msgspec.Struct, frozen=True):
    """What the client wants to see of the model's thoughts: nothing, or a block, which may be without its text."""

    block: bool = False
    text: bool = False


class _Head:
    """Who answers, and under which id."""

    def __init__(self, served: Served) -> None:
        self._id = "msg_" + token_hex(12)
        self._served = served

    def message(self, content: list[wire.AnswerBlock], done: Done | None) -> wire.Message:
        """The whole message; without `done`, as it is announced at the start of a stream."""
        served = self._served
        reason, sequence = ending(done) if done else (None, None)
        usage = usage_of(done.usage) if done else wire.Usage()
        by = wire.ServedBy(served.ref.name, served.ref.version, served.route, served.rule)
        return wire.Message(self._id, "message", "assistant", served.route, content, reason, sequence, usage, by)


def whole(served: Served, answer: Answer, show: Show) -> bytes:
    """The answer as one message.

    Raises:
        InferenceFailed: the model called a tool with what is no JSON object, though it was not cut off.
    """
    done = answer.done or Done("stop", Usage())
    content: list[wire.AnswerBlock] = []
    if answer.reasoning and show.block:
        text = answer.reasoning
        content.append(wire.AnswerThinking(text if show.text else "", signature_of(text)))
    if answer.text.strip():
        content.append(wire.AnswerText(answer.text))
    for call in answer.tool_calls:
        arguments = _arguments(call.name, call.arguments, cut=done.reason == "length")
        content.append(wire.AnswerToolUse(call.id, call.name, arguments))
    return _ENCODER.encode(_Head(served).message(content, done))


def _arguments(name: str, text: str, *, cut: bool) -> msgspec.Raw:
    """A call's arguments. What `max_tokens` cut off cannot be an object any more: it is left empty."""
    try:
        msgspec.json.decode(text or "{}", type=dict[str, Any])
    except msgspec.MsgspecError:
        if not cut:
            raise InferenceFailed(f"the model called {name!r} with arguments that are no JSON object") from None
        return _NO_INPUT
    return msgspec.Raw((text or "{}").encode())


def ending(done: Done) -> tuple[wire.StopReason, str | None]:
    """Why the answer ended, and the stop sequence that ended it."""
    if done.reason == "stop" and done.stop is not None:
        return "stop_sequence", done.stop
    return _REASONS[done.reason], None


def usage_of(usage: Usage) -> wire.Usage:
    details = wire.OutputDetails(usage.reasoning_tokens) if usage.reasoning_tokens else None
    fresh = usage.prompt_tokens - usage.cached_tokens
    return wire.Usage(fresh, usage.completion_tokens, 0, usage.cached_tokens, details)


def signature_of(thinking: str) -> str:
    """What stands where Anthropic signs its thoughts: a digest, so that equal thoughts are signed equally."""
    return "sha256:" + hashlib.sha256(thinking.encode()).hexdigest()


def event(value: wire.Event) -> bytes:
    """One server-sent event, named by the tag of its value."""
    return b"event: %b\ndata: %b\n\n" % (str(value.__struct_config__.tag).encode(), _ENCODER.encode(value))


class StreamWriter:
    """Writes deltas as events. One content block is open at a time; a delta of another kind closes it."""

    def __init__(self, served: Served, show: Show) -> None:
        self._head = _Head(served)
        self._show = show
        self._index = -1
        self._open: tuple[_Kind, int] | None = None
        self._thoughts: list[str] = []
        self._blank = ""
        self._pinged = False

    def opening(self) -> bytes:
        """The event before the first delta. Its usage is not known yet: the last but one event has it."""
        return event(wire.MessageStart(self._head.message([], None)))

    def events(self, delta: Delta) -> bytes:
        """What a delta adds; nothing, where the client does not want to see it."""
        if isinstance(delta, Done):
            return self._end(delta)
        if isinstance(delta, ReasoningDelta):
            return self._thinking(delta)
        if isinstance(delta, ToolCallDelta):
            return self._tool_use(delta)
        return self._text(delta)

    def _thinking(self, delta: ReasoningDelta) -> bytes:
        if not self._show.block or not delta.text:
            return b""
        begun = self._begun("thinking", 0, wire.AnswerThinking("", ""))
        self._thoughts.append(delta.text)
        return begun + (self._delta(wire.ThinkingDelta(delta.text)) if self._show.text else b"")

    def _text(self, delta: Written) -> bytes:
        """White space that may stand alone between other blocks waits for its text: clients cannot send it back."""
        text = self._blank + delta.text
        if self._open != ("text", 0) and not text.strip():
            self._blank = text
            return b""
        self._blank = ""
        if not text:
            return b""
        return self._begun("text", 0, wire.AnswerText("")) + self._delta(wire.TextDelta(text))

    def _tool_use(self, delta: ToolCallDelta) -> bytes:
        begun = self._begun("tool_use", delta.call, wire.AnswerToolUse(delta.id, delta.name, _NO_INPUT))
        return begun + (self._delta(wire.InputJsonDelta(delta.text)) if delta.text else b"")

    def _begun(self, kind: _Kind, number: int, block: wire.AnswerBlock) -> bytes:
        """The events that open a block, unless it is the open one."""
        if self._open == (kind, number):
            return b""
        closed = self._closed()
        if kind != "text":
            self._blank = ""
        self._open = (kind, number)
        self._index += 1
        return closed + event(wire.BlockStart(self._index, block)) + self._ping()

    def _closed(self) -> bytes:
        if self._open is None:
            return b""
        signed = b""
        if self._open[0] == "thinking":
            signed = self._delta(wire.SignatureDelta(signature_of("".join(self._thoughts))))
            self._thoughts = []
        self._open = None
        return signed + event(wire.BlockStop(self._index))

    def _ping(self) -> bytes:
        """Once in every stream, after its first block has begun."""
        if self._pinged:
            return b""
        self._pinged = True
        return event(wire.Ping())

    def _delta(self, delta: wire.TextDelta | wire.ThinkingDelta | wire.SignatureDelta | wire.InputJsonDelta) -> bytes:
        return event(wire.BlockDelta(self._index, delta))

    def _end(self, done: Done) -> bytes:
        reason, sequence = ending(done)
        changed = wire.MessageDelta(wire.Ending(reason, sequence), usage_of(done.usage))
        return self._closed() + self._ping() + event(changed) + event(wire.MessageStop())
