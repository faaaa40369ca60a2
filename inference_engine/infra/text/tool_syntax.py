"""How families of models write tool calls and thoughts, as data: the grammar (`answers`) and the reader (`reading`) of
an answer are both made from it, so that what is forced is what is read.

A family is recognised by its chat template. Templates that know no tools, or a notation that is not known here, get
`HERMES`, and the tools are described to them in a system message (`prompting`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class Hole(Enum):
    """What stands between the fixed texts of a call."""

    SPACE = "white space, or none"
    NAME = "the tool's name"
    ARGUMENTS = "a JSON object"
    ID = "letters and digits that the model makes up"


Steps = tuple[str | Hole, ...]
SPACE, NAME, ARGUMENTS = Hole.SPACE, Hole.NAME, Hole.ARGUMENTS


@dataclass(frozen=True)
class ToolSyntax:
    """One family's notation: opener, `begin`, `call`, then (`again`, `call`) as often as wanted, then `close`.

    Without `again` every further call has its own opener. `anchored`: an opener counts only where the answer begins.
    `several`: whether one answer may hold more than one call. `again` and `close` end with a fixed text.
    """

    name: str
    openers: tuple[str, ...]
    call: Steps
    begin: Steps = ()
    again: Steps | None = None
    close: Steps = ()
    anchored: bool = False
    several: bool = True

    @property
    def markers(self) -> tuple[str, ...]:
        """The fixed texts; where one is a single control token, the runtime must keep its text in the answer."""
        steps = (*self.openers, *self.begin, *self.call, *(self.again or ()), *self.close)
        return tuple(dict.fromkeys(step for step in steps if isinstance(step, str) and len(step) > 1))


def _json_call(arguments: str) -> Steps:
    return (
        "{", SPACE, '"name"', SPACE, ":", SPACE, '"', NAME, '"', SPACE, ",", SPACE,
        f'"{arguments}"', SPACE, ":", SPACE, ARGUMENTS, SPACE, "}",
    )  # fmt: skip


HERMES = ToolSyntax(
    "hermes", ("<tool_call>",), (SPACE, *_json_call("arguments"), SPACE, "</tool_call>")
)  # Hermes 2 and 3, Qwen 2.5 and 3
LLAMA = ToolSyntax(
    "llama",
    ('{"name":', '<|python_tag|>{"name":'),
    (SPACE, *_json_call("parameters")[6:]),
    anchored=True,
    several=False,  # its template says so, and refuses several in the history
)
MISTRAL = ToolSyntax(
    "mistral",
    ("[TOOL_CALLS]",),
    (SPACE, *_json_call("arguments")),
    begin=(SPACE, "["),
    again=(SPACE, ","),
    close=(SPACE, "]"),
)
MISTRAL_ARGS = ToolSyntax("mistral-args", ("[TOOL_CALLS]",), (NAME, "[ARGS]", SPACE, ARGUMENTS))
MISTRAL_CALL_ID = ToolSyntax(
    "mistral-call-id", ("[TOOL_CALLS]",), (NAME, "[CALL_ID]", Hole.ID, "[ARGS]", SPACE, ARGUMENTS)
)
_DEEPSEEK_BEGIN = "<｜tool▁call▁begin｜>"  # noqa: RUF001  their own characters
_DEEPSEEK_SEPARATOR = "<｜tool▁sep｜>"  # noqa: RUF001
_DEEPSEEK_END = "<｜tool▁call▁end｜>"  # noqa: RUF001
_DEEPSEEK_OPEN = "<｜tool▁calls▁begin｜>"  # noqa: RUF001
_DEEPSEEK_CLOSE = "<｜tool▁calls▁end｜>"  # noqa: RUF001
DEEPSEEK = ToolSyntax(
    "deepseek",
    (_DEEPSEEK_OPEN,),
    (NAME, _DEEPSEEK_SEPARATOR, ARGUMENTS, _DEEPSEEK_END),
    begin=(SPACE, _DEEPSEEK_BEGIN),
    again=(SPACE, _DEEPSEEK_BEGIN),
    close=(SPACE, _DEEPSEEK_CLOSE),
)  # V3.1 and later
DEEPSEEK_R1 = ToolSyntax(
    "deepseek-r1",
    (_DEEPSEEK_OPEN,),
    ("function", _DEEPSEEK_SEPARATOR, NAME, "\n```json\n", ARGUMENTS, "\n```", _DEEPSEEK_END),
    begin=(SPACE, _DEEPSEEK_BEGIN),
    again=(SPACE, _DEEPSEEK_BEGIN),
    close=(SPACE, _DEEPSEEK_CLOSE),
)  # R1 and V3


GPT_OSS = ToolSyntax(
    "gpt-oss",
    ("<|channel|>commentary to=functions.",),
    (NAME, SPACE, "<|constrain|>json<|message|>", ARGUMENTS),
    anchored=True,
    several=False,  # the model ends after each call
)


@dataclass(frozen=True)
class Thought:
    """The marks around what a model thinks before it answers. `answer` stands before a text that is no call."""

    open: str
    close: str
    answer: str = ""


_CHANNELS = Thought(
    "<|channel|>analysis<|message|>", "<|end|><|start|>assistant", "<|channel|>final<|message|>"
)  # gpt-oss
_THOUGHTS = (Thought("<think>", "</think>"), Thought("[THINK]", "[/THINK]"))
_SWITCHES = ("enable_thinking", "thinking", "reasoning_effort")
_NAMES_TOOLS = re.compile(r"\{[{%][^{}]*\btools\b")


@dataclass(frozen=True)
class ChatStyle:
    """What a model's chat template tells of it: made once per model by `detect_style`.

    `renders_tools`: the template describes tools itself, in the notation of `syntax`. `switches` are the template's
    variables that steer thinking.
    """

    syntax: ToolSyntax = HERMES
    renders_tools: bool = False
    thought: Thought | None = None
    switches: frozenset[str] = frozenset()


def detect_style(template: str | None) -> ChatStyle:
    """The style of the models that have this chat template (Jinja text); None where there is no template."""
    if template is None:
        return ChatStyle()
    syntax = _syntax(template) if _NAMES_TOOLS.search(template) else None
    return ChatStyle(
        syntax or HERMES,
        syntax is not None,
        _thought(template),
        frozenset(name for name in _SWITCHES if re.search(rf"\b{name}\b", template)),
    )


def _thought(template: str) -> Thought | None:
    if _has_channels(template):
        return _CHANNELS
    return next((thought for thought in _THOUGHTS if thought.open in template or thought.close in template), None)


def _has_channels(template: str) -> bool:
    return "<|channel|>" in template and "<|constrain|>" in template


def _mistral(template: str) -> ToolSyntax:
    if "[CALL_ID]" in template:
        return MISTRAL_CALL_ID
    return MISTRAL_ARGS if "[ARGS]" in template else MISTRAL


def _syntax(template: str) -> ToolSyntax | None:
    if _has_channels(template):
        return GPT_OSS
    if _DEEPSEEK_OPEN in template:
        return DEEPSEEK_R1 if "```json" in template else DEEPSEEK
    if "[TOOL_CALLS]" in template:
        return _mistral(template)
    if "<tool_call>" in template and "<function=" not in template and "<arg_key>" not in template:
        return HERMES
    if "<|python_tag|>" in template or ("<|start_header_id|>" in template and '"parameters"' in template):
        return LLAMA
    return None
