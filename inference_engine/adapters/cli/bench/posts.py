"""The requests of a benchmark over HTTP: tensors in the binary form of v2; chats, embeddings and reranks as JSON."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from inference_engine.adapters.cli.bench.http_load import Post
from inference_engine.domain.datatypes import datatype_of, to_raw
from inference_engine.domain.tensors import Array

_WORDS = (
    *("the", "of", "and", "to", "in", "is", "was", "that", "for", "it", "with", "as", "on", "be", "at", "by", "this"),
    *("had", "are", "but", "from", "have", "an", "they", "which", "one", "you", "were", "all", "her", "she", "there"),
    *(
        "would",
        "their",
        "we",
        "him",
        "been",
        "has",
        "when",
        "who",
        "will",
        "no",
        "more",
        "if",
        "out",
        "so",
        "up",
        "said",
    ),
    *("what", "about", "than", "into", "them", "can", "only", "other", "time", "new", "some", "could", "these", "two"),
    *("may", "first", "then", "do", "any", "like", "my", "now", "over", "such", "our", "man", "me", "even", "most"),
)


def infer_path(name: str, version: str) -> str:
    return f"/v2/models/{name}/versions/{version}/infer"


def infer_post(path: str, inputs: Mapping[str, Array]) -> Post:
    """A v2 request whose tensors are binary both ways."""
    raw = {name: to_raw(array) for name, array in inputs.items()}
    tensors = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": datatype_of(name, array),
            "parameters": {"binary_data_size": len(raw[name])},
        }
        for name, array in inputs.items()
    ]
    head = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}}).encode()
    headers = (("Content-Type", "application/octet-stream"), ("Inference-Header-Content-Length", str(len(head))))
    return Post(path, head + b"".join(raw.values()), headers)


def in_turn(posts: list[Post]) -> Callable[[], Post]:
    """The posts again and again."""
    endless = itertools.cycle(posts)
    return lambda: next(endless)


class Prompts:
    """Texts of so many words, each beginning with another number: no two share a prefix that a server could reuse."""

    def __init__(self, words: int, seed: int = 0) -> None:
        self.words = max(1, words)
        self._random = np.random.default_rng(seed)
        self._numbers = itertools.count(int(self._random.integers(1000, 9000)))

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        words = self._random.integers(0, len(_WORDS), self.words - 1)
        return " ".join([str(next(self._numbers)), *[_WORDS[index] for index in words]])


def generations(target: str, prompts: Prompts, max_tokens: int, *, chat: bool) -> Callable[[], Post]:
    """Streamed chats or completions of exactly `max_tokens` tokens, where the runtime can go on past the end."""
    options = {
        "model": target,
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }

    def make() -> Post:
        text = next(prompts)
        if chat:
            body = options | {"messages": [{"role": "user", "content": text}]}
            return Post("/v1/chat/completions", json.dumps(body).encode())
        return Post("/v1/completions", json.dumps(options | {"prompt": text}).encode())

    return make


def embeddings(target: str, prompts: Prompts, rows: int) -> Callable[[], Post]:
    def make() -> Post:
        body = {"model": target, "input": [next(prompts) for _ in range(rows)], "encoding_format": "base64"}
        return Post("/v1/embeddings", json.dumps(body).encode())

    return make


def reranks(target: str, prompts: Prompts, rows: int) -> Callable[[], Post]:
    def make() -> Post:
        documents = [next(prompts) for _ in range(rows)]
        body = {"model": target, "query": next(prompts), "documents": documents, "return_documents": False}
        return Post("/v1/rerank", json.dumps(body).encode())

    return make
