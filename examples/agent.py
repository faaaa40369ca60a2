"""An agent over the official OpenAI client: the model decides which tools to call until it can answer.

    pip install openai
    python examples/agent.py --url http://127.0.0.1:8000/v1 --model NAME "What is 12 * 7 and what time is it in Rome?"

Any model that was trained to call tools will do. The arguments always parse and fit the tool's schema: the server lets
the model write nothing else.
"""

from __future__ import annotations

import argparse
import ast
import json
import operator
from collections.abc import Callable
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import openai

_OPERATIONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def calculate(expression: str) -> str:
    """The value of a sum, difference, product or quotient of numbers."""

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return node.value
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
            return _OPERATIONS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        raise ValueError(f"{expression!r} is more than numbers, + - * / and parentheses")

    return str(value(ast.parse(expression, mode="eval").body))


def get_time(city: str) -> str:
    """The local time in a city that a time zone is named after."""
    zone = next((name for name in sorted(available_timezones()) if name.endswith(f"/{city.replace(' ', '_')}")), None)
    if zone is None:
        raise ValueError(f"no time zone is named after {city!r}")
    return datetime.now(ZoneInfo(zone)).strftime("%H:%M")


def _tool(function: Callable[[str], str], description: str, argument: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return {
        "type": "function",
        "function": {"name": function.__name__, "description": description, "parameters": schema},
    }


FUNCTIONS = {function.__name__: function for function in (calculate, get_time)}
TOOLS = [
    _tool(calculate, "Calculate an expression.", "expression"),
    _tool(get_time, "Get the local time of a city.", "city"),
]


def run(client: openai.OpenAI, model: str, question: str, rounds: int = 8) -> str:
    """Ask, call what the model wants called, and ask again, until it answers in words.

    Raises:
        RuntimeError: it still calls tools after so many rounds.
    """
    messages: list[Any] = [{"role": "user", "content": question}]
    for _ in range(rounds):
        answer = client.chat.completions.create(model=model, messages=messages, tools=TOOLS, temperature=0)
        message = answer.choices[0].message
        if not message.tool_calls:
            return message.content or ""
        messages.append(message.model_dump(exclude_none=True, include={"role", "content", "tool_calls"}))
        for call in message.tool_calls:
            result = _called(call.function.name, call.function.arguments)
            print(f"{call.function.name}({call.function.arguments}) -> {result}")
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    raise RuntimeError(f"no answer after {rounds} rounds of tool calls")


def _called(name: str, arguments: str) -> str:
    """What the tool gives back; a mistake is told to the model, which may try again."""
    try:
        return FUNCTIONS[name](**json.loads(arguments))
    except (ValueError, SyntaxError, ZeroDivisionError) as error:
        return f"error: {error}"


def main() -> None:
    """Answer the question of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="the server's OpenAI API")
    parser.add_argument("--model", required=True, help="a model that calls tools")
    parser.add_argument("--key", default="none", help="an API key, where the server asks for one")
    arguments = parser.parse_args()
    client = openai.OpenAI(base_url=arguments.url, api_key=arguments.key)
    print(run(client, arguments.model, arguments.question))


if __name__ == "__main__":
    main()
