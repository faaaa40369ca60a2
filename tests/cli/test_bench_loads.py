"""The load generators against servers that answer as no good server would, and the sharing of the time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from inference_engine.adapters.cli.bench.figures import Level, Snapshot
from inference_engine.adapters.cli.bench.http_load import HttpLoad, Post, error_message
from inference_engine.adapters.cli.bench.measuring import Plan, Step, sweep
from inference_engine.adapters.cli.bench.other_loads import GrpcLoad
from inference_engine.adapters.cli.bench.recorder import Recorder
from inference_engine.adapters.cli.bench.screen import Lines
from inference_engine.domain.errors import EngineError, InvalidRequest, ModelNotFound, Unauthenticated, Unavailable

POST = Post("/v2/models/m/infer", b"{}")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
FULL = b'HTTP/1.1 429 Full\r\nContent-Length: 17\r\n\r\n{"error": "full"}'
QUICK = Plan(window_s=0.05, most_windows=3, tolerance=1.0, warm_up_s=0.02)


@asynccontextmanager
async def answering(answer: Callable[[int], bytes | None]) -> AsyncIterator[str]:
    """A server that answers its n-th request with these bytes; None closes the connection."""
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        try:
            while await reader.readuntil(b"\r\n\r\n{}"):
                asked += 1
                given = answer(asked)
                if given is None:
                    break
                writer.write(given)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def nothing() -> Snapshot:
    return Snapshot()


async def measured(load: HttpLoad, concurrency: int = 2) -> tuple[Level, dict[str, str]]:
    levels: list[Level] = []
    messages: dict[str, str] = {}
    steps = [Step(concurrency, 1)]
    await sweep(steps, lambda _: load, nothing, QUICK, 5.0, Lines(1, quiet=True), levels, messages)
    return levels[0], messages


async def test_answers_are_counted() -> None:
    async with answering(lambda _: OK) as url:
        level, messages = await measured(HttpLoad(url, None, lambda: POST))
    assert level.requests > 50
    assert level.errors == {}
    assert level.p50_ms is not None
    assert level.p50_ms < 50
    assert messages == {}


async def test_a_full_queue_is_counted_and_asked_again() -> None:
    async with answering(lambda number: FULL if number % 2 else OK) as url:
        level, messages = await measured(HttpLoad(url, None, lambda: POST))
    assert level.requests > 0
    assert level.errors["rejected"] > 0
    assert messages == {"rejected": "full"}


async def test_lost_connections_are_replaced() -> None:
    async with answering(lambda number: None if number % 20 == 0 else OK) as url:
        level, messages = await measured(HttpLoad(url, None, lambda: POST))
    assert level.requests > 0
    assert level.errors["connection"] > 0
    assert "closed" in messages["connection"]


def refusing(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (refusing(400, b'{"error": "input x has 3 columns"}'), InvalidRequest, "input x has 3 columns"),
        (refusing(401, b'{"error": {"message": "send a key"}}'), Unauthenticated, "send a key"),
        (refusing(404, b"<html>"), ModelNotFound, "the server answered 404"),
    ],
)
async def test_what_would_fail_again_ends_it(answer: bytes, kind: type[EngineError], words: str) -> None:
    async with answering(lambda _: answer) as url:
        with pytest.raises(kind, match=words):
            await measured(HttpLoad(url, None, lambda: POST))


async def test_a_server_that_only_hangs_up_ends_it() -> None:
    async with answering(lambda _: None) as url:
        with pytest.raises(Unavailable, match="gone away"):
            await measured(HttpLoad(url, None, lambda: POST), concurrency=16)


async def test_no_server() -> None:
    with pytest.raises(Unavailable, match="is the server running"):
        await measured(HttpLoad("http://127.0.0.1:1", None, lambda: POST))


async def test_what_is_no_http_is_an_error_not_a_crash() -> None:
    async with answering(lambda _: b"hello\r\n\r\n") as url:
        with pytest.raises(Unavailable, match="gone away"):
            await measured(HttpLoad(url, None, lambda: POST), concurrency=16)


async def test_an_answer_that_never_comes_is_given_up() -> None:
    recorder = Recorder()
    async with answering(lambda _: b"") as url, HttpLoad(url, None, lambda: POST, timeout_s=0.1).running(2, recorder):
        async with asyncio.timeout(10):
            while recorder.ended < 2:
                await asyncio.sleep(0.05)
    assert recorder.messages["timeout"] == "no answer within 0.1 s"


def event(data: str) -> bytes:
    return f"data: {data}\n\n".encode()


async def test_streams_are_read_across_pieces() -> None:
    delta = '{"choices": [{"delta": {"content": "a"}}]}'
    usage = '{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 6}}'
    body = event('{"choices": [{"delta": {"role": "assistant", "content": ""}}]}') + event(delta) * 3
    body += event(usage) + event("[DONE]")
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:70], body[70:90], body[90:]))
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    recorder = Recorder()
    async with answering(lambda _: answer) as url, HttpLoad(url, None, lambda: POST, streams=True).running(1, recorder):
        async with asyncio.timeout(10):
            while recorder.ended < 3:
                await asyncio.sleep(0.01)
    window = recorder.take()
    streams = len(window.latencies_s)
    assert (window.token_pieces, window.tokens, window.prompt_tokens) == (3 * streams, 6 * streams, 7 * streams)
    assert len(window.first_s) >= streams
    assert len(window.gaps_s) >= 2 * streams


async def test_a_stream_that_breaks_off_is_an_error() -> None:
    body = event('{"error": {"message": "the model failed", "code": "inference_failed"}}')
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    async with answering(lambda _: answer) as url:
        level, messages = await measured(HttpLoad(url, None, lambda: POST, streams=True))
    assert level.requests == 0
    assert messages == {"stream": "the model failed"}


def test_messages_of_errors() -> None:
    assert error_message(b'{"error": "plain"}') == "plain"
    assert error_message(b'{"error": {"message": "deep"}}') == "deep"
    assert error_message(b"<html>") == ""


async def test_nothing_at_the_port_of_grpc() -> None:
    pytest.importorskip("grpc", reason="grpcio is not installed")
    load = GrpcLoad("127.0.0.1:1", None, "m", "1", [{}], timeout_s=0.3)
    with pytest.raises(Unavailable, match="Say it with --grpc"):
        async with load.running(1, Recorder()):
            pass


async def test_the_time_is_shared_out_and_what_is_left_is_left_out() -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    levels: list[Level] = []
    steps = [Step(concurrency, 1) for concurrency in (1, 2, 4, 8)]
    async with answering(lambda _: OK) as url:
        load = HttpLoad(url, None, lambda: POST)
        await sweep(steps, lambda _: load, nothing, QUICK, 20.0, Lines(4, quiet=True), levels, {}, clock)
    assert 0 < len(levels) < 4
