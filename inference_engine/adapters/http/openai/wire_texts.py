"""The JSON of embeddings, rerankings and token counts, as types. Knows no service.

Sources: OpenAI API reference (embeddings); Jina's and Cohere's API references (rerank); vLLM (tokenize).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from inference_engine.adapters.http.openai.wire import ChatMessage, ServedBy, Tool

ModelName = Annotated[str, Meta(min_length=1)] | None


class EmbeddingRequest(msgspec.Struct, forbid_unknown_fields=True):
    input: str | list[Any]
    model: ModelName = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: Any = None
    priority: int | None = None


class Embedding(msgspec.Struct):
    """`embedding` is a list of numbers, or little-endian float32 values in base64."""

    object: str
    index: int
    embedding: list[float] | str


class TextUsage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct):
    object: str
    data: list[Embedding]
    model: str
    usage: TextUsage
    served_by: ServedBy


class RerankRequest(msgspec.Struct, forbid_unknown_fields=True):
    """In Jina's shape, and in Cohere's; a document is a text or `{"text": ...}`."""

    query: str
    documents: list[Any]
    model: ModelName = None
    top_n: int | None = None
    return_documents: bool | None = None
    priority: int | None = None
    max_tokens_per_doc: Any = None
    rank_fields: Any = None


RERANK_REFUSED = {
    "max_tokens_per_doc": "documents are never cut: send shorter ones",
    "rank_fields": "documents are texts: join the fields yourself",
}
"""Known fields that would change the scores and are not supported, with the remedy."""


class RankedText(msgspec.Struct):
    text: str


class Ranked(msgspec.Struct):
    index: int
    relevance_score: float
    document: RankedText | UnsetType = UNSET


class JinaRanking(msgspec.Struct):
    model: str
    object: str
    usage: TextUsage
    results: list[Ranked]
    served_by: ServedBy


class ApiVersion(msgspec.Struct):
    version: str


class RankingUnits(msgspec.Struct):
    input_tokens: int


class RankingMeta(msgspec.Struct):
    api_version: ApiVersion
    tokens: RankingUnits


class CohereRanking(msgspec.Struct):
    id: str
    results: list[Ranked]
    meta: RankingMeta
    model: str
    served_by: ServedBy


class TokenizeRequest(msgspec.Struct, forbid_unknown_fields=True):
    """vLLM's: either `prompt` or `messages`."""

    model: ModelName = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    tools: list[Tool] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None


class Tokens(msgspec.Struct):
    count: int
    max_model_len: int | None
    tokens: tuple[int, ...]
    token_strs: None = None
