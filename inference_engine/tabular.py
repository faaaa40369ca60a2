"""Writes what scikit-learn learned of a table's columns into a `fitted.json`, where it was learned.

The file is data: the server that reads it needs neither scikit-learn nor any trust in pickles. See `docs/tables.md`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from inference_engine.infra.pipeline.fitted import (
    FORMAT,
    Category,
    Column,
    ColumnDtype,
    Encoding,
    Fitted,
    Scaling,
    decode_fitted,
)

__all__ = ["export_fitted"]


def export_fitted(
    transformer: Any,
    path: str | Path | None = None,
    *,
    columns: Sequence[str] | None = None,
    dtypes: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The content of a `fitted.json` that computes what the fitted `transformer` computes; written to `path` if given.

    `transformer` is a ColumnTransformer, a Pipeline or a single transformer of scikit-learn: SimpleImputer,
    StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler, OneHotEncoder, OrdinalEncoder, "passthrough" and "drop".
    An estimator that ends a Pipeline is the model, and left out. `columns` names the columns where it was fitted
    without names; `dtypes` says what clients send for columns of numbers: float64 (usual), float32, int64, int32, bool,
    or bytes for numbers written as text.

    Raises:
        ValueError: something in it cannot be told in such a file; the text says what, and in which column.
    """
    told = getattr(transformer, "feature_names_in_", None) if columns is None else columns
    names = [] if told is None else [str(name) for name in told]
    if not names:
        raise ValueError("it was fitted without column names: give columns=[...]")
    made = _through(transformer, [Column(name) for name in names])
    for name, dtype in (dtypes or {}).items():
        if name not in names:
            raise ValueError(f"dtypes names {name!r}, the columns are {names}")
        made = [_with_dtype(one, dtype) if one.name == name else one for one in made]
    content = msgspec.json.encode(Fitted(FORMAT, tuple(made)))
    decode_fitted(content)  # what the server would refuse is refused here
    if path is not None:
        Path(path).write_bytes(msgspec.json.format(content, indent=1))
    return cast(dict[str, Any], msgspec.json.decode(content))


def _with_dtype(column: Column, dtype: str) -> Column:
    if not column.is_number:
        raise ValueError(f"column {column.name!r} holds categories: its dtype is {column.dtype}")
    return msgspec.structs.replace(column, dtype=cast(ColumnDtype, dtype))


def _through(step: Any, columns: list[Column]) -> list[Column]:
    """What `columns` are after `step`."""
    if step is None or (isinstance(step, str) and step == "passthrough"):
        return columns
    kind = type(step).__name__
    known = _KINDS.get(kind)
    if kind == "FunctionTransformer" and step.func is None:  # how a fitted ColumnTransformer keeps "passthrough"
        return columns
    if known is None or not type(step).__module__.startswith("sklearn."):
        raise ValueError(f"{kind} cannot be written into the file; these can: {', '.join(sorted(_KINDS))}")
    return known(step, columns)


def _pipeline(step: Any, columns: list[Column]) -> list[Column]:
    for place, (_, one) in enumerate(step.steps):
        is_model = place == len(step.steps) - 1 and hasattr(one, "predict") and not hasattr(one, "transform")
        columns = columns if is_model else _through(one, columns)
    return columns


def _column_transformer(step: Any, columns: list[Column]) -> list[Column]:
    if step.transformer_weights:
        raise ValueError("transformer_weights of a ColumnTransformer cannot be written into the file")
    made: list[Column] = []
    for _, one, chosen in step.transformers_:
        if isinstance(one, str) and one == "drop":
            continue
        picked = [columns[place] for place in _places(chosen, columns)]
        made += _through(one, picked) if picked else []
    names = [column.name for column in made]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"column {name!r} goes through two transformers: give the table a second one like it")
    return made


def _places(chosen: Any, columns: list[Column]) -> list[int]:
    """The columns that a ColumnTransformer means by a name, a number, a slice, a mask or a list of them."""
    names = [column.name for column in columns]
    if isinstance(chosen, slice):
        if isinstance(chosen.start, str) or isinstance(chosen.stop, str):
            first = 0 if chosen.start is None else names.index(chosen.start)
            last = len(names) if chosen.stop is None else names.index(chosen.stop) + 1
            return list(range(len(names)))[first : last : chosen.step]
        return list(range(len(names)))[chosen]
    listed = [chosen] if isinstance(chosen, str | int) else list(chosen)
    if listed and all(type(one).__name__ in ("bool", "bool_") for one in listed):
        return [place for place, wanted in enumerate(listed) if wanted]
    return [names.index(one) if isinstance(one, str) else range(len(names))[int(one)] for one in listed]


def _imputer(step: Any, columns: list[Column]) -> list[Column]:
    if step.indicator_ is not None:
        raise ValueError("add_indicator of a SimpleImputer cannot be written into the file")
    made = []
    for column, value in zip(columns, list(step.statistics_), strict=True):
        if column.encode is not None:
            raise ValueError(f"column {column.name!r} is imputed after it was encoded: impute it first")
        if column.impute is not None:
            raise ValueError(f"column {column.name!r} is imputed twice")
        made.append(_imputed(column, value, step.missing_values))
    return made


