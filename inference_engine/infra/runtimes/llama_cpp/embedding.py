"""Embeds and reranks texts with llama.cpp: what a GGUF file is for, how it is set up for that, and its rows of text.

Every text must be computed in one piece (llama.cpp cannot split what is pooled), so the batch is as long as the
context. A text that does not fit is refused, never cut.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import msgspec
import numpy as np

from inference_engine.domain.errors import ContextLengthExceeded, InferenceFailed, InvalidManifest, InvalidRequest
from inference_engine.domain.ports import Loaded
from inference_engine.domain.tensors import Array, Tensors
from inference_engine.domain.text_tensors import (
    DOCUMENT,
    EMBEDDING,
    QUERY,
    RERANK_SIGNATURE,
    SCORE,
    TEXT,
    TOKENS,
    embed_signature,
    texts_of,
)
from inference_engine.infra.formats.gguf import GgufHead
from inference_engine.infra.runtimes.llama_cpp.chunks import ChunkError, engine_error
from inference_engine.infra.runtimes.llama_cpp.http_side import HttpSideError
from inference_engine.infra.runtimes.llama_cpp.options import CONTEXT_STEP, DEFAULT_CONTEXT, LlamaCppOptions, Pooling

Role = Literal["generate", "embed", "rerank"]

_ROLES: dict[str, Role] = {
    "text-generation": "generate",
    "image-text-to-text": "generate",
    "feature-extraction": "embed",
    "sentence-similarity": "embed",
    "text-ranking": "rerank",
    "text-classification": "rerank",
}
_NONE, _MEAN, _CLS, _LAST, _RANK = range(5)  # llama.cpp's numbers, as they stand in the file
_POOLINGS: dict[int, Pooling] = {_MEAN: "mean", _CLS: "cls", _LAST: "last"}
_HEADS = {"cls.weight", "cls.output.weight"}
_SELF_NORMALISING = {"qwen3", "qwen3vl"}  # llama.cpp ends these rerankers with a softmax
_OTHER_ENCODERS = {"t5encoder", "gemma-embedding"}
_TEMPLATE = "tokenizer.chat_template.rerank"


class TextServer(Protocol):
    """What llama.cpp's server offers here; JSON in and out."""

    def handle_embeddings(self, body: bytes) -> bytes: ...

    def handle_rerank(self, body: bytes) -> bytes: ...


class Words(Protocol):
    """What splits texts into tokens."""

    def split_all(self, texts: Sequence[str], *, add_special: bool, parse_special: bool) -> list[list[int]]: ...


def is_encoder(head: GgufHead) -> bool:
    """True for models that read in both directions and cannot write (BERT and its kin)."""
    name = head.architecture
    return head.of_architecture("attention.causal") is False or "bert" in name or name in _OTHER_ENCODERS


def role_of(task: str, head: GgufHead) -> Role:
    """What the model is for: by its manifest's task, else by what its file says of pooling and architecture."""
    wanted = _ROLES.get(task)
    pooling = head.of_architecture("pooling_type")
    if wanted is not None and not (wanted == "generate" and is_encoder(head)):
        return wanted
    if pooling == _RANK:
        return "rerank"
    return "embed" if is_encoder(head) or pooling in _POOLINGS else "generate"


def check_options(options: LlamaCppOptions) -> None:
    """Refuse what only a model that writes can use.

    Raises:
        InvalidManifest: names the option.
    """
    for name in ("adapters", "mmproj", "draft", "ngram", "keep_cache"):
        if getattr(options, name):
            raise InvalidManifest(
                f"options.{name} is for models that write, this one embeds or reranks: take it out, or set task to "
                "text-generation",
                param=f"options.{name}",
            )


