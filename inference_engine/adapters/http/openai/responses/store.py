"""Responses as they are kept, each with its own input, and the chain of them that a conversation is. Knows no model."""

from __future__ import annotations

import asyncio

import msgspec

from inference_engine.adapters.http.openai.responses import wire
from inference_engine.adapters.http.openai.responses.wire import Item
from inference_engine.domain.documents import DocumentStore
from inference_engine.domain.errors import InvalidRequest, NotFound
from inference_engine.services.storage import refusal

MAX_CHAIN = 1000


class Kept(msgspec.Struct):
    """One stored response. `previous` is the one that it continues."""

    response: msgspec.Raw
    input: list[Item]
    output: list[Item]
    previous: str | None = None


class Answers:
    """The stored responses of all tenants, over a `DocumentStore`."""

    def __init__(self, store: DocumentStore) -> None:
        self._store = store

    async def keep(self, tenant: str, response: wire.Response, items: list[Item]) -> None:
        """Raises `Unavailable`: the disk refuses."""
        kept = Kept(msgspec.Raw(msgspec.json.encode(response)), items, response.output, response.previous_response_id)
        try:
            await asyncio.to_thread(self._store.put, tenant, response.id, msgspec.json.encode(kept))
        except OSError as error:
            raise refusal(error, "the response (store: false makes one that is not stored)") from error

    async def get(self, tenant: str, id: str) -> Kept:
        """Raises `NotFound`: also for a response of another tenant."""
        return await asyncio.to_thread(self._get, tenant, id)

    async def delete(self, tenant: str, id: str) -> None:
        """Raises `NotFound`."""
        try:
            await asyncio.to_thread(self._store.delete, tenant, id)
        except OSError as error:
            raise refusal(error, "the deletion") from error

    async def history(self, tenant: str, id: str | None) -> list[Item]:
        """Everything that was said up to response `id`, oldest first.

        Raises:
            NotFound: it, or one before it, is not stored (any more). InvalidRequest: the chain is too long.
        """
        return [] if id is None else await asyncio.to_thread(self._history, tenant, id)

    def _history(self, tenant: str, id: str) -> list[Item]:
        chain: list[Kept] = []
        link: str | None = id
        while link is not None:
            if len(chain) == MAX_CHAIN:
                raise InvalidRequest(
                    f"the conversation has more than {MAX_CHAIN} responses: begin a new one",
                    param="previous_response_id",
                )
            try:
                chain.append(self._get(tenant, link))
            except NotFound as error:
                behind = "" if link == id else f" ({id} continues it)"
                message = f"previous_response_id: {error.message}{behind}: send the conversation as input items"
                raise NotFound(message, param="previous_response_id") from None
            link = chain[-1].previous
        return [item for kept in reversed(chain) for item in (*kept.input, *kept.output)]

    def _get(self, tenant: str, id: str) -> Kept:
        return msgspec.json.decode(self._store.get(tenant, id), type=Kept)
