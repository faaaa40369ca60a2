"""Priority and deadline as clients give them, through the official clients and real connections; shares of tenants."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import numpy as np
import openai
import pytest

from inference_engine.domain.model import Execution, ModelRef
from inference_engine.domain.requests import Call, Chat, Message, Principal
from inference_engine.domain.tensors import Tensors
from inference_engine.testing import ECHO_SIGNATURE, FakeExecutor, last_text, manifest
from tests.http.support import World, listening


class Single(FakeExecutor):
    """Predicts one row at a time and remembers the first value of each."""

    def __init__(self) -> None:
        super().__init__(ECHO_SIGNATURE, compute=self._remember)
        self.seen: list[float] = []

    def _remember(self, batch: Tensors) -> dict[str, Any]:
        self.seen.append(float(batch["x"][0, 0]))
        return {"y": batch["x"]}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = made_world()
    await made.open()
    yield made
    await made.models.close()


def made_world() -> World:
    """`chatty` answers one at a time, `single` computes one row at a time."""
    world = World()
    world.chatty = FakeExecutor(kinds=("chat", "complete"), concurrency=1)
    world.executors.executors |= {"chatty:1": world.chatty, "single:1": Single()}
    world.repository.models.append(manifest("single", signature=ECHO_SIGNATURE, execution=Execution(max_batch_size=1)))
    return world


def said(world: World) -> list[str]:
    return [last_text(request) for request in world.chatty.requests]


async def test_the_urgent_go_first_whichever_client_asks() -> None:
    world = made_world()
    world.chatty.hold = 0
    with listening(world) as url:
        async with (
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as theirs,
            anthropic.AsyncAnthropic(base_url=url, api_key="x", max_retries=0) as others,
        ):

            async def ask(text: str, priority: int, *, anthropics: bool) -> None:
                headers = {"X-Priority": str(priority)}
                messages: Any = [{"role": "user", "content": text}]
                if anthropics:
                    await others.messages.create(model="chatty", max_tokens=9, messages=messages, extra_headers=headers)
                else:
                    await theirs.chat.completions.create(model="chatty", messages=messages, extra_headers=headers)

            tasks = [asyncio.create_task(ask("first", 9, anthropics=False))]
            await until(lambda: len(world.chatty.requests) == 1)
            for number, (text, priority) in enumerate([("late", 7), ("soon", 2), ("now", 0), ("soon too", 2)]):
                tasks.append(asyncio.create_task(ask(text, priority, anthropics=bool(number % 2))))
                await until(lambda number=number: queued(url, "chatty") == number + 1)
            assert world.loop is not None
            world.loop.call_soon_threadsafe(world.chatty.go.set)
            await asyncio.gather(*tasks)
    assert said(world) == ["first", "now", "soon", "soon too", "late"]


async def until(condition: Any) -> None:
    """Wait until it holds, at most for seconds."""
    give_up = time.monotonic() + 10
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < give_up
        await asyncio.sleep(0.01)


def queued(url: str, name: str) -> int:
    return int(httpx.get(f"{url}/admin/models/{name}/1").json()["queued"])


async def test_predictions_have_priorities_too(world: World, http: httpx.AsyncClient) -> None:
    single: Any = world.executors.executors["single:1"]
    single.hold = 0

    async def infer(value: float, headers: dict[str, str], parameters: dict[str, Any]) -> None:
        data = np.full(4, value).tolist()
        tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": data}
        answer = await http.post(
            "/v2/models/single/infer", json={"inputs": [tensor], "parameters": parameters}, headers=headers
        )
        assert answer.status_code == 200

    asked: list[tuple[float, dict[str, str], dict[str, Any]]] = [
        (1, {}, {}),
        (2, {"x-priority": "9"}, {}),
        (3, {"x-priority": "3"}, {}),
        (4, {}, {"priority": 1}),
    ]
    tasks = []
    for each in asked:
        tasks.append(asyncio.create_task(infer(*each)))
        await single.waiting.wait()
        while world.models.status(ModelRef("single", "1")).in_flight < len(tasks):
            await asyncio.sleep(0)
    single.go.set()
    await asyncio.gather(*tasks)
    assert single.seen == [1, 4, 3, 2]


@pytest.mark.parametrize("value", ["-1", "1001", "high", "1.5", "9999999999999", ""])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_priorities_that_are_refused(http: httpx.AsyncClient, path: str, value: str) -> None:
    body = {"model": "chatty", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    answer = await http.post(path, json=body, headers={"X-Priority": value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "X-Priority")


@pytest.mark.parametrize("waits", ["for a slot", "for words"])
async def test_a_deadline_ends_the_wait_and_the_computation(world: World, waits: str) -> None:
    world = made_world()
    world.chatty.hold = 1
    with listening(world) as url:
        async with anthropic.AsyncAnthropic(base_url=url, api_key="x", max_retries=0) as client:
            ask: Any = {"model": "chatty", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
            holder = None
            if waits == "for a slot":
                holder = asyncio.create_task(client.messages.create(**ask))
                await until(lambda: len(world.chatty.requests) == 1)
            started = time.monotonic()
            with pytest.raises(anthropic.InternalServerError) as caught:
                await client.messages.create(**ask, extra_headers={"X-Request-Timeout": "0.3"})
            assert 0.2 < time.monotonic() - started < 5
            assert (caught.value.status_code, caught.value.body["error"]["type"]) == (504, "timeout_error")
            assert world.loop is not None
            world.loop.call_soon_threadsafe(world.chatty.go.set)
            if holder is not None:
                assert (await holder).stop_reason == "end_turn"
            else:
                await until(lambda: world.chatty.closed == 1)


async def test_a_streamed_answer_ends_at_its_deadline_with_an_error(world: World, http: httpx.AsyncClient) -> None:
    world.chatty.hold = 2
    body = {"model": "chatty", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "stream": True}
    events = (await http.post("/v1/messages", json=body, headers={"X-Request-Timeout": "0.2"})).text
    assert "Hello" in events
    assert '"type":"timeout_error"' in events
    assert "message_stop" not in events
    assert world.chatty.closed == 1


async def test_five_hundred_of_one_tenant_do_not_hold_up_another(world: World) -> None:
    """Through the whole service; keys of several tenants are another chapter."""
    world.chatty.hold = 0

    async def ask(tenant: str) -> None:
        request = Chat((Message("user", tenant),))
        call = Call("1", Principal(tenant, "key"))
        generation = await world.inference.generate("chatty", request, call)
        async for _ in generation.deltas:
            pass

    tasks = [asyncio.create_task(ask("busy")) for _ in range(500)]
    await world.chatty.waiting.wait()
    for more, waiting in ((0, 499), (2, 501)):
        tasks += [asyncio.create_task(ask("rare")) for _ in range(more)]
        while world.models.status(ModelRef("chatty", "1")).queued < waiting:
            await asyncio.sleep(0)
    world.chatty.go.set()
    await asyncio.gather(*tasks)
    places = [place for place, tenant in enumerate(said(world)) if tenant == "rare"]
    assert places[0] == 1
    assert places[1] <= 4
