"""What every request meets: ids, keys, CORS, limits, errors, logs."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from typing import Any

import httpx
import pytest

from inference_engine.adapters.http.exchange import Message
from inference_engine.adapters.http.hosts import LocalHosts
from inference_engine.core.settings import Settings
from inference_engine.domain.errors import Forbidden
from tests.http.support import VERSION, World

INFER = "/v2/models/echo/infer"
FLOATS = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
CHAT = {"model": "chatty", "messages": [{"role": "user", "content": "hi"}]}


class Wire:
    """A client at the level of ASGI messages. `leave` closes the connection; `sent` holds what the server answered."""

    def __init__(self, path: str, body: bytes, method: str = "POST", *headers: tuple[bytes, bytes]) -> None:
        self.scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(b"content-length", str(len(body)).encode()), *headers],
            "query_string": b"",
            "client": ("127.0.0.1", 9),
        }
        self.sent: list[Message] = []
        self.arrived = asyncio.Event()
        self._left = asyncio.Event()
        self._messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    def leave(self) -> None:
        self._left.set()

    async def receive(self) -> Message:
        if self._messages:
            return self._messages.pop(0)
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body":
            self.arrived.set()

    def start(self, world: World) -> asyncio.Task[None]:
        return asyncio.ensure_future(world.app(self.scope, self.receive, self.send))


# -- request ids ---------------------------------------------------------------------------------------------------


async def test_a_request_id_is_given_back(http: httpx.AsyncClient) -> None:
    answer = await http.post(INFER, json=FLOATS, headers={"X-Request-Id": "trace-7"})
    assert answer.headers["x-request-id"] == "trace-7"
    assert answer.headers["x-inference-engine"] == VERSION


@pytest.mark.parametrize("bad", ["", "two words", "a" * 129, "line\\n", "ü".encode().decode("latin-1")])
async def test_other_request_ids_are_replaced(http: httpx.AsyncClient, bad: str) -> None:
    answer = await http.get("/health/live", headers=[(b"X-Request-Id", bad.encode("latin-1"))])
    other = await http.get("/health/live")
    assert answer.headers["x-request-id"] not in (bad, other.headers["x-request-id"])


# -- keys ----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def guarded() -> World:
    world = World(Settings(api_keys=("first-secret", "second-secret"), api_key_header="X-My-Key"))
    await world.open()
    return world


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer first-secret"},
        {"Authorization": "bearer second-secret"},
        {"X-My-Key": "first-secret"},
        {"X-API-Key": "second-secret"},
    ],
)
async def test_a_key_opens_every_dialect(guarded: World, headers: dict[str, str]) -> None:
    async with guarded.client(**headers) as http:
        for path in ("/v1/models", "/v2/models/echo", "/admin/models", "/metrics"):
            assert (await http.get(path)).status_code == 200
        assert (await http.post(INFER, json=FLOATS)).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic Zmlyc3Q6"}])
async def test_without_a_key_nothing_opens(guarded: World, headers: dict[str, str]) -> None:
    async with guarded.client(**headers) as http:
        for path in ("/v1/models", "/v2/models/echo", "/admin/models", "/metrics", "/nowhere", "/v1/nowhere"):
            answer = await http.get(path)
            assert answer.status_code == 401
            assert "key" in answer.text
        assert (await http.post("/v1/chat/completions", content=b"{")).status_code == 401
        assert (await http.post(INFER, content=b"{")).status_code == 401


async def test_health_console_and_documentation_need_no_key(guarded: World) -> None:
    async with guarded.client() as http:
        for path in ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json"):
            assert (await http.get(path)).status_code == 200
        assert (await http.get("/")).status_code == 307
        assert (await http.get("/console/")).status_code in (200, 404)


# -- other origins -------------------------------------------------------------------------------------------------


async def test_an_allowed_origin() -> None:
    world = World(Settings(cors_origins=("https://app.example",), api_keys=("secret-key",)))
    async with world.client(origin="https://app.example") as http:
        preflight = await http.options(
            "/v1/chat/completions",
            headers={"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"},
        )
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == "https://app.example"
        assert preflight.headers["access-control-allow-headers"] == "authorization"
        answer = await http.get("/v1/models")
        assert answer.status_code == 401
        assert answer.headers["access-control-allow-origin"] == "https://app.example"


async def test_a_foreign_origin_is_not_allowed(http: httpx.AsyncClient) -> None:
    headers = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    preflight = await http.options("/v1/models", headers={**headers, "Access-Control-Request-Method": "GET"})
    assert "access-control-allow-origin" not in preflight.headers
    answer = await http.post("/admin/models/echo/1/load", headers=headers)
    assert answer.status_code == 403
    assert "cors_origins" in answer.json()["error"]["message"]


async def test_the_own_page_may_write(http: httpx.AsyncClient) -> None:
    headers = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert (await http.post("/admin/models/echo/1/load", headers=headers)).status_code == 200


# -- limits --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def narrow() -> World:
    world = World(Settings(max_body_mb=0.001))
    await world.open()
    return world


@pytest.mark.parametrize("path", [INFER, "/v1/chat/completions", "/admin/routes/echo"])
async def test_a_body_over_the_limit(narrow: World, path: str) -> None:
    async def chunks() -> Any:
        for _ in range(10):
            yield b" " * 500

    method = "PUT" if "admin" in path else "POST"
    async with narrow.client() as http:
        for content in (b" " * 5000, chunks()):
            answer = await http.request(method, path, content=content)
            assert answer.status_code == 413
            assert "max_body_mb" in answer.text


async def test_a_packed_body_is_unpacked_within_the_limit(narrow: World) -> None:
    body = httpx.Request("POST", "http://localhost", json=FLOATS).content
    cases = [
        ("gzip", gzip.compress(body), 200),
        ("deflate", zlib.compress(body), 200),
        ("identity", body, 200),
        ("gzip", gzip.compress(b" " * 1_000_000)[:800], 413),
        ("gzip", gzip.compress(body)[:-4], 400),
        ("gzip", body, 400),
        ("br", body, 415),
    ]
    async with narrow.client() as http:
        for encoding, packed, status in cases:
            answer = await http.post(INFER, content=packed, headers={"Content-Encoding": encoding})
            assert answer.status_code == status, answer.text


async def test_a_body_in_pieces(world: World) -> None:
    wire = Wire(INFER, b"")
    body = httpx.Request("POST", "http://localhost", json=FLOATS).content
    wire._messages = [
        {"type": "http.request", "body": body[i : i + 7], "more_body": True} for i in range(0, len(body), 7)
    ]
    wire._messages.append({"type": "http.request", "body": b"", "more_body": False})
    await wire.start(world)
    assert wire.sent[0]["status"] == 200


async def test_a_client_that_leaves_while_sending(world: World) -> None:
    wire = Wire(INFER, b"")
    wire._messages = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    await wire.start(world)
    assert wire.sent == []


@pytest.mark.parametrize("bad", ["soon", "-1", "0", "nan"])
async def test_a_deadline_must_be_seconds(http: httpx.AsyncClient, bad: str) -> None:
    answer = await http.post(INFER, json=FLOATS, headers={"X-Request-Timeout": bad})
    assert answer.status_code == 400
    assert "X-Request-Timeout" in answer.text


async def test_a_deadline_ends_the_request(world: World, http: httpx.AsyncClient) -> None:
    world.echo.hold = 0
    answer = await http.post("/v2/models/echo/versions/1/infer", json=FLOATS, headers={"X-Request-Timeout": "0.01"})
    assert answer.status_code == 504
    assert "deadline" in answer.json()["error"]
    await world.echo.ended.wait()
    assert world.echo.closed == 1


# -- the client leaves ---------------------------------------------------------------------------------------------


async def test_leaving_a_prediction_stops_it(world: World) -> None:
    world.echo.hold = 0
    body = httpx.Request("POST", "http://localhost", json=FLOATS).content
    wire = Wire("/v2/models/echo/versions/1/infer", body)
    task = wire.start(world)
    await world.echo.waiting.wait()
    wire.leave()
    await task
    await world.echo.ended.wait()
    assert world.echo.closed == 1
    assert wire.sent == []
    assert world.telemetry.requests[-1][2] == "cancelled"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("hold", [0, 2])
async def test_leaving_a_generation_stops_it(world: World, stream: bool, hold: int) -> None:
    world.chatty.hold = hold
    body = httpx.Request("POST", "http://localhost", json={**CHAT, "stream": stream}).content
    wire = Wire("/v1/chat/completions", body)
    task = wire.start(world)
    await world.chatty.waiting.wait()
    wire.leave()
    await task
    assert world.chatty.closed == 1
    assert world.telemetry.requests[-1][2] == "cancelled"
    assert not any(b"[DONE]" in message.get("body", b"") for message in wire.sent)


async def test_leaving_several_prompts_stops_them_all(world: World) -> None:
    world.chatty.hold = 1
    body = httpx.Request("POST", "http://localhost", json={"model": "chatty", "prompt": ["a", "b"], "n": 2}).content
    wire = Wire("/v1/completions", body)
    task = wire.start(world)
    await world.chatty.waiting.wait()
    wire.leave()
    await task
    assert world.chatty.closed == len(world.chatty.requests)


async def test_a_slow_answer_to_a_patient_client(world: World) -> None:
    """The watch over a long request ends with it and does no harm."""
    world.chatty.hold = 1
    wire = Wire("/v1/chat/completions", httpx.Request("POST", "http://localhost", json=CHAT).content)
    task = wire.start(world)
    await world.chatty.waiting.wait()
    while not world.app._departures._watchers:
        await asyncio.sleep(0)
    world.chatty.go.set()
    await task
    assert wire.sent[0]["status"] == 200
    assert not world.app._departures._watchers


async def test_cancelling_the_server_is_no_departure(world: World) -> None:
    world.chatty.hold = 0
    wire = Wire("/v1/chat/completions", httpx.Request("POST", "http://localhost", json=CHAT).content)
    task = wire.start(world)
    await world.chatty.waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# -- errors and odd requests ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/v1/nowhere", "/v2/nowhere", "/admin/nowhere", "/nowhere", "/v1/models/", "/health/x"]
)
async def test_nothing_there(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(path)
    assert answer.status_code == 404
    assert "/docs" in answer.text
    error = answer.json()["error"]
    assert isinstance(error, str) if path.startswith("/v2") else set(error) >= {"message", "code", "param"}


@pytest.mark.parametrize("path", ["/v1/chat/completions", INFER, "/admin/refresh"])
async def test_the_wrong_method(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.delete(path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert "takes POST" in answer.text


async def test_head_is_get_without_a_body(world: World) -> None:
    for path in ("/health/live", "/v1/models", "/console/"):
        wire = Wire(path, b"", "HEAD")
        await wire.start(world)
        assert wire.sent[0]["status"] in (200, 404 if path == "/console/" else 200)
        assert int(dict(wire.sent[0]["headers"])[b"content-length"]) > 0
        assert wire.sent[1]["body"] == b""


async def test_long_json_is_compressed_where_wanted(http: httpx.AsyncClient) -> None:
    async with http.stream("GET", "/admin/models", headers={"Accept-Encoding": "gzip"}) as answer:
        raw = b"".join([part async for part in answer.aiter_raw()])
    assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(raw).startswith(b'{"models":')
    plain = await http.get("/admin/models", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers


async def test_a_root_path_is_taken_off() -> None:
    world = World(Settings(root_path="/engine"))
    await world.open()
    async with world.client() as http:
        assert (await http.post("/engine" + INFER, json=FLOATS)).status_code == 200
        assert (await http.get("/engine/v1/models")).status_code == 200
        assert (await http.get("/engine/")).headers["location"] == "/engine/console/"
        assert (await http.get("/health/live")).status_code == 200


async def test_web_sockets_are_refused_and_lifespan_agreed_to(world: World) -> None:
    sent: list[Message] = []
    asked: list[Message] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> Message:
        return asked.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await world.app({"type": "websocket", "path": "/"}, receive, send)
    await world.app({"type": "lifespan"}, receive, send)
    assert [message["type"] for message in sent] == [
        "websocket.close",
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


@pytest.mark.parametrize(("log", "lines"), [(True, 1), (False, 0)])
async def test_the_access_log(log: bool, lines: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    world = World(Settings(access_log=log))
    await world.open()
    async with world.client() as http:
        await http.post(INFER, json=FLOATS, headers={"X-Request-Id": "find-me"})
    found = [record for record in caplog.records if getattr(record, "request_id", "") == "find-me"]
    assert len(found) == lines


@pytest.mark.parametrize("path", ["/admin/system", "/metrics"])
async def test_an_unexpected_exception_is_logged_and_hidden(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """On a cool route and on a hot one."""
    world = World()

    def broken() -> Any:
        raise ZeroDivisionError("a secret detail")

    world.system = world.exposition = broken
    async with world.client() as http:
        answer = await http.get(path, headers={"X-Request-Id": "find-me"})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "find-me" in answer.json()["error"]["message"]
    assert "a secret detail" in caplog.text


async def test_an_unexpected_exception_in_a_stream_ends_it_with_an_error(world: World, http: httpx.AsyncClient) -> None:
    world.chatty.fail, world.chatty.fail_after = ZeroDivisionError("a secret detail"), 2
    answer = await http.post("/v1/chat/completions", json={**CHAT, "stream": True})
    assert answer.status_code == 200
    last = answer.text.strip().split("\n\n")[-1]
    assert "internal_error" in last
    assert "secret" not in last


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:8000", 200), ("localhost", 200), ("app.localhost:1", 200), ("[::1]:8000", 200), ("evil.example", 403)],
)
def test_without_keys_only_local_names_are_answered(host: str, status: int) -> None:
    hosts = LocalHosts("box")
    hosts.check(b"box:8000")
    if status == 200:
        hosts.check(host.encode())
    else:
        with pytest.raises(Forbidden, match=host):
            hosts.check(host.encode())


async def test_a_page_that_rebinds_its_name_gets_nothing(world: World) -> None:
    async with world.client() as client:
        answer = await client.get("/v1/models", headers={"host": "evil.example"})
    assert answer.status_code == 403
    assert "evil.example" in answer.json()["error"]["message"]
