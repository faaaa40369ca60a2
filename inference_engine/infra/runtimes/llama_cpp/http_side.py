"""Talks to the HTTP side of the llama.cpp server over its private unix socket: templates, tokens, properties.

xllamacpp offers these only there. Knows the wire, not what the answers are for.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

_TIMEOUT_S = 30.0


class HttpSideError(Exception):
    """llama.cpp answered with an error; the text is its own message."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
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

    def _call(self, method: str, path: str, body: object) -> dict[str, Any]:
        connection = _Connection(self._path)
        try:
            payload = None if body is None else msgspec.json.encode(body)
            connection.request(method, path, payload, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise HttpSideError(f"the llama.cpp server does not answer: {error}") from error
        finally:
            connection.close()
        decoded: dict[str, Any] = msgspec.json.decode(answer)
        if response.status != 200:
            raise HttpSideError(str(decoded.get("error", {}).get("message", answer[:500])))
        return decoded
