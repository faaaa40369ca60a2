"""POST /tokenize as vLLM has it: a prompt or a conversation as the model's own token ids."""

from __future__ import annotations

import msgspec

from inference_engine.adapters.http.calls import Calls, served_headers
from inference_engine.adapters.http.decoding import decode
from inference_engine.adapters.http.exchange import Exchange
from inference_engine.adapters.http.openai import wire_texts as wire
from inference_engine.adapters.http.openai.generation import target_of
from inference_engine.adapters.http.openai.messages import conversation, tools
from inference_engine.domain.errors import InvalidRequest, UnknownField
from inference_engine.domain.requests import Chat, Complete
from inference_engine.services.inference import InferenceService
from inference_engine.services.models import ModelService

_DECODER = msgspec.json.Decoder(wire.TokenizeRequest)
_ENCODER = msgspec.json.Encoder()
_NEUTRAL = {"add_special_tokens": True, "add_generation_prompt": True, "return_token_strs": False}


class Tokenizer:
    """The endpoint. `default_model` answers requests that name none."""

    def __init__(
        self, models: ModelService, inference: InferenceService, calls: Calls, default_model: str | None
    ) -> None:
        self._models = models
        self._inference = inference
        self._calls = calls
        self._default_model = default_model

    async def tokenize(self, exchange: Exchange) -> None:
        body = decode(_DECODER, await exchange.body())
        target = target_of(body.model, self._default_model)
        ids = await self._inference.tokenize(target, _request(body), self._calls.of(exchange))
        served = self._models.resolve(target)
        answer = wire.Tokens(len(ids), self._models.status(served.ref).context_length, ids)
        await exchange.respond(200, _ENCODER.encode(answer), headers=served_headers(served), compress=True)


def _request(body: wire.TokenizeRequest) -> Chat | Complete:
    for name, neutral in _NEUTRAL.items():
        if getattr(body, name) not in (None, neutral):
            raise UnknownField(
                f"{name} other than {str(neutral).lower()} is not supported: the tokens are those of a real request",
                param=name,
            )
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("send either prompt or messages", param="prompt")
    if body.messages is not None:
        return Chat(conversation(body.messages), tools=tools(body.tools))
    if body.tools:
        raise InvalidRequest("tools go with messages, not with a prompt", param="tools")
    return Complete(body.prompt or "")
