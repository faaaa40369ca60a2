"""Ollama's own Python client against the fakes on a real socket."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import pytest

from inference_engine.domain.errors import QueueFull
from inference_engine.domain.requests import Chat, Complete, ImagePart, JsonSchema, TextPart
from tests.fixtures.mirror import digest_of
from tests.http.support import World

Live = tuple[World, str]
HELLO = [{"role": "user", "content": "Paris Rome"}]
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 16
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
def client(live: Live) -> Iterator[ollama.Client]:
    client = ollama.Client(host=live[1])
    yield client
    client._client.close()


def last_request(live: Live, name: str = "chatty") -> Any:
    return live[0].executors.executors[f"{name}:1"].requests[-1]


def test_chat(client: ollama.Client, live: Live) -> None:
    answer = client.chat("chatty", HELLO, options={"temperature": 0.5, "num_predict": -1, "num_thread": 3, "seed": -1})
    assert answer.message.content == "Hello, world!"
    assert answer.message.role == "assistant"
    assert (answer.done, answer.done_reason, answer.model) == (True, "stop", "chatty")
    assert (answer.prompt_eval_count, answer.eval_count) == (2, 4)
    assert (answer.total_duration or 0) >= (answer.eval_duration or 0) > 0
    request = last_request(live)
    assert isinstance(request, Chat)
    assert (request.sampling.temperature, request.sampling.max_tokens, request.sampling.seed) == (0.5, None, None)


def test_chat_streamed(client: ollama.Client) -> None:
    pieces = list(client.chat("chatty:1", HELLO, stream=True, options={"num_predict": 3}))
    assert [piece.message.content for piece in pieces] == ["Hello", ", ", "world", ""]
    assert [piece.done for piece in pieces] == [False, False, False, True]
    assert pieces[-1].done_reason == "length"
    assert pieces[0].eval_count is None


async def test_the_async_client(live: Live) -> None:
    client = ollama.AsyncClient(host=live[1])
    answer = await client.chat("chatty:latest", HELLO)
    assert answer.message.content == "Hello, world!"
    stream = await client.generate("chatty", "hi", stream=True)
    assert "".join([piece.response or "" async for piece in stream]) == "Hello, world!"
    await client._client.aclose()


def test_generate(client: ollama.Client, live: Live) -> None:
    answer = client.generate("chatty", "one two", system="Be brief.", options={"stop": ["x"], "top_k": 3})
    assert answer.response == "Hello, world!"
    request = last_request(live)
    assert isinstance(request, Chat)
    assert [message.content for message in request.messages] == ["Be brief.", "one two"]
    assert (request.sampling.stop, request.sampling.top_k) == (("x",), 3)
    client.generate("chatty", "one two", raw=True)
    assert last_request(live) == Complete("one two")
    client.generate("chatty", "one", suffix="three")
    assert last_request(live) == Complete("one", suffix="three")


def test_every_option_arrives(client: ollama.Client, live: Live) -> None:
    options = {
        "temperature": 0.1, "top_k": 2, "top_p": 0.3, "min_p": 0.4, "typical_p": 0.5, "repeat_last_n": 6,
        "repeat_penalty": 1.1, "presence_penalty": 0.7, "frequency_penalty": 0.8, "seed": 9, "stop": ["a", "b"],
        "num_predict": 2,
    }  # fmt: skip
    client.chat("chatty", HELLO, options=options)
    sampling = last_request(live).sampling
    assert sampling.max_tokens == 2
    for name, value in options.items():
        if name != "num_predict":
            assert getattr(sampling, name) == (tuple(value) if isinstance(value, list) else value), name


def test_a_window_bounds_prompt_and_answer(client: ollama.Client, live: Live) -> None:
    answer = client.chat("chatty", HELLO, options={"num_ctx": 5})
    assert (answer.done_reason, answer.eval_count) == ("length", 3)
    client.chat("chatty", HELLO, options={"num_ctx": 4096})
    assert last_request(live).sampling.max_tokens is None
    with pytest.raises(ollama.ResponseError, match="4096 tokens") as caught:
        client.chat("chatty", HELLO, options={"num_ctx": 5000})
    assert caught.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="nothing is cut off"):
        client.chat("chatty", HELLO, options={"num_ctx": 2})


def test_format(client: ollama.Client, live: Live) -> None:
    client.chat("chatty", HELLO, format="json")
    assert last_request(live).constraint == JsonSchema({"type": "object"})
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    client.generate("chatty", "x", format=schema)
    assert last_request(live).constraint == JsonSchema(schema)


@pytest.mark.parametrize(("think", "effort"), [(True, "medium"), (False, "none"), ("low", "low"), ("high", "high")])
def test_thinking(client: ollama.Client, live: Live, think: Any, effort: str) -> None:
    answer = client.chat("actor", HELLO, think=think)
    assert last_request(live, "actor").reasoning == effort
    assert answer.message.thinking == ("Let me think." if effort != "none" else None)
    assert answer.message.content == "It is Paris Rome"
    pieces = list(client.chat("actor", HELLO, think=think, stream=True))
    assert "".join(piece.message.thinking or "" for piece in pieces) == (answer.message.thinking or "")


@pytest.mark.parametrize("stream", [False, True])
def test_tools(client: ollama.Client, live: Live, stream: bool) -> None:
    answer = client.chat("actor", HELLO, tools=[WEATHER], stream=stream)
    messages = [piece.message for piece in answer] if stream else [answer.message]  # type: ignore[union-attr]
    calls = [call for message in messages for call in message.tool_calls or ()]
    assert [(call.function.name, dict(call.function.arguments)) for call in calls] == [
        ("weather", {"city": "Paris"}),
        ("weather", {"city": "Rome"}),
    ]
    history = [
        *HELLO,
        {"role": "assistant", "content": "", "tool_calls": [call.model_dump() for call in calls]},
        {"role": "tool", "tool_name": "weather", "content": "rain"},
        {"role": "tool", "tool_name": "weather", "content": "sun"},
    ]
    assert client.chat("actor", history, tools=[WEATHER]).message.content == "It is sun"
    sent = last_request(live, "actor").messages
    assert [call.id for call in sent[1].tool_calls] == [message.tool_call_id for message in sent[2:]]
    assert json.loads(sent[1].tool_calls[0].arguments) == {"city": "Paris"}


def test_tools_as_python_functions(client: ollama.Client, live: Live) -> None:
    def weather(city: str) -> str:
        """The weather.

        Args:
            city: where
        """
        return f"sunny in {city}"

    answer = client.chat("actor", HELLO, tools=[weather])
    assert [weather(**call.function.arguments) for call in answer.message.tool_calls or ()] == [
        "sunny in Paris",
        "sunny in Rome",
    ]
    assert last_request(live, "actor").tools[0].parameters["required"] == ["city"]


def test_images(client: ollama.Client, live: Live) -> None:
    client.chat("actor", [{"role": "user", "content": "what?", "images": [PNG]}])
    assert last_request(live, "actor").messages[0].content == (ImagePart(PNG, "image/png"), TextPart("what?"))
    client.generate("actor", "what?", images=[PNG])
    assert last_request(live, "actor").messages[0].content == (ImagePart(PNG, "image/png"), TextPart("what?"))
    for wrong, words in ((b"not an image", "not a PNG"), (PNG, "does not take")):
        with pytest.raises(ollama.ResponseError, match=words):
            client.chat("actor" if wrong != PNG else "chatty", [{"role": "user", "content": "", "images": [wrong]}])


def test_logprobs(client: ollama.Client) -> None:
    answer = client.chat("chatty", HELLO, logprobs=True, top_logprobs=2)
    assert [position.token for position in answer.logprobs or ()] == ["Hello", ", ", "world", "!"]
    assert all(len(position.top_logprobs or ()) == 2 for position in answer.logprobs or ())
    pieces = list(client.generate("chatty", "x", logprobs=True, stream=True))
    assert pieces[0].logprobs is not None
    assert pieces[0].logprobs[0].logprob == -0.5


def test_embeddings(client: ollama.Client) -> None:
    answer = client.embed("vectors", ["one two", "three"])
    assert [list(vector) for vector in answer.embeddings] == [[6, 2, 1], [5, 1, 1]]
    assert answer.prompt_eval_count == 3
    assert len(client.embed("vectors", "one", dimensions=2).embeddings[0]) == 2
    assert list(client.embeddings("vectors", "one two").embedding) == [6, 2, 1]
    assert client.embed("vectors", []).embeddings == []
    with pytest.raises(ollama.ResponseError, match="does not answer embed"):
        client.embed("chatty", "x")


def test_models_are_listed_and_shown(client: ollama.Client) -> None:
    models = {model.model: model for model in client.list().models}
    assert {"chatty:1", "actor:1", "vectors:1"} <= models.keys()
    assert "echo:1" not in models  # it computes tensors
    chatty = models["chatty:1"]
    assert chatty.size == 1024
    assert chatty.digest
    assert chatty.modified_at is not None
    assert chatty.details is not None
    assert chatty.details.parameter_size == "1.5M"
    client.chat("actor", HELLO)
    shown = client.show("actor")
    assert shown.template == "TEMPLATE"
    assert set(shown.capabilities or ()) == {"completion", "vision"}
    with pytest.raises(ollama.ResponseError, match="nobody") as caught:
        client.show("nobody")
    assert caught.value.status_code == 404


def test_keep_alive_loads_and_unloads(client: ollama.Client, live: Live) -> None:
    assert client.generate("chatty", keep_alive="1h").done_reason == "load"
    running = {model.model: model for model in client.ps().models}
    assert running["chatty:1"].size == 4096
    expires = running["chatty:1"].expires_at
    assert expires is not None
    client.chat("chatty", HELLO, keep_alive=-1)
    later = {model.model: model for model in client.ps().models}["chatty:1"].expires_at
    assert later is not None
    assert later.year > expires.year + 100
    assert client.chat("chatty", [], keep_alive=0).done_reason == "unload"
    assert "chatty:1" not in {model.model for model in client.ps().models}
    with pytest.raises(ollama.ResponseError, match="keep_alive"):
        client.chat("chatty", HELLO, keep_alive="soon")


def test_models_are_copied_created_and_deleted(client: ollama.Client, live: Live, tmp_path: Any) -> None:
    client.copy("chatty", "twin")
    assert "twin:latest" in {model.model for model in client.list().models}
    steps = [step.status for step in client.create("pirate", from_="chatty", system="Arr.", stream=True)]
    assert steps[-1] == "success"
    recipe = live[0].depot.recipes[-1]
    assert recipe.changes.system == "Arr."
    (tmp_path / "my.gguf").write_bytes(b"weights")
    digest = client.create_blob(tmp_path / "my.gguf")
    assert digest == digest_of(b"weights")
    assert client.create("mine", files={"my.gguf": digest}).status == "success"
    for name in ("twin", "pirate:latest", "mine"):
        assert client.delete(name).status == "success"
    with pytest.raises(ollama.ResponseError, match=r"does not exist|not found"):
        client.delete("twin")


def test_models_are_pulled(client: ollama.Client, live: Live) -> None:
    live[0].source.models["tiny:latest"] = b"weights"
    steps = list(client.pull("tiny", stream=True))
    assert [step.status for step in steps][:: len(steps) - 1] == ["pulling manifest", "success"]
    fetched = next(step for step in steps if step.digest and step.completed)
    assert fetched.total == fetched.completed == 7
    assert client.pull("tiny").status == "success"
    client.delete("tiny")
    with pytest.raises(ollama.ResponseError, match="nobody"):
        client.pull("nobody")
    with pytest.raises(ollama.ResponseError, match="nobody"):
        list(client.pull("nobody", stream=True))
    with pytest.raises(ollama.ResponseError, match="insecure"):
        client.pull("tiny", insecure=True)
    with pytest.raises(ollama.ResponseError, match="not pushed"):
        client.push("tiny")


def test_a_client_that_leaves_stops_the_pull(live: Live) -> None:
    world, url = live
    world.source.models["slow:latest"] = b"weights"
    world.source.go.clear()
    with httpx.stream("POST", f"{url}/api/pull", json={"model": "slow"}) as answer:
        next(answer.iter_lines())
        assert world.store._pulls
    for _ in range(200):
        if not world.store._pulls:
            break
        time.sleep(0.02)
    assert not world.store._pulls
    world.source.go.set()


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"model": "nobody"}, "nobody"),
        ({"messages": [{"role": "king", "content": "x"}]}, r"messages\[0\]\.role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "was not made"),
        ({"messages": [{"role": "user", "content": "x", "images": ["####"]}]}, "base64"),
        ({"messages": [{"role": "user", "content": "x", "images": ["data:image/png;base64,AAAA"]}]}, "after the comma"),
        ({"options": {"mirostat": 2}}, "options.mirostat"),
        ({"options": {"nonsense": 2}}, "options.nonsense"),
        ({"options": {"temperature": -1}}, "temperature"),
        ({"options": {"num_predict": 0}}, "options.num_predict"),
        ({"options": {"num_ctx": 0}}, "options.num_ctx"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"format": "xml"}, "format"),
        ({"think": "hard"}, "think"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"tools": [{"type": "web", "function": {"name": "x"}}]}, r"tools\[0\]\.type"),
        ({"tools": [{"type": "function", "function": {"name": "x y"}}]}, "tool name"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_bad_chats_are_refused_by_name(client: ollama.Client, request_: dict[str, Any], words: str) -> None:
    body = {"model": "chatty", "messages": HELLO} | request_
    with pytest.raises(ollama.ResponseError, match=words) as caught:
        client._request(ollama.ChatResponse, "POST", "/api/chat", json=body)
    assert caught.value.status_code in (400, 404)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"context": [1, 2]}, "context"),
        ({"width": 512}, "width"),
        ({"raw": True, "system": "x"}, "system"),
        ({"raw": True, "think": True}, "think"),
    ],
)
def test_bad_prompts_are_refused_by_name(client: ollama.Client, request_: dict[str, Any], words: str) -> None:
    with pytest.raises(ollama.ResponseError, match=words):
        client.generate("chatty", "hi", **request_)


def test_what_asks_for_nothing_is_taken(client: ollama.Client) -> None:
    assert client.generate("chatty", "hi", context=[], template="", suffix="", images=[], system="", format="").response
    options = {"mirostat": 0, "tfs_z": 1.0, "vocab_only": False, "use_mmap": True, "num_gpu": 99, "num_keep": 4}
    assert client.chat("chatty", HELLO, options=options, tools=[], think=None).message.content


def test_an_error_in_a_stream_is_its_last_line(client: ollama.Client, live: Live) -> None:
    live[0].fail_with(QueueFull("full"), after=2)
    try:
        pieces: list[str] = []
        with pytest.raises(ollama.ResponseError, match="full"):
            pieces.extend(piece.response or "" for piece in client.generate("chatty", "hi", stream=True))
        live[0].fail_with(QueueFull("full"))
        with pytest.raises(ollama.ResponseError, match="full") as caught:
            list(client.generate("chatty", "hi", stream=True))
        assert caught.value.status_code == 429
    finally:
        live[0].chatty.fail = None


def test_a_tool_call_that_was_cut_is_an_error(client: ollama.Client, live: Live) -> None:
    from inference_engine.domain.results import Done, ToolCallDelta, Usage

    actor, script = live[0].actor, live[0].actor.script
    actor.script = lambda request: iter(
        [ToolCallDelta('{"city": "Pa', call=0, id="1", name="weather"), Done("length", Usage(1, 1))]
    )
    try:
        for stream in (False, True):
            with pytest.raises(ollama.ResponseError, match="num_predict"):
                list(client.chat("actor", HELLO, tools=[WEATHER], stream=stream))
    finally:
        actor.script = script


def test_the_version_and_the_heartbeat(live: Live) -> None:
    with urllib.request.urlopen(f"{live[1]}/api/version") as answer:
        assert json.load(answer)["version"] == "0.13.0"
    with urllib.request.urlopen(urllib.request.Request(live[1], method="HEAD")) as answer:
        assert answer.status == 200
        assert answer.url.rstrip("/") == live[1]
