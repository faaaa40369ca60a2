"""Pull, create, copy, delete, upload: what changes the models. Push is refused."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from inference_engine.adapters.http.decoding import decode
from inference_engine.adapters.http.exchange import JSON_LINES, Exchange, HttpError
from inference_engine.adapters.http.ollama import wire
from inference_engine.adapters.http.ollama.catalog import named
from inference_engine.adapters.http.ollama.errors import body_of
from inference_engine.adapters.http.ollama.requests import refuse
from inference_engine.adapters.http.ollama.values import resolve
from inference_engine.core.logging import get_logger
from inference_engine.domain.errors import EngineError, InvalidRequest, UnknownField, UnsupportedTask
from inference_engine.domain.model import Turn
from inference_engine.domain.model_store import Changes, Progress
from inference_engine.services.model_store import ModelStore
from inference_engine.services.models import ModelService

_PULL = msgspec.json.Decoder(wire.PullRequest)
_NAME = msgspec.json.Decoder(wire.NameRequest)
_COPY = msgspec.json.Decoder(wire.CopyRequest)
_CREATE = msgspec.json.Decoder(wire.CreateRequest)
_ENCODER = msgspec.json.Encoder()
_log = get_logger(__name__)


class Store:
    """The endpoints that change models."""

    def __init__(self, models: ModelService, store: ModelStore) -> None:
        self._models = models
        self._store = store

    async def pull(self, exchange: Exchange) -> None:
        body = decode(_PULL, await exchange.body())
        if body.insecure:
            raise UnknownField(
                "insecure is not supported: name a registry without encryption in the setting pull_origins",
                param="insecure",
            )
        for field in ("username", "password"):
            if getattr(body, field):
                raise UnknownField(f"{field} is not supported: leave it out", param=field)
        await _progress(exchange, self._store.pull(named(body), exchange.principal), body.stream)

    async def push(self, exchange: Exchange) -> None:  # noqa: ARG002 - refused whatever it holds
        raise UnsupportedTask("models are not pushed to registries from here: copy the model's folder instead")

    async def create(self, exchange: Exchange) -> None:
        body = decode(_CREATE, await exchange.body())
        refuse(body, wire.REFUSED_CREATE)
        steps = self._store.create(
            named(body),
            exchange.principal,
            base=resolve(self._models, body.base).route if body.base else None,
            files=body.files,
            adapters=body.adapters,
            changes=_changes(body),
        )
        await _progress(exchange, steps, body.stream)

    async def copy(self, exchange: Exchange) -> None:
        body = decode(_COPY, await exchange.body())
        source = resolve(self._models, body.source).route
        await self._store.copy(source, body.destination, exchange.principal)
        await exchange.respond(200, b"")

    async def delete(self, exchange: Exchange) -> None:
        body = decode(_NAME, await exchange.body())
        await self._store.delete(resolve(self._models, named(body)).ref, exchange.principal)
        await exchange.respond(200, b"")

    async def blob(self, exchange: Exchange) -> None:
        """HEAD: whether an uploaded file is here. Its content is not given out."""
        if exchange.method != "HEAD":
            raise HttpError(
                405, "method_not_allowed", "files can be looked for (HEAD) and uploaded (POST), not fetched"
            )
        there = await self._store.has_blob(exchange.path_params["digest"])
        await exchange.respond(200 if there else 404, b"")

    async def upload(self, exchange: Exchange) -> None:
        length = exchange.headers.get(b"content-length", b"")
        size = int(length) if length.isdigit() else None
        async with aclosing(exchange.pieces()) as chunks:
            await self._store.put_blob(exchange.path_params["digest"], size, chunks, exchange.principal)
        await exchange.respond(201, b"")


def _changes(body: wire.CreateRequest) -> Changes:
    licence = "\n\n".join(body.license) if isinstance(body.license, list) else body.license
    return Changes(
        system=body.system,
        template=body.template,
        licence=licence,
        messages=_turns(body.messages) if body.messages is not None else None,
        parameters=body.parameters or {},
    )


def _turns(messages: list[wire.Message]) -> tuple[Turn, ...]:
    for index, message in enumerate(messages):
        if message.role not in ("system", "user", "assistant") or message.images or message.tool_calls:
            raise InvalidRequest(
                f"messages[{index}]: a model starts from texts of system, user and assistant",
                param=f"messages[{index}]",
            )
    return tuple([Turn(message.role, message.content or "") for message in messages])  # type: ignore[arg-type] # checked


async def _progress(exchange: Exchange, steps: AsyncGenerator[Progress], stream: bool | None) -> None:
    """The steps as lines as they come, or the last one alone. An error before the first step is an HTTP error."""
    exchange.cancel_when_gone()
    async with aclosing(steps):
        if stream is False:
            last = [step.status async for step in steps][-1]
            await exchange.respond(200, _ENCODER.encode(wire.Status(last)))
            return
        first = await anext(steps)
        await exchange.start_events(content_type=JSON_LINES)
        try:
            await exchange.send_events(_line(first))
            async for step in steps:
                await exchange.send_events(_line(step))
        except EngineError as error:
            await exchange.end_events(body_of(error) + b"\n")
            return
        except Exception as error:  # the client must not wait for a success that never comes
            _log.error("change of models failed", request_id=exchange.request_id.decode("latin-1"), exc_info=error)
            await exchange.end_events(
                body_of(HttpError(500, "internal_error", "the server failed unexpectedly")) + b"\n"
            )
            return
        await exchange.end_events()


def _line(step: Progress) -> bytes:
    return _ENCODER.encode(wire.ProgressLine(step.status, step.digest, step.total, step.completed)) + b"\n"