def _imputed(column: Column, value: Any, missing: Any) -> Column:
    if isinstance(value, str):
        texts = (missing,) if isinstance(missing, str) else ("",)
        return msgspec.structs.replace(column, dtype="bytes", missing=texts, impute=value)
    if not _is_missing(missing):
        raise ValueError(f"column {column.name!r}: missing_values={missing!r} of a SimpleImputer must be NaN")
    number = float(value)
    if math.isnan(number):
        raise ValueError(f"column {column.name!r} held no value at all when it was fitted: leave it out")
    if column.scale is not None:  # the value stands in the place of one that was scaled
        if column.scale.clip is not None:
            raise ValueError(f"column {column.name!r} is imputed after it was clipped: impute it first")
        number = number * column.scale.std + column.scale.mean
    return msgspec.structs.replace(column, impute=number)


def _scaler(read: Callable[[Any, int], Scaling]) -> Callable[[Any, list[Column]], list[Column]]:
    def scale(step: Any, columns: list[Column]) -> list[Column]:
        made = []
        for place, column in enumerate(columns):
            if column.scale is not None or column.encode is not None or isinstance(column.impute, str):
                raise ValueError(f"column {column.name!r} is scaled after it was scaled or encoded")
            made.append(msgspec.structs.replace(column, scale=read(step, place)))
        return made

    return scale


def _standard(step: Any, place: int) -> Scaling:
    return Scaling(_at(step.mean_ if step.with_mean else None, place, 0.0), _at(step.scale_, place, 1.0))


def _robust(step: Any, place: int) -> Scaling:
    return Scaling(_at(step.center_, place, 0.0), _at(step.scale_, place, 1.0))


def _max_abs(step: Any, place: int) -> Scaling:
    return Scaling(0.0, _at(step.scale_, place, 1.0), (-1.0, 1.0) if getattr(step, "clip", False) else None)


def _min_max(step: Any, place: int) -> Scaling:
    scale = _at(step.scale_, place, 1.0)
    low, high = (float(bound) for bound in step.feature_range)
    return Scaling(-_at(step.min_, place, 0.0) / scale, 1 / scale, (low, high) if step.clip else None)


def _at(learned: Any, place: int, without: float) -> float:
    return without if learned is None else float(learned[place])


def _one_hot(step: Any, columns: list[Column]) -> list[Column]:
    _refuse_infrequent(step)
    unknown: Literal["error", "ignore"] = "error" if step.handle_unknown == "error" else "ignore"
    made = []
    for place, column in enumerate(columns):
        categories, dtype = _categories(column, step.categories_[place])
        drop = None if step.drop_idx_ is None else step.drop_idx_[place]
        encode = Encoding("one_hot", categories, unknown, drop=None if drop is None else int(drop))
        made.append(_encoded(column, encode, dtype))
    return made


def _ordinal(step: Any, columns: list[Column]) -> list[Column]:
    _refuse_infrequent(step)
    made = []
    for place, column in enumerate(columns):
        found, dtype = _categories(column, step.categories_[place])
        categories = tuple(category for category in found if category is not None)
        unknown, value = "error", None
        if step.handle_unknown == "use_encoded_value":
            unknown, value = "value", _number(step.unknown_value)
        missing: float | msgspec.UnsetType | None = msgspec.UNSET
        if None in found:  # scikit-learn numbers None like any category, and NaN as it is told
            is_none = any(one is None for one in list(step.categories_[place]))
            missing = float(found.index(None)) if is_none else _number(step.encoded_missing_value)
        encode = Encoding("ordinal", categories, cast(Any, unknown), value, missing)
        made.append(_encoded(column, encode, dtype))
    return made


def _encoded(column: Column, encode: Encoding, dtype: ColumnDtype) -> Column:
    if column.scale is not None or column.encode is not None:
        raise ValueError(f"column {column.name!r} is encoded after it was scaled or encoded")
    missing = column.missing
    if dtype == "bytes" and "" in encode.categories:
        missing = tuple(text for text in missing if text)
    return msgspec.structs.replace(column, dtype=dtype, missing=missing, encode=encode)


def _categories(column: Column, learned: Any) -> tuple[tuple[Category, ...], ColumnDtype]:
    """The categories, None for missing values, and what the client sends."""
    plain = [one.item() if hasattr(one, "item") else one for one in list(learned)]
    found = tuple(None if _is_missing(one) else one for one in plain)
    kinds = {type(one) for one in found if one is not None}
    if len(kinds) > 1 or not kinds <= {str, bool, int, float}:
        raise ValueError(
            f"column {column.name!r} has categories of the types {sorted(kind.__name__ for kind in kinds)}"
        )
    if found.count(None) > 1:
        raise ValueError(f"column {column.name!r} has both None and NaN as categories")
    words: dict[type, ColumnDtype] = {str: "bytes", bool: "bool", int: "int64", float: "float64"}
    dtype = words[kinds.pop()] if kinds else "float64"
    return found, "float64" if None in found and dtype in ("int64", "bool") else dtype


def _refuse_infrequent(step: Any) -> None:
    learned = getattr(step, "infrequent_categories_", None) if getattr(step, "_infrequent_enabled", False) else None
    if learned is not None and any(one is not None for one in learned):
        raise ValueError(f"min_frequency and max_categories of a {type(step).__name__} cannot be written into the file")


def _number(value: Any) -> float | None:
    """A number of the file: NaN is null there."""
    return None if value is None or _is_missing(value) else float(value)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ == "NAType"


_KINDS: dict[str, Callable[[Any, list[Column]], list[Column]]] = {
    "ColumnTransformer": _column_transformer,
    "MaxAbsScaler": _scaler(_max_abs),
    "MinMaxScaler": _scaler(_min_max),
    "OneHotEncoder": _one_hot,
    "OrdinalEncoder": _ordinal,
    "Pipeline": _pipeline,
    "RobustScaler": _scaler(_robust),
    "SimpleImputer": _imputer,
    "StandardScaler": _scaler(_standard),
}
