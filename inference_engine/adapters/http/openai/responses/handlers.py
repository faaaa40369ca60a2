"""/v1/responses: create whole or streamed, get, delete, list the input, count it."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import Any

import msgspec

from inference_engine.adapters.http.calls import Calls, served_headers
from inference_engine.adapters.http.decoding import decode
from inference_engine.adapters.http.exchange import Exchange, HttpError
from inference_engine.adapters.http.openai import errors
from inference_engine.adapters.http.openai.fields import Deleted, checked_metadata
from inference_engine.adapters.http.openai.generation import target_of
from inference_engine.adapters.http.openai.responses import requests, wire
from inference_engine.adapters.http.openai.responses.items import input_items
from inference_engine.adapters.http.openai.responses.store import Answers
from inference_engine.adapters.http.openai.responses.writer import Events, NoEvents, Writer
from inference_engine.adapters.http.queries import page_of, query
from inference_engine.core.logging import get_logger
from inference_engine.domain.documents import DocumentStore
from inference_engine.domain.errors import EngineError, InferenceFailed, InvalidRequest
from inference_engine.domain.files import new_id
from inference_engine.domain.requests import Sampling
from inference_engine.domain.results import Served
from inference_engine.services.inference import Generation, InferenceService

MAX_LISTED = 100
_REQUEST = msgspec.json.Decoder(wire.ResponseRequest)
_COUNT = msgspec.json.Decoder(wire.Asked)
_ENCODER = msgspec.json.Encoder()
_log = get_logger(__name__)


class Responses:
    """The endpoints. `default_model` answers requests that name none."""

    def __init__(
        self, inference: InferenceService, calls: Calls, default_model: str | None, answers: DocumentStore
    ) -> None:
        self._inference = inference
        self._calls = calls
        self._default_model = default_model
        self._answers = Answers(answers)

    async def create(self, exchange: Exchange) -> None:
        body = decode(_REQUEST, await exchange.body())
        requests.refuse(body)
        metadata = checked_metadata(body.metadata)
        tenant = exchange.principal.tenant
        items = input_items(body.input)
        history = await self._answers.history(tenant, body.previous_response_id)
        chat = requests.chat(body, history, items, requests.sampling(body))
        generation = await self._inference.generate(
            target_of(body.model, self._default_model), chat, self._calls.of(exchange)
        )
        events = Events() if body.stream else NoEvents()
        writer = Writer(
            _begun(body, generation.served, metadata),
            events,
            reasoning_as_summary=requests.summary_of(body.reasoning) is not None,
        )
        answering = _Answering(self._answers, tenant, items, writer)
        async with aclosing(generation.deltas):
            exchange.cancel_when_gone()
            if body.stream:
                await answering.stream(exchange, generation)
            else:
                await answering.whole(exchange, generation)

    async def count(self, exchange: Exchange) -> None:
        body = decode(_COUNT, await exchange.body())
        requests.refuse(body)
        history = await self._answers.history(exchange.principal.tenant, body.previous_response_id)
        chat = requests.chat(body, history, input_items(body.input), Sampling())
        tokens = await self._inference.tokenize(
            target_of(body.model, self._default_model), chat, self._calls.of(exchange)
        )
        await exchange.respond(200, _ENCODER.encode(wire.InputTokens("response.input_tokens", len(tokens))))

    async def get(self, exchange: Exchange) -> None:
        asked = query(exchange, "include", "stream", "include_obfuscation", "starting_after")
        if asked.get("stream", "false") != "false" or "starting_after" in asked:
            raise InvalidRequest(
                "a stored response is given whole: leave stream and starting_after out", param="stream"
            )
        kept = await self._answers.get(exchange.principal.tenant, exchange.path_params["response_id"])
        await exchange.respond(200, bytes(kept.response), compress=True)

    async def delete(self, exchange: Exchange) -> None:
        id = exchange.path_params["response_id"]
        await self._answers.delete(exchange.principal.tenant, id)
        await exchange.respond(200, _ENCODER.encode(Deleted(id, "response")))

    async def input_items(self, exchange: Exchange) -> None:
        asked = query(exchange, "limit", "order", "after", "include")
        kept = await self._answers.get(exchange.principal.tenant, exchange.path_params["response_id"])
        page = page_of([(str(item["id"]), item) for item in kept.input], asked, 20, MAX_LISTED, "desc")
        ids = (page.data[0]["id"], page.data[-1]["id"]) if page.data else (None, None)
        await exchange.respond(200, _ENCODER.encode(wire.ItemList("list", page.data, page.more, *ids)), compress=True)

    async def cancel(self, exchange: Exchange) -> None:
        id = exchange.path_params["response_id"]
        await self._answers.get(exchange.principal.tenant, id)
        raise InvalidRequest(
            f"response {id} is complete: only responses made in the background can be cancelled, and this server makes "
            "none; to stop one that is being made, close its connection",
            param="response_id",
        )


class _Answering:
    """One response on its way to the client and, if it is to be stored, into the store."""

    def __init__(self, answers: Answers, tenant: str, items: list[wire.Item], writer: Writer) -> None:
        self._answers = answers
        self._tenant = tenant
        self._items = items
        self._writer = writer

    async def whole(self, exchange: Exchange, generation: Generation) -> None:
        async for delta in generation.deltas:
            self._writer.add(delta)
        await self._end()
        body = _ENCODER.encode(self._writer.response)
        await exchange.respond(200, body, headers=served_headers(generation.served), compress=True)

    async def stream(self, exchange: Exchange, generation: Generation) -> None:
        """An error before the first delta is an HTTP error; a later one is the event `response.failed`."""
        writer, deltas = self._writer, generation.deltas
        first = await anext(deltas, None)
        if first is None:
            raise InferenceFailed("the model ended without an answer")
        await exchange.start_events(served_headers(generation.served))
        try:
            writer.open()
            writer.add(first)
            await exchange.send_events(writer.events.take())
            async for delta in deltas:
                writer.add(delta)
                if written := writer.events.take():
                    await exchange.send_events(written)
            await self._end()
        except Exception as error:  # whatever it was, the client must not take the part for the whole
            writer.fail(*_problem(exchange, error))
        await exchange.end_events(writer.events.take())

    async def _end(self) -> None:
        """Store it before the client is told that it is whole, so that it can be continued at once."""
        response = self._writer.response
        if response.store:
            await self._answers.keep(self._tenant, response, self._items)
        self._writer.end()


def _problem(exchange: Exchange, error: Exception) -> tuple[str, str]:
    """What `response.failed` says."""
    if isinstance(error, EngineError):
        status = errors.MEANINGS[type(error)].status
        code = "rate_limit_exceeded" if status == 429 else "server_error" if status >= 500 else "invalid_prompt"
        return code, error.message
    if isinstance(error, HttpError):
        return "server_error", error.message
    _log.error("stream failed", request_id=exchange.request_id.decode("latin-1"), exc_info=error)
    return "server_error", "the server failed unexpectedly; the answer above is not complete"


def _begun(body: wire.ResponseRequest, served: Served, metadata: dict[str, str]) -> wire.Response:
    """The response before anything was answered: what was asked for is said again in it."""
    choice: Any = body.tool_choice if body.tool_choice is not None else "auto"
    return wire.Response(
        id=new_id("resp_"),
        created_at=int(time.time()),
        status="in_progress",
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        model=served.route,
        output=[],
        parallel_tool_calls=body.parallel_tool_calls is not False,
        previous_response_id=body.previous_response_id,
        reasoning=body.reasoning or wire.Reasoning(),
        store=body.store is not False,
        temperature=body.temperature,
        text=wire.TextConfig(
            body.text.format if body.text and body.text.format else wire.TextFormat("text"),
            body.text.verbosity if body.text else None,
        ),
        tool_choice=choice,
        tools=body.tools or [],
        top_logprobs=body.top_logprobs or 0,
        top_p=body.top_p,
        user=body.user,
        safety_identifier=body.safety_identifier,
        prompt_cache_key=body.prompt_cache_key,
        metadata=metadata,
        served_by=wire.ServedBy(served.ref.name, served.ref.version, served.route, served.rule),
    )
