"""Texts as rows of a batch: embeddings, rerankings and classes, through the tensors of `domain/text_tensors.py`."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from inference_engine.domain.errors import ContextLengthExceeded, InferenceFailed, ModelLoadFailed
from inference_engine.domain.model import Signature, TensorSpec
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
    text_tensor,
    texts_of,
)
from inference_engine.infra.huggingface.folder import Pooling, SentenceSettings

LABEL, SCORES = "label", "scores"


class Rows(Protocol):
    """A model that answers rows of text."""

    def run(self, batch: Tensors) -> Tensors: ...

    def loaded(self, details: dict[str, Any]) -> Loaded: ...


class _Encoder:
    """Runs texts, or pairs of texts, through a model; refuses what is too long."""

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int, *, left: bool) -> None:
        """`left`: pad on the left, as decoder models need it where their last token counts."""
        self.model = model
        self.max_tokens = max_tokens
        self._tokenizer = tokenizer
        self._tokenizer.padding_side = "left" if left else "right"
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        if tokenizer.pad_token_id is None:
            raise ModelLoadFailed("the tokenizer has no token to pad shorter texts with", param="artifact")
        if getattr(model.config, "pad_token_id", None) is None:
            model.config.pad_token_id = tokenizer.pad_token_id  # classifiers on decoders look for it

    def encode(self, *texts: list[str], field: str) -> tuple[Any, Any]:
        """The model's output and the attention mask [rows, tokens].

        Raises:
            ContextLengthExceeded: a row has more tokens than the model takes; names `field`.
        """
        import torch

        inputs = self._tokenizer(*texts, padding=True, truncation=False, return_tensors="pt")
        longest = int(inputs["attention_mask"].sum(-1).max())
        if longest > self.max_tokens:
            raise ContextLengthExceeded(
                f"a text of {field} has {longest} tokens, this model takes {self.max_tokens}: shorten it", param=field
            )
        inputs = inputs.to(self.model.device)
        with torch.inference_mode():
            try:
                return self.model(**inputs), inputs["attention_mask"]
            except (RuntimeError, ValueError, IndexError) as error:
                raise InferenceFailed(f"the computation failed: {error}") from error


def _counts(mask: Any) -> Array:
    return np.asarray(mask.sum(-1).cpu().numpy(), np.int32)


class EmbeddingRows:
    """`text` to `embedding`."""

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int, settings: SentenceSettings) -> None:
        self._settings = settings
        self._encoder = _Encoder(model, tokenizer, max_tokens, left=settings.pooling == "last")
        self._dimensions = int(model.config.get_text_config().hidden_size)

    def loaded(self, details: dict[str, Any]) -> Loaded:
        more = {"pooling": self._settings.pooling, "normalize": self._settings.normalize}
        return Loaded(
            ("embed", "predict"),
            embed_signature(self._dimensions),
            context_length=self._encoder.max_tokens,
            details=details | more | {"dimensions": self._dimensions},
        )

    def run(self, batch: Tensors) -> Tensors:
        import torch

        output, mask = self._encoder.encode(texts_of(batch[TEXT]), field=TEXT)
        vectors = pooled(output.last_hidden_state.float(), mask, self._settings.pooling)
        if self._settings.normalize:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        return {EMBEDDING: vectors.cpu().numpy(), TOKENS: _counts(mask)}


def pooled(states: Any, mask: Any, pooling: Pooling) -> Any:
    """One vector [rows, size] of the tokens' `states` [rows, tokens, size]."""
    if pooling == "cls":
        return states[:, 0]
    if pooling == "last":
        return states[:, -1]  # padded on the left
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp_min(1e-9)


class RerankRows:
    """`query` and `document` to `score`: the one logit of a cross-encoder, as it is."""

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int) -> None:
        if model.config.num_labels != 1:
            raise ModelLoadFailed(
                f"this model gives {model.config.num_labels} classes, a reranker gives one score: "
                "set task: text-classification in model.yaml",
                param="task",
            )
        self._encoder = _Encoder(model, tokenizer, max_tokens, left=False)

    def loaded(self, details: dict[str, Any]) -> Loaded:
        return Loaded(("rerank", "predict"), RERANK_SIGNATURE, context_length=self._encoder.max_tokens, details=details)

    def run(self, batch: Tensors) -> Tensors:
        output, mask = self._encoder.encode(texts_of(batch[QUERY]), texts_of(batch[DOCUMENT]), field=DOCUMENT)
        return {SCORE: output.logits[:, 0].float().cpu().numpy(), TOKENS: _counts(mask)}


class ClassRows:
    """`text` to the best `label` and the `scores` of all: softmax, a sigmoid each where several can hold, or the
    numbers themselves of a regression."""

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int) -> None:
        self._encoder = _Encoder(model, tokenizer, max_tokens, left=False)
        self._plain = model.config.problem_type == "regression"
        self._several = model.config.problem_type == "multi_label_classification" or model.config.num_labels == 1
        self._labels = [str(model.config.id2label[place]) for place in range(model.config.num_labels)]

    def loaded(self, details: dict[str, Any]) -> Loaded:
        signature = Signature(
            (TensorSpec(TEXT, "bytes", (-1,)),),
            (
                TensorSpec(LABEL, "bytes", (-1,)),
                TensorSpec(SCORES, "float32", (-1, len(self._labels))),
                TensorSpec(TOKENS, "int32", (-1,)),
            ),
        )
        more = {"labels": self._labels}
        return Loaded(("predict",), signature, context_length=self._encoder.max_tokens, details=details | more)

    def run(self, batch: Tensors) -> Tensors:
        output, mask = self._encoder.encode(texts_of(batch[TEXT]), field=TEXT)
        logits = output.logits.float()
        scores = logits if self._plain else logits.sigmoid() if self._several else logits.softmax(-1)
        best = scores.argmax(-1).tolist()
        return {
            LABEL: text_tensor([self._labels[place] for place in best]),
            SCORES: scores.cpu().numpy(),
            TOKENS: _counts(mask),
        }
