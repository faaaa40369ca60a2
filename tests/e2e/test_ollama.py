"""Ollama's Python client against a real server: the built-in models, and models pulled from a mirror."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import ollama
import pytest

from tests.conftest import ROOT, LiveServer
from tests.fixtures.mirror import Mirror, running_mirror
from tests.fixtures.python_models import ACTOR, python_model

GUIDE = ROOT / "inference_engine" / "infra" / "builtin_models" / "guide" / "1" / "guide.gguf"
HELLO = [{"role": "user", "content": "What is iris?"}]
ACTOR_MANIFEST = """
name: actor
version: "1"
runtime: python
artifact: model.py:Model
task: text-generation
"""


@pytest.fixture(scope="module")
def mirror() -> Iterator[Mirror]:
    with running_mirror() as mirror:
        mirror.add(
            "library/pocket",
            "latest",
            GUIDE.read_bytes(),
            system="You answer questions about a server.",
            params='{"temperature": 0, "num_ctx": 1024, "stop": ["<|never|>"]}',
            license="MIT",
        )
        yield mirror


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, mirror: Mirror) -> Iterator[LiveServer]:
    """A server that pulls from the mirror into a folder of its own."""
    folder = tmp_path_factory.mktemp("shop")
    actor = python_model(folder / "state" / "models" / "actor" / "1", ACTOR)
    (actor / "model.yaml").write_text(ACTOR_MANIFEST)
    live = LiveServer(folder, INFERENCE_ENGINE_OLLAMA_REGISTRY=mirror.url, HF_ENDPOINT=mirror.url)
    live.start()
    yield live
    assert live.stop() == 0


@pytest.fixture(scope="module")
def client(shop: LiveServer) -> Iterator[ollama.Client]:
    client = ollama.Client(host=shop.url)
    yield client
    client._client.close()


def test_the_guide_answers(client: ollama.Client) -> None:
    answer = client.chat("guide", HELLO, options={"temperature": 0, "num_predict": 40})
    assert "iris" in (answer.message.content or "").lower()
    pieces = list(client.chat("guide:1", HELLO, options={"temperature": 0, "num_predict": 40}, stream=True))
    assert "".join(piece.message.content or "" for piece in pieces) == answer.message.content
    assert pieces[-1].eval_count == answer.eval_count
    assert client.generate("guide", "What is iris?", options={"temperature": 0, "num_predict": 40}).response == (
        answer.message.content
    )


async def test_many_streams_of_the_async_client(shop: LiveServer) -> None:
    client = ollama.AsyncClient(host=shop.url)

    async def ask(seed: int) -> int:
        stream = await client.chat("guide", HELLO, stream=True, options={"num_predict": 20, "seed": seed})
        return len([piece async for piece in stream])

    assert all(count > 2 for count in await asyncio.gather(*(ask(seed) for seed in range(12))))
    await client._client.aclose()


def weather(city: str) -> str:
    """The weather.

    Args:
        city: where
    """
    return f"sunny in {city}"


@pytest.mark.parametrize("stream", [False, True])
def test_an_agent_calls_tools(client: ollama.Client, stream: bool) -> None:
    messages: list[ollama.Message] = [ollama.Message(role="user", content="Weather in Paris and Rome?")]
    for _ in range(3):
        answer = client.chat("actor", messages, tools=[weather], stream=stream)
        pieces = [piece.message for piece in answer] if stream else [answer.message]  # type: ignore[union-attr]
        calls = [call for piece in pieces for call in piece.tool_calls or ()]
        text = "".join(piece.content or "" for piece in pieces)
        if not calls:
            break
        messages.append(ollama.Message(role="assistant", content=text, tool_calls=calls))
        for call in calls:
            said = weather(**call.function.arguments)
            messages.append(ollama.Message(role="tool", tool_name=call.function.name, content=said))
    assert text == "The tools say: sunny in Paris and sunny in Rome"


def test_thoughts_images_and_vectors_of_a_python_model(client: ollama.Client) -> None:
    assert client.chat("actor", HELLO, think=True).message.thinking == "let me think"
    assert client.chat("actor", HELLO, think=False).message.thinking is None
    png = b"\x89PNG\r\n\x1a\n" + b"\0" * 16
    seen = client.chat("actor", [{"role": "user", "content": "what is it", "images": [png]}])
    assert "image of 24 bytes" in (seen.message.content or "")
    vectors = client.embed("actor", ["one two", "three"])
    assert [list(vector) for vector in vectors.embeddings] == [[7, 2, 1], [5, 1, 1]]
    assert set(client.show("actor").capabilities or ()) == {"completion", "embedding", "vision"}


@pytest.mark.parametrize("after", [1, 9, 24])
def test_a_killed_runner_does_not_change_the_answer(client: ollama.Client, shop: LiveServer, after: int) -> None:
    asked = [{"role": "user", "content": "Explain the architecture"}]
    options = {"temperature": 0, "num_predict": 80}
    whole = client.chat("guide", asked, options=options).message.content
    text = ""
    for number, piece in enumerate(client.chat("guide", asked, options=options, stream=True)):
        text += piece.message.content or ""
        if number == after:
            os.kill(shop.pid_of("guide"), signal.SIGKILL)
    assert text == whole


def test_format_binds_the_answer(client: ollama.Client) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    answer = client.chat("guide", HELLO, format=schema, options={"num_predict": 60, "seed": 3})
    assert set(json.loads(answer.message.content or "")) == {"name", "age"}


def test_raw_prompts_logprobs_and_windows(client: ollama.Client) -> None:
    options = {"temperature": 0, "num_predict": 8}
    answer = client.generate("guide", "The server", raw=True, options=options, logprobs=True, top_logprobs=2)
    assert "".join(position.token for position in answer.logprobs or ()) == answer.response
    short = client.generate("guide", "The server", raw=True, options={"temperature": 0, "num_ctx": 10})
    assert (short.prompt_eval_count or 0) + (short.eval_count or 0) <= 10
    assert short.done_reason == "length"
    with pytest.raises(ollama.ResponseError, match="2048 tokens"):
        client.generate("guide", "x", options={"num_ctx": 4096})
    with pytest.raises(ollama.ResponseError, match="context"):
        client.generate("guide", "word " * 5000)


def test_what_the_guide_is(client: ollama.Client) -> None:
    listed = {model.model: model for model in client.list().models}
    assert "iris:1" not in listed
    guide = listed["guide:1"]
    assert guide.details is not None
    assert guide.details.format == "gguf"
    assert guide.details.parameter_size == "1.5M"
    assert guide.size == pytest.approx(GUIDE.stat().st_size, rel=0.02)
    shown = client.show("guide")
    assert shown.modelinfo is not None
    assert shown.modelinfo["general.architecture"] == guide.details.family
    assert "completion" in (shown.capabilities or ())
    assert "temperature" in (shown.parameters or "")
    assert shown.license == "MIT"
    assert "message" in (shown.template or "")
    client.generate("guide", keep_alive="10m")
    running = {model.model: model for model in client.ps().models}["guide:1"]
    assert (running.size or 0) > 10_000_000
    assert running.context_length == 2048


def test_unloading_ends_the_process(client: ollama.Client, shop: LiveServer) -> None:
    client.generate("guide")
    assert shop.model("guide")["pid"]
    assert client.generate("guide", keep_alive=0).done_reason == "unload"
    assert shop.model("guide")["state"] == "unloaded"
    client.chat("guide", HELLO, options={"num_predict": 2}, keep_alive=0)
    for _ in range(100):
        if shop.model("guide")["state"] == "unloaded":
            break
        httpx.get(f"{shop.url}/health/live")
    assert shop.model("guide")["state"] == "unloaded"


def test_a_pulled_model_is_asked_changed_and_deleted(
    client: ollama.Client, shop: LiveServer, mirror: Mirror, tmp_path: Path
) -> None:
    mirror.cuts = [1_000_000]
    steps = list(client.pull("pocket", stream=True))
    assert steps[-1].status == "success"
    assert max(step.completed or 0 for step in steps) == GUIDE.stat().st_size
    answer = client.chat("pocket", HELLO, options={"num_predict": 30})
    assert answer.message.content
    shown = client.show("pocket")
    assert "num_ctx" in (shown.parameters or "")
    with pytest.raises(ollama.ResponseError, match="1024 tokens"):
        client.chat("pocket", HELLO, options={"num_ctx": 2048})
    folder = shop._folder / "state" / "models"
    client.copy("pocket", "purse")
    files = [folder / name / "latest" / "model.gguf" for name in ("pocket", "purse")]
    assert files[0].samefile(files[1])
    client.create("brief", from_="pocket", parameters={"num_predict": 3}, system="Be brief.")
    cut = client.chat("brief", HELLO)
    assert (cut.done_reason, cut.eval_count) == ("length", 3)
    digest = client.create_blob(GUIDE)
    client.create("uploaded", files={"guide.gguf": digest}, parameters={"temperature": 0})
    assert client.chat("uploaded", HELLO, options={"num_predict": 5}).message.content
    openai_names = {model["id"] for model in httpx.get(f"{shop.url}/v1/models").json()["data"]}
    assert {"pocket", "purse", "brief", "uploaded"} <= openai_names
    for name in ("pocket", "purse", "brief", "uploaded"):
        client.delete(name)
    assert not {"pocket:latest", "brief:latest"} & {model.model for model in client.list().models}
    assert list((folder / ".store" / "blobs").iterdir()) == []
    with pytest.raises(ollama.ResponseError, match="by hand"):
        client.delete("guide")


def test_wrong_files_never_harm_the_server(client: ollama.Client, mirror: Mirror, tmp_path: Path) -> None:
    mirror.add("library/bad", "latest", GUIDE.read_bytes()[:200_000])
    with pytest.raises(ollama.ResponseError, match="truncated"):
        list(client.pull("bad", stream=True))
    (tmp_path / "junk.gguf").write_bytes(b"GGUF" + b"\xff" * 5000)
    digest = client.create_blob(tmp_path / "junk.gguf")
    with pytest.raises(ollama.ResponseError, match=r"junk\.gguf"):
        client.create("junk", files={"junk.gguf": digest})
    assert client.chat("guide", HELLO, options={"num_predict": 2}).message.content


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff\xfe", b'{"model": 1e400}'])
@pytest.mark.parametrize("path", ["chat", "generate", "embed", "show", "pull", "create", "copy"])
def test_malformed_bodies_do_no_harm(shop: LiveServer, path: str, body: bytes) -> None:
    answer = httpx.post(f"{shop.url}/api/{path}", content=body)
    assert answer.status_code == 400
    assert isinstance(answer.json()["error"], str)


def test_a_key_is_asked_for(secured_server_url: str) -> None:
    nobody = ollama.Client(host=secured_server_url)
    with pytest.raises(ollama.ResponseError, match="API key") as caught:
        nobody.list()
    assert caught.value.status_code == 401
    keyed = ollama.Client(host=secured_server_url, headers={"Authorization": "Bearer test-key"})
    assert keyed.list().models
    for client in (nobody, keyed):
        client._client.close()
    assert httpx.delete(f"{secured_server_url}/api/delete").status_code == 401
