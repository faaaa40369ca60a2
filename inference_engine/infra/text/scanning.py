"""Takes a model's text apart, character by character: thought, text, tool calls. Knows no tokens and no deltas.

The result does not depend on how the text is cut: whatever may still become a marker is held back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from inference_engine.infra.text.answers import AnswerForm
from inference_engine.infra.text.tool_syntax import Hole, Steps, ToolSyntax

Kind = Literal["text", "reasoning", "call"]
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_BLANK = "\t\n\r "


@dataclass
class Span:
    """Something to give out. In the model's text it stands as `before`, `text`, `after`; the outer two are markup.

    `call` numbers the calls from 0; `name` is set where one begins.
    """

    kind: Kind
    text: str
    before: str = ""
    after: str = ""
    call: int = 0
    name: str = ""


class Scanner:
    """Feed it text; take `spans` and empty the list. `held` is text of which it is not known yet what it is.

    `stopped`: a stop string was met (`stop`), nothing is read any more. What does not fit the notation of a call is
    dropped up to where it breaks it, and read as text from there on; a grammar keeps that from happening.
    """

    def __init__(self, form: AnswerForm) -> None:
        self.spans: list[Span] = []
        self.held = ""
        self.stopped = False
        self.stop: str | None = None
        self.begun = 0
        self.completed = 0
        self._form = form
        self._markup = ""  # read, and not yet part of a span
        self._rest = ""
        self._syntax: ToolSyntax = form.syntax or ToolSyntax("none", (), ())
        self._openers = () if form.anchored else self._syntax.openers
        self._blank_matters = form.syntax is not None and not form.anchored
        self._drop_blank = False
        self._call: _Call | None = None
        self._between: list[_Literal] = []
        self._read = self._in_thought if form.thinking and form.thought else self._at_start
        if form.thinking:
            self._drop_blank = True

    def feed(self, text: str) -> None:
        self._rest, self.held = self.held + text, ""
        while self._rest and not self.stopped:
            if not self._read():
                self.held, self._rest = self._rest, ""

    def end(self) -> None:
        """No more text comes: what was held back is what it looks like."""
        held, self.held = self.held, ""
        if held and self._read == self._in_thought:
            self._emit("reasoning", held.rstrip(_BLANK))
        elif held:
            stop = _first(held, self._form.stop)
            self.stopped = stop is not None
            self._emit("text", held if stop is None else held[: stop[0]])

    def take_markup(self) -> str:
        """The markup read since the last span, no longer kept here."""
        markup, self._markup = self._markup, ""
        return markup

    # -- what is read now; each takes from `_rest` and returns False when it needs more -----------------------------

    def _at_start(self) -> bool:
        """Before the text: a thought may begin here, or a call that must stand at the beginning."""
        if self._drop_blank:
            self._skip(len(self._rest) - len(self._rest.lstrip(_BLANK)))
        inner = self._rest.lstrip(_BLANK)
        blank = len(self._rest) - len(inner)
        thought = None if self._form.thought is None or self._drop_blank else self._form.thought.open
        openers = self._syntax.openers if self._form.anchored else ()
        answer = self._form.thought.answer if self._form.thought else ""
        for marker in (*((thought,) if thought else ()), *openers, *((answer,) if answer else ())):
            if inner.startswith(marker):
                self._skip(blank + len(marker))
                self._drop_blank = marker != answer
                if marker == thought:
                    self._read = self._in_thought
                elif marker == answer:
                    self._read = self._in_text
                else:
                    self._begin_call(self._syntax.begin)
                return True
            if marker.startswith(inner):
                return False
        self._read = self._in_text
        return bool(self._rest)

    def _in_thought(self) -> bool:
        assert self._form.thought is not None
        if self._drop_blank:
            self._skip(len(self._rest) - len(self._rest.lstrip(_BLANK)))
            self._drop_blank = not self._rest
        close = self._form.thought.close
        end = self._rest.find(close)
        kept = _tail(self._rest, (close,), blank=True) if end < 0 else 0
        visible = (self._rest[:end] if end >= 0 else self._rest[: len(self._rest) - kept]).rstrip(_BLANK)
        self._emit("reasoning", self._cut(len(visible)))
        if end < 0:
            return not self._rest
        self._skip(end - len(visible) + len(close))
        self._drop_blank = True
        self._read = self._at_start
        return True

    def _in_text(self) -> bool:
        if self._drop_blank:
            self._skip(len(self._rest) - len(self._rest.lstrip(_BLANK)))
            self._drop_blank = not self._rest
        opener = _first(self._rest, self._openers)
        kept = _tail(self._rest, self._openers, blank=self._blank_matters) if opener is None else 0
        certain = len(self._rest) - kept if opener is None else opener[0]
        stop = _first(self._rest[:certain], self._form.stop)  # what may be a marker is no visible text yet
        if stop is not None:
            start, end = stop
            self.stop = self._rest[start:end]
            self._emit("text", self._cut(start))
            self.stopped = True
            return True
        if opener is None:
            kept = max(kept, _tail(self._rest, self._form.stop, blank=False))
            self._emit("text", self._cut(len(self._rest) - kept))
            return not self._rest
        visible = len(self._rest[: opener[0]].rstrip(_BLANK))
        self._emit("text", self._cut(visible))
        self._skip(opener[1] - visible)
        self._begin_call(self._syntax.begin)
        return True

    def _in_call(self) -> bool:
        assert self._call is not None
        call = self._call
        while self._rest and not call.done:
            step = call.step
            if step is Hole.ARGUMENTS:
                size = call.arguments.take(self._rest)
                if size:
                    self._emit("call", self._cut(size), call=self.begun - 1)
                if size == 0 or call.arguments.done:
                    call.advance(fits=size > 0)
            elif step is Hole.NAME and self._rest[0] not in _NAME_CHARACTERS:
                self.begun += bool(call.name)
                if call.name:
                    self._emit("call", "", call=self.begun - 1, name=call.name)
                call.advance(fits=bool(call.name))
            elif call.takes(self._rest[0]):
                self._skip(1)
            if call.broken:
                self._read, self._call = self._in_text, None
                return bool(self._rest)
        if call.done:
            self._end_call()
        return True

    def _end_call(self) -> None:
        self._call = None
        self.completed += 1
        self._drop_blank = True
        self._read = self._in_text
        if self._syntax.again is not None:
            self._between = [_Literal(self._syntax.again), _Literal(self._syntax.close)]
            self._read = self._between_calls

    def _between_calls(self) -> bool:
        fitting = [literal for literal in self._between if literal.takes(self._rest[0])]
        if not fitting:
            self._read = self._in_text
            return True
        self._between = fitting
        self._skip(1)
        ended = next((literal for literal in fitting if literal.done), None)
        if ended is not None and ended.steps is self._syntax.again:
            self._begin_call(())
        elif ended is not None:
            self._read = self._in_text
        return True

    # -- moving on ----------------------------------------------------------------------------------------------------

    def _begin_call(self, begin: Steps) -> None:
        self._call = _Call((*begin, *self._syntax.call))
        self._read = self._in_call

    def _cut(self, size: int) -> str:
        text, self._rest = self._rest[:size], self._rest[size:]
        return text

    def _skip(self, size: int) -> None:
        self._markup += self._cut(size)

    def _emit(self, kind: Kind, text: str, *, call: int = 0, name: str = "") -> None:
        last = self.spans[-1] if self.spans else None
        if last is not None and last.name and not last.text and kind == "call":  # the arguments join their head
            last.before += self.take_markup()
            last.text = text
        elif text or name:
            self.spans.append(Span(kind, text, self.take_markup(), "", call, name))


def _first(text: str, markers: tuple[str, ...]) -> tuple[int, int] | None:
    """Where the marker that is complete first begins and ends."""
    found = [(at + len(marker), at) for marker in markers if (at := text.find(marker)) >= 0]
    if not found:
        return None
    end, start = min(found)
    return start, end


def _tail(text: str, markers: tuple[str, ...], *, blank: bool) -> int:
    """How many characters at the end may be the beginning of a marker, and, `blank`, the white space before them."""
    longest = max(map(len, markers), default=1)
    start = next(
        (
            place
            for place in range(max(0, len(text) - longest + 1), len(text))
            if any(marker.startswith(text[place:]) for marker in markers)
        ),
        len(text),
    )
    if blank:
        start = len(text[:start].rstrip(_BLANK))
    return len(text) - start


class _Literal:
    """Follows fixed texts and white space."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self._place = 0
        self._offset = 0

    @property
    def done(self) -> bool:
        return self._place == len(self.steps)

    @property
    def step(self) -> str | Hole:
        return self.steps[self._place]

    def advance(self) -> None:
        self._place += 1
        self._offset = 0

    def takes(self, character: str) -> bool:
        """Move over `character`; False where it does not fit."""
        if self.done:
            return False
        step = self.step
        if isinstance(step, str):
            if step[self._offset] != character:
                return False
            self._offset += 1
            if self._offset == len(step):
                self.advance()
            return True
        fits = character in _BLANK if step is Hole.SPACE else character.isalnum()
        if not fits:
            self.advance()
            return self.takes(character)
        return True


