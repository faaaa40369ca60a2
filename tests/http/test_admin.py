"""The admin API: what an operator and the console see and do."""

from __future__ import annotations

import httpx
import pytest

from inference_engine.domain.model import ModelRef
from inference_engine.testing import manifest
from tests.http.support import VERSION, World


async def test_models(http: httpx.AsyncClient) -> None:
    found = (await http.get("/admin/models")).json()
    names = [(model["name"], model["version"]) for model in found["models"]]
    assert names == sorted(names)
    echo = next(model for model in found["models"] if (model["name"], model["version"]) == ("echo", "2"))
    assert echo["state"] == "unloaded"
    assert echo["routes"] == ["echo"]
    assert echo["signature"]["inputs"] == [{"name": "x", "dtype": "float32", "shape": [-1, 4]}]
    assert found["broken"] == [{"folder": "models/bad/1", "message": "models/bad/1/model.yaml:1: name is missing"}]


async def test_one_model_with_its_manifest(http: httpx.AsyncClient) -> None:
    found = (await http.get("/admin/models/echo/2")).json()
    assert found["manifest"]["runtime"] == "fake"
    assert found["manifest"]["execution"]["max_batch_size"] == 64
    assert (found["folder"], found["assumed"]) == ("models/echo/2", False)


async def test_load_and_unload(http: httpx.AsyncClient) -> None:
    loaded = (await http.post("/admin/models/echo/1/load")).json()
    assert (loaded["state"], loaded["memory_bytes"]) == ("ready", 4096)
    assert loaded["loaded_at"].endswith("Z")
    unloaded = (await http.post("/admin/models/echo/1/unload")).json()
    assert (unloaded["state"], unloaded["memory_returned_bytes"]) == ("unloaded", 4096)
    again = (await http.post("/admin/models/echo/1/unload")).json()
    assert again["memory_returned_bytes"] == 0


async def test_routes(world: World, http: httpx.AsyncClient) -> None:
    pinned = await http.put("/admin/routes/stable", json={"target": "echo:1"})
    assert pinned.json() == {"name": "stable", "rule": "pinned", "target": {"name": "echo", "version": "1"}}
    assert world.routes.routes == {"stable": ModelRef("echo", "1")}
    assert "stable" in {route["name"] for route in (await http.get("/admin/routes")).json()["routes"]}
    body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
    served = await http.post("/v2/models/stable/infer", json=body)
    assert (served.headers["x-model-version"], served.headers["x-model-rule"]) == ("1", "pinned")
    left = (await http.delete("/admin/routes/stable")).json()["routes"]
    assert "stable" not in {route["name"] for route in left}
    assert (await http.post("/v2/models/stable/infer", json=body)).status_code == 404


async def test_a_pin_moves_what_is_remembered(http: httpx.AsyncClient) -> None:
    """The headers that say who served follow the route at once."""
    body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
    seen = []
    for target in (None, "echo:1", "echo:2"):
        if target:
            await http.put("/admin/routes/echo", json={"target": target})
        answer = await http.post("/v2/models/echo/infer", json=body)
        seen.append((answer.headers["x-model-version"], answer.headers["x-model-rule"]))
    assert seen == [("2", "latest"), ("1", "pinned"), ("2", "pinned")]


@pytest.mark.parametrize(
    ("method", "path", "json", "status", "param"),
    [
        ("GET", "/admin/models/nobody/1", None, 404, "model"),
        ("GET", "/admin/models/%2e%2e/1", None, 400, "model"),
        ("POST", "/admin/models/echo/9/load", None, 404, "model"),
        ("PUT", "/admin/routes/stable", {"target": "echo"}, 400, "target"),
        ("PUT", "/admin/routes/stable", {"target": "echo:9"}, 404, "target"),
        ("PUT", "/admin/routes/stable", {}, 400, "target"),
        ("PUT", "/admin/routes/stable", {"target": "echo:1", "weight": 2}, 400, "weight"),
        ("PUT", "/admin/routes/sta%20ble", {"target": "echo:1"}, 400, "route"),
        ("DELETE", "/admin/routes/stable", None, 404, "route"),
    ],
)
async def test_refusals(
    http: httpx.AsyncClient, method: str, path: str, *, json: object, status: int, param: str
) -> None:
    answer = await http.request(method, path, json=json)
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == param


async def test_refresh_finds_new_models(world: World, http: httpx.AsyncClient) -> None:
    world.repository.models.append(manifest("fresh"))
    found = (await http.post("/admin/refresh")).json()
    assert "fresh" in {model["name"] for model in found["models"]}


async def test_system(http: httpx.AsyncClient) -> None:
    assert (await http.get("/admin/system")).json() == {"version": VERSION}
