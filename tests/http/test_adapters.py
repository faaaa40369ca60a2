"""LoRA adapters as clients find and name them."""

from __future__ import annotations

import msgspec

from inference_engine.testing import FakeExecutor, manifest
from tests.http.support import World


async def world_with_adapters() -> World:
    world = World()
    world.repository.models.append(manifest("base", options={"adapters": {"law": "law.gguf", "poems": {"file": "p"}}}))
    executor = FakeExecutor(kinds=("chat", "complete"))
    executor.loaded = msgspec.structs.replace(executor.loaded, adapters=("law", "poems"))
    world.executors.executors["base:1"] = executor
    await world.open()
    return world


async def test_adapters_are_listed_before_the_model_is_loaded() -> None:
    world = await world_with_adapters()
    async with world.client() as http:
        listed = [model["id"] for model in (await http.get("/v1/models")).json()["data"]]
        assert [name for name in listed if name.startswith("base")] == [
            *("base", "base@law", "base@poems"),
            *("base:1", "base:1@law", "base:1@poems"),
        ]
        assert (await http.get("/admin/models/base/1")).json()["adapters"] == ["law", "poems"]
        assert (await http.get("/v1/models/base@law")).json()["id"] == "base@law"
        unknown = await http.get("/v1/models/base@jokes")
    assert unknown.status_code == 404
    assert "known adapters: law, poems" in unknown.json()["error"]["message"]


async def test_a_request_names_its_adapter() -> None:
    world = await world_with_adapters()
    body = {"messages": [{"role": "user", "content": "hi"}]}
    async with world.client() as http:
        answer = await http.post("/v1/chat/completions", json=body | {"model": "base@law"})
        unknown = await http.post("/v1/chat/completions", json=body | {"model": "base@jokes"})
    assert answer.status_code == 200
    executor = world.executors.executors["base:1"]
    assert [request.adapter for request in executor.requests] == ["law"]
    assert unknown.status_code == 404
