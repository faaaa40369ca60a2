"""A response as it grows: from deltas to output items and to the events of a stream. Knows no service.

The order of events is OpenAI's: `created`, `in_progress`; for each item `output_item.added`, its parts and deltas,
`output_item.done`; at last `completed`, `incomplete` or `failed`. Every event has its `sequence_number`.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from inference_engine.adapters.http.openai.responses import wire
from inference_engine.adapters.http.openai.responses.wire import Item
from inference_engine.domain.errors import InferenceFailed
from inference_engine.domain.files import new_id
from inference_engine.domain.results import Delta, Done, PositionLogprobs, ReasoningDelta, ToolCallDelta, Usage

_ENCODER = msgspec.json.Encoder()


class Events:
    """Numbers events and writes them; gathers them until they are taken."""

    def __init__(self) -> None:
        self._number = 0
        self._written = bytearray()

    def add(self, kind: str, **fields: Any) -> None:
        event = {"type": f"response.{kind}", "sequence_number": self._number, **fields}
        self._number += 1
        self._written += b"event: response.%b\ndata: %b\n\n" % (kind.encode(), _ENCODER.encode(event))

    def take(self) -> bytes:
        written, self._written = bytes(self._written), bytearray()
        return written


class NoEvents(Events):
    """For an answer that is not streamed."""

    def add(self, kind: str, **fields: Any) -> None: ...


class _Text:
    """A message, and its one part of text."""

    def __init__(self, events: Events, index: int) -> None:
        self.item: Item = {"id": new_id("msg_"), "type": "message", "status": "in_progress", "role": "assistant"}
        self._events = events
        self._at = {"item_id": self.item["id"], "output_index": index, "content_index": 0}
        self._texts: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
        events.add("output_item.added", output_index=index, item={**self.item, "content": []})
        events.add("content_part.added", **self._at, part=self._part(""))

    def add(self, delta: Delta) -> None:
        assert not isinstance(delta, Done)
        logprobs = [_logprob(position) for position in delta.logprobs]
        self._texts.append(delta.text)
        self._logprobs += logprobs
        if delta.text or logprobs:
            self._events.add("output_text.delta", **self._at, delta=delta.text, logprobs=logprobs)

    def close(self, status: str) -> None:
        text = "".join(self._texts)
        part = self._part(text)
        self._events.add("output_text.done", **self._at, text=text, logprobs=self._logprobs)
        self._events.add("content_part.done", **self._at, part=part)
        self.item |= {"status": status, "content": [part]}

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(self._logprobs)}


class _Reasoning:
    """What was thought: as the content of its item, or as its summary where one was asked for."""

    def __init__(self, events: Events, index: int, as_summary: bool) -> None:
        self.item: Item = {"id": new_id("rs_"), "type": "reasoning", "summary": []}
        self._events = events
        self._as_summary = as_summary
        self._names = (
            ("reasoning_summary_part", "reasoning_summary_text") if as_summary else ("content_part", "reasoning_text")
        )
        self._kind = "summary_text" if as_summary else "reasoning_text"
        place = "summary_index" if as_summary else "content_index"
        self._at = {"item_id": self.item["id"], "output_index": index, place: 0}
        self._texts: list[str] = []
        events.add("output_item.added", output_index=index, item={**self.item, "status": "in_progress"})
        events.add(f"{self._names[0]}.added", **self._at, part={"type": self._kind, "text": ""})

    def add(self, delta: Delta) -> None:
        assert not isinstance(delta, Done)
        self._texts.append(delta.text)
        if delta.text:
            self._events.add(f"{self._names[1]}.delta", **self._at, delta=delta.text)

    def close(self, status: str) -> None:
        part = {"type": self._kind, "text": "".join(self._texts)}
        self._events.add(f"{self._names[1]}.done", **self._at, text=part["text"])
        self._events.add(f"{self._names[0]}.done", **self._at, part=part)
        self.item |= {"status": status, "summary" if self._as_summary else "content": [part]}


class _Call:
    """A call of a function."""

    def __init__(self, events: Events, index: int, delta: ToolCallDelta) -> None:
        self.number = delta.call
        self.item: Item = {
            "id": new_id("fc_"),
            "type": "function_call",
            "status": "in_progress",
            "call_id": delta.id,
            "name": delta.name,
            "arguments": "",
        }
        self._events = events
        self._at = {"item_id": self.item["id"], "output_index": index}
        self._texts: list[str] = []
        events.add("output_item.added", output_index=index, item=dict(self.item))

    def add(self, delta: Delta) -> None:
        assert not isinstance(delta, Done)
        self._texts.append(delta.text)
        if delta.text:
            self._events.add("function_call_arguments.delta", **self._at, delta=delta.text)

    def close(self, status: str) -> None:
        arguments = "".join(self._texts)
        self._events.add("function_call_arguments.done", **self._at, name=self.item["name"], arguments=arguments)
        self.item |= {"status": status, "arguments": arguments}


class Writer:
    """One response. `response` is what it is by now; `events` what is to be sent of it."""

    def __init__(self, response: wire.Response, events: Events, *, reasoning_as_summary: bool) -> None:
        self.response = response
        self.events = events
        self._as_summary = reasoning_as_summary
        self._current: _Text | _Reasoning | _Call | None = None

    def open(self) -> None:
        self.events.add("created", response=self.response)
        self.events.add("in_progress", response=self.response)

    def add(self, delta: Delta) -> None:
        """Take in the next delta; the last one closes the last item."""
        if isinstance(delta, Done):
            self._done(delta)
            return
        current = self._current
        if isinstance(delta, ToolCallDelta):
            if not isinstance(current, _Call) or current.number != delta.call:
                if not delta.name:
                    raise InferenceFailed("the runtime went on with a tool call that had ended")
                current = self._next(_Call(self._closed(), len(self.response.output), delta))
        elif isinstance(delta, ReasoningDelta):
            if not isinstance(current, _Reasoning):
                current = self._next(_Reasoning(self._closed(), len(self.response.output), self._as_summary))
        elif not isinstance(current, _Text):
            current = self._next(_Text(self._closed(), len(self.response.output)))
        current.add(delta)

    def _next(self, item: _Text | _Reasoning | _Call) -> _Text | _Reasoning | _Call:
        self._current = item
        return item

    def _closed(self, status: str = "completed") -> Events:
        """Close the item that is open; the events for the next one."""
        if self._current is not None:
            self._current.close(status)
            self.events.add("output_item.done", output_index=len(self.response.output), item=self._current.item)
            self.response.output.append(self._current.item)
            self._current = None
        return self.events

    def _done(self, done: Done) -> None:
        if self._current is None and not self.response.output:
            self._current = _Text(self.events, 0)
        short = done.reason == "length"
        self._closed("incomplete" if short else "completed")
        self.response.usage = _usage(done.usage)
        self.response.status = "incomplete" if short else "completed"
        if short:
            self.response.incomplete_details = wire.Incomplete("max_output_tokens")
        else:
            self.response.completed_at = int(time.time())

    def end(self) -> None:
        """Say that it is whole."""
        self.events.add(self.response.status, response=self.response)

    def fail(self, code: str, message: str) -> None:
        """Say that it broke off; the items above are not the whole answer."""
        self.response.status = "failed"
        self.response.completed_at = None
        self.response.error = wire.Problem(code, message)
        self.events.add("failed", response=self.response)


def _usage(usage: Usage) -> wire.Usage:
    return wire.Usage(
        usage.prompt_tokens,
        wire.InputDetails(usage.cached_tokens),
        usage.completion_tokens,
        wire.OutputDetails(usage.reasoning_tokens),
        usage.prompt_tokens + usage.completion_tokens,
    )


def _logprob(position: PositionLogprobs) -> dict[str, Any]:
    chosen = position.chosen
    return {
        "token": chosen.token,
        "logprob": chosen.logprob,
        "bytes": list(chosen.raw),
        "top_logprobs": [
            {"token": other.token, "logprob": other.logprob, "bytes": list(other.raw)} for other in position.top
        ],
    }
