"""Health, metrics, console, documentation."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx
import pytest

from inference_engine.adapters.http.docs_page import _PAGE
from inference_engine.core.settings import Settings
from tests.http.support import VERSION, World

# -- health and metrics --------------------------------------------------------------------------------------------


async def test_readiness_is_truthful() -> None:
    world = World()
    async with world.client() as http:
        assert (await http.get("/health/live")).status_code == 200
        starting = await http.get("/health/ready")
        assert (starting.status_code, starting.json()["reason"]) == (503, "starting")
        assert (await http.get("/v2/health/ready")).status_code == 503
        await world.open()
        ready = await http.get("/health/ready")
        assert ready.status_code == 200
        assert {model["state"] for model in ready.json()["models"]} == {"unloaded"}
        world.health.closing()
        assert (await http.get("/health/ready")).json()["reason"] == "shutting down"
        assert (await http.get("/v2/health/ready")).status_code == 503


async def test_health_of_a_model(world: World, http: httpx.AsyncClient) -> None:
    assert (await http.get("/health/models/echo/1")).status_code == 503
    await http.post("/admin/models/echo/1/load")
    answer = await http.get("/health/models/echo/1")
    assert answer.status_code == 200
    assert answer.json() == {"name": "echo", "version": "1", "state": "ready", "ready": True, "error": None}
    assert (await http.get("/health/models/echo")).json()["version"] == "2"
    assert (await http.get("/health/models/nobody")).status_code == 404
    await http.post("/admin/models/failing/1/load")
    assert "damaged" in (await http.get("/health/models/failing")).json()["error"]


async def test_metrics(http: httpx.AsyncClient) -> None:
    answer = await http.get("/metrics")
    assert answer.text == "# metrics\n"
    assert answer.headers["content-type"].startswith("text/plain")


# -- console -------------------------------------------------------------------------------------------------------


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    folder = tmp_path / "dist"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<html>the console</html>")
    (folder / "favicon.svg").write_text("<svg/>")
    (folder / "assets" / "main-B1x_9aZk.js").write_text("let a = 1; " * 500)
    (tmp_path / "secret.txt").write_text("kept apart")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    return folder


async def test_the_console(dist: Path) -> None:
    async with World(console_dist=dist).client() as http:
        assert (await http.get("/")).headers["location"] == "/console/"
        page = await http.get("/console/")
        assert page.text == "<html>the console</html>"
        assert page.headers["cache-control"] == "no-cache"
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"
        script = await http.get("/console/assets/main-B1x_9aZk.js")
        assert "immutable" in script.headers["cache-control"]
        assert script.headers["content-type"] == "text/javascript; charset=utf-8"
        assert script.headers["content-encoding"] == "gzip"
        assert script.text.startswith("let a")
        assert (await http.get("/console/chat/some-id")).text == page.text
        assert (await http.get("/favicon.ico")).headers["content-type"].startswith("image/svg")
        (dist / "index.html").write_text("rebuilt")
        assert (await http.get("/console/")).text == "rebuilt"


@pytest.mark.parametrize(
    "name",
    [
        *("../secret.txt", "..%2fsecret.txt", "%2e%2e/secret.txt", "assets/../../secret.txt", "..\\secret.txt"),
        *("link.txt", "/etc/passwd", "assets/missing.js", "a%00.js", "x" * 5000 + ".js"),
    ],
)
async def test_the_console_serves_nothing_else(dist: Path, name: str) -> None:
    world = World(console_dist=dist)
    async with world.client() as http:
        answer = await http.get(f"/console/{name}")
        assert "kept apart" not in answer.text
        assert answer.text == "<html>the console</html>" or answer.status_code in (401, 404)


async def test_a_console_that_is_not_built(tmp_path: Path) -> None:
    async with World(console_dist=tmp_path).client() as http:
        answer = await http.get("/console/")
        assert answer.status_code == 404
        assert "make console" in answer.text
        assert (await http.get("/favicon.ico")).status_code == 404


# -- documentation -------------------------------------------------------------------------------------------------


async def test_one_openapi_for_all(http: httpx.AsyncClient) -> None:
    made: dict[str, Any] = (await http.get("/openapi.json")).json()
    assert made["info"]["version"] == VERSION
    for path in (
        "/v1/chat/completions",
        "/v1/completions",
        "/v2/models/{model}/versions/{version}/infer",
        "/admin/routes/{name}",
        "/health/ready",
        "/metrics",
    ):
        assert path in made["paths"]
    chat = made["paths"]["/v1/chat/completions"]["post"]
    assert "streamed" in chat["requestBody"]["content"]["application/json"]["examples"]
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', httpx.Response(200, json=made).text))
    assert names
    assert names <= set(made["components"]["schemas"])
    ids = [one["operationId"] for methods in made["paths"].values() for one in methods.values()]
    assert len(ids) == len(set(ids))
    for path, methods in made["paths"].items():
        for one in methods.values():
            assert one["summary"]
            assert {part["name"] for part in one.get("parameters", [])} == set(re.findall(r"{(\w+)}", path))


async def test_examples_of_the_documentation_are_understood(world: World, http: httpx.AsyncClient) -> None:
    """Every request example gets an answer other than "I do not understand": the models it names are not here."""
    made: dict[str, Any] = (await http.get("/openapi.json")).json()
    tried = 0
    for path, methods in made["paths"].items():
        for method, one in methods.items():
            content = one.get("requestBody", {}).get("content", {}).get("application/json", {})
            for example in content.get("examples", {}).values():
                target = path.format_map(defaultdict(lambda: "nobody", version="1"))
                answer = await http.request(method, target, json=example["value"])
                assert answer.status_code in (200, 403, 404), answer.text  # 403: what the operator has left off
                tried += 1
    assert tried >= 7


async def test_the_page_asks_nobody_else(http: httpx.AsyncClient) -> None:
    answer = await http.get("/docs")
    assert "openapi.json" in answer.text
    assert not re.search(r"https?://|src=", _PAGE.read_text())
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "script-src 'sha256-" in answer.headers["content-security-policy"]


async def test_documentation_can_be_switched_off() -> None:
    world = World(Settings(api_docs=False))
    await world.open()
    async with world.client() as http:
        assert (await http.get("/docs")).status_code == 404
        assert (await http.get("/openapi.json")).status_code == 404
        assert (await http.get("/v1/models")).status_code == 200
