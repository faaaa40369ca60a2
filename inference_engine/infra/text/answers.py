"""The form of one answer: which texts a model may write in reply to a request, and what a reader needs to know of them.

For runtimes: `detect_style` (tool_syntax) once per model; for each chat `template_input` (prompting), render, then
`answer_form`. `form.language` binds the answer (None: it is free), `AnswerReader(form)` (reading) turns it into deltas.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.requests import Chat, Complete, Tool
from inference_engine.infra.text.avoiding import text_unless, text_until
from inference_engine.infra.text.constraints import compile_constraint
from inference_engine.infra.text.grammar import (
    EMPTY,
    Choice,
    Language,
    Node,
    Repeat,
    Rule,
    Sequence,
    Text,
    chars,
)
from inference_engine.infra.text.json_schema import compile_schema
from inference_engine.infra.text.tool_syntax import ChatStyle, Hole, Steps, Thought, ToolSyntax

MAX_CALLS = 32
_TOKEN = re.compile(r"<\|[a-z_]+\|>")  # one control token within a longer mark
_SPACE = Repeat(chars("\n\n  "), 0, 1)  # inside a call
_GAP = Repeat(chars("\n\n  "), 0, 2)  # before a call, after a thought
_TIGHT = Choice((EMPTY, Text(" ")))
_ID = Repeat(chars("azAZ09"), 1, 32)


@dataclass(frozen=True)
class AnswerForm:
    """How an answer is bound and read. `thinking`: the prompt has already opened the thought.

    `syntax` is None where no tool may be called. `bound`: the answer's text fits a constraint, so that a call can only
    stand in its place.
    """

    language: Language | None = None
    thought: Thought | None = None
    thinking: bool = False
    syntax: ToolSyntax | None = None
    bound: bool = False
    stop: tuple[str, ...] = ()

    @property
    def markers(self) -> tuple[str, ...]:
        """The texts that must reach the reader even where they are control tokens."""
        syntax = self.syntax.markers if self.syntax else ()
        thought = (self.thought.open, self.thought.close, self.thought.answer) if self.thought else ()
        found = [marker for marker in (*syntax, *thought) if marker]
        return tuple(dict.fromkeys([*found, *(token for marker in found for token in _TOKEN.findall(marker))]))

    @property
    def anchored(self) -> bool:
        """Whether a call counts only where the answer begins."""
        return self.bound or (self.syntax is not None and self.syntax.anchored)


def active_tools(request: Chat | Complete) -> tuple[Tool, ...]:
    """The tools that the answer may call."""
    if isinstance(request, Complete) or request.tool_choice.mode == "none":
        return ()
    return request.tools


def answer_form(request: Chat | Complete, style: ChatStyle, *, thinking: bool = False) -> AnswerForm:
    """The form of the answer to `request`; `thinking` as `template_input` and the rendered prompt tell.

    Raises:
        InvalidRequest: the constraint or a tool's schema cannot be compiled, is contradictory or not supported.
    """
    constraint = None if request.constraint is None else compile_constraint(request.constraint)
    if isinstance(request, Complete):
        return AnswerForm(constraint, stop=request.sampling.stop)
    tools = active_tools(request)
    return AnswerForm(
        _language(request, style, tools, constraint, thinking) if tools or constraint else None,
        style.thought,
        thinking,
        style.syntax if tools else None,
        constraint is not None,
        request.sampling.stop,
    )


def _language(
    request: Chat, style: ChatStyle, tools: tuple[Tool, ...], constraint: Language | None, thinking: bool
) -> Language:
    rules: dict[str, Node] = {} if constraint is None else dict(constraint.rules)
    body: Node
    if tools:
        calls = _Calls(request, style.syntax, tools, rules)
        if request.tool_choice.mode == "required":
            body = calls.alone()
        elif constraint is not None:
            body = Choice((calls.alone(), _answer(constraint.root, style.thought)))
        else:
            body = calls.after_text(style.thought)
    else:
        assert constraint is not None
        body = _answer(constraint.root, style.thought)
    return Language(_after_thought(body, request, style.thought, thinking, rules), rules)


def _after_thought(body: Node, request: Chat, thought: Thought | None, thinking: bool, rules: dict[str, Node]) -> Node:
    if thought is None or (request.reasoning == "none" and not thinking):
        return body
    rules["answer"] = body
    rules |= text_until("thought", {thought.close: Sequence((_GAP, Rule("answer")))}, may_end=False)
    if thinking:
        return Rule("thought0")
    return Choice((Sequence((_GAP, Text(thought.open), Rule("thought0"))), Rule("answer")))


def _answer(body: Node, thought: Thought | None) -> Node:
    """A text that is no call, with the mark that stands before it in some families."""
    return Sequence((Text(thought.answer), body)) if thought is not None and thought.answer else body


class _Calls:
    """The grammar of calls in one syntax; puts its rules into `rules`."""

    def __init__(self, request: Chat, syntax: ToolSyntax, tools: tuple[Tool, ...], rules: dict[str, Node]) -> None:
        choice = request.tool_choice
        self._syntax = syntax
        self._rules = rules
        self._several = syntax.several and choice.parallel
        self._tools = [
            (tool, self._arguments(place, tool))
            for place, tool in enumerate(tools)
            if choice.name is None or tool.name == choice.name
        ]
        rules["space"] = _TIGHT  # of all JSON in this answer: models write calls in one line
        rules["call"] = self._call()
        rules["calls"] = self._calls()

    def alone(self) -> Node:
        """Calls, and nothing but calls."""
        return Sequence((_GAP, self._opener(), Rule("calls")))

    def after_text(self, thought: Thought | None) -> Node:
        """Free text that may lead to calls."""
        markers: dict[str, Node | None] = dict.fromkeys(self._syntax.openers, Rule("calls"))
        if thought is not None:
            markers[thought.open] = None  # a thought has its own place, before the text
        if thought is not None and thought.answer:
            self._rules |= text_until("text", {thought.open: None}, may_end=True)
            return Choice((self.alone(), _answer(Rule("text0"), thought)))
        if self._syntax.anchored:
            self._rules |= text_unless("text", markers)
        else:
            self._rules |= text_until("text", markers, may_end=True)
        return Rule("text0")

    def _opener(self) -> Node:
        openers = self._syntax.openers
        return Text(openers[0]) if len(openers) == 1 else Choice(tuple(map(Text, openers)))

    def _calls(self) -> Node:
        """What follows the first opener."""
        syntax = self._syntax
        if syntax.again is None:
            next_: Node = Sequence((_GAP, self._opener(), *_nodes(syntax.begin), Rule("call")))
        else:
            next_ = Sequence((*_nodes(syntax.again), Rule("call")))
        more = (Repeat(next_, 0, MAX_CALLS - 1),) if self._several else ()
        return Sequence((*_nodes(syntax.begin), Rule("call"), *more, *_nodes(syntax.close)))

    def _call(self) -> Node:
        steps = self._syntax.call
        name = steps.index(Hole.NAME)
        tools: list[Node] = [
            Sequence((Text(tool.name), *_nodes(steps[name + 1 :], arguments))) for tool, arguments in self._tools
        ]
        return Sequence((*_nodes(steps[:name]), tools[0] if len(tools) == 1 else Choice(tuple(tools))))

    def _arguments(self, place: int, tool: Tool) -> Node:
        try:
            language = compile_schema(_object_schema(tool), f"tool{place}-")
        except InvalidRequest as error:
            raise InvalidRequest(f"the parameters of the tool {tool.name!r}: {error.message}", param="tools") from None
        self._rules |= language.rules
        return language.root


def _object_schema(tool: Tool) -> dict[str, object]:
    """The schema of the arguments; a tool without parameters takes an empty object."""
    schema = tool.parameters
    if not schema or (schema.get("properties") == {} and "additionalProperties" not in schema):
        return {**schema, "type": "object", "properties": {}, "additionalProperties": False}
    if schema.get("type", "object") != "object":
        raise InvalidRequest("their type must be 'object', as arguments are always one", param="tools")
    return {"type": "object", **schema} if not any(key in schema for key in ("$ref", "anyOf", "oneOf")) else schema


def _nodes(steps: Steps, arguments: Node | None = None) -> Iterable[Node]:
    for step in steps:
        if isinstance(step, str):
            yield Text(step)
        elif step is Hole.SPACE:
            yield _SPACE
        elif step is Hole.ID:
            yield _ID
        elif arguments is not None:
            yield arguments