class _Call:
    """One call while it is read."""

    def __init__(self, steps: Steps) -> None:
        self._literal = _Literal(steps)
        self.name = ""
        self.arguments = _Object()
        self.broken = False

    @property
    def done(self) -> bool:
        return self._literal.done

    @property
    def step(self) -> str | Hole:
        return self._literal.step

    def advance(self, *, fits: bool) -> None:
        self.broken = not fits
        self._literal.advance()

    def takes(self, character: str) -> bool:
        """Move over a character of the name or of the markup. False where the step was only left, or is broken."""
        step = self._literal.step
        if step is Hole.NAME:
            self.name += character
            return True
        if isinstance(step, Hole) and not (character in _BLANK if step is Hole.SPACE else character.isalnum()):
            self._literal.advance()
            return False
        self.broken = not self._literal.takes(character)
        return not self.broken


class _Object:
    """Finds the end of a JSON object."""

    def __init__(self) -> None:
        self._depth = 0
        self._quoted = False
        self._escaped = False
        self.done = False

    def take(self, text: str) -> int:
        """How many characters of `text` belong to the object; 0 where it does not begin with one."""
        if not self._depth and not text.startswith("{"):
            return 0
        for place, character in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped = character == "\\"
                self._quoted = character != '"'
            elif character == '"':
                self._quoted = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if not self._depth:
                    self.done = True
                    return place + 1
        return len(text)