def pooling_of(role: Role, options: LlamaCppOptions, head: GgufHead) -> str:
    """How the vectors of a text's tokens become one: llama.cpp's word for it.

    Raises:
        InvalidManifest: the option does not go with the role, or the model has no classifier to rerank with.
    """
    if role == "rerank":
        if options.pooling is not None:
            raise InvalidManifest("options.pooling is for embedding models, this one reranks", param="options.pooling")
        if not _HEADS & head.tensors.keys():
            raise InvalidManifest(
                "this model has no classifier head (cls.output.weight), so it cannot rerank: set task to "
                "feature-extraction, or convert a cross-encoder",
                param="task",
            )
        labels = head.of_architecture("classifier.output_labels") or []
        if len(labels) > 1 and head.architecture not in _SELF_NORMALISING:
            raise InvalidManifest(
                f"this model sorts into {len(labels)} labels; a reranker gives one score", param="artifact"
            )
        return "rank"
    if options.pooling is not None:
        if options.pooling == "cls" and not is_encoder(head):
            raise InvalidManifest(
                "options.pooling is cls, but the first token of a model that reads forward knows nothing of the rest: "
                "use last or mean",
                param="options.pooling",
            )
        return options.pooling
    own = head.of_architecture("pooling_type")
    return _POOLINGS.get(own, "mean" if is_encoder(head) else "last")


def longest(options: LlamaCppOptions, head: GgufHead) -> int:
    """Tokens one text may have: what was checked in `options`, else the trained length within reason."""
    trained = head.of_architecture("context_length")
    return options.context_length or (min(trained, DEFAULT_CONTEXT) if isinstance(trained, int) else DEFAULT_CONTEXT)


