"""Bytes that no client library would send, against a live server: it answers or hangs up, and goes on serving."""

from __future__ import annotations

import socket
from typing import Any

import httpx
import pytest

Live = tuple[Any, str]
BODY = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}'
HEAD = b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: localhost\r\n"


def told(url: str, sent: bytes, *, half_close: bool = True, until: bytes = b"") -> bytes:
    """What comes back for these bytes until the server closes, or has sent an answer that ends with `until`."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(sent)
        if half_close and not until:
            connection.shutdown(socket.SHUT_WR)
        found = b""
        while part := connection.recv(65536):
            found += part
            if until and found.endswith(until):
                break
        return found


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (HEAD + b"Content-Length: 5000\r\n\r\n" + BODY, b""),
        (HEAD + b"Content-Length: 3\r\nConnection: close\r\n\r\n" + BODY, b" 400 "),
        (HEAD + b"Content-Length: -1\r\n\r\n" + BODY, b" 400 "),
        (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + BODY, b" 400 "),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n" + BODY, b""),
        (b"GET\r\n\r\n", b" 400 "),
        (b"\x16\x03\x01\x02\x00\x01\x00", b" 400 "),
        (HEAD + b"X-Request-Id: a\r\n\tb\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", b" 400 "),
    ],
)
def test_the_server_survives(live: Live, sent: bytes, says: bytes) -> None:
    url = live[1]
    assert says in told(url, sent)
    assert httpx.post(f"{url}/v2/models/echo/infer", content=BODY).status_code == 200


def test_connections_are_kept_and_pipelined_requests_answered_in_order(live: Live) -> None:
    one = HEAD + b"X-Request-Id: %b\r\nContent-Length: %d\r\n\r\n" + BODY
    last = HEAD + b"X-Request-Id: %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" + BODY
    length = len(BODY)
    found = told(
        live[1], one % (b"first", length) + one % (b"second", length) + last % (b"third", length), half_close=False
    )
    assert found.count(b" 200 OK") == 3
    assert found.index(b"first") < found.index(b"second") < found.index(b"third")


def test_whole_answers_say_the_same_as_those_in_parts(live: Live) -> None:
    length = b"Content-Length: %d\r\nX-Request-Id: same\r\n" % len(BODY)
    # uvicorn's own way, because it has to close
    closing = told(live[1], HEAD + length + b"Connection: close\r\n\r\n" + BODY, half_close=False)
    kept = told(live[1], HEAD + length + b"\r\n" + BODY, until=b"}")
    assert b"x-model-rule: latest\r\n" in kept
    assert undated(closing) == undated(kept) | {b"connection: close"}


def undated(answer: bytes) -> set[bytes]:
    """The lines of an answer, in any order, without the one that changes."""
    return {line for line in answer.split(b"\r\n") if not line.startswith(b"date:")}


def test_head_is_answered_without_a_body(live: Live) -> None:
    found = told(live[1], b"HEAD /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n", until=b"\r\n\r\n")
    head, _, body = found.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-length: " in head
    assert b"content-length: 0" not in head
    assert body == b""


def test_a_client_that_waits_to_be_asked_for_the_body_is_answered_once(live: Live) -> None:
    waits = HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY)
    found = told(live[1], waits + BODY, until=b"}")
    assert found.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
