"""Requests that are begun before there is a task for them, over a real socket: however they come and end."""

from __future__ import annotations

import gzip
import json
import random
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from inference_engine.core.settings import Settings
from inference_engine.domain.errors import InferenceFailed
from inference_engine.testing import PromptFakeExecutor
from tests.http.support import ECHO_SIGNATURE, World, listening

PATH = "/v2/models/echo/infer"
BODY = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}'


def request(body: bytes = BODY, *lines: str, path: str = PATH, version: str = "1.1") -> bytes:
    head = [f"POST {path} HTTP/{version}", "Host: localhost", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


class Line:
    """One connection, and the answers that came over it, as (status, headers, body)."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self._read = b""

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.socket.sendall(part)
            time.sleep(0.02 if len(parts) > 1 else 0)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        while b"\r\n\r\n" not in self._read:
            self._more()
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        size = int(headers["content-length"])
        while len(self._read) < size:
            self._more()
        body, self._read = self._read[:size], self._read[size:]
        return int(status.split()[1]), headers, body

    def _more(self) -> None:
        part = self.socket.recv(65536)
        assert part, "the server closed the connection"
        self._read += part

    def closed(self) -> bool:
        return self.socket.recv(1) == b""


class Prompt:
    """A live server whose `echo` computes in its callers' turn; `wake` lets it go on where it holds."""

    def __init__(self, world: World, url: str) -> None:
        self.echo = PromptFakeExecutor(ECHO_SIGNATURE)
        self.url = url
        self._world = world
        world.executors.executors["echo:2"] = self.echo

    def hold(self) -> None:
        self.echo.hold, self.echo.closed = 0, 0
        self.echo.go.clear()

    def wake(self) -> None:
        assert self._world.loop is not None
        self._world.loop.call_soon_threadsafe(self.echo.go.set)


@pytest.fixture(scope="module")
def prompt() -> Iterator[Prompt]:
    world = World(Settings(max_body_mb=0.0625))
    with listening(world) as url:
        yield Prompt(world, url)


@pytest.fixture
def line(prompt: Prompt) -> Iterator[Line]:
    echo = prompt.echo
    echo.now, echo.fail, echo.hold = 0, None, None
    with Line(prompt.url) as made:
        yield made


def values(body: bytes) -> list[float]:
    found: list[float] = json.loads(body)["outputs"][0]["data"]
    return found


def test_answered_at_once_again_and_again(line: Line, prompt: Prompt) -> None:
    for _ in range(3):
        line.send(request())
        status, headers, body = line.answer()
        assert (status, values(body)) == (200, [1, 2, 3, 4])
        assert headers["x-request-id"]
        assert headers["x-model-version"] == "2"
        assert headers["date"]
    assert prompt.echo.now == 3


@pytest.mark.parametrize("cut", [1, 20, 90, 130])
def test_in_two_pieces(line: Line, cut: int) -> None:
    whole = request()
    line.send(whole[:cut], whole[cut:])
    assert values(line.answer()[2]) == [1, 2, 3, 4]


def test_many_in_one_piece(line: Line) -> None:
    bodies = [BODY.replace(b"[1,2,3,4]}", b"[%d,2,3,4]}" % number) for number in range(20)]
    line.send(b"".join(request(body) for body in bodies))
    assert [values(line.answer()[2])[0] for _ in bodies] == list(range(20))


def test_behind_one_that_waits(line: Line, prompt: Prompt) -> None:
    """The answers keep the order of the requests."""
    first = request(BODY, path="/v2/models/echo/versions/1/infer")  # whose executor needs a task
    line.send(first + request(BODY.replace(b"[1,2,3,4]}", b"[7,2,3,4]}")) + request())
    assert [values(line.answer()[2])[0] for _ in range(3)] == [1, 7, 1]


@pytest.mark.parametrize(
    "sent",
    [
        request(gzip.compress(BODY), "Content-Encoding: gzip"),
        request(BODY, path=PATH + "?trace=1"),
        request(BODY, path="/v2/models/ech%6f/infer"),
        request(b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
        + b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (10, BODY[:10], len(BODY) - 10, BODY[10:]),
    ],
    ids=["packed", "query", "escaped", "chunked"],
)
def test_however_it_is_sent(line: Line, sent: bytes) -> None:
    line.send(sent)
    status, _, body = line.answer()
    assert (status, values(body)) == (200, [1, 2, 3, 4])


def test_in_a_thousand_chunks(line: Line) -> None:
    body = BODY + b" " * 4000
    head = request(b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    line.send(head + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
    assert values(line.answer()[2]) == [1, 2, 3, 4]


def test_expecting_to_be_asked_for_the_body(line: Line) -> None:
    whole = request(BODY, "Expect: 100-continue")
    line.send(whole[: -len(BODY)])
    assert line.socket.recv(100).startswith(b"HTTP/1.1 100 Continue")
    line.send(BODY)
    assert values(line.answer()[2]) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "sent", [request(BODY, "Connection: close"), request(BODY, version="1.0")], ids=["close", "HTTP/1.0"]
)
def test_the_last_of_its_connection(line: Line, sent: bytes) -> None:
    line.send(sent)
    assert values(line.answer()[2]) == [1, 2, 3, 4]
    assert line.closed()


@pytest.mark.parametrize(
    ("body", "path", "status"),
    [
        (b"{", PATH, 400),
        (BODY.replace(b"FP32", b"FP99"), PATH, 400),
        (BODY, "/v2/models/nobody/infer", 404),
        (BODY + b" " * 65536, PATH, 413),
    ],
)
def test_a_bad_request_harms_nobody(line: Line, body: bytes, path: str, status: int) -> None:
    line.send(request(body, path=path))
    answered, headers, told = line.answer()
    assert answered == status
    assert json.loads(told)["error"]
    if headers.get("connection") != "close":
        line.send(request())
        assert line.answer()[0] == 200


@pytest.mark.parametrize(("error", "status"), [(InferenceFailed("it is out of order"), 500), (ValueError("?"), 500)])
def test_a_model_that_fails(line: Line, prompt: Prompt, error: Exception, status: int) -> None:
    prompt.echo.fail = error
    line.send(request())
    assert line.answer()[0] == status
    prompt.echo.fail = None
    line.send(request())
    assert line.answer()[0] == 200


def test_the_one_that_comes_while_another_waits_is_answered_after_it(line: Line, prompt: Prompt) -> None:
    line.send(request(BODY, path="/v2/models/echo/versions/1/infer"))
    prompt.hold()
    line.send(request(), request(BODY.replace(b"[1,2,3,4]}", b"[7,2,3,4]}")))
    assert values(line.answer()[2])[0] == 1
    prompt.wake()
    assert [values(line.answer()[2])[0] for _ in range(2)] == [1, 7]


def test_a_client_that_leaves_while_it_waits(prompt: Prompt) -> None:
    echo = prompt.echo
    prompt.hold()
    with Line(prompt.url) as line:
        line.send(request())
        time.sleep(0.1)
    give_up = time.monotonic() + 5
    while not echo.closed and time.monotonic() < give_up:
        time.sleep(0.01)
    echo.hold = None
    assert echo.closed == 1
    assert httpx.post(prompt.url + PATH, content=BODY).status_code == 200


def test_only_an_idle_connection_is_closed() -> None:
    world = World()
    world.executors.executors["echo:2"] = PromptFakeExecutor(ECHO_SIGNATURE)
    with listening(world, keep_alive_s=1) as url, Line(url) as line:
        line.send(request())
        line.answer()
        time.sleep(0.6)
        line.send(request())
        line.answer()
        idle_since = time.monotonic()
        assert line.closed()
        assert time.monotonic() - idle_since > 0.9


@pytest.mark.parametrize("seed", range(8))
def test_however_a_stream_of_requests_is_cut_the_answers_are_the_same(line: Line, seed: int) -> None:
    dice = random.Random(seed)
    wire, wanted = b"", []
    for number in range(30):
        body = BODY.replace(b"[1,2,3,4]}", b"[%d,2,3,4]}" % number)
        kind = dice.choice(["now", "later", "bad", "get"])
        if kind == "get":
            wire += b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
        elif kind == "bad":
            wire += request(body[:-3])
        else:
            wire += request(body, path=PATH if kind == "now" else "/v2/models/echo/versions/1/infer")
        wanted.append((kind, number))
    while wire:
        size = dice.choice([1, 7, 50, 150, 400, 5000])
        line.socket.sendall(wire[:size])
        wire = wire[size:]
        if dice.random() < 0.3:
            time.sleep(0.002)
    for kind, number in wanted:
        status, _, body = line.answer()
        assert status == (400 if kind == "bad" else 200)
        if kind in ("now", "later"):
            assert values(body)[0] == number
