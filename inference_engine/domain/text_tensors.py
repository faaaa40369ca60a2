"""How texts are embedded and reranked through tensors, so that they are batched like every other prediction.

A model that answers `embed` takes `text` and gives `embedding` and `tokens` (the prompt tokens of each row); one that
answers `rerank` takes `query` and `document` and gives `score` and `tokens`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inference_engine.domain.model import Signature, TensorSpec
from inference_engine.domain.tensors import Array

TEXT, EMBEDDING, QUERY, DOCUMENT, SCORE, TOKENS = "text", "embedding", "query", "document", "score", "tokens"
_ROWS = (-1,)

RERANK_SIGNATURE = Signature(
    (TensorSpec(QUERY, "bytes", _ROWS), TensorSpec(DOCUMENT, "bytes", _ROWS)),
    (TensorSpec(SCORE, "float32", _ROWS), TensorSpec(TOKENS, "int32", _ROWS)),
)


def embed_signature(dimensions: int) -> Signature:
    """The signature of a model whose vectors have so many values."""
    return Signature(
        (TensorSpec(TEXT, "bytes", _ROWS),),
        (TensorSpec(EMBEDDING, "float32", (-1, dimensions)), TensorSpec(TOKENS, "int32", _ROWS)),
    )


def text_tensor(texts: Sequence[str]) -> Array:
    """Texts as a tensor of shape [texts]."""
    array = np.empty(len(texts), dtype=object)
    array[:] = [text.encode() for text in texts]
    return array


def texts_of(array: Array) -> list[str]:
    """The texts of a `bytes` tensor."""
    return [bytes(item).decode(errors="replace") for item in array.ravel()]
