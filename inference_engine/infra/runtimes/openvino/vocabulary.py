"""Text to token ids and back, exactly as the model was trained: byte-level BPE from a GGUF file, or an IR's tokenizer.

OpenVINO GenAI's own tokenizer for GGUF files is not used: it cuts prompts at 8,192 tokens without a word, and splits
text by a wrong rule where it does not know the model's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from inference_engine.domain.errors import ModelLoadFailed
from inference_engine.infra.formats.gguf import GgufHead

TOKENS, TYPES, MERGES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
_SPLITS: dict[str, tuple[str, ...]] = {
    "gpt-2": (_GPT2,),
    "qwen2": (rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}",),
    "llama-bpe": (_LLAMA3,),
    "llama3": (_LLAMA3,),
    "llama-v3": (_LLAMA3,),
    "smollm": (r"\p{N}", _GPT2),
}
"""How a text is cut into words before merging, by the file's `tokenizer.ggml.pre`."""
_WHOLE_WORDS_FIRST = frozenset(("llama-bpe", "llama3", "llama-v3"))
_ENDINGS = frozenset(
    ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>", "<end_of_turn>", "</s>")
)


class Vocabulary(Protocol):
    """The tokens of one model. `endings` are the ids that end an answer; `bos` is put before prompts, where given."""

    size: int
    endings: frozenset[int]
    bos: str | None
    eos: str

    def encode(self, text: str, *, special: bool) -> list[int]:
        """The ids of `text`; with `special`, the names of control tokens in it stand for these. Adds nothing."""

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for in an answer: part of a character, or nothing for a control token."""

    def name(self, token: int) -> bytes:
        """The bytes a control token is written with in a prompt."""

    def control(self, name: str) -> int | None:
        """The id of the control token of that name, or None."""


def prompt_ids(vocabulary: Vocabulary, text: str) -> list[int]:
    """The ids of a prompt, begun with the model's begin-of-text token if it wants one and the text has none."""
    if vocabulary.bos is not None and not text.startswith(vocabulary.bos):
        text = vocabulary.bos + text
    return vocabulary.encode(text, special=True)


def _byte_of_letter() -> dict[str, int]:
    """GPT-2's printable stand-ins: the letter in a token's name to the byte it means."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + index): byte for index, byte in enumerate(others)}


class GgufVocabulary:
    """Byte-level BPE built from a GGUF file's own tables, which `head` must hold whole."""

    def __init__(self, head: GgufHead) -> None:
        """
        Raises:
            ModelLoadFailed: the file's tokenizer is of another kind.
        """
        names: list[str] = head.metadata[TOKENS]
        kinds: Sequence[int] = head.metadata.get(TYPES) or [_NORMAL] * len(names)
        self.size = len(names)
        self._pre = _known_split(head)
        self._ids = {name: index for index, name in enumerate(names)}
        self._merges = [(left, right) for left, _, right in (m.partition(" ") for m in head.metadata.get(MERGES, ()))]
        self._added = [name for name, kind in zip(names, kinds, strict=True) if kind in (_CONTROL, _USER_DEFINED)]
        self._names = names
        self._pieces = _pieces(names, kinds)
        self._tokenizers: dict[bool, Any] = {}
        self.endings = frozenset(
            [
                *_given(head, ("eos_token_id", "eot_token_id", "eom_token_id")),
                *(index for index, name in enumerate(names) if kinds[index] == _CONTROL and name in _ENDINGS),
            ]
        )
        first = head.metadata.get("tokenizer.ggml.bos_token_id")
        wants = head.metadata.get("tokenizer.ggml.add_bos_token", self._pre in _WHOLE_WORDS_FIRST)
        self.bos = names[first] if wants and isinstance(first, int) and first < len(names) else None
        end = head.metadata.get("tokenizer.ggml.eos_token_id")
        self.eos = names[end] if isinstance(end, int) and end < len(names) else ""

    def encode(self, text: str, *, special: bool) -> list[int]:
        tokenizer = self._tokenizers.get(special)
        if tokenizer is None:
            tokenizer = self._tokenizers[special] = self._build(special=special)
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    def piece(self, token: int) -> bytes:
        return self._pieces[token]

    def name(self, token: int) -> bytes:
        return self._names[token].encode()

    def control(self, name: str) -> int | None:
        token = self._ids.get(name)
        return token if token is not None and not self._pieces[token] else None

    def _build(self, *, special: bool) -> Any:
        from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

        tokenizer = Tokenizer(
            models.BPE(vocab=self._ids, merges=self._merges, ignore_merges=self._pre in _WHOLE_WORDS_FIRST)
        )
        splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in _SPLITS[self._pre]]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        if special:
            tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in self._added])
        return tokenizer


