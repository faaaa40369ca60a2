"""How an answer is written: whole or streamed, as chat completion or as text completion. Knows no service."""

from __future__ import annotations

import time
from secrets import token_hex
from typing import Protocol

import msgspec
from msgspec import UNSET

from inference_engine.adapters.http.openai import wire
from inference_engine.adapters.http.openai.choices import (
    Tally,
    chat_logprobs,
    delta_chars,
    text_logprobs,
)
from inference_engine.domain.answers import Answer
from inference_engine.domain.results import Delta, Done, ReasoningDelta, Served, TextDelta, ToolCallDelta, Written

_ENCODER = msgspec.json.Encoder()
DONE = b"data: [DONE]\n\n"


class Writer(Protocol):
    """Turns domain results into the JSON of one answer."""

    def whole(self, choices: list[Answer], tally: Tally) -> bytes: ...

    def opening(self, choices: int) -> bytes:
        """Events before the first delta."""

    def event(self, delta: Delta) -> bytes: ...

    def usage_event(self, tally: Tally) -> bytes: ...


class _Head:
    """What every chunk of an answer repeats."""

    def __init__(self, prefix: str, served: Served, fingerprint: str) -> None:
        self.id = prefix + token_hex(12)
        self.created = int(time.time())
        self.model = served.route
        self.fingerprint = f"{fingerprint}/{served.ref}"
        self.served_by = served_by(served)


class _Pattern:
    """An event of which one text changes: what stands around it is encoded once, which is most of the work."""

    def __init__(self, event: bytes, field: bytes) -> None:
        """`event` has an empty text in `field`. No other string can hold that: its quotes would be escaped."""
        self._before, self._after = event.split(field + b'""')
        self._before += field

    def event(self, text: str) -> bytes:
        return b"%b%b%b" % (self._before, _ENCODER.encode(text), self._after)


class ChatWriter:
    """`chat.completion` and `chat.completion.chunk`."""

    def __init__(self, served: Served, fingerprint: str, logprobs: bool) -> None:
        self._head = _Head("chatcmpl-", served, fingerprint)
        self._logprobs = logprobs
        self._texts: dict[int, _Pattern] = {}

    def whole(self, choices: list[Answer], tally: Tally) -> bytes:
        head = self._head
        return _ENCODER.encode(
            wire.ChatCompletion(
                head.id,
                "chat.completion",
                head.created,
                head.model,
                [
                    wire.ChatChoice(
                        index,
                        _message(choice),
                        chat_logprobs(choice.logprobs) if self._logprobs else None,
                        choice.reason,
                    )
                    for index, choice in enumerate(choices)
                ],
                tally.usage(),
                head.fingerprint,
                head.served_by,
            )
        )

    def opening(self, choices: int) -> bytes:
        """The role of each choice; the first chunk also says who serves."""
        events = []
        for index in range(choices):
            delta = wire.ChatDelta(role="assistant", content="")
            events.append(
                self._chunk([wire.ChatChunkChoice(index, delta)], self._head.served_by if not index else None)
            )
        return b"".join(events)

    def event(self, delta: Delta) -> bytes:
        if isinstance(delta, Done):
            return self._chunk([wire.ChatChunkChoice(delta.index, wire.ChatDelta(), None, delta.reason)])
        if isinstance(delta, ReasoningDelta):
            return self._chunk([wire.ChatChunkChoice(delta.index, wire.ChatDelta(reasoning_content=delta.text))])
        if isinstance(delta, TextDelta) and not (self._logprobs and delta.logprobs):
            return self._text(delta.index).event(delta.text)
        logprobs = chat_logprobs(delta.logprobs) if self._logprobs and delta.logprobs else None
        if isinstance(delta, ToolCallDelta):
            change = wire.ChatDelta(tool_calls=[_tool_call(delta)])
        else:
            change = wire.ChatDelta(content=delta.text)
        return self._chunk([wire.ChatChunkChoice(delta.index, change, logprobs)])

    def _text(self, index: int) -> _Pattern:
        """How more text of a choice is written where there is nothing else to tell."""
        pattern = self._texts.get(index)
        if pattern is None:
            chunk = self._chunk([wire.ChatChunkChoice(index, wire.ChatDelta(content=""))])
            pattern = self._texts[index] = _Pattern(chunk, b'"content":')
        return pattern

    def usage_event(self, tally: Tally) -> bytes:
        return self._chunk([], usage=tally.usage())

    def _chunk(
        self,
        choices: list[wire.ChatChunkChoice],
        served_by: wire.ServedBy | None = None,
        usage: wire.Usage | None = None,
    ) -> bytes:
        head = self._head
        return _event(
            wire.ChatChunk(
                head.id,
                "chat.completion.chunk",
                head.created,
                head.model,
                head.fingerprint,
                choices,
                served_by,
                usage,
            )
        )


