"""Puts the OpenAI endpoints together, with what the documentation says of them."""

from __future__ import annotations

from typing import Any, NamedTuple

from inference_engine.adapters.http.calls import Calls
from inference_engine.adapters.http.endpoints import Dialect, Doc, Endpoint
from inference_engine.adapters.http.openai import batches, errors, files, responses, wire
from inference_engine.adapters.http.openai.generation import Generations
from inference_engine.adapters.http.openai.models import Models
from inference_engine.domain.documents import DocumentStore
from inference_engine.services.files import FileService
from inference_engine.services.inference import InferenceService
from inference_engine.services.jobs import JobService
from inference_engine.services.models import ModelService

_ERRORS = (400, 401, 404, 413, 429, 500, 503, 504)
_CHAT: dict[str, Any] = {
    "question": {"model": "guide", "messages": [{"role": "user", "content": "How do I add a model?"}]},
    "streamed": {
        "model": "guide",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a route?"}],
        "max_completion_tokens": 64,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    },
}
_HEAD: dict[str, Any] = {
    "created": 1790000000,
    "model": "guide",
    "system_fingerprint": "inference-engine-0.1.0/guide:1",
}
_TAIL: dict[str, Any] = {
    "usage": {
        "prompt_tokens": 21,
        "completion_tokens": 12,
        "total_tokens": 33,
        "prompt_tokens_details": {"cached_tokens": 0},
    },
    "served_by": {"name": "guide", "version": "1", "route": "guide", "rule": "latest"},
}
_CHAT_ANSWER: dict[str, Any] = {
    "id": "chatcmpl-5f2c",
    "object": "chat.completion",
    **_HEAD,
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Put its folder into the model repository."},
            "finish_reason": "stop",
        }
    ],
    **_TAIL,
}
_COMPLETION_ANSWER: dict[str, Any] = {
    "id": "cmpl-5f2c",
    "object": "text_completion",
    **_HEAD,
    "choices": [{"index": 0, "text": " one server for every model.", "finish_reason": "stop"}],
    **_TAIL,
}


class Stateful(NamedTuple):
    """What the server remembers for its tenants; `answers` are stored responses."""

    files: FileService
    jobs: JobService
    answers: DocumentStore


def dialect(
    models: ModelService,
    inference: InferenceService,
    calls: Calls,
    default_model: str | None,
    version: str,
    stateful: Stateful,
) -> Dialect:
    """The OpenAI dialect. Its endpoints that can stand in a batch are offered to the jobs."""
    stateless = _stateless(models, inference, calls, default_model, version)
    answers = responses.endpoints(inference, calls, default_model, stateful.answers)
    stateful.jobs.offer(batches.works((*stateless, *answers)))
    return Dialect(
        "openai",
        "OpenAI",
        ("/v1/",),
        errors.render,
        (
            *stateless,
            *answers,
            *files.endpoints(stateful.files),
            *batches.endpoints(stateful.jobs, stateful.files),
        ),
    )


def _stateless(
    models: ModelService, inference: InferenceService, calls: Calls, default_model: str | None, version: str
) -> tuple[Endpoint, ...]:
    generations = Generations(inference, calls, default_model, f"inference-engine-{version}")
    names = Models(models)
    return (
        Endpoint(
            "POST",
            "/v1/chat/completions",
            generations.chat,
            Doc(
                "Continue a conversation",
                "Answers as server-sent events when `stream` is true. Fields that would change the answer and are "
                "not supported are refused by name.",
                wire.ChatRequest,
                _CHAT,
                wire.ChatCompletion,
                _CHAT_ANSWER,
                errors=_ERRORS,
            ),
            hot=True,
        ),
        Endpoint(
            "POST",
            "/v1/completions",
            generations.completions,
            Doc(
                "Continue a text",
                "Several prompts give several choices. Streams like chat completions.",
                wire.CompletionRequest,
                {"one prompt": {"model": "guide", "prompt": "This server is", "max_tokens": 16}},
                wire.Completion,
                _COMPLETION_ANSWER,
                errors=_ERRORS,
            ),
            hot=True,
        ),
        Endpoint("GET", "/v1/models", names.list, Doc("All names that can be asked for", response=wire.ModelList)),
        Endpoint("GET", "/v1/models/{model}", names.get, Doc("One of them", response=wire.Model, errors=(404,))),
    )
