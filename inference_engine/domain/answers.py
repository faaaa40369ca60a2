"""A whole answer, gathered from its deltas: what every dialect writes that does not stream."""

from __future__ import annotations

from inference_engine.domain.requests import ToolCall
from inference_engine.domain.results import (
    Delta,
    Done,
    FinishReason,
    PositionLogprobs,
    ReasoningDelta,
    SegmentDelta,
    ToolCallDelta,
    Usage,
)


class Answer:
    """One choice while it grows. `done` is None until it has ended."""

    __slots__ = ("_calls", "_reasoning", "_texts", "done", "logprobs", "segments")

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[tuple[str, str, list[str]]] = []
        self.logprobs: list[PositionLogprobs] = []
        self.segments: list[SegmentDelta] = []
        self.done: Done | None = None

    def add(self, delta: Delta) -> None:
        """Take in the next delta of this choice."""
        if isinstance(delta, Done):
            self.done = delta
            return
        if isinstance(delta, ReasoningDelta):
            self._reasoning.append(delta.text)
            return
        self.logprobs.extend(delta.logprobs)
        if isinstance(delta, ToolCallDelta):
            if delta.call == len(self._calls):
                self._calls.append((delta.id, delta.name, []))
            self._calls[delta.call][2].append(delta.text)
            return
        self._texts.append(delta.text)
        if isinstance(delta, SegmentDelta):
            self.segments.append(delta)

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple([ToolCall(id, name, "".join(parts)) for id, name, parts in self._calls])

    @property
    def reason(self) -> FinishReason:
        return self.done.reason if self.done else "stop"

    @property
    def usage(self) -> Usage:
        return self.done.usage if self.done else Usage()
