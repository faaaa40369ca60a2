"""A Hugging Face tokenizer as the engine needs it: ids of text, bytes of a token, and text from ids as they come.

Loads nothing itself: it is given a fast tokenizer of `transformers`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import Any

from inference_engine.domain.errors import InvalidRequest

_REPLACEMENT = "�"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Vocabulary:
    """The tokens of one model. Safe in several threads: nothing changes after it is made."""

    def __init__(self, tokenizer: Any, size: int) -> None:
        """`size` is how many logits the model has, which may be more than the tokenizer has tokens."""
        self.tokenizer = tokenizer
        self.size = size
        self.special: frozenset[int] = frozenset(tokenizer.all_special_ids)
        self._added = {token: str(added) for token, added in tokenizer.added_tokens_decoder.items()}
        self._control = (
            frozenset(token for token, added in tokenizer.added_tokens_decoder.items() if added.special) | self.special
        )
        backend = getattr(tokenizer, "backend_tokenizer", None)
        decoder = json.dumps(json.loads(backend.to_str()).get("decoder")) if backend is not None else ""
        self._bytes = _byte_level() if "ByteLevel" in decoder else None
        self._anchor = [] if self._bytes is not None else self._plain("\n")

    def ids(self, text: str, *, start: bool = False) -> list[int]:
        """The ids of `text`, in which special tokens are recognised; `start`: with what begins every prompt."""
        return list(self.tokenizer(text, add_special_tokens=start)["input_ids"])

    def ids_inside(self, text: str) -> list[int]:
        """The ids of plain text in the middle of an answer, where some tokenizers would put a space before it."""
        if not self._anchor:
            return self._plain(text)
        ids = self._plain("\n" + text)
        size = len(self._anchor)
        return ids[size:] if ids[:size] == self._anchor else self._plain(text)

    def _plain(self, text: str) -> list[int]:
        return self.ids(text)

    def text(self, ids: Sequence[int]) -> str:
        """The text of `ids`, control tokens included, as it was."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def marks(self, markers: Collection[str]) -> dict[int, str]:
        """The control tokens that are among `markers`, with their text."""
        return {token: text for token, text in self._added.items() if text in markers}

    def is_control(self, token: int) -> bool:
        """Whether a token steers the model and is no part of its text."""
        return token in self._control

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for, which may be part of a character."""
        if token in self._added:
            return self._added[token].encode()
        name = self.tokenizer.convert_ids_to_tokens(int(token))
        if name is None:
            return b""
        if self._bytes is not None:
            known = self._bytes
            return b"".join([bytes((known[char],)) if char in known else char.encode() for char in name])
        match = _BYTE.fullmatch(name)
        return bytes((int(match[1], 16),)) if match else str(name).replace("▁", " ").encode()

    def check_ids(self, ids: Sequence[int], field: str) -> None:
        """Raises InvalidRequest: an id that is no token; names `field`."""
        for token in ids:
            if not 0 <= token < self.size:
                raise InvalidRequest(
                    f"{field} names token {token}, the model's tokens are 0 to {self.size - 1}", param=field
                )


def _byte_level() -> dict[str, int]:
    """The characters that byte-level BPE writes bytes with. Source: the GPT-2 paper's `bytes_to_unicode`."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


class Detokenizer:
    """Makes text of ids one at a time; an unfinished character waits for the rest of it.

    `marks` are control tokens whose text belongs to the answer; other control tokens have no text.
    """

    def __init__(self, vocabulary: Vocabulary, marks: dict[int, str], before: Sequence[int] = ()) -> None:
        """`before` are the ids the answer continues; a few of them decide whether a space stands at a border."""
        self._vocabulary = vocabulary
        self._marks = marks
        self._context = [token for token in before[-8:] if not vocabulary.is_control(token)]
        self._waiting: list[int] = []
        self._given = self._decoded(self._context)
        self._ids: list[int] = []

    def add(self, token: int) -> tuple[str, tuple[int, ...]] | None:
        """The text that is complete now, and exactly its ids; None while a character is unfinished."""
        self._ids.append(token)
        if token in self._marks:
            text = self._flushed() + self._marks[token]
            return text, self._taken()
        if self._vocabulary.is_control(token):
            return None
        self._waiting.append(token)
        whole = self._decoded(self._context + self._waiting)
        text = whole[len(self._given) :]
        if not text or text.endswith(_REPLACEMENT):
            return None
        self._context = (self._context + self._waiting)[-8:]
        self._given = self._decoded(self._context)
        self._waiting = []
        return text, self._taken()

    def end(self) -> tuple[str, tuple[int, ...]] | None:
        """What waits at the end, an unfinished character as U+FFFD; None where nothing does."""
        text = self._flushed()
        return (text, self._taken()) if text else None

    def _flushed(self) -> str:
        text = self._decoded(self._context + self._waiting)[len(self._given) :]
        self._context, self._waiting, self._given = [], [], ""
        return text

    def _taken(self) -> tuple[int, ...]:
        ids, self._ids = tuple(self._ids), []
        return ids

    def _decoded(self, ids: list[int]) -> str:
        return self._vocabulary.text(ids) if ids else ""
