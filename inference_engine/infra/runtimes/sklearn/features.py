"""What a fitted estimator takes, as tensors: all features in one, or one for each named column. Reads no file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from inference_engine.domain.errors import ModelLoadFailed
from inference_engine.domain.model import TensorSpec
from inference_engine.domain.tensors import Array, Tensors
from inference_engine.infra.runtimes.tabular import INPUT, rows_input, text

Layout = Literal["auto", "matrix", "columns"]


class Features:
    """How tensors become the `X` of an estimator.

    Columns are used where a `ColumnTransformer` comes first, or a text vectorizer; else all features are one tensor.
    """

    def __init__(self, estimator: Any, layout: Layout, dtype: str) -> None:
        """
        Raises:
            ModelLoadFailed: columns are asked for and the estimator was fitted without column names.
        """
        first = _first(estimator)
        self.names = [str(name) for name in getattr(estimator, "feature_names_in_", ())]
        self.count = int(getattr(estimator, "n_features_in_", 0) or getattr(first, "n_features_in_", 0))
        self._texts_alone = _reads_texts(first)
        by_columns = layout == "columns" or (layout == "auto" and hasattr(first, "transformers_"))
        if by_columns and not self.names:
            if layout == "columns" or _text_columns(first):
                raise ModelLoadFailed(
                    "the pipeline was fitted without column names: fit it with a pandas DataFrame",
                    param="options.layout",
                )
            by_columns = False
        self.by_columns = by_columns and not self._texts_alone
        kinds = dict(_text_columns(first)) if self.by_columns else {}
        self.samples = {name: value for name, (_, value) in kinds.items()}
        self._dtype = dtype
        self._kinds = {name: kind for name, (kind, _) in kinds.items()}

    def inputs(self) -> tuple[TensorSpec, ...]:
        if self._texts_alone:
            return (TensorSpec(INPUT, "bytes", (-1,)),)
        if not self.by_columns:
            return rows_input(self.count or -1, self._dtype)
        return tuple(TensorSpec(name, self._kinds.get(name, self._dtype), (-1,)) for name in self.names)

    def rows(self, batch: Tensors) -> Any:
        """`X`: an array, a list of texts or a DataFrame. Columns may come as [n] or [n, 1]."""
        if self._texts_alone:
            return list(text(INPUT, batch[INPUT]).ravel())
        if not self.by_columns:
            return batch[INPUT]
        import pandas

        return pandas.DataFrame({name: _column(name, batch[name]) for name in self.names})


def _column(name: str, array: Array) -> Array:
    flat = array.ravel()
    return text(name, flat) if flat.dtype.kind in "OSU" else flat


def _reads_texts(step: Any) -> bool:
    """Whether it is one of scikit-learn's text vectorizers, which take one text for each row."""
    return hasattr(step, "build_analyzer")


def _first(estimator: Any) -> Any:
    """The step of a pipeline that sees the rows as they come."""
    while hasattr(estimator, "steps") and estimator.steps:
        estimator = next((step for _, step in estimator.steps if step not in (None, "passthrough")), None)
    return estimator


def _text_columns(transformer: Any) -> Mapping[str, tuple[str, Any]]:
    """Columns that are not plain numbers: their dtype and a value that the transformer has seen."""
    found: dict[str, tuple[str, Any]] = {}
    names = [str(name) for name in getattr(transformer, "feature_names_in_", ())]
    for _, step, columns in getattr(transformer, "transformers_", ()):
        if step in ("drop", "passthrough"):
            continue
        wanted = [columns] if isinstance(columns, str | int) else list(np.asarray(columns).ravel())
        if wanted and isinstance(wanted[0], bool | np.bool_):
            wanted = [name for name, used in zip(names, wanted, strict=True) if used]
        resolved = [names[int(c)] if isinstance(c, int | np.integer) and names else str(c) for c in wanted]
        found.update(_kinds(step, resolved))
    return found


def _kinds(step: Any, columns: list[str]) -> Iterator[tuple[str, tuple[str, Any]]]:
    first = _first(step)
    if _reads_texts(first):
        yield from ((name, ("bytes", "a")) for name in columns)
        return
    values = getattr(first, "categories_", None)
    if values is None:
        values = [np.asarray([value]) for value in np.asarray(getattr(first, "statistics_", ())).ravel()]
        text_imputer = getattr(first, "_fit_dtype", np.dtype(float)).kind in "OSU"
        values = values if text_imputer else ()
    for name, seen in zip(columns, values, strict=False):
        kind = np.asarray(seen).dtype
        if kind.kind in "OSU":
            yield name, ("bytes", next((str(item) for item in seen if isinstance(item, str)), ""))
        elif kind.kind in "iub":
            yield name, (kind.name, seen[0])
