"""POST /api/embed and the older /api/embeddings: texts to vectors."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from inference_engine.adapters.http.calls import Calls, served_headers
from inference_engine.adapters.http.decoding import decode
from inference_engine.adapters.http.exchange import Exchange
from inference_engine.adapters.http.ollama import wire
from inference_engine.adapters.http.ollama.requests import check_options
from inference_engine.adapters.http.ollama.values import keep_alive_s, resolve
from inference_engine.domain.errors import ContextLengthExceeded
from inference_engine.domain.ports import Loaded
from inference_engine.domain.requests import Embed
from inference_engine.domain.results import Embeddings as Vectors
from inference_engine.services.inference import InferenceService
from inference_engine.services.models import ModelService

_EMBED = msgspec.json.Decoder(wire.EmbedRequest)
_EMBEDDINGS = msgspec.json.Decoder(wire.EmbeddingsRequest)
_ENCODER = msgspec.json.Encoder()
_NS = 1_000_000_000


class Embeddings:
    """The two endpoints. `clock` is the monotonic clock in seconds."""

    def __init__(
        self, models: ModelService, inference: InferenceService, calls: Calls, clock: Callable[[], float]
    ) -> None:
        self._models = models
        self._inference = inference
        self._calls = calls
        self._clock = clock

    async def embed(self, exchange: Exchange) -> None:
        body = decode(_EMBED, await exchange.body())
        texts = [body.input] if isinstance(body.input, str) else body.input
        started = self._clock()
        vectors, loaded_s = await self._vectors(exchange, body, tuple(texts) if body.input else (), body.dimensions)
        answer = wire.EmbedAnswer(
            body.model,
            vectors.vectors.tolist() if vectors else [],
            int((self._clock() - started) * _NS),
            int((loaded_s - started) * _NS),
            vectors.prompt_tokens if vectors else 0,
        )
        headers = served_headers(vectors.served) if vectors else ()
        await exchange.respond(200, _ENCODER.encode(answer), headers=headers, compress=True)

    async def embeddings(self, exchange: Exchange) -> None:
        body = decode(_EMBEDDINGS, await exchange.body())
        vectors, _ = await self._vectors(exchange, body, (body.prompt,) if body.prompt else (), None)
        answer = wire.EmbeddingsAnswer(vectors.vectors[0].tolist() if vectors else [])
        headers = served_headers(vectors.served) if vectors else ()
        await exchange.respond(200, _ENCODER.encode(answer), headers=headers, compress=True)

    async def _vectors(
        self,
        exchange: Exchange,
        body: wire.EmbedRequest | wire.EmbeddingsRequest,
        texts: tuple[str, ...],
        dimensions: int | None,
    ) -> tuple[Vectors | None, float]:
        """The vectors, None for no text (which loads the model only), and when the model was loaded."""
        exchange.cancel_when_gone()
        keep_s = keep_alive_s(body.keep_alive)
        options = body.options or wire.Options()
        check_options(options)
        served = resolve(self._models, body.model)
        try:
            loaded = await self._models.ready(served.ref)
            loaded_s = self._clock()
            _check_window(options.num_ctx, loaded, str(served.ref))
            if not texts:
                return None, loaded_s
            request = Embed(texts, dimensions)
            return await self._inference.embed(served.route, request, self._calls.of(exchange)), loaded_s
        finally:
            if keep_s is not None:
                self._models.keep_alive(served.ref, keep_s)


def _check_window(wanted: int | None, loaded: Loaded, model: str) -> None:
    """Texts are never cut, so that a smaller window than the model's has no effect; a larger one cannot be had."""
    if wanted is not None and loaded.context_length is not None and wanted > loaded.context_length:
        raise ContextLengthExceeded(
            f"options.num_ctx is {wanted}, {model} runs with a context of {loaded.context_length} tokens: ask for less",
            param="options.num_ctx",
        )
