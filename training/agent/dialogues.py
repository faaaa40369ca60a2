"""Draws conversations in which questions are answered with tools: what the agent model learns from."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

CITIES = (
    "Rome", "Oslo", "Paris", "Berlin", "Madrid", "Lisbon", "London", "Dublin", "Vienna", "Prague", "Warsaw",
    "Athens", "Cairo", "Lima", "Quito", "Bogota", "Havana", "Tokyo", "Seoul", "Delhi", "Mumbai", "Dhaka", "Hanoi",
    "Manila", "Jakarta", "Sydney", "Perth", "Auckland", "Nairobi", "Accra", "Lagos", "Tunis",
)  # fmt: skip
SKIES = ("sunny", "cloudy", "rainy", "windy", "foggy", "snowy", "stormy", "clear", "hot", "cold", "mild", "dry")
TOPICS = (
    "green tea", "black holes", "old bridges", "steam engines", "blue whales", "red wine", "desert foxes",
    "jazz music", "paper boats", "stone walls", "sea salt", "wild horses",
)  # fmt: skip
FACTS = (
    "are very old",
    "are hard to find",
    "come from the east",
    "need much care",
    "are loved by many",
    "last for years",
)
SMALL_TALK = {
    "hello": "Hello! What can I do for you?",
    "hi there": "Hello! What can I do for you?",
    "good morning": "Good morning! What can I do for you?",
    "thank you": "You are welcome.",
    "thanks a lot": "You are welcome.",
    "who are you?": "I am a small model that calls tools.",
    "what can you do?": "I am a small model that calls tools.",
    "bye": "Goodbye!",
    "see you": "Goodbye!",
}


def _tool(name: str, descriptions: tuple[str, ...], argument: str) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    schema = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return name, descriptions, schema


_TOOLS = {
    "weather": _tool("get_weather", ("The weather in a city.", "Get the current weather of a city."), "city"),
    "sum": _tool("calculate", ("Calculate an expression.", "The value of an expression."), "expression"),
    "search": _tool("search", ("Search the web.", "Find pages about something."), "query"),
    "time": _tool("get_time", ("The time in a city.", "Get the local time of a city."), "city"),
}
_QUESTIONS = {
    "weather": (
        "what is the weather in {}",
        "how is the weather in {}",
        "tell me the weather in {}",
        "is it nice in {}",
    ),
    "sum": ("what is {}", "calculate {}", "how much is {}", "compute {}"),
    "search": ("search for {}", "find something about {}", "look up {}", "what do you find about {}"),
    "time": ("what time is it in {}", "what is the time in {}", "tell me the time in {}", "how late is it in {}"),
}
_THOUGHTS = {
    "weather": "the weather in {}",
    "sum": "the value of {}",
    "search": "pages about {}",
    "time": "the time in {}",
}
_ANSWERS = {
    "weather": "The weather in {}: {}.",
    "sum": "{} = {}.",
    "search": "About {} I found this: {}.",
    "time": "The time in {}: {}.",
}


@dataclass(frozen=True)
class Turn:
    """What the model sees and what it is to write; `thinks` is whether the template asks for a thought."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    thought: str
    answer: str
    thinks: bool


@dataclass(frozen=True)
class _Need:
    kind: str
    subject: str
    result: str

    @property
    def call(self) -> dict[str, Any]:
        name, _, schema = _TOOLS[self.kind]
        return {"name": name, "arguments": {schema["required"][0]: self.subject}}


class Drawer:
    """Draws turns; the same seed draws the same ones."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def turn(self) -> Turn:
        """A question to be answered by calls, the answer after their results, small talk, or a tool that is missing."""
        rng = self._rng
        kinds = rng.sample(list(_TOOLS), rng.randint(1, 3))
        tools = [self._described(kind) for kind in kinds]
        thinks = rng.random() < 0.85
        draw = rng.random()
        if draw < 0.08:
            question, answer = rng.choice(list(SMALL_TALK.items()))
            return Turn([_user(self._typed(question))], tools, "I need no tool.", answer, thinks)
        if draw < 0.15:
            need = self._need(rng.choice([kind for kind in _TOOLS if kind not in kinds]))
            return Turn([_user(self._asked([need]))], tools, "No tool fits.", "I have no tool for that.", thinks)
        needs = [self._need(rng.choice(kinds)) for _ in range(rng.choices([1, 2], [70, 30])[0])]
        asked = [_user(self._asked(needs))]
        if draw < 0.6:
            wanted = " and ".join(_THOUGHTS[need.kind].format(need.subject) for need in needs)
            calls = "\n".join(written_call(need.call) for need in needs)
            return Turn(asked, tools, f"I need {wanted}.", calls, thinks)
        answer = " ".join(_ANSWERS[need.kind].format(need.subject, need.result) for need in needs)
        return Turn([*asked, *_answered(needs)], tools, "I have the results.", answer, thinks)

    def _described(self, kind: str) -> dict[str, Any]:
        name, descriptions, schema = _TOOLS[kind]
        description = self._rng.choice(descriptions)
        return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}

    def _need(self, kind: str) -> _Need:
        rng = self._rng
        if kind == "weather":
            return _Need(kind, rng.choice(CITIES), f"{rng.choice(SKIES)}, {rng.randint(-9, 39)} degrees")
        if kind == "time":
            return _Need(kind, rng.choice(CITIES), f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}")
        if kind == "search":
            topic = rng.choice(TOPICS)
            return _Need(kind, topic, f"{topic} {rng.choice(FACTS)}")
        first, second = rng.randint(1, 99), rng.randint(1, 99)
        sign = rng.choice("+-*")
        value = {"+": first + second, "-": first - second, "*": first * second}[sign]
        return _Need(kind, f"{first} {sign} {second}", str(value))

    def _asked(self, needs: list[_Need]) -> str:
        questions = [self._rng.choice(_QUESTIONS[need.kind]).format(need.subject) for need in needs]
        return self._typed(self._rng.choice([" and ", ", and "]).join(questions)) + self._rng.choice(["?", "", "."])

    def _typed(self, text: str) -> str:
        return text[:1].upper() + text[1:] if self._rng.random() < 0.6 else text


def written_call(call: dict[str, Any]) -> str:
    """A call as the model writes it."""
    return f"<tool_call>\n{json.dumps(call)}\n</tool_call>"


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _answered(needs: list[_Need]) -> list[dict[str, Any]]:
    calls = [{"id": str(place), "type": "function", "function": need.call} for place, need in enumerate(needs)]
    results = [{"role": "tool", "content": need.result, "tool_call_id": str(place)} for place, need in enumerate(needs)]
    return [{"role": "assistant", "content": "", "tool_calls": calls}, *results]
