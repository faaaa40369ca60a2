"""Builds the completion llama.cpp is asked for, from a request and what of its answer was already delivered.

Chat and completion take one path: the prompt as text or ids, then the delivered tokens as ids, so that a continuation
is exact to the token; what binds the answer becomes a grammar, cut to what may still follow the delivered text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.requests import Complete, Generate, Sampling
from inference_engine.domain.results import Delivered
from inference_engine.infra.runtimes.llama_cpp.options import SamplingDefaults

_RANDOM_SEED = 0xFFFFFFFF  # llama.cpp's word for "any seed"


class Vocabulary(Protocol):
    """What building a request needs of the model."""

    @property
    def size(self) -> int: ...

    @property
    def context(self) -> int: ...

    def token_ids(self, text: str) -> list[int]: ...


def delivered_ids(delivered: Delivered, echo: str, vocabulary: Vocabulary) -> list[int]:
    """The tokens of the delivered answer. `echo` is the prompt that was given back before it.

    Text pieces (characters of several tokens) are tokenized again, which finds the same ids but for rare splits.
    """
    ids: list[int] = []
    rest = len(echo)
    for piece in delivered.pieces:
        if isinstance(piece, str):
            skipped = min(rest, len(piece))
            rest -= skipped
            ids += vocabulary.token_ids(piece[skipped:]) if skipped < len(piece) else []
        else:
            ids += piece
    return ids


def completion_body(
    prompt: str | tuple[int, ...],
    request: Generate,
    ids: list[int],
    grammar: str | None,
    markers: Sequence[str],
    vocabulary: Vocabulary,
    defaults: SamplingDefaults,
) -> dict[str, Any]:
    """The body for `handle_completions`: continue `prompt` and the delivered `ids`.

    `markers` stay in the text where they are control tokens. Stop strings are not in it: they apply to what is left
    when thoughts and calls are taken out, so the reader watches for them.
    """
    return {
        "prompt": [*([prompt] if isinstance(prompt, str) else prompt), *ids] if ids else prompt,
        "stream": True,
        "verbose": True,  # the only way to learn token ids
        "return_progress": True,  # else a prefill cannot be cancelled
        "response_fields": ["stop_type"],  # keeps the prompt and all settings out of the last chunk
        "cache_prompt": True,
        **({"grammar": grammar} if grammar else {}),
        **({"preserved_tokens": list(markers)} if markers else {}),
        **_sampling(request.sampling, len(ids), vocabulary, defaults),
    }


def _sampling(sampling: Sampling, delivered: int, vocabulary: Vocabulary, defaults: SamplingDefaults) -> dict[str, Any]:
    body: dict[str, Any] = {
        name: value
        for name in (*SamplingDefaults.__struct_fields__, "typical_p", "repeat_last_n")
        for value in [getattr(sampling, name) if getattr(sampling, name) is not None else getattr(defaults, name, None)]
        if value is not None
    }
    if body.get("repeat_last_n") == -1:
        body["repeat_last_n"] = vocabulary.context
    if sampling.max_tokens is not None:
        body["n_predict"] = sampling.max_tokens - delivered
    if sampling.seed is not None:
        body["seed"] = _seed(sampling.seed, delivered)
    if sampling.logprobs is not None:
        body["n_probs"] = max(1, sampling.logprobs)
    if sampling.logit_bias:
        body["logit_bias"] = [[_known(token, vocabulary), bias] for token, bias in sampling.logit_bias.items()]
    if sampling.ignore_eos:
        body["ignore_eos"] = True
    return body


def _seed(seed: int, delivered: int) -> int:
    """llama.cpp's 32-bit seed. A continuation draws from another stream, the same one each time it is made."""
    if delivered:
        digest = hashlib.blake2b(f"{seed}/{delivered}".encode(), digest_size=4).digest()
        return int.from_bytes(digest) % _RANDOM_SEED
    return seed % _RANDOM_SEED


def _known(token: int, vocabulary: Vocabulary) -> int:
    if not 0 <= token < vocabulary.size:
        raise InvalidRequest(
            f"logit_bias names token {token}, the model's tokens are 0 to {vocabulary.size - 1}", param="logit_bias"
        )
    return token


def prompt_field(request: Generate) -> str:
    """The request's field that holds the prompt, for errors."""
    return "prompt" if isinstance(request, Complete) else "messages"