def _known_split(head: GgufHead) -> str:
    kind, pre = head.metadata.get("tokenizer.ggml.model"), head.metadata.get("tokenizer.ggml.pre", "")
    if kind != "gpt2" or pre not in _SPLITS:
        raise ModelLoadFailed(
            f"the openvino runtime does not know this model's tokenizer ({kind}, {pre or 'no pre-tokenizer named'}); "
            f"it knows byte-level BPE of the kinds {', '.join(_SPLITS)}: use runtime: llama_cpp",
            param="artifact",
        )
    return str(pre)


def _given(head: GgufHead, keys: Iterable[str]) -> list[int]:
    values = (head.metadata.get(f"tokenizer.ggml.{key}") for key in keys)
    return [value for value in values if isinstance(value, int)]


def _pieces(names: Sequence[str], kinds: Sequence[int]) -> list[bytes]:
    letters = _byte_of_letter()
    return [
        b"" if kind == _CONTROL else name.encode() if kind == _USER_DEFINED else _bytes(name, letters)
        for name, kind in zip(names, kinds, strict=True)
    ]


def _bytes(name: str, letters: Mapping[str, int]) -> bytes:
    try:
        return bytes([letters[letter] for letter in name])
    except KeyError:  # not in the byte alphabet: it stands for itself
        return name.encode()


class IrVocabulary:
    """The tokenizer that lies beside an OpenVINO IR, as OpenVINO GenAI reads it."""

    def __init__(self, tokenizer: Any, endings: Iterable[int]) -> None:
        """`tokenizer` is an `openvino_genai.Tokenizer`."""
        self._tokenizer = tokenizer
        names: Mapping[bytes, int] = tokenizer.get_vocab()
        self.size = max(names.values(), default=-1) + 1
        self._pieces = {index: name for name, index in names.items()}
        end = int(tokenizer.get_eos_token_id())
        self.endings = frozenset([*endings, *([end] if end >= 0 else [])])
        self.bos: str | None = None  # the tokenizer adds it by itself
        self.eos = str(tokenizer.get_eos_token())
        self._control = self._find_control()

    def encode(self, text: str, *, special: bool) -> list[int]:
        return [int(token) for token in self._tokenizer.encode(text, add_special_tokens=special).input_ids.data[0]]

    def piece(self, token: int) -> bytes:
        return b"" if token in self._control else self._pieces.get(token, b"")

    def name(self, token: int) -> bytes:
        return self._pieces.get(token, b"")

    def control(self, name: str) -> int | None:
        wanted = name.encode()
        return next((token for token in self._control if self._pieces.get(token) == wanted), None)

    def cut_at(self, tokens: int) -> int | None:
        """The length this tokenizer silently cuts texts to, if that is less than `tokens`."""
        count = len(self.encode(" a" * (tokens + 1), special=False))
        return count if count <= tokens else None

    def _find_control(self) -> frozenset[int]:
        """The tokens that leave no trace in decoded text."""
        shown = self._tokenizer.decode([[token] for token in range(self.size)], skip_special_tokens=True)
        return frozenset(token for token, text in enumerate(shown) if text == "" and self._pieces.get(token))
