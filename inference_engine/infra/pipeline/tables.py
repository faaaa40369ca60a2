"""Preprocess steps for tables: `tabular.impute`, `tabular.scale`, `tabular.encode`, as a `fitted.json` tells.

The client sends one tensor [-1] for each column; the model gets one matrix. Between the steps, columns of numbers are
float64 and columns of categories what the client sent.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import msgspec
import numpy as np

from inference_engine.domain.errors import InvalidManifest, InvalidTensor
from inference_engine.domain.model import TensorSpec
from inference_engine.domain.pipeline import IMPUTED, SCALED, Side, Specs, choose, require_dtype
from inference_engine.domain.tensors import ANY, Array, Tensors
from inference_engine.infra.pipeline.fitted import Column, Encoding, Fitted, read_fitted
from inference_engine.infra.pipeline.names import check_new

_SHOWN = 40
_ABSENT = -1


class Impute(msgspec.Struct, frozen=True, dict=True):
    """Puts each column's `impute` value in the place of missing ones."""

    side: ClassVar[Side] = "preprocess"
    file: Path

    def preview(self, specs: Specs) -> Specs:
        columns = [column for column in self._fitted.columns if column.impute is not None]
        return _undone(specs, columns, IMPUTED, "impute")

    def apply(self, tensors: Tensors) -> Tensors:
        found = dict(tensors)
        for column in self._fitted.columns:
            if column.impute is not None:
                found[column.name] = _imputed(column, tensors[column.name])
        return found

    @cached_property
    def _fitted(self) -> Fitted:
        return read_fitted(self.file)


class Scale(msgspec.Struct, frozen=True, dict=True):
    """(x - mean) / std for each column that has `scale`. NaN stays NaN."""

    side: ClassVar[Side] = "preprocess"
    file: Path

    def preview(self, specs: Specs) -> Specs:
        columns = [column for column in self._fitted.columns if column.scale is not None]
        found = dict(_undone(specs, columns, SCALED, "scale"))
        for column in columns:
            if column.impute is not None:
                found[column.name] = TensorSpec(column.name, IMPUTED, found[column.name].shape)
        return found

    def apply(self, tensors: Tensors) -> Tensors:
        found = dict(tensors)
        for column in self._fitted.columns:
            if column.scale is not None:
                values = (_numbers(column, tensors[column.name]) - column.scale.mean) / column.scale.std
                found[column.name] = values if column.scale.clip is None else np.clip(values, *column.scale.clip)
        return found

    @cached_property
    def _fitted(self) -> Fitted:
        return read_fitted(self.file)


class Encode(msgspec.Struct, frozen=True, dict=True):
    """Makes one matrix [-1, width] of all columns, for the model's `input`: categories by their `encode`, numbers as
    they are.
    """

    side: ClassVar[Side] = "preprocess"
    file: Path
    input: str
    to: Literal["float32", "float64"] = "float32"

    def preview(self, specs: Specs) -> Specs:
        name = choose(specs, self.input)
        spec = specs[name]
        require_dtype(spec, (self.to,))
        width = self._fitted.width
        if len(spec.shape) != 2 or spec.shape[1] not in (ANY, width):
            raise InvalidManifest(
                f"{self.file.name} makes a matrix of {width} columns, tensor {name!r} has shape {list(spec.shape)}"
            )
        others = {key: value for key, value in specs.items() if key != name}
        columns = self._fitted.columns
        check_new(tuple(column.name for column in columns), others)
        rows = spec.shape[:1]
        return {**others, **{column.name: TensorSpec(column.name, _made_by(column), rows) for column in columns}}

    def apply(self, tensors: Tensors) -> Tensors:
        columns = self._fitted.columns
        rows = len(tensors[columns[0].name])
        matrix = np.zeros((rows, self._fitted.width), self.to)
        at = 0
        for column in columns:
            self._fill(column, tensors[column.name], matrix[:, at : at + column.width])
            at += column.width
        names = {column.name for column in columns}
        return {**{key: value for key, value in tensors.items() if key not in names}, self.input: matrix}

    def _fill(self, column: Column, values: Array, place: Array) -> None:
        if column.encode is None:
            with np.errstate(over="ignore"):
                place[:, 0] = _numbers(column, values)
            if np.isinf(place).any():
                row = int(np.isinf(place[:, 0]).argmax())
                raise _wrong(column, row, values[row], f"which the model's {self.to} cannot hold")
            return
        codes, missing = self._codes(column, column.encode, values)
        if column.encode.kind == "ordinal":
            place[:, 0] = _ordinal(column.encode, codes, missing)
            return
        drop = column.encode.drop
        shown = codes != _ABSENT if drop is None else (codes != _ABSENT) & (codes != drop)
        places = codes if drop is None else codes - (codes > drop)
        place[np.flatnonzero(shown), places[shown]] = 1

    def _codes(self, column: Column, encode: Encoding, values: Array) -> tuple[Array, Array]:
        """The index of each value's category, `_ABSENT` where there is none; and which values are missing."""
        codes, missing = self._tables[column.name].look_up(values)
        bad = codes == _ABSENT
        if encode.missing is not msgspec.UNSET:
            bad &= ~missing
        if encode.unknown == "error" and bad.any():
            row = int(bad.argmax())
            what = "is missing a value" if missing[row] else f"holds {_shown(values[row])}"
            raise InvalidTensor(
                f"input {column.name!r} row {row} {what}: it must be one of {_listed(encode)}", param=column.name
            )
        return codes, missing

    @cached_property
    def _tables(self) -> dict[str, _Table]:
        return {column.name: _Table(column, column.encode) for column in self._fitted.columns if column.encode}

    @cached_property
    def _fitted(self) -> Fitted:
        return read_fitted(self.file)


