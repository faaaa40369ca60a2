"""Writes deltas as the lines of Ollama's streams, and whole answers. Knows the domain, no service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from inference_engine.adapters.http.ollama import wire
from inference_engine.adapters.http.ollama.values import now
from inference_engine.domain.answers import Answer
from inference_engine.domain.errors import InferenceFailed
from inference_engine.domain.requests import ToolCall
from inference_engine.domain.results import Delta, Done, PositionLogprobs, ReasoningDelta, ToolCallDelta, Usage

_ENCODER = msgspec.json.Encoder()
_NS = 1_000_000_000


class Stopwatch:
    """The times of one request by `clock`, in seconds: when it came, when its model was loaded, its first delta."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.started = self.loaded = self.first = clock()

    def is_loaded(self) -> None:
        self.loaded = self.first = self._clock()

    def has_begun(self) -> None:
        self.first = self._clock()

    def figures(self, reason: str, usage: Usage) -> dict[str, Any]:
        """What the last line tells."""
        ended = self._clock()
        return {
            "done_reason": reason,
            "total_duration": int((ended - self.started) * _NS),
            "load_duration": int((self.loaded - self.started) * _NS),
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": int((self.first - self.loaded) * _NS),
            "eval_count": usage.completion_tokens,
            "eval_duration": int((ended - self.first) * _NS),
        }


class Shape(Protocol):
    """How one of the two endpoints writes a piece of an answer. Tool calls come with their number in it."""

    def __call__(
        self,
        text: str,
        thinking: str,
        calls: Sequence[tuple[int, ToolCall]],
        logprobs: Sequence[PositionLogprobs],
        figures: dict[str, Any] | None,
    ) -> bytes:
        """One JSON object; with `figures` it is the last."""


def chat_shape(model: str) -> Shape:
    """Answers of /api/chat, which hold a message."""

    def piece(
        text: str,
        thinking: str,
        calls: Sequence[tuple[int, ToolCall]],
        logprobs: Sequence[PositionLogprobs],
        figures: dict[str, Any] | None,
    ) -> bytes:
        message = wire.AnswerMessage(text, "assistant", thinking, [_called(call, at) for at, call in calls])
        answer = wire.ChatAnswer(
            model=model,
            created_at=now(),
            message=message,
            done=figures is not None,
            logprobs=[_logprob(position) for position in logprobs],
            **figures or {},
        )
        return _ENCODER.encode(answer)

    return piece


def generate_shape(model: str) -> Shape:
    """Answers of /api/generate, which hold a text. There are no tool calls."""

    def piece(
        text: str,
        thinking: str,
        calls: Sequence[tuple[int, ToolCall]],  # noqa: ARG001 - one shape for both
        logprobs: Sequence[PositionLogprobs],
        figures: dict[str, Any] | None,
    ) -> bytes:
        answer = wire.GenerateAnswer(
            model=model,
            created_at=now(),
            response=text,
            done=figures is not None,
            thinking=thinking,
            logprobs=[_logprob(position) for position in logprobs],
            **figures or {},
        )
        return _ENCODER.encode(answer)

    return piece


class Lines:
    """The lines of one stream. Tool calls go out whole, when they have ended."""

    def __init__(self, shape: Shape, watch: Stopwatch) -> None:
        self._shape = shape
        self._watch = watch
        self._call: ToolCall | None = None
        self._at = 0

    def of(self, delta: Delta) -> bytes:
        """The lines that this delta brings, perhaps none.

        Raises:
            InferenceFailed: the answer was cut in the middle of a tool call.
        """
        if isinstance(delta, ToolCallDelta):
            return self._call_goes_on(delta)
        lines = self._call_ended(cut=isinstance(delta, Done) and delta.reason == "length")
        if isinstance(delta, Done):
            figures = self._watch.figures(_reason(delta), delta.usage)
            return lines + self._shape("", "", (), (), figures) + b"\n"
        thinks = isinstance(delta, ReasoningDelta)
        if not delta.text and not delta.logprobs:
            return lines
        text, thinking = ("", delta.text) if thinks else (delta.text, "")
        return lines + self._shape(text, thinking, (), () if thinks else delta.logprobs, None) + b"\n"

    def _call_goes_on(self, delta: ToolCallDelta) -> bytes:
        if self._call is not None and delta.call == self._at:
            self._call = ToolCall(self._call.id, self._call.name, self._call.arguments + delta.text)
            return b""
        lines = self._call_ended(cut=False)
        self._call = ToolCall(delta.id, delta.name, delta.text)
        self._at = delta.call
        return lines

    def _call_ended(self, *, cut: bool) -> bytes:
        if self._call is None:
            return b""
        call, self._call = self._call, None
        check_call(call, cut=cut)
        return self._shape("", "", ((self._at, call),), (), None) + b"\n"


def whole(shape: Shape, answer: Answer, watch: Stopwatch) -> bytes:
    """An answer that was not streamed.

    Raises:
        InferenceFailed: it was cut in the middle of a tool call.
    """
    done = answer.done or Done("stop", Usage())
    for call in answer.tool_calls:
        check_call(call, cut=done.reason == "length")
    figures = watch.figures(_reason(done), done.usage)
    return shape(answer.text, answer.reasoning, tuple(enumerate(answer.tool_calls)), answer.logprobs, figures)


def check_call(call: ToolCall, *, cut: bool) -> None:
    """Raises `InferenceFailed` when the arguments are not an object: clients are promised one."""
    try:
        msgspec.json.decode(call.arguments or "{}", type=dict[str, Any])
    except msgspec.MsgspecError:
        why = "the answer reached its longest length: raise num_predict" if cut else "the model wrote no JSON object"
        raise InferenceFailed(f"the arguments of the call of {call.name!r} are not complete: {why}") from None


def _reason(done: Done) -> str:
    return "length" if done.reason == "length" else "stop"


def _called(call: ToolCall, index: int) -> wire.Called:
    return wire.Called(call.id, wire.CalledFunction(call.name, msgspec.Raw((call.arguments or "{}").encode()), index))


def _logprob(position: PositionLogprobs) -> wire.Logprob:
    chosen = position.chosen
    top = [wire.Logprob(other.token, other.logprob, list(other.raw)) for other in position.top]
    return wire.Logprob(chosen.token, chosen.logprob, list(chosen.raw), top)
