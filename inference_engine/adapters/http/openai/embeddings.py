"""POST /v1/embeddings: texts in, vectors out. A hot path."""

from __future__ import annotations

from binascii import b2a_base64
from typing import Any

import msgspec
import numpy as np

from inference_engine.adapters.http.calls import Calls, served_headers
from inference_engine.adapters.http.decoding import decode
from inference_engine.adapters.http.exchange import Exchange
from inference_engine.adapters.http.openai.answers import served_by
from inference_engine.adapters.http.openai.generation import target_of
from inference_engine.adapters.http.openai.wire_texts import EmbeddingRequest
from inference_engine.domain.errors import InvalidRequest, UnsupportedTask
from inference_engine.domain.requests import Embed
from inference_engine.domain.results import Embeddings
from inference_engine.services.inference import InferenceService

MAX_INPUTS = 2048
_DECODER = msgspec.json.Decoder(EmbeddingRequest)


class Embedder:
    """The endpoint. `default_model` answers requests that name none."""

    def __init__(self, inference: InferenceService, calls: Calls, default_model: str | None) -> None:
        self._inference = inference
        self._calls = calls
        self._default_model = default_model

    async def embed(self, exchange: Exchange) -> None:
        body = decode(_DECODER, await exchange.body())
        request = Embed(texts_in(body.input), body.dimensions)
        target = target_of(body.model, self._default_model)
        exchange.cancel_when_gone()
        found = await self._inference.embed(target, request, self._calls.of(exchange, priority=body.priority or 0))
        whole = _written(found, base64=body.encoding_format == "base64")
        await exchange.respond(200, whole, headers=served_headers(found.served))  # numbers hardly get smaller


def texts_in(given: str | list[Any]) -> tuple[str, ...]:
    """The texts of `input`.

    Raises:
        InvalidRequest: none, too many, an empty one, or something else. UnsupportedTask: token ids.
    """
    texts = [given] if isinstance(given, str) else given
    if not 1 <= len(texts) <= MAX_INPUTS:
        raise InvalidRequest(f"input takes 1 to {MAX_INPUTS} texts, {len(texts)} came", param="input")
    for index, text in enumerate(texts):
        place = "input" if isinstance(given, str) else f"input[{index}]"
        if isinstance(text, int | list):
            raise UnsupportedTask(
                f"{place} holds token ids, which belong to another model's tokenizer: send text "
                "(with langchain: OpenAIEmbeddings(check_embedding_ctx_length=False))",
                param="input",
            )
        if not isinstance(text, str) or not text:
            raise InvalidRequest(f"{place} must be text that is not empty", param=place)
    return tuple(texts)


def _written(found: Embeddings, *, base64: bool) -> bytes:
    import orjson

    vectors = np.ascontiguousarray(found.vectors, dtype="<f4")
    written = [b2a_base64(vector.tobytes(), newline=False).decode() for vector in vectors] if base64 else vectors
    return orjson.dumps(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(written)],
            "model": found.served.route,
            "usage": {"prompt_tokens": found.prompt_tokens, "total_tokens": found.prompt_tokens},
            "served_by": msgspec.to_builtins(served_by(found.served)),
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )
