"""Steps for text: `text.tokenize` before the model, `text.detokenize` after it, with the library `tokenizers`."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np

from inference_engine.domain.errors import InferenceFailed, InvalidManifest, InvalidTensor, RuntimeMissing
from inference_engine.domain.model import TensorSpec
from inference_engine.domain.pipeline import Side, Specs, choose, require_dtype
from inference_engine.domain.tensors import ANY, Array, Tensors
from inference_engine.infra.pipeline.lengths import lengths_note
from inference_engine.infra.pipeline.names import check_new

_PADDING = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>")
_MAX_FILE_BYTES = 256 << 20
WordDtype = Literal["int64", "int32"]


class Tokenize(msgspec.Struct, frozen=True, dict=True):
    """The client sends texts (UTF-8) as `input` [-1], the model gets the numbers of their tokens [-1, length].

    `file` is a `tokenizer.json`, or a `vocab.txt` of WordPiece (`lowercase` is for it alone). `ids`, `mask` and `types`
    name the model's inputs: the tokens; 1 for tokens and 0 for padding; 0 for the first text and 1 for the second of a
    pair. Padding is at the end: up to the longest text of the batch, or to `max_length` with `pad: max_length`.

    A text of more than `max_length` tokens is refused; with `truncate` it is cut, of pairs the longer one first.
    `special` adds the tokens that the tokenizer puts around texts. `pair` names the input of second texts.
    """

    side: ClassVar[Side] = "preprocess"
    file: Path
    max_length: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    truncate: bool = False
    pad: Literal["longest", "max_length"] = "longest"
    pad_id: Annotated[int, msgspec.Meta(ge=0)] | None = None
    special: bool = True
    lowercase: bool = True
    max_bytes: Annotated[int, msgspec.Meta(ge=1)] = 1 << 20
    ids: str = "input_ids"
    mask: str | None = "attention_mask"
    types: str | None = None
    dtype: WordDtype = "int64"
    pair: str | None = None
    input: str = "text"

    def preview(self, specs: Specs) -> Specs:
        names = [name for name in (self.ids, self.mask, self.types) if name is not None]
        for option, name in (("ids", self.ids), ("mask", self.mask), ("types", self.types)):
            if name is not None:
                self._check(specs, option, name)
        for option, usual in (("mask", "attention_mask"), ("types", "token_type_ids")):
            if usual in specs and usual not in names:
                raise InvalidManifest(f"the model also takes {usual!r}: add {option}: {usual}")
        self._tools  # noqa: B018 - reads the file, so that a bad one is an error of the load
        others = {key: value for key, value in specs.items() if key not in names}
        texts = [self.input] if self.pair is None else [self.input, self.pair]
        check_new(tuple(texts), others)
        rows = specs[self.ids].shape[0]
        note = lengths_note(self.input, rows)
        return {**others, **{name: TensorSpec(name, "bytes", (rows,)) for name in texts}, note.name: note}

    def _check(self, specs: Specs, option: str, name: str) -> None:
        if name not in specs and option == "mask":
            raise InvalidManifest(f"the model takes no {name!r}: give mask: null, or the name of its mask")
        spec = specs[choose(specs, name)]
        require_dtype(spec, (self.dtype,))
        if len(spec.shape) != 2:
            raise InvalidManifest(f"tensor {name!r} has shape {list(spec.shape)}, it must be [-1, tokens]")
        if spec.shape[1] != ANY and (spec.shape[1] != self.max_length or self.pad != "max_length"):
            raise InvalidManifest(
                f"tensor {name!r} has shape {list(spec.shape)}: give max_length: {spec.shape[1]} and pad: max_length"
            )

    def apply(self, tensors: Tensors) -> Tensors:
        firsts = self._texts(self.input, tensors[self.input])
        given: list[Any] = list(firsts)
        if self.pair is not None:
            given = list(zip(firsts, self._texts(self.pair, tensors[self.pair]), strict=True))
        tokenizer, pad = self._tools
        found = tokenizer.encode_batch(given, add_special_tokens=self.special)
        sizes = np.array([len(one.ids) for one in found], np.int64)
        self._refuse_longer(sizes)
        length = self.max_length if self.pad == "max_length" else max(1, int(sizes.max()))
        taken = {self.input, self.pair}
        made = {key: value for key, value in tensors.items() if key not in taken}
        made[self.ids] = _filled([one.ids for one in found], length, pad, self.dtype)
        if self.mask is not None:
            made[self.mask] = (np.arange(length) < sizes[:, None]).astype(self.dtype)
        if self.types is not None:
            made[self.types] = _filled([one.type_ids for one in found], length, 0, self.dtype)
        made[lengths_note(self.input).name] = np.stack([sizes, np.full_like(sizes, length)], axis=1)
        return made

    def _texts(self, name: str, array: Array) -> list[str]:
        found = []
        for row, data in enumerate(array.tolist()):
            if len(data) > self.max_bytes:
                raise InvalidTensor(
                    f"input {name!r} row {row} has {len(data)} bytes, a text may have {self.max_bytes}", param=name
                )
            try:
                found.append(data.decode() if isinstance(data, bytes) else str(data))
            except UnicodeDecodeError as error:
                raise InvalidTensor(f"input {name!r} row {row} is not UTF-8 text: {error}", param=name) from None
        return found

    def _refuse_longer(self, sizes: Array) -> None:
        row = int(sizes.argmax())
        if sizes[row] > self.max_length:
            raise InvalidTensor(
                f"input {self.input!r} row {row} has {sizes[row]} tokens, the model takes {self.max_length}: make it "
                "shorter (or let the manifest say truncate: true)",
                param=self.input,
            )

    @cached_property
    def _tools(self) -> tuple[Any, int]:
        """The tokenizer, and the token that fills rows up."""
        made = read_tokenizer(self.file, self.lowercase)
        pad = self._padding(made)
        made.no_padding()
        made.no_truncation()
        if self.truncate:
            around = made.num_special_tokens_to_add(self.pair is not None) if self.special else 0
            if around >= self.max_length:
                raise InvalidManifest(f"max_length is {self.max_length}, the tokenizer adds {around} tokens by itself")
            made.enable_truncation(self.max_length)
        return made, pad

    def _padding(self, tokenizer: Any) -> int:
        if self.pad_id is not None:
            return self.pad_id
        if tokenizer.padding is not None:
            return int(tokenizer.padding["pad_id"])
        for token in _PADDING:
            if (found := tokenizer.token_to_id(token)) is not None:
                return int(found)
        raise InvalidManifest(f"{self.file.name} does not tell which token is for padding: give pad_id")


class Detokenize(msgspec.Struct, frozen=True, dict=True):
    """Numbers of tokens [-1, length] to `texts` [-1], in the place of the output; `keep` leaves it too.

    `skip_special` leaves out the tokens that are no text. Negative numbers stand for nothing.
    """

    side: ClassVar[Side] = "postprocess"
    file: Path
    skip_special: bool = True
    lowercase: bool = True
    keep: bool = False
    output: str | None = None

    def preview(self, specs: Specs) -> Specs:
        name = choose(specs, self.output)
        spec = specs[name]
        require_dtype(spec, ("int64", "int32"))
        if len(spec.shape) != 2:
            raise InvalidManifest(f"tensor {name!r} has shape {list(spec.shape)}, it must be [-1, tokens]")
        self._tools  # noqa: B018 - reads the file, so that a bad one is an error of the load
        others = {key: value for key, value in specs.items() if self.keep or key != name}
        return {**others, "texts": TensorSpec("texts", "bytes", spec.shape[:1])}

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.output)
        tokenizer, highest = self._tools
        given = tensors[name]
        if given.size and given.max() > highest:
            raise InferenceFailed(f"output {name!r} holds token {given.max()}, {self.file.name} ends at {highest}")
        rows = [[token for token in row if token >= 0] for row in given.tolist()]
        texts = np.empty(len(rows), dtype=object)
        decoded = tokenizer.decode_batch(rows, skip_special_tokens=self.skip_special)
        texts[:] = [text.encode() for text in decoded]
        others = {key: value for key, value in tensors.items() if self.keep or key != name}
        return {**others, "texts": texts}

    @cached_property
    def _tools(self) -> tuple[Any, int]:
        """The tokenizer, and its highest token."""
        made = read_tokenizer(self.file, self.lowercase)
        return made, max(made.get_vocab().values(), default=-1)


def read_tokenizer(file: Path, lowercase: bool) -> Any:
    """The tokenizer in a `tokenizer.json`, or of a WordPiece vocabulary in a `.txt` file.

    Raises:
        InvalidManifest: it cannot be read. RuntimeMissing: tokenizers is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise RuntimeMissing(
            f"text needs tokenizers, which cannot be imported ({error}): pip install 'inference-engine[text]'"
        ) from None
    if file.stat().st_size > _MAX_FILE_BYTES:
        raise InvalidManifest(f"file: {file} has more than {_MAX_FILE_BYTES} bytes, which no vocabulary has")
    try:
        if file.suffix == ".txt":
            words = tokenizers.models.WordPiece.read_file(str(file))  # by name, 0.22 cannot read it
            return tokenizers.BertWordPieceTokenizer(words, lowercase=lowercase)._tokenizer
        return tokenizers.Tokenizer.from_file(str(file))
    except BaseException as error:  # a panic of the library is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InvalidManifest(f"file: {file} cannot be read as a tokenizer: {error}") from None


def _filled(rows: list[list[int]], length: int, value: int, dtype: WordDtype) -> Array:
    made = np.full((len(rows), length), value, dtype)
    for at, row in enumerate(rows):
        made[at, : len(row)] = row
    return made
