"""A request's sampling values as OpenVINO GenAI's generation config; what it cannot honour is refused by name."""

from __future__ import annotations

import hashlib
from typing import Any

from inference_engine.domain.errors import UnsupportedTask
from inference_engine.domain.requests import Sampling

_SMALLEST_TOP_P = 1e-6
_SEEDS = 2**63

# GenAI computes these differently from what clients mean by them: its presence and frequency penalties raise the
# logits that are below zero.
_REFUSED = ("presence_penalty", "frequency_penalty")


def check_sampling(sampling: Sampling) -> None:
    """
    Raises:
        UnsupportedTask: a value that this runtime cannot honour; names the field.
    """
    for field in _REFUSED:
        if getattr(sampling, field):
            raise _unsupported(field, "use repeat_penalty")
    if sampling.typical_p is not None and sampling.typical_p < 1:
        raise _unsupported("typical_p", "use top_p or min_p")
    if sampling.repeat_last_n is not None and sampling.repeat_last_n >= 0:
        raise _unsupported(
            "repeat_last_n", "repeat_penalty looks at the whole prompt and answer: leave it out or at -1"
        )
    if sampling.logit_bias:
        raise _unsupported("logit_bias", "leave it out")
    if sampling.logprobs:
        raise _unsupported("top_logprobs", "only the chosen token's logprob is known: ask for none beside it")


def check_bound(sampling: Sampling) -> None:
    """What an answer that is bound to a grammar cannot have beside it.

    Raises:
        UnsupportedTask: names the field.
    """
    if sampling.ignore_eos:
        raise _unsupported("ignore_eos with tools or a constraint", "leave one of them out")


def _unsupported(field: str, remedy: str) -> UnsupportedTask:
    return UnsupportedTask(
        f"{field} is not supported by the openvino runtime: {remedy}", param=field.split(maxsplit=1)[0]
    )


def generation_values(sampling: Sampling, defaults: dict[str, Any], *, delivered: int, limit: int) -> dict[str, Any]:
    """The fields of `openvino_genai.GenerationConfig` to set; `limit` tokens are generated at most.

    `defaults` holds a value for each field of `SamplingDefaults`.
    """

    def value(name: str) -> Any:
        own = getattr(sampling, name)
        return defaults[name] if own is None else own

    values: dict[str, Any] = {
        "max_new_tokens": limit,
        "ignore_eos": sampling.ignore_eos,
        "logprobs": 0 if sampling.logprobs is None else 1,
        "apply_chat_template": False,
        "repetition_penalty": value("repeat_penalty"),
    }
    if value("temperature") == 0 or value("top_k") == 1:
        return values | {"do_sample": False}
    values |= {
        "do_sample": True,
        "temperature": value("temperature"),
        "top_p": max(_SMALLEST_TOP_P, value("top_p")),
        "min_p": min(value("min_p"), 1 - 1e-6),
        "rng_seed": _seed(sampling.seed, delivered),
    }
    return values | ({"top_k": value("top_k")} if value("top_k") else {})


def _seed(seed: int | None, delivered: int) -> int:
    """A continuation draws from another stream, the same one each time it is made."""
    if seed is None:
        import secrets

        return secrets.randbelow(_SEEDS)
    if delivered:
        digest = hashlib.blake2b(f"{seed}/{delivered}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) % _SEEDS
    return seed % _SEEDS
