"""What people's tools do with a model that thinks, calls tools, embeds, ranks and listens: the clients they use, a real
server, and a model written as a Python class."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from pydantic import BaseModel

from inference_engine import Engine
from inference_engine.domain.errors import InvalidRequest
from tests.conftest import ROOT, LiveServer
from tests.fixtures.python_models import ACTOR, python_model

MANIFEST = 'name: actor\nversion: "1"\nruntime: python\nartifact: model.py:Model\n'
ASK: list[Any] = [{"role": "user", "content": "What of Rome and Oslo?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
CITIES = [{"city": "Rome"}, {"city": "Oslo"}]


class Trip(BaseModel):
    city: str
    days: int


class weather(BaseModel):  # noqa: N801 - the tool's name
    """The weather in a city"""

    city: str


@pytest.fixture(scope="module")
def acting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("acting")
    (python_model(folder / "models" / "actor" / "1", ACTOR) / "model.yaml").write_text(MANIFEST)
    live = LiveServer(folder, "--models", str(folder / "models"))
    live.start()
    yield live
    assert live.stop() == 0


@pytest.fixture
def client(acting: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{acting.url}/v1", api_key="any", max_retries=0) as made:
        yield made


@pytest.fixture
async def async_client(acting: LiveServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{acting.url}/v1", api_key="any", max_retries=0) as made:
        yield made


# -- openai ----------------------------------------------------------------------------------------------------------


def test_an_agent_loop(client: openai.OpenAI) -> None:
    messages = list(ASK)
    first = client.chat.completions.create(model="actor", messages=messages, tools=[WEATHER], reasoning_effort="low")
    choice = first.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.model_extra == {"reasoning_content": "let me think"}
    assert choice.message.tool_calls is not None
    assert [json.loads(call.function.arguments) for call in choice.message.tool_calls] == CITIES  # type: ignore[union-attr]
    assert first.usage is not None
    assert first.usage.completion_tokens_details is not None
    assert first.usage.completion_tokens_details.reasoning_tokens == 2
    messages.append(choice.message)  # the client writes its own object back as JSON
    for call, sky in zip(choice.message.tool_calls, ("sun", "rain"), strict=True):
        messages.append({"role": "tool", "tool_call_id": call.id, "content": sky})
    second = client.chat.completions.create(model="actor", messages=messages, tools=[WEATHER])
    assert second.choices[0].message.content == "The tools say: sun and rain"
    assert second.choices[0].finish_reason == "stop"


TOOL: Any = {"type": "function", **WEATHER["function"]}


def outputs(response: Any) -> list[Any]:
    skies = iter(("sun", "rain"))
    return [
        {"type": "function_call_output", "call_id": item.call_id, "output": next(skies)}
        for item in response.output
        if item.type == "function_call"
    ]


@pytest.mark.parametrize("chained", [True, False])
def test_an_agent_loop_over_responses(client: openai.OpenAI, chained: bool) -> None:
    first = client.responses.create(model="actor", input=ASK, tools=[TOOL], reasoning={"effort": "low"}, store=chained)
    assert [item.type for item in first.output] == ["reasoning", "function_call", "function_call"]
    assert [json.loads(item.arguments) for item in first.output if item.type == "function_call"] == CITIES
    again: Any = outputs(first) if chained else [*ASK, *first.output, *outputs(first)]
    second = client.responses.create(
        model="actor",
        input=again,
        tools=[TOOL],
        previous_response_id=first.id if chained else None,
    )
    assert second.output_text == "The tools say: sun and rain"


async def test_streamed_responses_with_tools(async_client: openai.AsyncOpenAI) -> None:
    tool = openai.pydantic_function_tool(weather)["function"]
    async with async_client.responses.stream(
        model="actor",
        input=ASK,
        tools=[{"type": "function", **tool}],  # type: ignore[typeddict-item]
    ) as stream:
        arguments = [json.loads(e.arguments) async for e in stream if e.type == "response.function_call_arguments.done"]
        final = await stream.get_final_response()
    assert arguments == CITIES
    done = await async_client.responses.create(model="actor", input=outputs(final), previous_response_id=final.id)
    assert done.output_text == "The tools say: sun and rain"


def test_the_stream_helper_puts_tool_calls_together(client: openai.OpenAI) -> None:
    tool = openai.pydantic_function_tool(weather)
    done = []
    with client.chat.completions.stream(model="actor", messages=ASK, tools=[tool]) as stream:
        for event in stream:
            if event.type == "tool_calls.function.arguments.done":
                done.append(event.parsed_arguments)
        final = stream.get_final_completion().choices[0]
    assert done == [weather(city="Rome"), weather(city="Oslo")]
    assert final.finish_reason == "tool_calls"
    assert final.message.tool_calls is not None
    assert [call.function.parsed_arguments for call in final.message.tool_calls] == done
    assert all(call.id.startswith("call_") for call in final.message.tool_calls)


def test_parse_gives_objects(client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(model="actor", messages=ASK, response_format=Trip)
    assert parsed.choices[0].message.parsed == Trip(city="Paris", days=3)
    with client.chat.completions.stream(model="actor", messages=ASK, response_format=Trip) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == Trip(city="Paris", days=3)


@pytest.mark.parametrize(
    ("choice", "parallel", "cities"),
    [
        ("none", True, []),
        ("auto", False, CITIES[:1]),
        ("required", True, CITIES),
        ({"type": "function", "function": {"name": "weather"}}, True, CITIES),
    ],
)
def test_the_tool_choice(client: openai.OpenAI, choice: Any, parallel: bool, cities: list[Any]) -> None:
    asked: Any = {"tools": [WEATHER], "tool_choice": choice, "parallel_tool_calls": parallel}
    for stream in (False, True):
        calls = _calls_of(client.chat.completions.create(model="actor", messages=ASK, stream=stream, **asked), stream)
        assert [json.loads(arguments) for arguments in calls] == cities


def _calls_of(answer: Any, stream: bool) -> list[str]:
    if not stream:
        return [call.function.arguments for call in answer.choices[0].message.tool_calls or ()]
    found: dict[int, str] = {}
    for chunk in answer:
        for call in chunk.choices[0].delta.tool_calls or ():
            found[call.index] = found.get(call.index, "") + (call.function.arguments or "")
    return list(found.values())


async def test_the_async_client(async_client: openai.AsyncOpenAI) -> None:
    async def thoughts_of(city: str) -> tuple[str, str]:
        messages: Any = [{"role": "user", "content": f"Is {city} warm?"}]
        stream = await async_client.chat.completions.create(
            model="actor", messages=messages, stream=True, reasoning_effort="high", n=2
        )
        thought, said = {0: "", 1: ""}, {0: "", 1: ""}
        async for chunk in stream:
            for choice in chunk.choices:
                thought[choice.index] += (choice.delta.model_extra or {}).get("reasoning_content") or ""
                said[choice.index] += choice.delta.content or ""
        assert thought[0] == thought[1]
        assert said[0] == said[1]
        return thought[0], said[0]

    found = await asyncio.gather(*(thoughts_of(city) for city in ("Rome", "Oslo", "Lima")))
    assert found == [("let me think", f"You said: Is {city} warm?") for city in ("Rome", "Oslo", "Lima")]


def test_images_and_sounds(client: openai.OpenAI) -> None:
    content: Any = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(b"12345").decode()}},
    ]
    answer = client.chat.completions.create(model="actor", messages=[{"role": "user", "content": content}])
    assert answer.choices[0].message.content == "You said: look, image of 5 bytes"


def test_embeddings_and_speech(client: openai.OpenAI) -> None:
    found = client.embeddings.create(model="actor", input=["one", "two words"])
    assert [item.embedding for item in found.data] == [[3, 1, 1], [9, 2, 1]]
    assert found.usage.prompt_tokens == 3
    sound = ("a.wav", b"RIFF", "audio/wav")
    assert client.audio.transcriptions.create(model="actor", file=sound).text == "one two three"
    srt = client.audio.transcriptions.create(model="actor", file=sound, response_format="srt")
    assert srt.startswith("1\n00:00:00,000 --> 00:00:01,000\none\n")


def test_rerank_and_tokens(acting: LiveServer) -> None:
    body = {"model": "actor", "query": "blue sky", "documents": ["green grass", "the blue sky"]}
    for path in ("/v1/rerank", "/v2/rerank"):
        results = httpx.post(acting.url + path, json=body).json()["results"]
        assert [(result["index"], result["relevance_score"]) for result in results] == [(1, 1.0), (0, 0.0)]
    tokens = httpx.post(f"{acting.url}/tokenize", json={"model": "actor", "prompt": "two words"}).json()
    assert tokens["tokens"] == [3, 5]


def test_a_stream_of_tool_calls_goes_on_when_its_runner_is_killed(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    slow = ACTOR.replace("for city in (cities", "__import__('time').sleep(0.3)\n            for city in (cities")
    slow = slow.replace("""yield {"arguments": '{"city": '}""", """yield {"arguments": '{"city": '}
                __import__('time').sleep(0.6)""")  # fmt: skip
    (python_model(tmp_path / "models" / "actor" / "1", slow) / "model.yaml").write_text(MANIFEST)
    live = LiveServer(tmp_path, "--models", str(tmp_path / "models"))
    live.start()
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="any", max_retries=0) as client:
        stream = client.chat.completions.create(
            model="actor", messages=ASK, tools=[WEATHER], stream=True, reasoning_effort="low"
        )
        calls: dict[int, str] = {}
        ids: list[str] = []
        killed = False
        for chunk in stream:
            for call in chunk.choices[0].delta.tool_calls or ():
                assert call.function is not None
                calls[call.index] = calls.get(call.index, "") + (call.function.arguments or "")
                ids += [call.id] if call.id else []
                if calls[call.index].endswith(": ") and not killed:
                    os.kill(live.pid_of("actor"), signal.SIGKILL)
                    killed = True
    assert killed
    assert live.model("actor")["restarts"] == 1
    assert [json.loads(text) for text in calls.values()] == CITIES
    assert len(set(ids)) == 2
    assert live.stop() == 0


# -- the built-in language model -------------------------------------------------------------------------------------


@pytest.fixture
def guided(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as made:
        yield made


def test_a_demanded_call_fits_its_schema(guided: openai.OpenAI) -> None:
    tool = openai.pydantic_function_tool(weather)
    tool["function"]["parameters"]["properties"]["city"] = {"type": "string", "maxLength": 12}
    asked: Any = {"tools": [tool], "parallel_tool_calls": False, "max_tokens": 80, "temperature": 1.5, "seed": 4}
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        calls = guided.chat.completions.create(model="guide", messages=ASK, tool_choice=choice, **asked).choices[0]
        assert calls.finish_reason == "tool_calls"
        assert calls.message.tool_calls is not None
        assert set(json.loads(calls.message.tool_calls[0].function.arguments)) == {"city"}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("bound", "pattern"),
    [
        ({"guided_choice": ["yes", "no"]}, "yes|no"),
        ({"structured_outputs": {"regex": "[0-9]{3}-[a-z]{2}"}}, "[0-9]{3}-[a-z]{2}"),
        ({"response_format": {"type": "grammar", "grammar": 'root ::= "a" ("b" | "c"){1,3} "d"'}}, "a[bc]{1,3}d"),
    ],
)
def test_answers_are_bound_in_every_way(guided: openai.OpenAI, bound: dict[str, Any], pattern: str) -> None:
    asked: Any = {"max_tokens": 20, "temperature": 1.5, "seed": 7}
    answer = guided.chat.completions.create(model="guide", messages=ASK, extra_body=bound, **asked)
    assert re.fullmatch(pattern, answer.choices[0].message.content or "")


def test_token_ids_continue_as_their_text_does(guided: openai.OpenAI, server: LiveServer) -> None:
    found = httpx.post(f"{server.url}/tokenize", json={"model": "guide", "prompt": "The server is"}).json()
    assert found["count"] == len(found["tokens"])
    asked: Any = {"model": "guide", "max_tokens": 8, "temperature": 0}
    by_text, by_ids = (
        guided.completions.create(prompt=prompt, **asked).choices[0].text
        for prompt in ("The server is", found["tokens"])
    )
    assert by_text == by_ids


def test_the_likeliest_of_many(guided: openai.OpenAI) -> None:
    answer = guided.completions.create(
        model="guide", prompt="The", max_tokens=6, temperature=1.2, seed=1, n=2, best_of=4
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage is not None
    assert answer.usage.completion_tokens >= 12


# -- without a server, and from the command line ---------------------------------------------------------------------


def test_the_python_api(acting: LiveServer, tmp_path: Path) -> None:
    models = acting.log.parent / "models"
    tool = {"name": "weather", "description": "", "parameters": WEATHER["function"]["parameters"]}
    with Engine(models=models, state_dir=tmp_path) as engine:
        answer = engine.answer("actor", "What of Rome and Oslo?", tools=[tool], reasoning="low")
        assert [json.loads(call.arguments) for call in answer.tool_calls] == CITIES
        assert (answer.reasoning, answer.reason) == ("let me think", "tool_calls")
        calls = {"role": "assistant", "content": "", "tool_calls": answer.tool_calls}
        results = [{"role": "tool", "content": "sun", "tool_call_id": call.id} for call in answer.tool_calls]
        messages: Any = [{"role": "user", "content": "What of Rome and Oslo?"}, calls, *results]
        assert engine.chat("actor", messages, tools=[tool]) == "The tools say: sun and sun"
        stream = engine.generate("actor", "What of Rome and Oslo?", tools=[tool], tool_choice="required")
        assert list(stream) == []
        assert len(stream.answer.tool_calls) == 2
        assert stream.finish_reason == "tool_calls"
        image = {"role": "user", "content": [{"type": "image", "data": b"123"}, {"type": "text", "text": "look"}]}
        assert engine.chat("actor", [image]) == "You said: image of 3 bytes, look"
        assert engine.embed("actor", "one").vectors.tolist() == [[3, 1, 1]]
        assert engine.rerank("actor", "sky", ["grass", "sky"]).scores.tolist() == [0, 1]
        sound = tmp_path / "a.wav"
        sound.write_bytes(b"RIFF")
        assert engine.transcribe("actor", sound).text == "one two three"
        assert engine.transcribe("actor", b"RIFF", timestamps=True).segments[2].end_s == 3
        assert engine.tokenize("actor", prompt="two words") == (3, 5)
        for options, words in (
            ({"tools": [{"nam": "x"}]}, "tools"),
            ({"reasoning": "endless"}, "reasoning"),
            ({"tool_choice": "maybe"}, "tool_choice"),
            ({"regex": "a", "grammar": "b"}, "give one of"),
            ({"messages": None, "prompt": "x", "tools": [tool]}, "tools"),
        ):
            given: dict[str, Any] = {"messages": "hi"} | options
            with pytest.raises(InvalidRequest, match=words):
                list(engine.generate("actor", **given))
        with pytest.raises(InvalidRequest, match="cannot be read"):
            engine.transcribe("actor", tmp_path / "nothing")


def test_the_command_line(acting: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF")

    def run(*arguments: str) -> Any:
        command = [sys.executable, "-m", "inference_engine", *arguments, "--server", acting.url, "--json"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert run("embed", "actor", "two words")["embeddings"] == [[9, 2, 1]]
    assert run("rerank", "actor", "sky", "grass", "sky")["results"][0] == {"index": 1, "score": 1, "document": "sky"}
    spoken = run("transcribe", "actor", "a.wav", "--timestamps")
    assert (spoken["text"], len(spoken["segments"])) == ("one two three", 3)


# -- langchain -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_langchain_agent(acting: LiveServer) -> None:
    pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    from langchain.agents import create_agent
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    @tool
    def weather(city: str) -> str:
        """The weather in a city"""
        return f"{city} is fine"

    key: Any = "any"
    model = ChatOpenAI(model="actor", base_url=f"{acting.url}/v1", api_key=key, max_retries=0)
    bound = model.bind_tools([weather])
    whole = None
    for chunk in bound.stream("What of Rome and Oslo?"):
        whole = chunk if whole is None else whole + chunk
    assert [call["args"] for call in whole.tool_calls] == CITIES  # type: ignore[union-attr]
    outcome = create_agent(model, [weather]).invoke({"messages": [("user", "What of Rome and Oslo?")]})
    assert outcome["messages"][-1].content == "The tools say: Rome is fine and Oslo is fine"
    assert model.with_structured_output(Trip).invoke("Where to?") == Trip(city="Paris", days=3)
    vectors = OpenAIEmbeddings(
        model="actor", base_url=f"{acting.url}/v1", api_key=key, check_embedding_ctx_length=False
    ).embed_documents(["one", "two words"])
    np.testing.assert_allclose(vectors, [[3, 1, 1], [9, 2, 1]])


# -- litellm ---------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")
def test_litellm(acting: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else its import asks the internet
    litellm = pytest.importorskip("litellm", reason="litellm is not installed")
    known: Any = {"model": "openai/actor", "api_base": f"{acting.url}/v1", "api_key": "any", "num_retries": 0}
    answer = litellm.completion(messages=ASK, tools=[WEATHER], **known)
    message = answer.choices[0].message
    assert [json.loads(call.function.arguments) for call in message.tool_calls] == CITIES
    results = [{"role": "tool", "tool_call_id": call.id, "content": "sun"} for call in message.tool_calls]
    again = litellm.completion(messages=[*ASK, message, *results], tools=[WEATHER], **known)
    assert again.choices[0].message.content == "The tools say: sun and sun"
    hello: Any = [{"role": "user", "content": "hello there"}]
    stream = litellm.completion(messages=hello, stream=True, **known)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "You said: hello there"
    vectors = litellm.embedding(input=["one", "two words"], **known)
    assert [item["embedding"] for item in vectors.data] == [[3, 1, 1], [9, 2, 1]]


# -- the npm client --------------------------------------------------------------------------------------------------

SMOKE = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.argv[2], apiKey: "any", maxRetries: 0 });
const messages = [{ role: "user", content: "What of Rome and Oslo?" }];
const tools = [JSON.parse(process.argv[3])];
const whole = await client.chat.completions.create({ model: "actor", messages, tools });
const streamed = await client.chat.completions.stream({ model: "actor", messages, tools }).finalChatCompletion();
const vectors = await client.embeddings.create({ model: "actor", input: "two words" });
let refused = null;
try { await client.chat.completions.create({ model: "nobody", messages }); } catch (error) { refused = error.code; }
console.log(JSON.stringify({
  whole: whole.choices[0].message.tool_calls.map((call) => JSON.parse(call.function.arguments)),
  streamed: streamed.choices[0].message.tool_calls.map((call) => JSON.parse(call.function.arguments)),
  vector: vectors.data[0].embedding,
  refused,
}));
"""


def test_the_npm_client(acting: LiveServer) -> None:
    folder = ROOT / "build" / "npm-openai"
    node = shutil.which("node")
    if node is None or not (folder / "node_modules" / "openai").is_dir():
        pytest.skip("the openai npm package is not installed: run tests/services.sh, which needs node and npm")
    script = folder / "smoke.mjs"
    script.write_text(SMOKE)
    command = [node, str(script), f"{acting.url}/v1", json.dumps(WEATHER)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "whole": CITIES,
        "streamed": CITIES,
        "vector": [9, 2, 1],
        "refused": "model_not_found",
    }
