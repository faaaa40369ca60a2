"""GET /v1/models as Anthropic's clients read it: page by page. OpenAI's clients get their own from the same path."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import parse_qs

import msgspec

from inference_engine.adapters.http.anthropic.messages import named
from inference_engine.adapters.http.anthropic.wire import Model, ModelList
from inference_engine.adapters.http.exchange import Exchange
from inference_engine.domain.errors import InvalidRequest
from inference_engine.services.models import ModelService, ModelStatus

_ENCODER = msgspec.json.Encoder()
_LIMIT, _MOST = 20, 1000
_UNKNOWN = datetime.fromtimestamp(0, UTC)


class Models:
    """Routes first, then every exact `name:version`."""

    def __init__(self, models: ModelService) -> None:
        self._models = models

    async def list(self, exchange: Exchange) -> None:
        found = self._all()
        asked = parse_qs(exchange.scope.get("query_string", b"").decode("latin-1"))
        limit = _limit(asked.get("limit", [str(_LIMIT)])[-1])
        ids = [model.id for model in found]
        if "before_id" in asked:
            before = found[: _place(ids, asked["before_id"][-1], "before_id")]
            page, more = before[-limit:], len(before) > limit
        else:
            after = found[_place(ids, asked["after_id"][-1], "after_id") + 1 if "after_id" in asked else 0 :]
            page, more = after[:limit], len(after) > limit
        answer = ModelList([*page], more, page[0].id if page else None, page[-1].id if page else None)
        await exchange.respond(200, _ENCODER.encode(answer), headers=(named(exchange),), compress=True)

    async def get(self, exchange: Exchange) -> None:
        served = self._models.resolve(exchange.path_params["model"])
        model = _model(served.route, self._models.status(served.ref))
        await exchange.respond(200, _ENCODER.encode(model), headers=(named(exchange),))

    def _all(self) -> Sequence[Model]:
        statuses = {(status.name, status.version): status for status in self._models.statuses()}
        found = [
            _model(route.name, statuses[route.target.name, route.target.version])
            for route in self._models.routes()
            if (route.target.name, route.target.version) in statuses
        ]
        return [*found, *(_model(f"{status.name}:{status.version}", status) for status in statuses.values())]


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= _MOST:
        raise InvalidRequest(f"limit must be a whole number from 1 to {_MOST}", param="limit")
    return int(text[:9])


def _place(ids: list[str], id: str, field: str) -> int:
    if id not in ids:
        raise InvalidRequest(f"{field} {id[:80]!r} is no id of this list", param=field)
    return ids.index(id)


def _model(public: str, status: ModelStatus) -> Model:
    """A model is as old as its being loaded; the epoch stands for one that is not."""
    created = (status.loaded_at or _UNKNOWN).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Model("model", public, status.description or public, created, "active", status.context_length)
