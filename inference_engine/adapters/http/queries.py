"""The query string of a request, and pages of long lists. Knows no dialect."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar
from urllib.parse import parse_qsl

import msgspec

from inference_engine.adapters.http.exchange import Exchange
from inference_engine.domain.errors import InvalidRequest, UnknownField

T = TypeVar("T")


def query(exchange: Exchange, *known: str) -> Mapping[str, str]:
    """The parameters of the query; a list's values (`name` or `name[]`) are joined with commas.

    Raises:
        UnknownField: a parameter that is not `known`.
    """
    found: dict[str, str] = {}
    text = exchange.scope.get("query_string", b"").decode("latin-1")
    for name, value in parse_qsl(text, keep_blank_values=True, errors="replace"):
        plain = name.removesuffix("[]")
        if plain not in known:
            raise UnknownField(
                f"{plain[:80]} is not a parameter that is supported here; there are: {', '.join(known) or 'none'}",
                param=plain[:80],
            )
        found[plain] = f"{found[plain]},{value}" if plain in found else value
    return found


class Page(msgspec.Struct, Generic[T]):
    """Part of a list, and whether there is more behind it."""

    data: list[T]
    more: bool


def page_of(
    entries: Sequence[tuple[str, T]], asked: Mapping[str, str], default: int, limit: int, order: str
) -> Page[T]:
    """The page that `limit`, `after` and `order` of a query ask for. `entries` are ids and values, oldest first.

    Raises:
        InvalidRequest: a parameter is wrong, or there is no entry `after`.
    """
    wanted = asked.get("order", order)
    if wanted not in ("asc", "desc"):
        raise InvalidRequest(f"order is {wanted[:80]!r}, it must be asc or desc", param="order")
    size = asked.get("limit", str(default))
    if not re.fullmatch(r"[0-9]{1,6}", size) or not 1 <= int(size) <= limit:
        raise InvalidRequest(f"limit is {size[:80]!r}, it must lie between 1 and {limit}", param="limit")
    ordered = list(entries) if wanted == "asc" else list(reversed(entries))
    start = 0
    if after := asked.get("after"):
        start = next((index + 1 for index, (id, _) in enumerate(ordered) if id == after), 0)
        if not start:
            raise InvalidRequest(f"after is {after[:80]!r}, which is not in this list", param="after")
    end = start + int(size)
    return Page([value for _, value in ordered[start:end]], end < len(ordered))
