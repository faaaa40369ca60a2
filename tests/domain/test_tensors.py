"""Checks against a signature, and batches that are put together and taken apart."""

from __future__ import annotations

import numpy as np
import pytest

from inference_engine.domain.errors import InferenceFailed, InvalidTensor
from inference_engine.domain.model import Signature, TensorSpec
from inference_engine.domain.tensors import InputCheck, concatenate, split


def check(*shapes: tuple[int, ...], dtype: str = "float32") -> InputCheck:
    return InputCheck(Signature(tuple(TensorSpec(f"x{i}", dtype, shape) for i, shape in enumerate(shapes))))


def tensors(*shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {f"x{i}": np.zeros(shape, np.float32) for i, shape in enumerate(shapes)}


@pytest.mark.parametrize(
    ("model", "given", "rows"),
    [
        ([(-1,)], [(3,)], 3),
        ([(-1, 4)], [(2, 4)], 2),
        ([(-1, -1)], [(2, 7)], 2),
        ([(-1, 4), (-1,)], [(2, 4), (2,)], 2),
        ([(2, 2)], [(2, 2)], 1),
        ([()], [()], 1),
    ],
)
def test_rows_of_what_fits(model: list[tuple[int, ...]], given: list[tuple[int, ...]], rows: int) -> None:
    assert check(*model).rows(tensors(*given)) == rows


@pytest.mark.parametrize(
    ("model", "given"),
    [
        ([(-1,)], [()]),
        ([(-1,)], [(0,)]),
        ([(-1, 4)], [(4,)]),
        ([(-1, 4)], [(2, 3)]),
        ([(-1, -1)], [(2,)]),
        ([(-1,)], [(2, 1)]),
        ([(2, 2)], [(3, 2)]),
        ([()], [(1,)]),
        ([(-1, 4), (-1,)], [(2, 4), (3,)]),
    ],
)
def test_what_does_not_fit(model: list[tuple[int, ...]], given: list[tuple[int, ...]]) -> None:
    with pytest.raises(InvalidTensor) as refused:
        check(*model).rows(tensors(*given))
    assert refused.value.param in ("x0", "x1")


def test_dtypes_are_held_to_the_byte_order_too() -> None:
    assert check((-1,)).rows({"x0": np.zeros(2, "<f4")}) == 2
    with pytest.raises(InvalidTensor, match="the model takes float32"):
        check((-1,)).rows({"x0": np.zeros(2, ">f4")})
    assert check((-1,), dtype="bytes").rows({"x0": np.array([b"a"], object)}) == 1
    with pytest.raises(InvalidTensor, match="the model takes bytes"):
        check((-1,), dtype="bytes").rows({"x0": np.zeros(2, np.float32)})


def test_only_free_dimensions_after_the_first_leave_shapes_open() -> None:
    assert check((-1, -1)).leaves_shapes_open
    assert not check((-1, 4), (-1,)).leaves_shapes_open


def test_splitting_undoes_merging() -> None:
    parts = [{"a": np.full((n, 2), n), "b": np.arange(n)} for n in (1, 3, 2)]
    again = split(concatenate(parts), [1, 3, 2])
    for part, got in zip(parts, again, strict=True):
        assert part.keys() == got.keys()
        for name in part:
            np.testing.assert_array_equal(part[name], got[name])
    with pytest.raises(InferenceFailed, match="6 rows"):
        split({"a": np.zeros((5, 1))}, [1, 3, 2])


def test_a_model_without_rows_keeps_the_shape_of_its_outputs() -> None:
    for array in (np.zeros(3), np.zeros((2, 5)), np.array(1.0)):
        (found,) = split({"y": array}, [1])
        assert found["y"] is array
    with pytest.raises(InferenceFailed, match="for a batch of 2 rows"):
        split({"y": np.zeros(3)}, [2])
