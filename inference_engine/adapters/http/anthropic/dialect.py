"""Puts the Anthropic endpoints together, with what the documentation says of them."""

from __future__ import annotations

from typing import Any

from inference_engine.adapters.http.anthropic import errors, wire
from inference_engine.adapters.http.anthropic.messages import Messages
from inference_engine.adapters.http.anthropic.models import Models
from inference_engine.adapters.http.calls import Calls
from inference_engine.adapters.http.endpoints import Dialect, Doc, Endpoint
from inference_engine.services.inference import InferenceService
from inference_engine.services.models import ModelService

VERSION_HEADER = b"anthropic-version"
"""What every request of Anthropic's clients carries, and no other."""
_ERRORS = (400, 401, 404, 413, 429, 500, 503, 504)
_QUESTION: dict[str, Any] = {
    "model": "guide",
    "max_tokens": 256,
    "messages": [{"role": "user", "content": "How do I add a model?"}],
}
_STREAMED: dict[str, Any] = {
    **_QUESTION,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "temperature": 0,
    "stream": True,
}
_ANSWER: dict[str, Any] = {
    "id": "msg_5f2c",
    "type": "message",
    "role": "assistant",
    "model": "guide",
    "content": [{"type": "text", "text": "Put its folder into the model repository."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 6,
        "output_tokens": 12,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 15,
        "output_tokens_details": None,
    },
    "served_by": {"name": "guide", "version": "1", "route": "guide", "rule": "latest"},
}


def dialect(models: ModelService, inference: InferenceService, calls: Calls, default_model: str | None) -> Dialect:
    """The Anthropic dialect."""
    messages = Messages(inference, calls, default_model)
    names = Models(models)
    return Dialect(
        "anthropic",
        "Anthropic",
        ("/v1/messages",),
        errors.render,
        (
            Endpoint(
                "POST",
                "/v1/messages",
                messages.create,
                Doc(
                    "Continue a conversation",
                    "Answers as server-sent events when `stream` is true. Fields that would change the answer and are "
                    "not supported are refused by name.",
                    wire.MessagesRequest,
                    {"question": _QUESTION, "streamed": _STREAMED},
                    wire.Message,
                    _ANSWER,
                    errors=_ERRORS,
                ),
                hot=True,
            ),
            Endpoint(
                "POST",
                "/v1/messages/count_tokens",
                messages.count_tokens,
                Doc(
                    "Count the tokens of a prompt",
                    "Nothing is generated; the model is loaded, because its own tokenizer counts.",
                    wire.CountRequest,
                    {"question": {key: value for key, value in _QUESTION.items() if key != "max_tokens"}},
                    wire.TokenCount,
                    {"input_tokens": 21},
                    errors=_ERRORS,
                ),
                hot=True,
            ),
            Endpoint("GET", "/v1/models", names.list, hot=True, only_with=VERSION_HEADER),
            Endpoint("GET", "/v1/models/{model}", names.get, hot=True, only_with=VERSION_HEADER),
        ),
        errors.render_for,
    )
