"""What a chat template is given: messages, tools and switches, and our own description of tools where it knows none.

Renders nothing itself: `template_input` says what goes in, `finished_prompt` what is made of the rendered prompt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.requests import Chat, Effort, Message, Tool, ToolCall
from inference_engine.infra.text.answers import active_tools
from inference_engine.infra.text.tool_syntax import MISTRAL, MISTRAL_ARGS, MISTRAL_CALL_ID, ChatStyle

_SHORT_IDS = (MISTRAL, MISTRAL_ARGS, MISTRAL_CALL_ID)  # their templates take nine letters and digits only
_DESCRIPTION = """\
You can call tools. Each line between the marks describes one, with the JSON schema of its arguments:
<tools>
{tools}
</tools>
To call a tool, answer with a JSON object between marks, for each call like this, and nothing after it:
<tool_call>
{{"name": "the tool's name", "arguments": {{"argument": "value"}}}}
</tool_call>
What a tool gives back comes to you between <tool_response> and </tool_response>."""


@dataclass(frozen=True)
class TemplateInput:
    """The variables of a chat template: `messages`, `tools` (None: there are none), and switches by name."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    switches: dict[str, Any]


def _text(message: Message) -> Any:
    return message.text


def template_input(
    request: Chat,
    style: ChatStyle,
    *,
    arguments: Callable[[str], Any] = json.loads,
    content: Callable[[Message], Any] = _text,
) -> TemplateInput:
    """What the template of a model of this `style` is given for `request`.

    `arguments` makes of a past call's JSON text what the template takes (most take the object); `content` makes the
    content of a message.

    Raises:
        InvalidRequest: a past call's arguments are not a JSON object, or the model cannot think as it is told to.
    """
    switches = _switches(request.reasoning, style)
    tools = active_tools(request)
    if style.renders_tools or not (tools or any(_uses_tools(message) for message in request.messages)):
        messages = [_message(message, style, arguments, content) for message in request.messages]
        return TemplateInput(messages, [_tool(tool) for tool in tools] or None, switches)
    return TemplateInput(_described(request.messages, tools, content), None, switches)


def finished_prompt(prompt: str, request: Chat, style: ChatStyle) -> tuple[str, bool]:
    """The rendered prompt as the model gets it, and whether it has opened the model's thought.

    A thought that the template opens although none is wanted is closed again.
    """
    thought = style.thought
    if thought is None or not prompt.rstrip().endswith(thought.open):
        return prompt, False
    if request.reasoning == "none":
        return f"{prompt.rstrip()}\n\n{thought.close}\n\n", False
    return prompt, True


def _switches(effort: Effort | None, style: ChatStyle) -> dict[str, Any]:
    if effort is None:
        return {}
    if effort != "none" and style.thought is None and not style.switches:
        raise InvalidRequest("this model does not think before it answers: leave the effort out", param="reasoning")
    switches: dict[str, Any] = dict.fromkeys(("enable_thinking", "thinking"), effort != "none")
    switches["reasoning_effort"] = "low" if effort in ("none", "minimal") else effort
    return {name: value for name, value in switches.items() if name in style.switches}


def _uses_tools(message: Message) -> bool:
    return message.role == "tool" or bool(message.tool_calls)


def _tool(tool: Tool) -> dict[str, Any]:
    parameters = tool.parameters or {"type": "object", "properties": {}}
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }


def _message(
    message: Message, style: ChatStyle, arguments: Callable[[str], Any], content: Callable[[Message], Any]
) -> dict[str, Any]:
    body: dict[str, Any] = {"role": message.role, "content": content(message)}
    if message.name:
        body["name"] = message.name
    if message.reasoning:
        body["reasoning_content"] = message.reasoning
    if message.tool_calls:
        body["tool_calls"] = [
            {
                "id": _call_id(call.id, style),
                "type": "function",
                "function": {"name": call.name, "arguments": arguments(_checked(call))},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        body["tool_call_id"] = _call_id(message.tool_call_id, style)
    return body


def _checked(call: ToolCall) -> str:
    """The arguments of a past call; "" stands for none.

    Raises:
        InvalidRequest: they are not a JSON object.
    """
    text = call.arguments.strip() or "{}"
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InvalidRequest(
            f"the arguments of the past call of {call.name!r} are not the text of a JSON object", param="messages"
        )
    return text


def _call_id(id_: str, style: ChatStyle) -> str:
    if style.syntax not in _SHORT_IDS or (len(id_) == 9 and id_.isalnum()):
        return id_
    return hashlib.blake2b(id_.encode(), digest_size=5).hexdigest()[:9]


def _described(
    messages: tuple[Message, ...], tools: tuple[Tool, ...], content: Callable[[Message], Any]
) -> list[dict[str, Any]]:
    """The messages for a template that knows no tools: they are described, called and answered in plain text."""
    bodies: list[dict[str, Any]] = []
    before = ""
    for message in messages:
        if message.role == "tool":
            answer = f"<tool_response>\n{message.text}\n</tool_response>"
            if before == "tool":  # many templates demand that user and assistant take turns
                answer = f"{bodies.pop()['content']}\n{answer}"
            bodies.append({"role": "user", "content": answer})
        elif message.tool_calls:
            calls = "\n".join(map(_written, message.tool_calls))
            bodies.append({"role": "assistant", "content": f"{message.text}\n{calls}".lstrip("\n")})
        else:
            bodies.append({"role": message.role, "content": content(message)})
        before = message.role
    return _with_description(bodies, tools) if tools else bodies


def _with_description(bodies: list[dict[str, Any]], tools: tuple[Tool, ...]) -> list[dict[str, Any]]:
    lines = [json.dumps(_tool(tool)["function"], ensure_ascii=False) for tool in tools]
    description = _DESCRIPTION.format(tools="\n".join(lines))
    first = bodies[0]
    if first["role"] == "system" and isinstance(first["content"], str):
        return [{"role": "system", "content": f"{first['content']}\n\n{description}".lstrip("\n")}, *bodies[1:]]
    return [{"role": "system", "content": description}, *bodies]


def _written(call: ToolCall) -> str:
    body = json.dumps({"name": call.name, "arguments": json.loads(_checked(call))}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"
