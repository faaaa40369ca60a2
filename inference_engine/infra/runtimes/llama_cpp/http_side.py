"""Talks to the HTTP side of the llama.cpp server over its private unix socket: templates, tokens, properties.

xllamacpp offers these only there. Knows the wire, not what the answers are for.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

_TIMEOUT_S = 30.0
_SLOT_TIMEOUT_S = 300.0  # gigabytes may have to be written
_DATA = b"data: "


class HttpSideError(Exception):
    """llama.cpp answered with an error; the text is its own message."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float = _TIMEOUT_S) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class HttpSide:
    """One short-lived connection per call, so that any thread may call."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def properties(self) -> dict[str, Any]:
        """What the server says of its model (`/props`)."""
        return self._call("GET", "/props", None)

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of these tokens."""
        return str(self._call("POST", "/detokenize", {"tokens": list(ids)})["content"])

    def apply_template(
        self, messages: list[dict[str, Any]], switches: dict[str, Any], tools: list[dict[str, Any]] | None = None
    ) -> str:
        """The prompt for `messages` and `tools`, exactly as `/chat/completions` would build it.

        `switches` are further variables of the template.

        Raises:
            HttpSideError: the template refuses the messages.
        """
        body = {"messages": messages, "chat_template_kwargs": switches, **({"tools": tools} if tools else {})}
        return str(self._call("POST", "/apply-template", body)["prompt"])

    def tokenize(self, text: str, *, prompt: bool = False) -> list[int]:
        """The ids of plain `text`; for a `prompt`, special tokens are recognised and BOS is added, as for requests."""
        return self.split(text, add_special=prompt, parse_special=prompt)

    def split(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """The ids of `text`, with those that the model puts around every prompt, and with special tokens recognised."""
        body = {"content": text, "add_special": add_special, "parse_special": parse_special}
        return list(self._call("POST", "/tokenize", body)["tokens"])

    def split_all(self, texts: Sequence[str], *, add_special: bool, parse_special: bool) -> list[list[int]]:
        """`split` for many texts over one connection."""
        connection = _Connection(self._path)
        try:
            found = []
            for text in texts:
                body = {"content": text, "add_special": add_special, "parse_special": parse_special}
                found.append(list(_checked(*_exchange(connection, "POST", "/tokenize", body))["tokens"]))
            return found
        finally:
            connection.close()

    def slots(self) -> bytes:
        """The state of each slot as JSON (`/slots`)."""
        return self._answer("GET", "/slots", None)[1]

    def slot_action(self, slot: int, action: str, filename: str) -> dict[str, Any]:
        """`save` or `restore` a slot's KV cache, to or from a file in the server's `slot_save_path`.

        Raises:
            HttpSideError: it could not be done.
        """
        path = f"/slots/{slot}?action={action}"
        return self._call("POST", path, {"filename": filename}, timeout_s=_SLOT_TIMEOUT_S)

    def stream(self, path: str, body: object, take: Callable[[bytes], bool]) -> None:
        """POST `body` and hand each event to `take` until there are no more or it returns True, which cancels.

        What the server answers instead of events (an error) is handed over as one event.

        Raises:
            HttpSideError: the server does not answer.
        """
        connection = _Connection(self._path)
        try:
            connection.connect()
            connection.sock.settimeout(None)  # a prefill may be silent for minutes; the server lives in this process
            connection.request("POST", path, msgspec.json.encode(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                take(response.read())
                return
            for line in response:
                if line.startswith(_DATA) and take(line[len(_DATA) :]):
                    return
        except (OSError, http.client.HTTPException) as error:
            raise HttpSideError(f"the llama.cpp server does not answer: {error}") from error
        finally:
            connection.close()

    def _call(self, method: str, path: str, body: object, timeout_s: float = _TIMEOUT_S) -> dict[str, Any]:
        return _checked(*self._answer(method, path, body, timeout_s))

    def _answer(self, method: str, path: str, body: object, timeout_s: float = _TIMEOUT_S) -> tuple[int, bytes]:
        connection = _Connection(self._path, timeout_s)
        try:
            return _exchange(connection, method, path, body)
        finally:
            connection.close()


def _exchange(connection: _Connection, method: str, path: str, body: object) -> tuple[int, bytes]:
    """One request and its answer; the connection may be used again."""
    try:
        payload = None if body is None else msgspec.json.encode(body)
        connection.request(method, path, payload, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise HttpSideError(f"the llama.cpp server does not answer: {error}") from error


def _checked(status: int, answer: bytes) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(answer)
    if status != 200:
        raise HttpSideError(str(decoded.get("error", {}).get("message", answer[:500])))
    return decoded
