"""The cache of a real server over the built-in model."""

from __future__ import annotations

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
    client = openai.OpenAI(base_url=f"{caching.url}/v1", api_key="any", max_retries=0)
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
