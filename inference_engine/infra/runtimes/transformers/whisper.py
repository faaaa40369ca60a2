"""What is Whisper's own: its control tokens, and the rules by which text and times follow each other.

Source: "Robust Speech Recognition via Large-Scale Weak Supervision", arXiv 2212.04356, and its decoding rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inference_engine.domain.errors import InvalidRequest, ModelLoadFailed
from inference_engine.domain.requests import Transcribe

STEP_S = 0.02
"""The time between two time tokens."""
_START, _TRANSLATE, _TRANSCRIBE = "<|startoftranscript|>", "<|translate|>", "<|transcribe|>"
_NO_TIMES, _PREVIOUS = "<|notimestamps|>", "<|startofprev|>"


@dataclass(frozen=True)
class ControlTokens:
    """The ids of a Whisper model's control tokens. `languages` is empty for a model of English alone."""

    start: int
    no_times: int
    end: int
    previous: int | None
    tasks: dict[str, int]
    languages: dict[str, int]
    suppressed: tuple[int, ...]
    suppressed_first: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Any, config: dict[str, Any]) -> ControlTokens:
        """Read them from the tokenizer and `generation_config.json`. Raises ModelLoadFailed: they are not there."""
        vocabulary = tokenizer.get_vocab()
        missing = [name for name in (_START, _NO_TIMES) if name not in vocabulary]
        if missing or tokenizer.eos_token_id is None:
            raise ModelLoadFailed(
                f"the tokenizer has no {missing or 'end token'}: it is not Whisper's", param="artifact"
            )
        named = config.get("lang_to_id") or {}
        languages = {str(name).strip("<|>"): int(token) for name, token in named.items()}
        tasks = {name: vocabulary[name] for name in (_TRANSLATE, _TRANSCRIBE) if name in vocabulary}
        return cls(
            vocabulary[_START],
            vocabulary[_NO_TIMES],
            int(tokenizer.eos_token_id),
            vocabulary.get(_PREVIOUS),
            tasks if languages else {},
            languages,
            tuple(config.get("suppress_tokens") or ()),
            tuple(config.get("begin_suppress_tokens") or ()),
        )

    @property
    def first_time(self) -> int:
        """The token of 0.00 seconds; those after it count on in steps of `STEP_S`."""
        return self.no_times + 1

    def prompt(self, request: Transcribe, language: int | None, before: Sequence[int], *, times: bool) -> list[int]:
        """The decoder's first tokens. `before` is text that came before, as ids.

        Raises:
            InvalidRequest: the model cannot translate, or takes no earlier text.
        """
        ids = [self.start]
        if language is not None:
            ids.append(language)
        task = self.tasks.get(_TRANSLATE if request.translate else _TRANSCRIBE)
        if task is not None:
            ids.append(task)
        elif request.translate:
            raise InvalidRequest("this model cannot translate, it writes down what is spoken", param="translate")
        if before:
            if self.previous is None:
                raise InvalidRequest("this model takes no prompt", param="prompt")
            ids = [self.previous, *before, *ids]
        return ids if times else [*ids, self.no_times]

    def language(self, wanted: str | None) -> int | None:
        """The token of a wanted language, None where it is to be found out, or where there is none to choose.

        Raises:
            InvalidRequest: the model does not know it.
        """
        if wanted is None or (not self.languages and wanted == "en"):
            return None
        if wanted not in self.languages:
            known = ", ".join(sorted(self.languages)) or "en"
            raise InvalidRequest(
                f"language {wanted!r} is not known to this model; known are: {known}", param="language"
            )
        return self.languages[wanted]


class Rules:
    """The rules for one window, as a constraint of the sampler. `times`: times are written between the texts."""

    def __init__(self, tokens: ControlTokens, *, times: bool) -> None:
        self._tokens = tokens
        self._times = times
        self._written: list[int] = []
        self._last_time: int | None = None

    def mask(self, logits: Any) -> None:
        """Rule out, in place, the tokens that cannot follow. `logits` has shape [1, vocabulary]."""
        scores = logits[0]
        tokens = self._tokens
        scores[list(tokens.suppressed)] = float("-inf")
        scores[tokens.no_times] = float("-inf")
        if not self._written:
            scores[list(tokens.suppressed_first)] = float("-inf")
        if self._times:
            self._mask_times(scores)
        else:
            scores[tokens.first_time :] = float("-inf")

    def _mask_times(self, scores: Any) -> None:
        first = self._tokens.first_time
        written = self._written
        if not written:  # a time stands at the beginning
            scores[:first] = float("-inf")
            return
        if written[-1] >= first:
            if len(written) == 1 or written[-2] >= first:  # an opened stretch: text follows
                scores[first:] = float("-inf")
                return
            scores[: self._tokens.end] = float("-inf")  # a closed stretch: the next one's time, or the end
        if self._last_time is not None:
            least = self._last_time if written[-1] >= first else self._last_time + 1
            scores[first:least] = float("-inf")
        # text competes token by token with all times together
        probabilities = scores.log_softmax(-1)
        if probabilities[first:].logsumexp(-1) > probabilities[:first].max():
            scores[:first] = float("-inf")

    def accept(self, token: int) -> None:
        self._written.append(token)
        if token >= self._tokens.first_time:
            self._last_time = token
