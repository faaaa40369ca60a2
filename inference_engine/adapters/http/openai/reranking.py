"""POST /v1/rerank and /rerank in Jina's shape, POST /v2/rerank in Cohere's: documents in the order of their use."""

from __future__ import annotations

from secrets import token_hex
from typing import Any

import msgspec

from inference_engine.adapters.http.calls import Calls, served_headers
from inference_engine.adapters.http.decoding import decode
from inference_engine.adapters.http.exchange import Exchange
from inference_engine.adapters.http.openai import wire_texts as wire
from inference_engine.adapters.http.openai.answers import served_by
from inference_engine.adapters.http.openai.generation import target_of
from inference_engine.domain.errors import InvalidRequest, UnknownField
from inference_engine.domain.requests import Rerank
from inference_engine.domain.results import Ranking
from inference_engine.services.inference import InferenceService

MAX_DOCUMENTS = 2048
_DECODER = msgspec.json.Decoder(wire.RerankRequest)
_ENCODER = msgspec.json.Encoder()


class Reranker:
    """The endpoints. `default_model` answers requests that name none."""

    def __init__(self, inference: InferenceService, calls: Calls, default_model: str | None) -> None:
        self._inference = inference
        self._calls = calls
        self._default_model = default_model

    async def jina(self, exchange: Exchange) -> None:
        body, documents, found = await self._ranking(exchange)
        results = _ranked(found, body, documents, with_texts=body.return_documents is not False)
        usage = wire.TextUsage(found.prompt_tokens, found.prompt_tokens)
        answer = wire.JinaRanking(found.served.route, "list", usage, results, served_by(found.served))
        await exchange.respond(200, _ENCODER.encode(answer), headers=served_headers(found.served), compress=True)

    async def cohere(self, exchange: Exchange) -> None:
        body, documents, found = await self._ranking(exchange)
        results = _ranked(found, body, documents, with_texts=bool(body.return_documents))
        meta = wire.RankingMeta(wire.ApiVersion("2"), wire.RankingUnits(found.prompt_tokens))
        answer = wire.CohereRanking(
            f"rerank-{token_hex(12)}", results, meta, found.served.route, served_by(found.served)
        )
        await exchange.respond(200, _ENCODER.encode(answer), headers=served_headers(found.served), compress=True)

    async def _ranking(self, exchange: Exchange) -> tuple[wire.RerankRequest, tuple[str, ...], Ranking]:
        body = decode(_DECODER, await exchange.body())
        for name, remedy in wire.RERANK_REFUSED.items():
            if getattr(body, name) is not None:
                raise UnknownField(f"{name} is not supported: {remedy}", param=name)
        if body.top_n is not None and body.top_n < 1:
            raise InvalidRequest(f"top_n is {body.top_n}, it must be at least 1", param="top_n")
        request = Rerank(body.query, _documents(body.documents))
        target = target_of(body.model, self._default_model)
        exchange.cancel_when_gone()
        call = self._calls.of(exchange, priority=body.priority or 0)
        return body, request.documents, await self._inference.rerank(target, request, call)


def _documents(given: list[Any]) -> tuple[str, ...]:
    if not 1 <= len(given) <= MAX_DOCUMENTS:
        raise InvalidRequest(f"documents takes 1 to {MAX_DOCUMENTS} texts, {len(given)} came", param="documents")
    return tuple([_text(document, f"documents[{index}]") for index, document in enumerate(given)])


def _text(given: object, place: str) -> str:
    text = given["text"] if isinstance(given, dict) and given.keys() == {"text"} else given
    if not isinstance(text, str):
        raise InvalidRequest(f'{place} must be text, or {{"text": ...}} and nothing else', param=place)
    return text


def _ranked(
    found: Ranking, body: wire.RerankRequest, documents: tuple[str, ...], *, with_texts: bool
) -> list[wire.Ranked]:
    """The `top_n` best documents, best first; equal ones stay in their order."""
    scores = [float(score) for score in found.scores]
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.top_n]
    results = [wire.Ranked(index, scores[index]) for index in order]
    for result in results if with_texts else ():
        result.document = wire.RankedText(documents[result.index])
    return results
