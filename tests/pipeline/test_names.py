"""Names of tensors: renamed, joined from columns, split into columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from inference_engine.domain.errors import InferenceFailed, InvalidManifest
from inference_engine.domain.model import TensorSpec
from tests.pipeline.conftest import spec, step

X, Y = spec("x", "float32", -1, 3), spec("y", "float32", -1, 2)
COLUMNS = {"a": np.array([1.0, 4]), "b": np.array([2.0, 5]), "c": np.array([3.0, 6])}


def test_names_go_both_ways() -> None:
    assert step("rename", names={"y": "price"}).preview(Y) == {"price": Y["y"]}
    assert set(step("rename", names={"y": "z", "z": "y"}).apply({"y": np.ones(1), "z": np.zeros(1)})) == {"y", "z"}
    inputs = step("inputs.rename", names={"rows": "x"})
    assert inputs.preview(X) == {"rows": X["x"]}
    assert set(inputs.apply({"rows": np.ones(1), "@rows": np.ones(1)})) == {"x", "@rows"}


def test_columns_become_one_tensor_and_back() -> None:
    join = step("columns.join", columns=["a", "b", "c"], input="x")
    assert join.preview(X) == spec("a", "float32", -1) | spec("b", "float32", -1) | spec("c", "float32", -1)
    assert join.apply(COLUMNS)["x"].tolist() == [[1, 2, 3], [4, 5, 6]]
    split = step("columns.split", names=["low", "high"])
    assert split.preview(Y) == spec("low", "float32", -1) | spec("high", "float32", -1)
    found = split.apply({"y": np.array([[1, 2], [3, 4]])})
    assert {name: array.tolist() for name, array in found.items()} == {"low": [1, 3], "high": [2, 4]}
    assert set(step("columns.split", names=["low", "high"], keep=True).apply({"y": np.ones((1, 2))})) == {
        "y",
        "low",
        "high",
    }
    with pytest.raises(InferenceFailed, match="has 3 columns, 2 are named"):
        split.apply({"y": np.ones((1, 3))})


def test_expand_adds_a_dimension() -> None:
    made = step("inputs.expand", at=2)
    assert made.preview(spec("x", "float32", -1, 8, 1)) == spec("x", "float32", -1, 8)
    assert made.apply({"x": np.ones((2, 8))})["x"].shape == (2, 8, 1)


@pytest.mark.parametrize(
    ("use", "options", "specs", "words"),
    [
        ("rename", {"names": {"z": "a"}}, Y, "there is no tensor 'z' here; there are: 'y'"),
        ("rename", {"names": {"y": "@a"}}, Y, "'@a' cannot be a tensor's name"),
        ("rename", {"names": {"@n": "a"}}, Y | spec("@n", "int64", -1), "there is no tensor '@n'"),
        ("rename", {"names": {"y": "z"}}, Y | spec("z", "int64", -1), "there would be two tensors 'z'"),
        ("inputs.rename", {"names": {"a": "x", "b": "x"}}, X, "the same name"),
        ("columns.join", {"columns": ["a", "b"], "input": "x"}, X, r"shape \[-1, 3\], 2 columns make \[-1, 2\]"),
        ("columns.join", {"columns": ["a", "b", "a"], "input": "x"}, X, "two tensors 'a'"),
        ("columns.join", {"columns": ["a", "b", "c"], "input": "x", "dtype": "float64"}, X, "give dtype"),
        ("columns.split", {"names": ["a"]}, Y, r"1 names are for \[-1, 1\]"),
        ("columns.split", {"names": ["a", ""]}, Y, "'' cannot be"),
        ("inputs.expand", {"at": 1}, X, "dimension 1 must be there and be 1"),
        ("inputs.expand", {"at": 2}, X, "dimension 2 must be there"),
    ],
)
def test_what_does_not_fit_is_refused_at_load(
    use: str, options: dict[str, Any], specs: dict[str, TensorSpec], words: str
) -> None:
    with pytest.raises(InvalidManifest, match=words):
        step(use, **options).preview(specs)
