"""`cast`, `scale`, `impute`: what they compute, and what they refuse at load."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from inference_engine.domain.errors import InvalidManifest, InvalidTensor
from inference_engine.domain.model import TensorSpec
from tests.pipeline.conftest import spec, step

INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
NUMBERS = [*INTEGERS, "float16", "float32", "float64", "bool"]
TABLE = spec("x", "float32", -1, 3)


def arrays(dtype: str) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(dtype, hnp.array_shapes(min_dims=2, max_dims=2, max_side=4))


@given(source=st.sampled_from(NUMBERS), to=st.sampled_from(NUMBERS), data=st.data())
def test_cast_gives_the_same_values_or_refuses(source: str, to: str, data: st.DataObject) -> None:
    x = data.draw(arrays(source))
    try:
        y = step("cast", **{"from": source, "to": to}).apply({"x": x})["x"]
    except InvalidTensor:
        with np.errstate(over="ignore"):
            if to.startswith("float"):
                assert np.isinf(x.astype(to)).any()
            else:
                assert any(not _is_in(value, to) for value in x.ravel().tolist())
        return
    assert y.dtype == to
    if to.startswith("float"):
        np.testing.assert_array_equal(y, x.astype(to))
    else:
        assert y.tolist() == x.tolist()  # Python numbers: compared exactly, whatever the dtypes


def _is_in(value: float, to: str) -> bool:
    if not math.isfinite(value) or value != int(value):
        return False
    low, high = (0, 1) if to == "bool" else (int(np.iinfo(to).min), int(np.iinfo(to).max))
    return low <= value <= high


@pytest.mark.parametrize(
    ("source", "to", "value"),
    [
        ("float64", "float32", 1e300),
        ("float64", "int64", 0.5),
        ("float64", "int64", 2.0**63),
        ("float32", "uint8", -1.0),
        ("float64", "int32", float("nan")),
        ("int64", "uint8", 300),
        ("uint64", "int64", 2**63),
        ("int64", "bool", 2),
    ],
)
def test_cast_refuses_what_the_model_cannot_hold(source: str, to: str, value: float) -> None:
    with pytest.raises(InvalidTensor, match=rf"input 'x' holds values that the model's {to} cannot hold") as caught:
        step("cast", **{"from": source, "to": to}).apply({"x": np.array([[value]], source)})
    assert caught.value.param == "x"


def test_cast_keeps_nan_among_floats_and_takes_an_array_without_elements() -> None:
    cast = step("cast", **{"from": "float64"})
    y = cast.apply({"x": np.array([[np.nan, np.inf, 0.1]])})["x"]
    np.testing.assert_array_equal(y, np.array([[np.nan, np.inf, 0.1]], np.float32))
    assert step("cast", **{"from": "float64", "to": "int8"}).apply({"x": np.zeros((2, 0))})["x"].shape == (2, 0)


def test_cast_is_seen_from_the_client() -> None:
    assert step("cast", **{"from": "int64"}).preview(TABLE) == spec("x", "int64", -1, 3)


@given(x=arrays("float32"), mean=st.floats(-100, 100, width=32), std=st.floats(0.5, 100, width=32))
def test_scale_is_what_numpy_says(x: np.ndarray, mean: float, std: float) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        expected = (x - np.float32(mean)) / np.float32(std)
        before = x.copy()
        y = step("scale", mean=mean, std=std).apply({"x": x})["x"]
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(x, before)


def test_a_list_is_for_the_features_and_fixes_their_number() -> None:
    scale = step("scale", mean=[1, 2, 3], std=[1, 2, 4.5])
    assert scale.preview(spec("x", "float32", -1, -1)) == TABLE
    y = scale.apply({"x": np.array([[2, 4, 12], [1, 2, 3]], np.float32)})["x"]
    np.testing.assert_array_equal(y, np.array([[1, 1, 2], [0, 0, 0]], np.float32))


@given(x=arrays("float64"))
def test_impute_leaves_no_nan_and_touches_nothing_else(x: np.ndarray) -> None:
    y = step("impute", values=7).apply({"x": x})["x"]
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y[~np.isnan(x)], x[~np.isnan(x)])
    assert (y[np.isnan(x)] == 7).all()


def test_impute_by_feature() -> None:
    x = np.array([[np.nan, 1], [2, np.nan]], np.float32)
    y = step("impute", values=[5, 6]).apply({"x": x})["x"]
    assert y.tolist() == [[5, 1], [2, 6]]


def test_a_step_takes_the_tensor_it_names_and_leaves_the_others() -> None:
    two = {**TABLE, **spec("age", "float32", -1, 1)}
    assert step("scale", input="age", std=100).preview(two) == two
    tensors = {"x": np.ones((1, 3), np.float32), "age": np.full((1, 1), 50, np.float32)}
    y = step("scale", input="age", std=100).apply(tensors)
    assert y["x"] is tensors["x"]
    assert y["age"].tolist() == [[0.5]]


@pytest.mark.parametrize(
    ("use", "options", "specs", "message"),
    [
        ("cast", {"from": "int64", "to": "float64"}, TABLE, r"tensor 'x' is float32, it must be float64"),
        ("scale", {}, spec("x", "int64", -1, 3), r"tensor 'x' is int64, it must be float16 or float32 or float64"),
        ("scale", {"mean": [1, 2]}, TABLE, r"mean has 2 numbers, tensor 'x' has 3 features \(shape \[-1, 3\]\)"),
        ("scale", {"std": [1, 0, 2]}, TABLE, r"std holds a zero.* tensor 'x'"),
        ("scale", {"std": 1e-9}, spec("x", "float16", -1, 3), r"std holds a zero"),
        ("scale", {"mean": float("nan")}, TABLE, r"mean holds a number that is not finite.*'x'"),
        ("scale", {"mean": 1e6}, spec("x", "float16", -1, 3), r"mean .* not finite in float16"),
        ("scale", {"mean": [1]}, spec("x", "float32", -1), r"tensor 'x' has shape \[-1\], it needs a dimension"),
        ("impute", {"values": 1}, spec("x", "int32", -1, 3), r"tensor 'x' is int32"),
        ("impute", {"values": [1, 2]}, TABLE, r"values has 2 numbers"),
        ("impute", {"values": 1, "input": "z"}, TABLE, r"there is no tensor 'z' here; there are: 'x'"),
        ("scale", {}, {**TABLE, "y": TensorSpec("y", "float32", (-1,))}, r"say which tensor it is for.*'x', 'y'"),
        ("scale", {}, {}, r"there are: none"),
    ],
)
def test_what_does_not_fit_is_refused_at_load(
    use: str, options: dict[str, Any], specs: dict[str, TensorSpec], message: str
) -> None:
    with pytest.raises(InvalidManifest, match=message):
        step(use, **options).preview(specs)