class TextWriter:
    """`text_completion`, whole and in chunks. `alternatives` is the count of logprobs asked for, None for none."""

    def __init__(self, served: Served, fingerprint: str, alternatives: int | None) -> None:
        self._head = _Head("cmpl-", served, fingerprint)
        self._alternatives = alternatives
        self._offsets: dict[int, int] = {}
        self._texts: dict[int, _Pattern] = {}

    def whole(self, choices: list[Answer], tally: Tally) -> bytes:
        return _ENCODER.encode(
            self._completion(
                [
                    wire.CompletionChoice(
                        index,
                        choice.text,
                        None
                        if self._alternatives is None
                        else text_logprobs(choice.logprobs, 0, self._alternatives > 0),
                        choice.reason,
                    )
                    for index, choice in enumerate(choices)
                ],
                self._head.served_by,
                tally.usage(),
            )
        )

    def opening(self, choices: int) -> bytes:  # noqa: ARG002 - completions have no roles to announce
        return b""

    def event(self, delta: Delta) -> bytes:
        served_by = None if self._offsets else self._head.served_by
        if isinstance(delta, Done):
            self._offsets.setdefault(delta.index, 0)
            choice = wire.CompletionChoice(delta.index, "", None, delta.reason)
        else:
            if served_by is None and (self._alternatives is None or not delta.logprobs):
                return self._text(delta.index).event(delta.text)
            choice = wire.CompletionChoice(delta.index, delta.text, self._next_logprobs(delta))
        return _event(self._completion([choice], served_by))

    def _text(self, index: int) -> _Pattern:
        """How more text of a choice is written where there is nothing else to tell."""
        pattern = self._texts.get(index)
        if pattern is None:
            self._offsets.setdefault(index, 0)
            chunk = _event(self._completion([wire.CompletionChoice(index, "")], None))
            pattern = self._texts[index] = _Pattern(chunk, b'"text":')
        return pattern

    def _next_logprobs(self, delta: Written) -> wire.CompletionLogprobs | None:
        offset = self._offsets.setdefault(delta.index, 0)
        if self._alternatives is None or not delta.logprobs:
            return None
        self._offsets[delta.index] = offset + delta_chars(delta)
        return text_logprobs(delta.logprobs, offset, self._alternatives > 0)

    def usage_event(self, tally: Tally) -> bytes:
        return _event(self._completion([], None, tally.usage()))

    def _completion(
        self,
        choices: list[wire.CompletionChoice],
        served_by: wire.ServedBy | None,
        usage: wire.Usage | None = None,
    ) -> wire.Completion:
        head = self._head
        return wire.Completion(
            head.id, "text_completion", head.created, head.model, head.fingerprint, choices, served_by, usage
        )


def served_by(served: Served) -> wire.ServedBy:
    """Who answered, for the body."""
    adapter = UNSET if served.adapter is None else served.adapter
    return wire.ServedBy(served.ref.name, served.ref.version, served.route, served.rule, adapter)


def _message(choice: Answer) -> wire.AnswerMessage:
    calls = [
        wire.AnswerToolCall(call.id, "function", wire.FunctionCall(call.name, call.arguments))
        for call in choice.tool_calls
    ]
    text = None if calls and not choice.text else choice.text
    return wire.AnswerMessage("assistant", text, None, choice.reasoning or UNSET, calls or UNSET)


def _tool_call(delta: ToolCallDelta) -> wire.ToolCallDelta:
    """The first delta of a call carries its name; the clients add the arguments of all together."""
    if delta.id:
        return wire.ToolCallDelta(delta.call, delta.id, "function", wire.FunctionDelta(delta.name, delta.text))
    return wire.ToolCallDelta(delta.call, function=wire.FunctionDelta(arguments=delta.text))


def _event(value: object) -> bytes:
    return b"data: %b\n\n" % _ENCODER.encode(value)
