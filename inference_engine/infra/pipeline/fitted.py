"""`fitted.json`: what was learned of a table's columns, from the missing values to the matrix. Knows no tensors.

The file is a list of columns in the order of the matrix; `docs/tables.md` describes it, and
`inference_engine.tabular.export_fitted` writes it from scikit-learn.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from inference_engine.domain.errors import InvalidManifest
from inference_engine.domain.pipeline import NOTE

FORMAT: Literal["inference-engine-fitted-1"] = "inference-engine-fitted-1"
MAX_BYTES = 64 << 20
MAX_WIDTH = 1_000_000
ColumnDtype = Literal["float64", "float32", "int64", "int32", "bool", "bytes"]
_EXACT = 2**53  # whole numbers up to here are exact in float64
Category = bool | int | float | str | None
"""A value of a column; None stands for a missing one."""


class Scaling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """(x - mean) / std, then no less and no more than `clip` says."""

    mean: float = 0.0
    std: float = 1.0
    clip: tuple[float, float] | None = None


class Encoding(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`one_hot`: a place in the matrix for each category, but for the one at `drop`. `ordinal`: the category's index.

    A value that is no category is an error; or with `unknown: ignore` zeros everywhere, with `unknown: value` (for
    ordinal) the number `value`, where null is NaN. `missing` is the number of missing values of an ordinal column
    (null: NaN); without it, or without null among the categories of one_hot, a missing value is no category.
    """

    kind: Literal["one_hot", "ordinal"]
    categories: Annotated[tuple[Category, ...], msgspec.Meta(min_length=1)]
    unknown: Literal["error", "ignore", "value"] = "error"
    value: float | None = None
    missing: float | msgspec.UnsetType | None = msgspec.UNSET
    drop: int | None = None


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One column: the `dtype` that the client sends, and what is done to it, in the order of the fields.

    Missing are NaN, and of texts those in `missing`. Texts without `encode` are read as numbers.
    """

    name: Annotated[str, msgspec.Meta(min_length=1)]
    dtype: ColumnDtype = "float64"
    missing: tuple[str, ...] = ("",)
    impute: float | str | None = None
    scale: Scaling | None = None
    encode: Encoding | None = None

    @property
    def width(self) -> int:
        """How many places it has in the matrix."""
        if self.encode is None or self.encode.kind == "ordinal":
            return 1
        return len(self.encode.categories) - (self.encode.drop is not None)

    @property
    def is_number(self) -> bool:
        return self.encode is None

    @property
    def is_text(self) -> bool:
        """Whether its values are categories of texts."""
        return self.encode is not None and self.dtype == "bytes"


class Fitted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    format: Literal["inference-engine-fitted-1"]
    columns: Annotated[tuple[Column, ...], msgspec.Meta(min_length=1, max_length=10_000)]

    @property
    def width(self) -> int:
        return sum(column.width for column in self.columns)


def read_fitted(file: Path) -> Fitted:
    """Raises `InvalidManifest`; the message names the file and the column."""
    try:
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise InvalidManifest(f"file: {file} has {size} bytes, it may have {MAX_BYTES}")
        found = decode_fitted(file.read_bytes())
    except OSError as error:
        raise InvalidManifest(f"file: {file} cannot be read: {error}") from None
    except ValueError as error:
        raise InvalidManifest(f"file: {file} is no {FORMAT} file: {error}") from None
    return found


def decode_fitted(content: bytes) -> Fitted:
    """Raises `ValueError`."""
    try:
        found = msgspec.json.decode(content, type=Fitted)
    except RecursionError:
        raise ValueError("it is nested without end") from None
    seen: set[str] = set()
    for column in found.columns:
        if column.name in seen:
            raise ValueError(f"column {column.name!r} is there twice")
        seen.add(column.name)
        problem = _problem(column)
        if problem:
            raise ValueError(f"column {column.name!r}: {problem}")
    if found.width > MAX_WIDTH:
        raise ValueError(f"its matrix would have {found.width} columns, at most {MAX_WIDTH} are made")
    return found


def _problem(column: Column) -> str:
    """What is wrong with a column, empty if nothing is."""
    if column.name.startswith(NOTE):
        return f"names cannot begin with {NOTE}"
    if isinstance(column.impute, str) != column.is_text and column.impute is not None:
        return f"impute is {column.impute!r}, which is no value of the column"
    if isinstance(column.impute, float) and not math.isfinite(column.impute):
        return "impute is not finite"
    if column.scale is not None:
        return _scale_problem(column, column.scale)
    return "" if column.encode is None else _encode_problem(column, column.encode)


def _scale_problem(column: Column, scale: Scaling) -> str:
    if column.encode is not None:
        return "has both scale and encode"
    if not all(map(math.isfinite, (scale.mean, scale.std, *(scale.clip or ())))) or scale.std == 0:
        return "mean, std and clip must be finite, and std not zero"
    return "clip is upside down" if scale.clip is not None and scale.clip[0] > scale.clip[1] else ""


def _encode_problem(column: Column, encode: Encoding) -> str:
    return _category_problem(column, encode) or (
        _one_hot_problem(encode) if encode.kind == "one_hot" else _ordinal_problem(encode)
    )


def _category_problem(column: Column, encode: Encoding) -> str:
    kinds: tuple[type, ...] = {"bytes": (str,), "bool": (bool,)}.get(column.dtype, (int, float))
    for category in encode.categories:
        fits = isinstance(category, kinds) and (isinstance(category, bool) == (column.dtype == "bool"))
        if category is not None and not fits:
            return f"category {category!r} is no value of dtype {column.dtype}"
        if isinstance(category, int | float) and not abs(category) <= _EXACT:
            return f"category {category} cannot be told from its neighbours"
    return "a category is there twice" if len(set(encode.categories)) < len(encode.categories) else ""


def _one_hot_problem(encode: Encoding) -> str:
    if encode.unknown == "value" or encode.value is not None or encode.missing is not msgspec.UNSET:
        return "value and missing are for ordinal columns"
    return "drop is no place of a category" if not 0 <= (encode.drop or 0) < len(encode.categories) else ""


def _ordinal_problem(encode: Encoding) -> str:
    if encode.unknown == "ignore" or encode.drop is not None or None in encode.categories:
        return "ignore, drop and the category null are for one_hot columns: say unknown: value, and missing"
    numbers = (encode.value, encode.missing)
    return "value is not finite" if any(isinstance(n, float) and not math.isfinite(n) for n in numbers) else ""
