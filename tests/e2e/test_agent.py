"""The example agent, run as a user runs it: the official client, a live server, and a model that really calls tools."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.conftest import ROOT, LiveServer
from tests.fixtures.agent import AGENT

QUESTION = "What is the weather in Rome and what time is it in Oslo?"


def _tool(name: str, description: str, argument: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


TOOLS = [
    _tool("get_weather", "Get the current weather of a city.", "city"),
    _tool("get_time", "Get the local time of a city.", "city"),
]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("agent")
    (folder / "models" / "agent" / "1").mkdir(parents=True)
    shutil.copy(AGENT, folder / "models" / "agent" / "1")
    server = LiveServer(folder, "--models", str(folder / "models"))
    server.start()
    yield server
    assert server.stop() == 0


@pytest.fixture
def client(live: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key="any", max_retries=0)


def test_the_example_answers(live: LiveServer) -> None:
    ended = subprocess.run(
        [
            sys.executable,
            str(ROOT / "examples" / "agent.py"),
            "--url",
            f"{live.url}/v1",
            "--model",
            "agent",
            "What is 12 * 7 and what time is it in Rome?",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert any(line.startswith('calculate({"expression": "') and "error" not in line for line in lines)
    assert any(line.startswith('get_time({"city": "Rome"}) -> ') and "error" not in line for line in lines)
    assert "The time in Rome: " in lines[-1]


def test_it_thinks_calls_and_answers(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    asked = client.chat.completions.create(model="agent", messages=messages, tools=TOOLS, temperature=0)
    choice = asked.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls
    assert [(call.function.name, call.function.arguments) for call in choice.message.tool_calls] == [
        ("get_weather", '{"city": "Rome"}'),
        ("get_time", '{"city": "Oslo"}'),
    ]
    assert "weather in Rome" in str(choice.message.model_extra)  # the thought
    assert asked.usage
    assert asked.usage.completion_tokens_details
    assert asked.usage.completion_tokens_details.reasoning_tokens
    messages.append(choice.message.model_dump(exclude_none=True, include={"role", "content", "tool_calls"}))
    for call, result in zip(choice.message.tool_calls, ("sunny, 21 degrees", "14:05"), strict=True):
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    answered = client.chat.completions.create(model="agent", messages=messages, tools=TOOLS, temperature=0)
    assert answered.choices[0].finish_reason == "stop"
    text = answered.choices[0].message.content or ""
    assert "The weather in Rome: sunny" in text
    assert "The time in Oslo: " in text


def test_small_talk_calls_nothing(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="agent", messages=[{"role": "user", "content": "hello"}], tools=TOOLS, temperature=0
    )
    assert (answer.choices[0].finish_reason, answer.choices[0].message.tool_calls) == ("stop", None)


@pytest.mark.parametrize("after", [2, 17, 30])
def test_calls_survive_the_death_of_their_runner(live: LiveServer, client: openai.OpenAI, after: int) -> None:
    asked: dict[str, Any] = {
        "model": "agent",
        "messages": [{"role": "user", "content": QUESTION}],
        "tools": TOOLS,
        "temperature": 0,
    }
    whole = client.chat.completions.create(**asked).choices[0]
    calls: list[list[str]] = []
    ids: set[str] = set()
    reason = None
    for number, chunk in enumerate(client.chat.completions.create(**asked, stream=True)):
        if number == after:
            os.kill(live.pid_of("agent"), signal.SIGKILL)
        for choice in chunk.choices:
            reason = choice.finish_reason or reason
            for part in choice.delta.tool_calls or ():
                if part.id:
                    ids.add(part.id)
                    calls.append([part.function.name, ""])
                calls[part.index][1] += part.function.arguments or ""
    assert reason == whole.finish_reason == "tool_calls"
    assert calls == [[call.function.name, call.function.arguments] for call in whole.message.tool_calls]
    assert len(ids) == len(calls)
