"""Puts the OpenAI endpoints together, with what the documentation says of them."""

from __future__ import annotations

from typing import NamedTuple

from inference_engine.adapters.http.calls import Calls
from inference_engine.adapters.http.endpoints import Dialect, Doc, Endpoint
from inference_engine.adapters.http.openai import (
    batches,
    errors,
    examples,
    files,
    responses,
    wire,
    wire_audio,
    wire_texts,
)
from inference_engine.adapters.http.openai.audio import Transcriber
from inference_engine.adapters.http.openai.embeddings import Embedder
from inference_engine.adapters.http.openai.generation import Generations
from inference_engine.adapters.http.openai.models import Models
from inference_engine.adapters.http.openai.reranking import Reranker
from inference_engine.adapters.http.openai.tokens import Tokenizer
from inference_engine.domain.documents import DocumentStore
from inference_engine.services.files import FileService
from inference_engine.services.inference import InferenceService
from inference_engine.services.jobs import JobService
from inference_engine.services.models import ModelService

_ERRORS = (400, 401, 404, 413, 429, 500, 503, 504)
_FORM = "multipart/form-data"


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
    """The OpenAI dialect, and what else clients of such servers expect beside it.

    Its endpoints that can stand in a batch are offered to the jobs.
    """
    live = (
        *_generation(Generations(inference, calls, default_model, f"inference-engine-{version}")),
        *_texts(Embedder(inference, calls, default_model), Reranker(inference, calls, default_model)),
        *_speech(Transcriber(inference, calls, default_model)),
        *_models(Models(models), Tokenizer(models, inference, calls, default_model)),
        *responses.endpoints(inference, calls, default_model, stateful.answers),
    )
    stateful.jobs.offer(batches.works(live))
    return Dialect(
        "openai",
        "OpenAI",
        ("/v1/", "/rerank", "/v2/rerank", "/tokenize"),
        errors.render,
        (*live, *files.endpoints(stateful.files), *batches.endpoints(stateful.jobs, stateful.files)),
    )


def _generation(generations: Generations) -> tuple[Endpoint, ...]:
    chat = Doc(
        "Continue a conversation",
        "Answers as server-sent events when `stream` is true. Fields that would change the answer and are "
        "not supported are refused by name.",
        wire.ChatRequest,
        examples.CHAT,
        wire.ChatCompletion,
        examples.CHAT_ANSWER,
        errors=_ERRORS,
    )
    completion = Doc(
        "Continue a text",
        "Several prompts give several choices; a prompt may be token ids. Streams like chat completions.",
        wire.CompletionRequest,
        examples.COMPLETION,
        wire.Completion,
        examples.COMPLETION_ANSWER,
        errors=_ERRORS,
    )
    return (
        Endpoint("POST", "/v1/chat/completions", generations.chat, chat, hot=True),
        Endpoint("POST", "/v1/completions", generations.completions, completion, hot=True),
    )


def _texts(embedder: Embedder, reranker: Reranker) -> tuple[Endpoint, ...]:
    embed = Doc(
        "Turn texts into vectors",
        "`encoding_format: base64` gives little-endian float32 values.",
        wire_texts.EmbeddingRequest,
        examples.EMBEDDING,
        wire_texts.EmbeddingList,
        examples.EMBEDDING_ANSWER,
        errors=_ERRORS,
    )
    jina = Doc(
        "Order documents by how well they answer a query",
        "In Jina's shape, which vLLM and llama-server have too.",
        wire_texts.RerankRequest,
        examples.RERANK,
        wire_texts.JinaRanking,
        examples.JINA_ANSWER,
        errors=_ERRORS,
    )
    cohere = Doc(
        "Order documents by how well they answer a query, in Cohere's shape",
        "",
        wire_texts.RerankRequest,
        examples.RERANK,
        wire_texts.CohereRanking,
        examples.COHERE_ANSWER,
        errors=_ERRORS,
    )
    return (
        Endpoint("POST", "/v1/embeddings", embedder.embed, embed, hot=True),
        Endpoint("POST", "/v1/rerank", reranker.jina, jina, hot=True),
        Endpoint("POST", "/rerank", reranker.jina, jina, hot=True),
        Endpoint("POST", "/v2/rerank", reranker.cohere, cohere, hot=True),
    )


def _speech(transcriber: Transcriber) -> tuple[Endpoint, ...]:
    transcribe = Doc(
        "Write speech down",
        "With `stream` the answer is events of type transcript.text.delta and transcript.text.done.",
        wire_audio.TranscriptionForm,
        examples.SPEECH,
        wire_audio.Transcription,
        examples.SPEECH_ANSWER,
        _FORM,
        errors=_ERRORS,
    )
    translate = Doc(
        "Write speech down in English",
        "",
        wire_audio.TranslationForm,
        examples.SPEECH,
        wire_audio.Transcription,
        examples.SPEECH_ANSWER,
        _FORM,
        errors=_ERRORS,
    )
    return (
        Endpoint("POST", "/v1/audio/transcriptions", transcriber.transcriptions, transcribe, hot=True),
        Endpoint("POST", "/v1/audio/translations", transcriber.translations, translate, hot=True),
    )


def _models(names: Models, tokenizer: Tokenizer) -> tuple[Endpoint, ...]:
    listed = Doc(
        "All names that can be asked for",
        response=wire.ModelList,
        response_example={"object": "list", "data": [examples.MODEL]},
    )
    one = Doc("One of them", response=wire.Model, response_example=examples.MODEL, errors=(404,))
    tokens = Doc(
        "Split a prompt into the model's tokens",
        "In vLLM's shape. Nothing is generated.",
        wire_texts.TokenizeRequest,
        examples.TOKENIZE,
        wire_texts.Tokens,
        examples.TOKENIZE_ANSWER,
        errors=_ERRORS,
    )
    return (
        Endpoint("GET", "/v1/models", names.list, listed),
        Endpoint("GET", "/v1/models/{model}", names.get, one),
        Endpoint("POST", "/tokenize", tokenizer.tokenize, tokens, hot=True),
    )
