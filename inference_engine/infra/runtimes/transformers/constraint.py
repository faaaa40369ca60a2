"""Binds an answer to a language with xgrammar: which tokens may follow. One `Grammars` per loaded model."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Any

from inference_engine.domain.errors import InferenceFailed, InvalidRequest, RunnerLost, RuntimeMissing
from inference_engine.infra.huggingface.vocabulary import Vocabulary
from inference_engine.infra.text.grammar import Language, MismatchError

_CACHE_BYTES = 64 << 20


class Grammars:
    """Compiles languages for one vocabulary; made when the first bound answer is asked for."""

    def __init__(self, vocabulary: Vocabulary, ends: Collection[int]) -> None:
        self._vocabulary = vocabulary
        self._ends = sorted(ends)
        self._compiler: Any = None
        self._making = threading.Lock()

    def follower(self, language: Language, given: str) -> Follower:
        """What binds an answer to `language` after `given`, the part of it that is there already.

        Raises:
            RuntimeMissing: xgrammar is not installed. InvalidRequest: it cannot compile the grammar.
            RunnerLost: the part that is there does not fit.
        """
        try:
            text = language.after(given).gbnf()
        except MismatchError as error:
            raise RunnerLost(f"a bound answer cannot be continued: {error}") from error
        with self._making:
            compiler = self._compiler or self._made()
            try:
                compiled = compiler.compile_grammar(text)
            except (RuntimeError, ValueError) as error:
                raise InvalidRequest(f"xgrammar cannot compile the grammar: {error}", param="response_format") from None
        return Follower(compiled, self._ends)

    def _made(self) -> Any:
        try:
            import xgrammar
        except ImportError as error:
            raise RuntimeMissing(
                f"JSON schemas, regular expressions, grammars and tools need xgrammar ({error}): pip install xgrammar"
            ) from error
        info = xgrammar.TokenizerInfo.from_huggingface(
            self._vocabulary.tokenizer, vocab_size=self._vocabulary.size, stop_token_ids=self._ends
        )
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_limit_bytes=_CACHE_BYTES)
        return self._compiler


class Follower:
    """Follows one answer through its grammar."""

    def __init__(self, compiled: Any, ends: list[int]) -> None:
        import xgrammar

        self._matcher = xgrammar.GrammarMatcher(compiled, override_stop_tokens=ends)
        self._mask = xgrammar.allocate_token_bitmask(1, compiled.tokenizer_info.vocab_size)

    def mask(self, logits: Any) -> None:
        """Rule out, in place, the tokens that cannot follow. `logits` has shape [1, vocabulary]."""
        import xgrammar

        self._matcher.fill_next_token_bitmask(self._mask)
        xgrammar.apply_token_bitmask_inplace(logits, self._mask.to(logits.device))

    def accept(self, token: int) -> None:
        """Go on by a token that was chosen under the mask."""
        if not self._matcher.accept_token(token):
            raise InferenceFailed(f"the grammar does not allow token {token}: no token of the model fits it here")
