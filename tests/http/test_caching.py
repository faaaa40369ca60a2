"""What clients and operators see of reused answers: headers, streams, departures, the admin endpoints."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from inference_engine.core.settings import Settings
from tests.http.support import World, listening
from tests.http.test_edge import Wire

CHAT: dict[str, Any] = {"model": "chatty", "messages": [{"role": "user", "content": "hi there"}], "temperature": 0}
MESSAGE: dict[str, Any] = {**CHAT, "max_tokens": 64}
CHATS, MESSAGES = "/v1/chat/completions", "/v1/messages"
INFER = "/v2/models/echo/infer"
FLOATS = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World(cache=True)
    await made.open()
    yield made
    await made.models.close()


async def outcomes(http: httpx.AsyncClient, path: str, body: dict[str, Any], *headers: dict[str, str]) -> list[Any]:
    """What the header says, one request after the other."""
    answers = [await http.post(path, json=body, headers=each) for each in headers]
    assert all(answer.status_code == 200 for answer in answers)
    return [answer.headers.get("x-cache") for answer in answers]


@pytest.mark.parametrize(("path", "body"), [(CHATS, CHAT), (MESSAGES, MESSAGE)])
async def test_the_header_says_what_happened(
    world: World, http: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    assert await outcomes(http, path, body, {}, {}) == ["miss", "hit"]
    sampled = {**body, "temperature": 0.9}
    assert await outcomes(http, path, sampled, {}, {}) == [None, None]
    assert await outcomes(http, path, sampled, *[{"x-cache": "always"}] * 2) == ["miss", "hit"]
    assert await outcomes(http, path, body, {"x-cache": "never"}, {"x-cache": "refresh"}, {}) == [None, "miss", "hit"]
    assert await outcomes(http, path, body, {"cache-control": "No-Store"}, {"cache-control": "a, no-cache"}) == [
        None,
        "miss",
    ]
    answer = await http.post(path, json=body, headers={"x-cache": "perhaps"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "X-Cache")


def _text(events: str) -> str:
    datas = [json.loads(line[6:]) for line in events.split("\n") if line.startswith("data: ")]
    return "".join([data["delta"].get("text", "") for data in datas if data["type"] == "content_block_delta"])


async def test_a_streamed_hit_is_the_same_stream(world: World, http: httpx.AsyncClient) -> None:
    streamed = {**MESSAGE, "stream": True}
    whole = (await http.post(MESSAGES, json=MESSAGE)).json()
    answers = [await http.post(MESSAGES, json=streamed) for _ in range(2)]
    assert [answer.headers["x-cache"] for answer in answers] == ["hit", "hit"]
    assert {_text(answer.text) for answer in answers} == {whole["content"][0]["text"]}
    assert f'"output_tokens":{whole["usage"]["output_tokens"]}' in answers[0].text, "usage is that of the computation"
    assert len(world.chatty.requests) == 1


async def test_predictions_by_request(http: httpx.AsyncClient) -> None:
    assert await outcomes(http, INFER, FLOATS, {}, *[{"x-cache": "always"}] * 2) == [None, "miss", "hit"]


async def test_keys_of_one_tenant_share(world: World) -> None:
    guarded = World(Settings(api_keys=("first-secret", "second-secret")), cache=True)
    await guarded.open()
    async with guarded.client() as http:
        keys = [{"x-api-key": key} for key in ("first-secret", "second-secret")]
        assert await outcomes(http, CHATS, CHAT, *keys) == ["miss", "hit"]
    await guarded.models.close()


async def test_the_first_client_leaves_and_the_second_hears_all(world: World) -> None:
    world.chatty.hold = 2
    body = json.dumps({**CHAT, "stream": True}).encode()
    first, second = Wire(CHATS, body), Wire(CHATS, body)
    one = first.start(world)
    await world.chatty.waiting.wait()
    two = second.start(world)
    await second.arrived.wait()
    await asyncio.sleep(0.1)
    first.leave()
    await one
    assert world.chatty.closed == 0
    world.chatty.go.set()
    await two
    events = b"".join(message.get("body", b"") for message in second.sent)
    assert all(word.encode() in events for word in world.chatty.words)
    assert events.endswith(b"data: [DONE]\n\n")
    assert len(world.chatty.requests) == 1


async def test_when_both_leave_the_computation_stops(world: World) -> None:
    world.chatty.hold = 2
    clients = [Wire(CHATS, json.dumps(CHAT).encode()) for _ in range(2)]
    tasks = [client.start(world) for client in clients]
    await world.chatty.waiting.wait()
    await asyncio.sleep(0.1)
    for client in clients:
        client.leave()
    await asyncio.gather(*tasks)
    assert world.chatty.closed == 1


async def test_the_cache_can_be_seen_and_cleared(world: World, http: httpx.AsyncClient) -> None:
    await outcomes(http, CHATS, CHAT, {}, {})
    stats = (await http.get("/admin/cache")).json()
    assert stats.pop("bytes") > 100
    assert stats == {
        "enabled": True,
        "entries": 1,
        "max_bytes": 1 << 20,
        "ttl_s": 300.0,
        "in_flight": 0,
        "hits": 1,
        "misses": 1,
        "shared": 0,
        "evictions": 0,
    }
    assert (await http.delete("/admin/cache/echo/1")).json()["cleared"] == 0
    assert (await http.delete("/admin/cache/nobody/1")).status_code == 404
    assert (await http.delete("/admin/cache/chatty/1")).json()["cleared"] == 1
    await outcomes(http, CHATS, CHAT, {})
    cleared = (await http.delete("/admin/cache")).json()
    assert (cleared["cleared"], cleared["entries"], cleared["bytes"]) == (1, 0, 0)
    assert await outcomes(http, CHATS, CHAT, {}) == ["miss"]


def test_fifty_equal_requests_over_real_connections() -> None:
    """The official clients, all at once: one computation, and everybody hears the whole answer."""
    world = World(cache=True)
    world.chatty.hold = 3

    async def ask(url: str) -> list[str]:
        limits = httpx.Limits(max_connections=60)
        async with (
            openai.AsyncOpenAI(
                base_url=f"{url}/v1", api_key="x", http_client=httpx.AsyncClient(limits=limits)
            ) as theirs,
            anthropic.AsyncAnthropic(base_url=url, api_key="x") as others,
        ):
            whole = [theirs.chat.completions.create(**CHAT) for _ in range(25)]
            streams = [_streamed(theirs) for _ in range(25)]
            asked = [asyncio.ensure_future(each) for each in [*whole, *streams]]
            async with httpx.AsyncClient(base_url=url) as operator, asyncio.timeout(60):
                while (await operator.get("/admin/cache")).json()["shared"] < 49:
                    await asyncio.sleep(0.02)
            loop.call_soon_threadsafe(world.chatty.go.set)
            found = await asyncio.gather(*asked)
            extra = await others.messages.create(
                model="chatty", max_tokens=9, messages=CHAT["messages"], extra_body={"temperature": 0}
            )
            texts = [each if isinstance(each, str) else each.choices[0].message.content for each in found]
            return [*texts, extra.content[0].text]

    with listening(world) as url:
        loop = world.loop
        answers = asyncio.run(ask(url))
        stats = world.inference.reuse.stats()
    assert set(answers) == {"Hello, world!"}
    assert len(world.chatty.requests) == 2, "one for the fifty, one for the other question"
    assert (stats.misses, stats.shared) == (2, 49)


async def _streamed(client: openai.AsyncOpenAI) -> str:
    stream = await client.chat.completions.create(**CHAT, stream=True)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


async def test_vectors_and_rankings(http: httpx.AsyncClient) -> None:
    """They are always the same, so they are kept without being asked for."""
    assert await outcomes(http, "/v1/embeddings", {"model": "vectors", "input": "hi"}, {}, {}) == ["miss", "hit"]
    ranked = {"model": "vectors", "query": "q", "documents": ["a", "b"]}
    assert await outcomes(http, "/v1/rerank", ranked, {}, {"x-cache": "never"}, {}) == ["miss", None, "hit"]