def prepare(params: Any, pooling: str, limit: int, rows: int) -> None:
    """Set llama.cpp's parameters for batches of `rows` texts, one of which has up to `limit` tokens."""
    import xllamacpp

    params.embedding = True
    params.pooling_type = getattr(xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{pooling.upper()}")
    params.n_parallel = min(rows, params.n_parallel)
    params.n_ctx = params.n_parallel * -(-limit // CONTEXT_STEP) * CONTEXT_STEP
    params.n_batch = params.n_ubatch = max(limit, params.n_batch)
    params.cache_ram_mib = 0


class TextRows:
    """The loaded model as a computer of rows of text. One call at a time."""

    def __init__(
        self, role: Role, server: TextServer, words: Words, head: GgufHead, limit: int, *, normalize: bool
    ) -> None:
        self._role = role
        self._server = server
        self._words = words
        self._limit = limit
        self._normalize = normalize
        self._head = head
        self._frame = 0
        self._sigmoid = role == "rerank" and head.architecture not in _SELF_NORMALISING
        template = head.metadata.get(_TEMPLATE)
        self._template = template if isinstance(template, str) else None

    def loaded(self, details: dict[str, Any]) -> Loaded:
        """What the model answers; computes one text to know the length of its vectors."""
        if self._role == "rerank":
            if self._template is None:
                _, total = self._scores("a", ["a"])
                self._frame = total - 2 * len(self._plain(["a"])[0])
            return Loaded(("rerank", "predict"), RERANK_SIGNATURE, context_length=self._limit, details=details)
        size = self._vectors(self._prompts(["a"])).shape[1]
        return Loaded(("embed", "predict"), embed_signature(size), context_length=self._limit, details=details)

    def run(self, batch: Tensors) -> Tensors:
        """See `Runtime.run`; tensors as in `domain/text_tensors.py`."""
        return self._rerank(batch) if self._role == "rerank" else self._embed(batch)

    def _prompts(self, texts: Sequence[str]) -> list[list[int]]:
        return self._split(texts, add_special=True, parse_special=True)

    def _plain(self, texts: Sequence[str]) -> list[list[int]]:
        return self._split(texts, add_special=False, parse_special=False)

    def _split(self, texts: Sequence[str], *, add_special: bool, parse_special: bool) -> list[list[int]]:
        try:
            return self._words.split_all(texts, add_special=add_special, parse_special=parse_special)
        except HttpSideError as error:
            raise InferenceFailed(f"llama.cpp cannot tokenize: {error}") from error

    def _embed(self, batch: Tensors) -> Tensors:
        rows = [self._checked(ids, "input") for ids in self._prompts(texts_of(batch[TEXT]))]
        return {EMBEDDING: self._vectors(rows), TOKENS: np.asarray([len(ids) for ids in rows], np.int32)}

    def _checked(self, ids: list[int], field: str) -> list[int]:
        if not ids:
            raise InvalidRequest(f"{field} holds a text without any token: send at least a word", param=field)
        self._check_length(len(ids), field)
        return ids

    def _check_length(self, tokens: int, field: str) -> None:
        if tokens > self._limit:
            raise ContextLengthExceeded(
                f"a text of {field} has {tokens} tokens, this model takes {self._limit}: split it", param=field
            )

    def _vectors(self, rows: list[list[int]]) -> Array:
        body = {"input": rows, "encoding_format": "base64", "embd_normalize": 2 if self._normalize else -1}
        answer = _decode_embedded(_called(self._server.handle_embeddings, body))
        _raise(answer.error)
        vectors = [np.frombuffer(base64.b64decode(item.embedding), np.float32) for item in answer.data]
        stacked: Array = np.stack(vectors)
        return _finite(stacked)

    def _rerank(self, batch: Tensors) -> Tensors:
        queries, documents = texts_of(batch[QUERY]), texts_of(batch[DOCUMENT])
        scores = np.empty(len(queries), np.float32)
        tokens = self._pair_tokens(queries, documents)
        for query in dict.fromkeys(queries):
            rows = [row for row, other in enumerate(queries) if other == query]
            scores[rows], _ = self._scores(query, [documents[row] for row in rows])
        return {SCORE: scores, TOKENS: np.asarray(tokens, np.int32)}

    def _pair_tokens(self, queries: list[str], documents: list[str]) -> list[int]:
        """The tokens of each query with its document."""
        pairs = list(zip(queries, documents, strict=True))
        if self._template is None:
            distinct = list(dict.fromkeys(queries))
            known = dict(zip(distinct, map(len, self._plain(distinct)), strict=True))
            lengths = [self._frame + known[query] for query in queries]
            tokens = [length + len(ids) for length, ids in zip(lengths, self._plain(documents), strict=True)]
        else:
            template = self._template
            filled = [template.replace("{query}", query).replace("{document}", text) for query, text in pairs]
            tokens = [len(ids) for ids in self._split(filled, add_special=False, parse_special=True)]
        for count in tokens:
            self._check_length(count, "documents")
        return tokens

    def _scores(self, query: str, documents: list[str]) -> tuple[Array, int]:
        """Scores in the order of `documents`, and the tokens of all pairs."""
        answer = _decode_ranked(_called(self._server.handle_rerank, {"query": query, "documents": documents}))
        _raise(answer.error)
        scores = np.empty(len(documents), np.float32)
        for item in answer.results:
            scores[item.index] = item.relevance_score
        _finite(scores)
        if self._sigmoid:
            scores = np.asarray(1 / (1 + np.exp(-np.clip(scores, -80, 80))), np.float32)
        return scores, answer.usage.prompt_tokens


class _Vector(msgspec.Struct):
    embedding: str


class _Score(msgspec.Struct):
    index: int
    relevance_score: float


class _Total(msgspec.Struct):
    prompt_tokens: int


class _Embedded(msgspec.Struct):
    data: list[_Vector] = []
    error: ChunkError | None = None


class _Ranked(msgspec.Struct):
    results: list[_Score] = []
    usage: _Total = msgspec.field(default_factory=lambda: _Total(0))
    error: ChunkError | None = None


_decode_embedded = msgspec.json.Decoder(_Embedded).decode
_decode_ranked = msgspec.json.Decoder(_Ranked).decode


def _called(handler: Callable[[bytes], bytes], body: dict[str, Any]) -> bytes:
    try:
        return handler(msgspec.json.encode(body))
    except (RuntimeError, ValueError) as error:
        raise InferenceFailed(f"llama.cpp failed: {error}") from error


def _finite(values: Array) -> Array:
    """`values`, or `InferenceFailed`: no client can read a vector with a value that is not a number."""
    if not np.isfinite(values).all():
        raise InferenceFailed("the model gave a value that is not a number: its file may be damaged")
    return values


def _raise(error: ChunkError | None) -> None:
    if error is not None:
        raise engine_error(error)
