"""Requests and answers for the documentation of the OpenAI endpoints."""

from __future__ import annotations

from typing import Any

_WEATHER_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_SERVED_BY: dict[str, Any] = {"name": "guide", "version": "1", "route": "guide", "rule": "latest"}
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
        "completion_tokens_details": {"reasoning_tokens": 0},
    },
    "served_by": _SERVED_BY,
}
CHAT: dict[str, Any] = {
    "question": {"model": "guide", "messages": [{"role": "user", "content": "How do I add a model?"}]},
    "streamed": {
        "model": "guide",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a route?"}],
        "max_completion_tokens": 64,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    "tools": {
        "model": "your-model",
        "messages": [{"role": "user", "content": "Do I need an umbrella in Oslo?"}],
        "tools": [_WEATHER_TOOL],
        "tool_choice": "auto",
    },
    "JSON": {
        "model": "guide",
        "messages": [{"role": "user", "content": "Name a city."}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": "city",
                "schema": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
            },
        },
    },
}
CHAT_ANSWER: dict[str, Any] = {
    "id": "chatcmpl-5f2c",
    "object": "chat.completion",
    **_HEAD,
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Put its folder into the model repository.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    **_TAIL,
}
COMPLETION: dict[str, Any] = {
    "one prompt": {"model": "guide", "prompt": "This server is", "max_tokens": 16},
    "two prompts": {"model": "guide", "prompt": ["This server is", "A route is"], "max_tokens": 16, "temperature": 0},
}
COMPLETION_ANSWER: dict[str, Any] = {
    "id": "cmpl-5f2c",
    "object": "text_completion",
    **_HEAD,
    "choices": [{"index": 0, "text": " one server for every model.", "logprobs": None, "finish_reason": "stop"}],
    **_TAIL,
}
EMBEDDING: dict[str, Any] = {
    "two texts": {"model": "your-embedder", "input": ["How do I add a model?", "What is a route?"]},
    "short vectors": {"model": "your-embedder", "input": "What is a route?", "dimensions": 64},
}
EMBEDDING_ANSWER: dict[str, Any] = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.6, 0.8]}],
    "model": "your-embedder",
    "usage": {"prompt_tokens": 5, "total_tokens": 5},
    "served_by": {"name": "your-embedder", "version": "1", "route": "your-embedder", "rule": "latest"},
}
_RERANKER: dict[str, Any] = {"name": "your-reranker", "version": "1", "route": "your-reranker", "rule": "latest"}
RERANK: dict[str, Any] = {
    "two documents": {
        "model": "your-reranker",
        "query": "What is a route?",
        "documents": ["A route leads a name to a model.", "Ctrl-C stops the server."],
        "top_n": 1,
    }
}
JINA_ANSWER: dict[str, Any] = {
    "model": "your-reranker",
    "object": "list",
    "usage": {"prompt_tokens": 24, "total_tokens": 24},
    "results": [{"index": 0, "relevance_score": 0.97, "document": {"text": "A route leads a name to a model."}}],
    "served_by": _RERANKER,
}
COHERE_ANSWER: dict[str, Any] = {
    "id": "rerank-5f2c",
    "results": [{"index": 0, "relevance_score": 0.97}],
    "meta": {"api_version": {"version": "2"}, "tokens": {"input_tokens": 24}},
    "model": "your-reranker",
    "served_by": _RERANKER,
}
SPEECH: dict[str, Any] = {"a file": {"model": "your-listener", "file": "@meeting.wav", "response_format": "json"}}
SPEECH_ANSWER: dict[str, Any] = {
    "text": "Let us begin.",
    "usage": {"type": "tokens", "input_tokens": 150, "output_tokens": 4, "total_tokens": 154},
    "served_by": {"name": "your-listener", "version": "1", "route": "your-listener", "rule": "latest"},
}
TOKENIZE: dict[str, Any] = {
    "prompt": {"model": "guide", "prompt": "This server is"},
    "conversation": {"model": "guide", "messages": [{"role": "user", "content": "What is a route?"}]},
}
TOKENIZE_ANSWER: dict[str, Any] = {"count": 3, "max_model_len": 4096, "tokens": [812, 95, 61], "token_strs": None}
MODEL: dict[str, Any] = {
    "id": "guide",
    "object": "model",
    "created": 1790000000,
    "owned_by": "inference-engine",
    "name": "guide",
    "version": "1",
    "rule": "latest",
    "task": "text-generation",
    "state": "ready",
    "description": "Answers questions about this server",
    "context_length": 4096,
    "capabilities": ["chat"],
    "parent": None,
}