class _Table:
    """Finds the categories of one column's values."""

    def __init__(self, column: Column, encode: Encoding) -> None:
        self._is_text = column.is_text
        self._missing = {text.encode() for text in column.missing}
        known = [(value, index) for index, value in enumerate(encode.categories) if value is not None]
        self._null = encode.categories.index(None) if None in encode.categories else _ABSENT
        self._by_text = {str(value).encode(): index for value, index in known} if self._is_text else {}
        ordered = [] if self._is_text else sorted((float(value), index) for value, index in known)
        self._values = np.array([value for value, _ in ordered], np.float64)
        self._indices = np.array([index for _, index in ordered], np.int64)

    def look_up(self, values: Array) -> tuple[Array, Array]:
        if self._is_text:
            texts = _texts(values)
            missing = np.array([text in self._missing for text in texts], bool)
            codes = np.array([self._by_text.get(text, _ABSENT) for text in texts], np.int64)
        else:
            wide = values.astype(np.float64)
            missing = np.isnan(wide)
            at = np.searchsorted(self._values, wide).clip(max=max(len(self._values) - 1, 0))
            known = len(self._values) > 0
            codes = np.where(self._values[at] == wide, self._indices[at], _ABSENT) if known else np.full(len(wide), -1)
        return np.where(missing, self._null, codes), missing


def _ordinal(encode: Encoding, codes: Array, missing: Array) -> Array:
    found = codes.astype(np.float64)
    found[codes == _ABSENT] = np.nan if encode.value is None else encode.value
    if encode.missing is not msgspec.UNSET:
        found[missing] = np.nan if encode.missing is None else encode.missing
    return found


def _imputed(column: Column, values: Array) -> Array:
    if column.is_text:
        missing, value = {text.encode() for text in column.missing}, str(column.impute).encode()
        found = np.empty(len(values), dtype=object)
        found[:] = [value if text in missing else text for text in _texts(values)]
        return found
    numbers = _numbers(column, values) if column.is_number else values.astype(np.float64)
    return np.where(np.isnan(numbers), float(column.impute or 0), numbers)


def _numbers(column: Column, values: Array) -> Array:
    """A column of numbers as float64. Raises `InvalidTensor` for what is none, naming the row."""
    if values.dtype.kind not in "OSU":
        found = values.astype(np.float64, copy=False)
        if np.isinf(found).any():
            row = int(np.isinf(found).argmax())
            raise _wrong(column, row, values[row], "which is not finite")
        return found
    missing = {text.encode() for text in column.missing}
    return np.array(
        [np.nan if text in missing else _number(column, row, text) for row, text in enumerate(_texts(values))],
        np.float64,
    )


def _number(column: Column, row: int, text: bytes) -> float:
    try:
        found = float(text)
    except ValueError:
        raise _wrong(column, row, text, "which is no number") from None
    if not np.isfinite(found) or b"_" in text:
        raise _wrong(column, row, text, "which is no number")
    return found


def _texts(values: Array) -> list[bytes]:
    return [value if isinstance(value, bytes) else str(value).encode() for value in values.tolist()]


def _wrong(column: Column, row: int, value: object, why: str) -> InvalidTensor:
    return InvalidTensor(f"input {column.name!r} row {row} holds {_shown(value)}, {why}", param=column.name)


def _shown(value: object) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def _listed(encode: Encoding) -> str:
    few = ", ".join(_shown(value) for value in encode.categories[:5] if value is not None)
    more = len(encode.categories) - 5
    return f"{few} and {more} more" if more > 0 else few


def _made_by(column: Column) -> str:
    """The dtype in which `tabular.encode` takes a column."""
    return SCALED if column.scale is not None else IMPUTED if column.impute is not None else column.dtype


def _undone(specs: Specs, columns: list[Column], dtype: str, what: str) -> dict[str, TensorSpec]:
    """`specs`, with the columns as they are before this step."""
    if not columns:
        raise InvalidManifest(f"no column of the file has {what!r}: leave this step out")
    found = dict(specs)
    for column in columns:
        if column.name not in specs or specs[column.name].dtype != dtype:
            raise InvalidManifest(
                f"column {column.name!r} is not taken after this step: list tabular.impute, tabular.scale and "
                "tabular.encode in this order, each with the same file"
            )
        found[column.name] = TensorSpec(column.name, column.dtype, specs[column.name].shape)
    return found
