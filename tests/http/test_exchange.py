"""What leaves by the short way for whole answers, and that nothing bad does."""

from __future__ import annotations

import pytest

from inference_engine.adapters.http.exchange import WHOLE_ANSWER, Departures, Exchange, Message, WholeAnswer


class Wire:
    """Remembers what was sent, by either way."""

    def __init__(self, takes_whole: bool) -> None:
        self.takes_whole = takes_whole
        self.whole: list[tuple[int, bytes, bytes]] = []
        self.messages: list[Message] = []

    def answer(self, status: int, lines: bytes, body: bytes) -> bool:
        if self.takes_whole:
            self.whole.append((status, lines, body))
        return self.takes_whole

    async def send(self, message: Message) -> None:
        self.messages.append(message)

    async def receive(self) -> Message:
        raise AssertionError("nothing is read here")

    def exchange(self) -> Exchange:
        answer: WholeAnswer = self.answer
        scope = {"extensions": {WHOLE_ANSWER: answer}}
        return Exchange(scope, self.receive, self.send, "GET", "/", {}, b"id", ((b"x-a", b"1"),), 100, Departures())


async def test_a_good_answer_goes_in_one_call() -> None:
    wire = Wire(takes_whole=True)
    await wire.exchange().respond(200, b"{}", headers=[(b"x-b", b"2")])
    lines = b"content-type: application/json\r\nx-a: 1\r\nx-b: 2\r\ncontent-length: 2\r\nx-request-id: id\r\n"
    assert wire.whole == [(200, lines, b"{}")]
    assert wire.messages == []


@pytest.mark.parametrize(("takes_whole", "status"), [(False, 200), (True, 413)])
async def test_what_cannot_go_that_way_goes_in_parts(takes_whole: bool, status: int) -> None:
    wire = Wire(takes_whole)
    await wire.exchange().respond(status, b"{}")
    assert wire.whole == []
    assert [message["type"] for message in wire.messages] == ["http.response.start", "http.response.body"]
    assert wire.messages[0]["status"] == status


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"\x00"])
async def test_no_header_ends_its_line(value: bytes) -> None:
    wire = Wire(takes_whole=True)
    with pytest.raises(ValueError, match="cannot be sent"):
        await wire.exchange().respond(200, b"", headers=[(b"x-b", value)])
    assert wire.whole == []
