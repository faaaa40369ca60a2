"""Chooses the tokens of one sequence from its logits, as the request asks, the same however it is batched.

Random draws are a function of the seed and the token's position alone: a continuation on another runner draws what an
undisturbed run would have drawn. Log probabilities are those of the model, before penalties and temperature.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.requests import Sampling
from inference_engine.infra.huggingface.options import SamplingDefaults

_HEAD = 1024


class Constraint(Protocol):
    """A grammar that follows one answer."""

    def mask(self, logits: Any) -> None:
        """Rule out, in place, the tokens that cannot follow. `logits` has shape [1, vocabulary]."""

    def accept(self, token: int) -> None: ...


@dataclass(frozen=True)
class Chosen:
    """A token; with `top` asked for, also its log probability and the likeliest ones, best first."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """One sequence's choice of tokens. `prompt` and `answer` are the ids so far; `choose` adds to the answer."""

    def __init__(
        self,
        sampling: Sampling,
        options: SamplingDefaults,
        config: dict[str, Any],
        ends: Collection[int],
        vocabulary: int,
        prompt: Sequence[int],
        answer: Sequence[int],
        constraint: Constraint | None = None,
    ) -> None:
        """`config` is `generation_config.json`; `ends` are the tokens that end an answer.

        Raises:
            InvalidRequest: a biased token is none, or an answer that is bound shall not end.
        """

        def value(name: str, default: float) -> float:
            return options.value(sampling, config, name, default)

        self.temperature = value("temperature", 1.0)
        self._top_k = int(value("top_k", 0))
        self._top_p = value("top_p", 1.0)
        self._min_p = value("min_p", 0.0)
        self._typical = value("typical_p", 1.0)
        self._presence = value("presence_penalty", 0.0)
        self._frequency = value("frequency_penalty", 0.0)
        self._repeat = value("repeat_penalty", 1.0)
        self._window = -1 if sampling.repeat_last_n is None else sampling.repeat_last_n
        self._logprobs = sampling.logprobs
        self._bias = dict(sampling.logit_bias)
        for token in self._bias:
            if not 0 <= token < vocabulary:
                raise InvalidRequest(
                    f"logit_bias names token {token}, the model's tokens are 0 to {vocabulary - 1}", param="logit_bias"
                )
        if sampling.ignore_eos:
            if constraint is not None:
                raise InvalidRequest(
                    "a bound answer ends where it is complete: leave ignore_eos out", param="ignore_eos"
                )
            self._bias |= dict.fromkeys(ends, float("-inf"))
        self.ends = frozenset() if sampling.ignore_eos else frozenset(ends)
        self._seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
        self._prompt = list(prompt)
        self._answer = list(answer)
        self._constraint = constraint

    @property
    def plain(self) -> bool:
        """Whether the choice is simply the largest logit."""
        shaped = self._bias or self._constraint or self._presence or self._frequency or self._repeat != 1.0
        return self.temperature == 0.0 and self._logprobs is None and not shaped

    def take(self, token: int) -> Chosen:
        """Note a token that was chosen elsewhere (`plain`)."""
        self._answer.append(token)
        return Chosen(token)

    def choose(self, logits: Any) -> Chosen:
        """The next token from `logits`, a tensor of shape [vocabulary], which is left as it is."""
        raw = logits.float()
        scores = raw.clone()
        self._shape(scores)
        if self._constraint is not None:
            self._constraint.mask(scores.unsqueeze(0))
        token = int(scores.argmax()) if self.temperature == 0.0 else self._draw(scores / self.temperature)
        self._answer.append(token)
        if self._constraint is not None:
            self._constraint.accept(token)
        return self._with_logprobs(token, raw)

    def _shape(self, scores: Any) -> None:
        """Apply penalties and biases in place."""
        import torch

        seen = self._prompt + self._answer
        if self._window >= 0:
            seen = seen[len(seen) - min(self._window, len(seen)) :]
        if self._repeat != 1.0 and seen:
            places = torch.tensor(sorted(set(seen)), device=scores.device)
            values = scores[places]
            scores[places] = torch.where(values > 0, values / self._repeat, values * self._repeat)
        recent = self._answer[-self._window :] if self._window > 0 else [] if self._window == 0 else self._answer
        if (self._presence or self._frequency) and recent:
            counts = Counter(recent)
            places = torch.tensor(list(counts), device=scores.device)
            amounts = torch.tensor(list(counts.values()), device=scores.device, dtype=scores.dtype)
            scores[places] -= self._presence + self._frequency * amounts
        for token, bias in self._bias.items():
            scores[token] += bias

    def _draw(self, scores: Any) -> int:
        import torch

        probabilities = torch.softmax(scores, -1)
        sorted_, places = self._candidates(probabilities)
        if self._typical < 1.0:
            sorted_, places = _typical(sorted_, places, self._typical)
        keep = torch.ones_like(sorted_, dtype=torch.bool)
        if self._top_p < 1.0:
            whole = sorted_.sum() if self._top_k or self._typical < 1.0 else 1.0
            shares = sorted_ / whole
            keep &= shares.cumsum(-1) - shares < self._top_p
        if self._min_p > 0.0:
            keep &= sorted_ >= self._min_p * probabilities.max()
        kept = torch.where(keep, sorted_, 0.0).double()
        if float(kept.sum()) <= 0.0:
            return int(probabilities.argmax())
        cumulative = kept.cumsum(-1)
        place = int(torch.searchsorted(cumulative, cumulative[-1] * self._uniform(), right=True))
        return int(places[min(place, int(kept.nonzero().max()))])

    def _candidates(self, probabilities: Any) -> tuple[Any, Any]:
        """Probabilities and tokens to draw from, the likeliest first where that matters.

        Sorting a whole vocabulary costs more than a small model: it is done only where a few tokens do not suffice.
        """
        import torch

        size = len(probabilities)
        if self._top_k:
            return tuple(torch.topk(probabilities, min(self._top_k, size)))
        if self._top_p >= 1.0 and self._typical >= 1.0:
            return probabilities, torch.arange(size, device=probabilities.device)
        head = torch.topk(probabilities, min(_HEAD, size))
        if self._typical >= 1.0 and float(head.values.sum()) > self._top_p:
            return head.values, head.indices
        return tuple(torch.sort(probabilities, descending=True))

    def _uniform(self) -> float:
        """A number in [0, 1) for this position."""
        digest = hashlib.blake2b(f"{self._seed}/{len(self._answer)}".encode(), digest_size=8).digest()
        return (int.from_bytes(digest) >> 11) / (1 << 53)

    def _with_logprobs(self, token: int, raw: Any) -> Chosen:
        if self._logprobs is None:
            return Chosen(token)
        import torch

        logprobs = torch.log_softmax(raw, -1)
        best = torch.topk(logprobs, min(self._logprobs, len(logprobs))) if self._logprobs else None
        top = () if best is None else tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return Chosen(token, float(logprobs[token]), top)


def _typical(probabilities: Any, places: Any, share: float) -> tuple[Any, Any]:
    """The tokens whose surprise is nearest to the expected one, until they have `share` of the mass.

    Source: "Locally Typical Sampling", arXiv 2202.00666. Sorted by probability again.
    """
    import torch

    shares = probabilities / probabilities.sum()
    surprise = -torch.log(shares.clamp_min(1e-30))
    distance = (surprise - (shares * surprise).sum()).abs()
    order = torch.argsort(distance)
    size = int((shares[order].cumsum(-1) < share).sum()) + 1
    chosen = order[:size].sort().values
    return probabilities[chosen], places[chosen]
