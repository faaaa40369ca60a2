"""Puts Ollama's endpoints together, with what the documentation says of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from inference_engine.adapters.http.calls import Calls
from inference_engine.adapters.http.endpoints import Dialect, Doc, Endpoint
from inference_engine.adapters.http.ollama import errors, wire
from inference_engine.adapters.http.ollama.catalog import Catalog
from inference_engine.adapters.http.ollama.embeddings import Embeddings
from inference_engine.adapters.http.ollama.generation import Generations
from inference_engine.adapters.http.ollama.store import Store
from inference_engine.domain.facts import FactsReader
from inference_engine.services.inference import InferenceService
from inference_engine.services.model_store import ModelStore
from inference_engine.services.models import ModelService

_ERRORS = (400, 401, 404, 413, 429, 500, 503, 504)
_CHANGE_ERRORS = (400, 401, 403, 404, 503)
_LINES = "application/x-ndjson"
_CHAT: dict[str, Any] = {
    "question": {"model": "guide", "messages": [{"role": "user", "content": "How do I add a model?"}], "stream": False},
    "limited": {
        "model": "guide",
        "messages": [{"role": "user", "content": "What is a route?"}],
        "options": {"temperature": 0, "num_predict": 64},
    },
}


def dialect(
    models: ModelService,
    inference: InferenceService,
    store: ModelStore,
    facts: FactsReader,
    calls: Calls,
    version: str,
    clock: Callable[[], float],
) -> Dialect:
    """Ollama's API."""
    generations = Generations(models, inference, calls, clock)
    vectors = Embeddings(models, inference, calls, clock)
    catalog = Catalog(models, facts, f"inference-engine {version}")
    changes = Store(models, store)
    endpoints = (
        Endpoint(
            "POST",
            "/api/chat",
            generations.chat,
            Doc(
                "Continue a conversation",
                "Lines of JSON unless `stream` is false. Without messages the model is loaded, or unloaded with "
                "`keep_alive` 0. What would change the answer and is not supported is refused by name.",
                wire.ChatRequest,
                _CHAT,
                wire.ChatAnswer,
                errors=_ERRORS,
            ),
            hot=True,
        ),
        Endpoint(
            "POST",
            "/api/generate",
            generations.generate,
            Doc(
                "Answer a prompt",
                "Streams like /api/chat.",
                wire.GenerateRequest,
                {"a prompt": {"model": "guide", "prompt": "What is a route?", "stream": False}},
                wire.GenerateAnswer,
                errors=_ERRORS,
            ),
            hot=True,
        ),
        Endpoint(
            "POST",
            "/api/embed",
            vectors.embed,
            Doc(
                "Vectors of texts",
                "A text that is too long is an error: nothing is cut off, whatever `truncate` says.",
                wire.EmbedRequest,
                response=wire.EmbedAnswer,
                errors=_ERRORS,
            ),
            hot=True,
        ),
        Endpoint(
            "POST",
            "/api/embeddings",
            vectors.embeddings,
            Doc(
                "The vector of a text",
                "The older form.",
                wire.EmbeddingsRequest,
                response=wire.EmbeddingsAnswer,
                errors=_ERRORS,
            ),
            hot=True,
        ),
        Endpoint(
            "GET", "/api/version", catalog.version, Doc("The version of this API", response=wire.Version), hot=True
        ),
        Endpoint("GET", "/api/tags", catalog.tags, Doc("The models that take texts", response=wire.Tags), hot=True),
        Endpoint("GET", "/api/ps", catalog.running, Doc("The models that are loaded", response=wire.Running), hot=True),
        Endpoint(
            "POST",
            "/api/show",
            catalog.show,
            Doc(
                "All that is known of a model",
                "",
                wire.ShowRequest,
                {"guide": {"model": "guide"}},
                wire.Shown,
                errors=(400, 404),
            ),
            hot=True,
        ),
        Endpoint(
            "POST",
            "/api/pull",
            changes.pull,
            Doc(
                "Fetch a model from a registry or the Hugging Face Hub",
                "Goes on where an earlier attempt stopped. Leaving stops it.",
                wire.PullRequest,
                response=wire.ProgressLine,
                response_type=_LINES,
                errors=_CHANGE_ERRORS,
            ),
            hot=True,
        ),
        Endpoint("POST", "/api/push", changes.push, Doc("Refused", errors=(400,)), hot=True),
        Endpoint(
            "POST",
            "/api/create",
            changes.create,
            Doc(
                "Make a model from another one, or from uploaded GGUF files",
                "",
                wire.CreateRequest,
                response=wire.ProgressLine,
                response_type=_LINES,
                errors=_CHANGE_ERRORS,
            ),
            hot=True,
        ),
        Endpoint(
            "POST",
            "/api/copy",
            changes.copy,
            Doc("Give a model a second name", "", wire.CopyRequest, errors=_CHANGE_ERRORS),
            hot=True,
        ),
        Endpoint(
            "DELETE",
            "/api/delete",
            changes.delete,
            Doc("Delete a model", "", wire.NameRequest, errors=_CHANGE_ERRORS),
            hot=True,
        ),
        Endpoint(
            "GET",
            "/api/blobs/{digest}",
            changes.blob,
            Doc("Whether a file was uploaded", "Asked with HEAD.", errors=(400, 404, 405)),
            hot=True,
        ),
        Endpoint("POST", "/api/blobs/{digest}", changes.upload, Doc("Upload a file", errors=_CHANGE_ERRORS), hot=True),
    )
    prefixes = tuple(dict.fromkeys(endpoint.path.partition("{")[0] for endpoint in endpoints))
    return Dialect("ollama", "Ollama", prefixes, errors.render, endpoints)
