"""The cache of a real server over the built-in model."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.conftest import LiveServer

QUESTION = [{"role": "user", "content": "What is a route?"}]


@pytest.fixture(scope="module")
def caching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    live = LiveServer(tmp_path_factory.mktemp("caching"), "--cache")
    live.start()
    yield live
    assert live.stop() == 0


def test_a_second_answer_costs_nothing(caching: LiveServer) -> None:
    with openai.OpenAI(base_url=f"{caching.url}/v1", api_key="any", max_retries=0) as client:
        _ask_twice(client, caching)


def _ask_twice(client: openai.OpenAI, caching: LiveServer) -> None:
    asked = {"model": "guide", "messages": QUESTION, "temperature": 0, "max_tokens": 60}
    first = client.chat.completions.with_raw_response.create(**asked)
    again = client.chat.completions.with_raw_response.create(**asked)
    assert (first.headers["x-cache"], again.headers["x-cache"]) == ("miss", "hit")
    one, two = first.parse(), again.parse()
    assert one.choices[0].message.content == two.choices[0].message.content
    assert one.usage == two.usage
    assert 'outcome="hit"' in httpx.get(f"{caching.url}/metrics").text
    unloaded = httpx.post(f"{caching.url}/admin/models/guide/1/unload", timeout=30)
    assert unloaded.status_code == 200
    assert httpx.get(f"{caching.url}/admin/cache").json()["entries"] == 0
    third = client.chat.completions.with_raw_response.create(**asked)
    assert third.headers["x-cache"] == "miss"
    assert third.parse().choices[0].message.content == one.choices[0].message.content


async def test_a_killed_runner_does_not_change_what_two_clients_follow(caching: LiveServer) -> None:
    """One computation, two streams, one dead runner: both hear the same whole answer."""
    asked = {"model": "guide", "messages": [{"role": "user", "content": "Explain the architecture"}], "temperature": 0}
    async with openai.AsyncOpenAI(base_url=f"{caching.url}/v1", api_key="any", max_retries=0) as client:
        alone = await client.chat.completions.create(**asked, max_tokens=120, extra_headers={"X-Cache": "never"})
        whole = alone.choices[0].message.content

        async def follow(kill_after: int) -> tuple[str | None, str]:
            raw = await client.chat.completions.with_raw_response.create(**asked, max_tokens=120, stream=True)
            text = ""
            async for chunk in raw.parse():
                text += chunk.choices[0].delta.content or ""
                kill_after -= 1
                if kill_after == 0:
                    os.kill(caching.pid_of("guide"), signal.SIGKILL)
            return raw.headers["x-cache"], text

        await asyncio.gather(client.models.list(), client.models.list())  # two connections, so that nobody comes late
        answers = await asyncio.gather(follow(2), follow(-1))
    assert [text for _, text in answers] == [whole, whole]
    assert sorted(str(outcome) for outcome, _ in answers) == ["miss", "shared"]
