"""What a dialect is made of: endpoints, how its errors look, and what its documentation says. Knows no dialect."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, NamedTuple

import msgspec

from inference_engine.adapters.http.exchange import Exchange, Header, HttpError
from inference_engine.domain.errors import EngineError

Handler = Callable[[Exchange], Awaitable[None]]
Method = Literal["GET", "POST", "PUT", "DELETE"]


class ErrorAnswer(NamedTuple):
    """An error in a dialect's own shape."""

    status: int
    body: bytes
    headers: tuple[Header, ...] = ()


class Doc(msgspec.Struct, frozen=True):
    """What OpenAPI tells of an endpoint. `request` and `response` are msgspec types, the examples plain values.

    `request_type` and `response_type` are media types. `form` is the same request as
    multipart/form-data, where that is taken too.
    """

    summary: str
    description: str = ""
    request: Any = None
    request_examples: dict[str, Any] = {}
    response: Any = None
    response_example: Any = None
    request_type: str = "application/json"
    response_type: str = "application/json"
    errors: tuple[int, ...] = ()
    form: Any = None


class Endpoint(msgspec.Struct, frozen=True):
    """One path and what answers it. `path` may hold `{name}` segments, and end in `{name:path}`.

    A `hot` endpoint is dispatched by the edge itself. A `public` one (it must be hot) needs no key. One with
    `only_with` (it must be hot) answers the requests that carry this header, and leaves the others to their owner.
    The handler of a `prompt` one (it must be hot) needs no current task, and sets no context variable, before its
    second wait.
    """

    method: Method
    path: str
    handler: Handler
    doc: Doc | None = None
    hot: bool = False
    public: bool = False
    only_with: bytes | None = None
    prompt: bool = False


class Dialect(msgspec.Struct, frozen=True):
    """A family of endpoints that speaks one language. Errors of paths under `prefixes` have its shape.

    `name` is part of schema names, `title` is for people. A dialect whose errors name the request they belong to
    writes them with `render_for`, which gets its id.
    """

    name: str
    title: str
    prefixes: tuple[str, ...]
    render_error: Callable[[EngineError | HttpError], ErrorAnswer]
    endpoints: tuple[Endpoint, ...]
    render_for: Callable[[EngineError | HttpError, str], ErrorAnswer] | None = None


class Found(NamedTuple):
    endpoint: Endpoint
    dialect: Dialect
    params: dict[str, str]


_REMEMBERED = 1024
_Candidate = tuple[tuple[tuple[int, str], ...], tuple[tuple[int, str], ...], Endpoint, Dialect]


class HotTable:
    """Finds hot endpoints by method and path, without a regular expression. Found paths are remembered.

    `only_with` chooses the endpoints that demand that header; the usual table holds those that demand none.
    """

    def __init__(self, dialects: tuple[Dialect, ...], only_with: bytes | None = None) -> None:
        self._exact: dict[tuple[str, str], Found] = {}
        self._shaped: dict[tuple[str, int, str], list[_Candidate]] = {}
        self._prefixed: list[tuple[str, str, str, Endpoint, Dialect]] = []
        self._remembered: dict[str, Found] = {}
        for dialect in dialects:
            for endpoint in dialect.endpoints:
                if endpoint.hot and endpoint.only_with == only_with:
                    self._add(endpoint, dialect)

    def _add(self, endpoint: Endpoint, dialect: Dialect) -> None:
        parts = endpoint.path.split("/")
        if parts[-1].endswith(":path}"):
            prefix = "/".join(parts[:-1]) + "/"
            self._prefixed.append((endpoint.method, prefix, parts[-1][1:-6], endpoint, dialect))
        elif "{" not in endpoint.path:
            self._exact[endpoint.method, endpoint.path] = Found(endpoint, dialect, {})
        else:
            fixed = tuple((i, part) for i, part in enumerate(parts) if not part.startswith("{"))
            free = tuple((i, part[1:-1]) for i, part in enumerate(parts) if part.startswith("{"))
            key = (endpoint.method, len(parts), parts[1])
            self._shaped.setdefault(key, []).append((fixed, free, endpoint, dialect))

    def find(self, method: str, path: str) -> Found | None:
        """The hot endpoint for a request, or None."""
        found = self._remembered.get(method + path)
        if found is None:
            found = self._search(method, path)
            if found is not None:
                if len(self._remembered) >= _REMEMBERED:
                    self._remembered.clear()
                self._remembered[method + path] = found
        return found

    def _search(self, method: str, path: str) -> Found | None:
        found = self._exact.get((method, path))
        if found is not None:
            return found
        parts = path.split("/")
        for fixed, free, endpoint, dialect in self._shaped.get((method, len(parts), parts[1]), ()):
            for i, part in fixed:
                if parts[i] != part:
                    break
            else:
                return Found(endpoint, dialect, {name: parts[i] for i, name in free})
        for wanted, prefix, name, endpoint, dialect in self._prefixed:
            if wanted == method and path.startswith(prefix):
                return Found(endpoint, dialect, {name: path[len(prefix) :]})
        return None
