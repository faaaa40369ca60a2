"""Answers as models of each family write them, and a reading of them in any pieces."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from inference_engine.domain.requests import Chat, Message, Tool, ToolChoice
from inference_engine.domain.results import Delivered, ReasoningDelta, TextDelta, ToolCallDelta, Written
from inference_engine.infra.text.answers import AnswerForm, answer_form
from inference_engine.infra.text.reading import AnswerReader
from inference_engine.infra.text.tool_syntax import (
    DEEPSEEK,
    DEEPSEEK_R1,
    GPT_OSS,
    HERMES,
    LLAMA,
    MISTRAL,
    MISTRAL_ARGS,
    MISTRAL_CALL_ID,
    ChatStyle,
    Hole,
    Steps,
    Thought,
    ToolSyntax,
)

SYNTAXES = (GPT_OSS, HERMES, LLAMA, MISTRAL, MISTRAL_ARGS, MISTRAL_CALL_ID, DEEPSEEK, DEEPSEEK_R1)
THINK = Thought("<think>", "</think>")
WEATHER = Tool(
    "get_weather",
    "The weather somewhere.",
    {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
        "required": ["city"],
    },
)
ADD = Tool(
    "add",
    "Adds numbers.",
    {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}, "required": ["a", "b"]},
)
NOW = Tool("now", "The time.")
TOOLS = (WEATHER, ADD, NOW)
CALLS = (
    ("get_weather", '{"city": "São Paulo, {\\"x\\": \\\\} </tool_call>", "unit": "C"}'),
    ("get_weather", '{"city": ""}'),
    ("add", '{"a": 1, "b": -2.5}'),
    ("now", "{}"),
)


def style_of(syntax: ToolSyntax, thought: Thought | None = None) -> ChatStyle:
    return ChatStyle(syntax, True, thought, frozenset())


def form_of(style: ChatStyle, *, thinking: bool = False, stop: tuple[str, ...] = (), **options: Any) -> AnswerForm:
    request = Chat((Message("user", "x"),), tools=TOOLS, tool_choice=ToolChoice(**options))
    form = answer_form(request, style, thinking=thinking)
    return AnswerForm(form.language, form.thought, form.thinking, form.syntax, form.bound, stop)


def written(syntax: ToolSyntax, calls: Iterable[tuple[str, str]]) -> str:
    """Calls in the notation of a family."""
    text = ""
    for place, (name, arguments) in enumerate(calls):
        if place and syntax.again is not None:
            text += _filled(syntax.again)
        else:
            text += ("\n" if place else "") + syntax.openers[0] + _filled(syntax.begin)
        text += _filled(syntax.call, name, arguments)
    return text + _filled(syntax.close)


def _filled(steps: Steps, name: str = "", arguments: str = "") -> str:
    fill = {Hole.NAME: name, Hole.ARGUMENTS: arguments, Hole.SPACE: " ", Hole.ID: "a1B2c3D4e"}
    return "".join([step if isinstance(step, str) else fill[step] for step in steps])


@dataclass
class Reading:
    """What came out of one reading."""

    deltas: list[list[Written]]
    reader: AnswerReader

    @property
    def flat(self) -> list[Written]:
        return list(itertools.chain(*self.deltas))

    @property
    def text(self) -> str:
        return "".join([delta.text for delta in self.flat if isinstance(delta, TextDelta)])

    @property
    def reasoning(self) -> str:
        return "".join([delta.text for delta in self.flat if isinstance(delta, ReasoningDelta)])

    @property
    def calls(self) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        for delta in self.flat:
            if isinstance(delta, ToolCallDelta):
                if delta.call == len(found):
                    assert delta.id
                    found.append((delta.name, ""))
                else:
                    assert not delta.id
                    assert not delta.name
                found[delta.call] = (found[delta.call][0], found[delta.call][1] + delta.text)
        return found

    @property
    def result(self) -> tuple[str, str, list[tuple[str, str]]]:
        return self.reasoning, self.text, self.calls

    @property
    def raw(self) -> str:
        return "".join([delta.raw or delta.text for delta in self.flat])


def read(form: AnswerForm, pieces: Iterable[str], *, given: str = "", end: bool = True) -> Reading:
    """Read pieces; each has one token id, counted from where it begins."""
    reader = AnswerReader(form, lambda: "id")
    reader.skip(given)
    deltas: list[list[Written]] = []
    at = len(given)
    for piece in pieces:
        deltas.append(reader.feed(piece, (at,)))
        at += len(piece)
        if reader.stopped:
            break
    if end:
        deltas.append(reader.finish())
    return Reading(deltas, reader)


def delivered(deltas: Iterable[Written]) -> Delivered:
    """What an executor notes of these deltas."""
    kept = list(deltas)
    raws = [delta.raw or delta.text for delta in kept]
    return Delivered("".join(raws), tuple(delta.tokens or raw for delta, raw in zip(kept, raws, strict=True)))


def cut(text: str, places: Iterable[int]) -> list[str]:
    """`text` in pieces, cut at these places."""
    marks = [0, *sorted({place for place in places if 0 < place < len(text)}), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(marks)]


def fits(arguments: str) -> bool:
    return isinstance(json.loads(arguments), dict)
