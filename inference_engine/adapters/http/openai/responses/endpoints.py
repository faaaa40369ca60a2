"""Puts the endpoints of /v1/responses together, with what the documentation says of them."""

from __future__ import annotations

from typing import Any

from inference_engine.adapters.http.calls import Calls
from inference_engine.adapters.http.endpoints import Doc, Endpoint
from inference_engine.adapters.http.openai.fields import Deleted
from inference_engine.adapters.http.openai.responses import wire
from inference_engine.adapters.http.openai.responses.handlers import Responses
from inference_engine.domain.documents import DocumentStore
from inference_engine.services.inference import InferenceService

_ERRORS = (400, 401, 404, 413, 429, 500, 503, 504)
_ID = "resp_8a1f6c0d5e2b4f7a9c3d1e0b6a5f4c2d"
_REQUESTS: dict[str, Any] = {
    "question": {"model": "guide", "instructions": "Be brief.", "input": "What is a route?"},
    "continued": {"model": "guide", "previous_response_id": _ID, "input": "And how do I pin one?", "stream": True},
    "tools": {
        "model": "guide",
        "input": [{"role": "user", "content": "How warm is it in Rome?"}],
        "tools": [
            {
                "type": "function",
                "name": "weather",
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
            }
        ],
    },
}
_OUTPUT: dict[str, Any] = {
    "id": "msg_0b6a5f4c2d8a1f6c0d5e2b4f7a9c3d1e",
    "type": "message",
    "status": "completed",
    "role": "assistant",
    "content": [
        {"type": "output_text", "text": "A name that leads to a model.", "annotations": [], "logprobs": []},
    ],
}
_INPUT: dict[str, Any] = {
    "id": "msg_5e2b4f7a9c3d1e0b6a5f4c2d8a1f6c0d",
    "type": "message",
    "status": "completed",
    "role": "user",
    "content": [{"type": "input_text", "text": "What is a route?"}],
}
_ANSWER: dict[str, Any] = {
    "id": _ID,
    "object": "response",
    "created_at": 1790000000,
    "status": "completed",
    "completed_at": 1790000001,
    "model": "guide",
    "output": [_OUTPUT],
    "previous_response_id": None,
    "store": True,
    "usage": {
        "input_tokens": 21,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 12,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 33,
    },
    "served_by": {"name": "guide", "version": "1", "route": "guide", "rule": "latest"},
}


def endpoints(
    inference: InferenceService, calls: Calls, default_model: str | None, answers: DocumentStore
) -> tuple[Endpoint, ...]:
    """The endpoints; `answers` keeps what is to be stored."""
    handlers = Responses(inference, calls, default_model, answers)
    return (
        Endpoint(
            "POST",
            "/v1/responses",
            handlers.create,
            Doc(
                "Answer, and remember the conversation",
                "With `previous_response_id` it goes on where that response ended. Answers as server-sent events when "
                "`stream` is true. Fields that would change the answer and are not supported are refused by name.",
                wire.ResponseRequest,
                _REQUESTS,
                wire.Response,
                _ANSWER,
                errors=_ERRORS,
            ),
            hot=True,
        ),
        Endpoint(
            "POST",
            "/v1/responses/input_tokens",
            handlers.count,
            Doc(
                "Count the tokens of an input",
                "Nothing is generated.",
                wire.Asked,
                {"question": _REQUESTS["question"]},
                wire.InputTokens,
                {"object": "response.input_tokens", "input_tokens": 21},
                errors=_ERRORS,
            ),
        ),
        Endpoint(
            "GET",
            "/v1/responses/{response_id}",
            handlers.get,
            Doc("A stored response", response=wire.Response, response_example=_ANSWER, errors=(401, 404)),
        ),
        Endpoint(
            "DELETE",
            "/v1/responses/{response_id}",
            handlers.delete,
            Doc(
                "Forget a stored response",
                "Responses that continue it cannot be continued any more.",
                response=Deleted,
                response_example={"id": _ID, "object": "response", "deleted": True},
                errors=(401, 404),
            ),
        ),
        Endpoint(
            "GET",
            "/v1/responses/{response_id}/input_items",
            handlers.input_items,
            Doc(
                "What a stored response was asked",
                "Query: `limit` (1 to 100), `order` (desc or asc), `after` (an item's id).",
                response=wire.ItemList,
                response_example={"object": "list", "data": [_INPUT], "has_more": False},
                errors=(400, 401, 404),
            ),
        ),
        Endpoint(
            "POST",
            "/v1/responses/{response_id}/cancel",
            handlers.cancel,
            Doc(
                "Always refused",
                "Responses are made while the client waits; closing the connection stops one.",
                errors=(400, 401, 404),
            ),
        ),
    )
