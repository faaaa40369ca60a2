"""The steps for tables against scikit-learn's own transform, and every fitted.json that must be refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.decomposition import PCA
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
)

from inference_engine.domain.errors import InvalidManifest, InvalidTensor
from inference_engine.domain.model import PipelineSpec, Signature, TensorSpec
from inference_engine.domain.pipeline import Pipeline
from inference_engine.tabular import export_fitted
from tests.pipeline.conftest import CATALOG, spec, step

STEPS = [
    {"use": "tabular.impute", "file": "fitted.json"},
    {"use": "tabular.scale", "file": "fitted.json"},
    {"use": "tabular.encode", "file": "fitted.json", "input": "x", "to": "float64"},
]
NUMBERS = ["age", "income"]
COUNT = 60


def table(seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    made = pd.DataFrame(
        {
            "age": random.normal(40, 12, COUNT).round(1),
            "income": random.lognormal(10, 1, COUNT),
            "city": random.choice(["Oslo", "Paris", "Łódź"], COUNT),
            "size": random.choice(["S", "M", "L"], COUNT),
            "rooms": random.integers(1, 5, COUNT),
            "member": random.choice([True, False], COUNT),
        }
    )
    made["city"] = made["city"].astype(object)
    made["colour"] = pd.Series(random.choice(["red", "blue"], COUNT), dtype="str")
    made.loc[::9, "colour"] = np.nan
    made.loc[::7, "age"] = np.nan
    made.loc[::11, "city"] = None
    return made


def tensors(frame: pd.DataFrame, names: list[str]) -> dict[str, np.ndarray]:
    """The columns as a client sends them: texts as bytes, empty where there is none."""
    made: dict[str, np.ndarray] = {}
    for name in names:
        values = frame[name].to_numpy()
        if values.dtype == object:
            values = np.array([value.encode() if isinstance(value, str) else b"" for value in values], dtype=object)
        made[name] = values
    return made


def pipeline(folder: Path, content: dict[str, Any], width: int | None = None) -> tuple[Pipeline, list[str]]:
    """The steps that the file asks for, and the client's columns."""
    (folder / "fitted.json").write_text(json.dumps(content))
    wanted = {"tabular.encode"}
    for column in content["columns"]:
        wanted |= {f"tabular.{what}" for what in ("impute", "scale") if what in column}
    made = CATALOG.build(PipelineSpec(tuple(entry for entry in STEPS if entry["use"] in wanted), ()), folder)
    model = Signature((TensorSpec("x", "float64", (-1, width or -1)),), (TensorSpec("y", "float32", (-1, 1)),))
    client = made.preview(model)
    told = {column["name"]: column.get("dtype", "float64") for column in content["columns"]}
    assert {given.name: given.dtype for given in client.inputs} == told
    return made, list(told)


def agree(folder: Path, transformer: Any, frame: pd.DataFrame | None = None, **options: Any) -> np.ndarray:
    """The steps give what scikit-learn gives, for what it was fitted on and for `frame`."""
    known = table()
    transformer.fit(known)
    content = export_fitted(transformer, **options)
    matrix = np.zeros(0)
    for rows in (known, *([] if frame is None else [frame])):
        expected = transformer.transform(rows)
        expected = np.asarray(expected.toarray() if hasattr(expected, "toarray") else expected, np.float64)
        made, names = pipeline(folder, content, expected.shape[1])
        matrix = made.before(tensors(rows, names))["x"]
        assert matrix.shape == expected.shape
        np.testing.assert_allclose(matrix, expected, rtol=1e-6, atol=1e-9)
    return matrix


def strange() -> pd.DataFrame:
    """Rows with categories and numbers that nobody has seen."""
    frame = table(1)
    frame.loc[:5, "city"] = "Atlantis"
    frame.loc[:5, "size"] = "XXL"
    frame.loc[:5, "rooms"] = 99
    frame.loc[:5, "age"] = 200.0
    return frame


NUMERIC: list[Callable[[], Any]] = [
    StandardScaler,
    lambda: StandardScaler(with_mean=False),
    lambda: StandardScaler(with_std=False),
    MinMaxScaler,
    lambda: MinMaxScaler((-2, 3), clip=True),
    MaxAbsScaler,
    RobustScaler,
    lambda: RobustScaler(with_centering=False, quantile_range=(10, 80)),
]


@pytest.mark.parametrize("make", NUMERIC)
@pytest.mark.parametrize("strategy", ["mean", "median", "most_frequent", "constant"])
def test_numbers_are_imputed_and_scaled(tmp_path: Path, make: Callable[[], Any], strategy: str) -> None:
    imputer = SimpleImputer(strategy=strategy, fill_value=7.0 if strategy == "constant" else None)
    agree(tmp_path, ColumnTransformer([("n", make_pipeline(imputer, make()), NUMBERS)]), strange())
    after = ColumnTransformer([("n", make_pipeline(make(), SimpleImputer(strategy="median")), ["age"])])
    if getattr(make(), "clip", False):
        with pytest.raises(ValueError, match="'age' is imputed after it was clipped"):
            export_fitted(after.fit(table()))
    else:
        agree(tmp_path, after, strange())


@pytest.mark.filterwarnings("ignore:Found unknown categories")
@pytest.mark.parametrize(
    "make",
    [
        lambda: OneHotEncoder(handle_unknown="ignore"),
        lambda: OneHotEncoder(handle_unknown="ignore", drop="first"),
        lambda: OneHotEncoder(handle_unknown="infrequent_if_exist"),
        lambda: OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
        lambda: OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan, encoded_missing_value=-5),
    ],
)
def test_categories_are_encoded_with_the_unknown_and_the_missing(tmp_path: Path, make: Callable[[], Any]) -> None:
    agree(tmp_path, ColumnTransformer([("c", make(), ["city", "size", "rooms", "age", "colour", "member"])]), strange())


@pytest.mark.filterwarnings("ignore:Found unknown categories")
def test_a_whole_preprocessor(tmp_path: Path) -> None:
    texts = make_pipeline(SimpleImputer(strategy="most_frequent", missing_values=None), OneHotEncoder(drop="if_binary"))
    made = ColumnTransformer(
        [
            ("size", OrdinalEncoder(categories=[["S", "M", "L"]]), ["size"]),
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), make_column_selector(dtype_include=float)),
            ("texts", texts, ["city"]),
            ("flags", OneHotEncoder(drop="if_binary"), ["member"]),
            ("out", "drop", ["colour"]),
        ],
        remainder="passthrough",
    )
    matrix = agree(tmp_path, made, table(3))
    assert matrix.shape == (COUNT, 1 + 2 + 3 + 1 + 1)
    whole = make_pipeline(made, LogisticRegression(max_iter=1000)).fit(table(), table()["member"])
    assert export_fitted(whole) == export_fitted(whole.steps[0][1])


def test_booleans_and_texts_may_stand_for_numbers(tmp_path: Path) -> None:
    made = ColumnTransformer([("n", StandardScaler(), ["member", "income"])])
    agree(tmp_path, made, dtypes={"member": "bool"})
    content = export_fitted(made.fit(table()), dtypes={"income": "bytes", "member": "bool"})
    by_text, _ = pipeline(tmp_path, content)
    sent = {"member": np.array([True, False, True]), "income": np.array([b"12.5", b" 1e3 ", b""], dtype=object)}
    found = by_text.before(sent)["x"]
    frame = pd.DataFrame({**{name: table()[name][:3] for name in table()}, "member": sent["member"]})
    frame["income"] = [12.5, 1000.0, np.nan]
    np.testing.assert_allclose(found, made.transform(frame), rtol=1e-9)


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_rows_of_one_batch_do_not_mix(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("batch")
    made = ColumnTransformer(
        [
            ("n", make_pipeline(SimpleImputer(), StandardScaler()), NUMBERS),
            ("c", OneHotEncoder(handle_unknown="ignore"), ["city"]),
        ]
    ).fit(table())
    steps, names = pipeline(folder, export_fitted(made))
    sent = tensors(table(seed), names)
    whole = steps.before(sent)["x"]
    for row in (0, 7, COUNT - 1):
        alone = steps.before({name: values[row : row + 1] for name, values in sent.items()})["x"]
        np.testing.assert_array_equal(alone[0], whole[row])


def test_a_transformer_without_names_is_told_them(tmp_path: Path) -> None:
    made = StandardScaler().fit(table()[NUMBERS].to_numpy())
    with pytest.raises(ValueError, match=r"fitted without column names: give columns="):
        export_fitted(made)
    content = export_fitted(made, tmp_path / "fitted.json", columns=NUMBERS)
    assert json.loads((tmp_path / "fitted.json").read_text()) == content
    assert [column["name"] for column in content["columns"]] == NUMBERS


def test_other_signs_of_missing_values_are_refused() -> None:
    with pytest.raises(ValueError, match="missing_values=-1 of a SimpleImputer must be NaN"):
        export_fitted(SimpleImputer(missing_values=-1).fit(table()[NUMBERS].fillna(-1)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PCA(2), "PCA cannot be written into the file; these can: ColumnTransformer, MaxAbsScaler"),
        (KNNImputer, "KNNImputer cannot be written"),
        (lambda: FunctionTransformer(np.log1p), "FunctionTransformer cannot be written"),
        (lambda: SimpleImputer(add_indicator=True), "add_indicator"),
        (lambda: make_pipeline(StandardScaler(), MinMaxScaler()), "'age' is scaled after it was scaled"),
        (lambda: make_pipeline(OrdinalEncoder(), StandardScaler()), "'age' is scaled after it was scaled or encoded"),
        (lambda: make_pipeline(SimpleImputer(), SimpleImputer()), "'age' is imputed twice"),
        (lambda: OneHotEncoder(max_categories=3), "min_frequency and max_categories"),
        (
            lambda: ColumnTransformer([("a", StandardScaler(), NUMBERS), ("b", "passthrough", ["age"])]),
            "'age' goes through two transformers",
        ),
        (lambda: ColumnTransformer([("a", StandardScaler(), NUMBERS)], transformer_weights={"a": 2}), "weights"),
    ],
)
def test_what_the_file_cannot_tell_is_refused_when_it_is_written(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        export_fitted(
            make().fit(table()[NUMBERS] if "Imputer" in words or "indicator" in words else table()[NUMBERS].fillna(0))
        )


# -- values and files that are at fault ------------------------------------------------------------------------------

AGE = {"name": "age", "impute": 38.0, "scale": {"mean": 38.0, "std": 12.0}}
CITY = {"name": "city", "dtype": "bytes", "encode": {"kind": "one_hot", "categories": ["Oslo", "Paris"]}}
FILE = {"format": "inference-engine-fitted-1", "columns": [AGE, CITY]}


def sent(age: Any = (1.0, 2.0), city: Any = (b"Oslo", b"Paris")) -> dict[str, np.ndarray]:
    return {"age": np.array(age), "city": np.array(city, dtype=object)}


def test_an_unknown_value_is_named_with_its_column_and_row(tmp_path: Path) -> None:
    made, _ = pipeline(tmp_path, FILE)
    np.testing.assert_allclose(made.before(sent([38.0, np.nan]))["x"], [[0, 1, 0], [0, 0, 1]])
    for given_, words, column in [
        (
            sent(city=(b"Oslo", b"Atlantis")),
            "input 'city' row 1 holds 'Atlantis': it must be one of 'Oslo', 'P",
            "city",
        ),
        (sent(city=(b"", b"Oslo")), "input 'city' row 0 is missing a value", "city"),
        (sent(age=(1.0, np.inf)), "input 'age' row 1 holds 'inf', which is not finite", "age"),
        (sent(city=(b"x" * 999, b"Oslo")), r"row 0 holds 'x{40}\.\.\.'", "city"),
    ]:
        with pytest.raises(InvalidTensor, match=words) as caught:
            made.before(given_)
        assert caught.value.param == column


def test_numbers_written_as_texts_are_read_or_named(tmp_path: Path) -> None:
    made, _ = pipeline(tmp_path, {**FILE, "columns": [{**AGE, "dtype": "bytes"}]})
    found = made.before({"age": np.array([b"50", b""], dtype=object)})["x"]
    assert found.tolist() == [[1.0], [0.0]]
    for bad in (b"old", b"1_0", b"inf", b"\xff"):
        with pytest.raises(InvalidTensor, match=r"input 'age' row 1 holds .*, which is no number"):
            made.before({"age": np.array([b"50", bad], dtype=object)})


def test_a_number_too_large_for_the_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fitted.json").write_text(json.dumps({**FILE, "columns": [{"name": "age"}]}))
    made = step("tabular.encode", tmp_path, file="fitted.json", input="x")
    with pytest.raises(InvalidTensor, match=r"input 'age' row 1 holds '1e\+300', which the model's float32 cannot"):
        made.apply({"age": np.array([1.0, 1e300])})


def _encode(**changes: Any) -> dict[str, Any]:
    return {**FILE, "columns": [{**CITY, "encode": {**CITY["encode"], **changes}}]}  # type: ignore[dict-item]


def _column(**changes: Any) -> dict[str, Any]:
    return {**FILE, "columns": [{**AGE, **changes}]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is no inference-engine-fitted-1 file"),
        ("[1]", "Expected `object`, got `array`"),
        ("[" * 100_000, "nested without end|Expected `object`"),
        ('{"format": "inference-engine-fitted-1", "columns": ' + "[" * 100_000, "nested|Expected"),
        ({"format": "other", "columns": [AGE]}, "Invalid enum value 'other'"),
        ({**FILE, "columns": []}, "length >= 1"),
        ({**FILE, "more": 1}, "unknown field `more`"),
        ({**FILE, "columns": [AGE, AGE]}, "column 'age' is there twice"),
        (_column(extra=1), "unknown field `extra`"),
        (_column(name="@age"), "names cannot begin with @"),
        (_column(impute="x"), "column 'age': impute is 'x', which is no value"),
        (_column(impute=float("nan")), "invalid|is no inference"),
        ('{"format": "inference-engine-fitted-1", "columns": [{"name": "a", "impute": 1e999}]}', "finite|range"),
        (_column(scale={"std": 0}), "std not zero"),
        (_column(scale={"clip": [3, 1]}), "clip is upside down"),
        (_column(encode=CITY["encode"]), "has both scale and encode"),
        (_encode(categories=[]), "length >= 1"),
        (_encode(categories=["a", "a"]), "column 'city': a category is there twice"),
        (_encode(categories=["a", 1]), "category 1 is no value of dtype bytes"),
        (_encode(categories=["a", ["b"]]), "Expected"),
        (_encode(drop=2), "drop is no place of a category"),
        (_encode(unknown="value"), "value and missing are for ordinal"),
        (_encode(kind="ordinal", unknown="ignore"), "are for one_hot columns"),
        (_encode(kind="embedding"), "Invalid enum value 'embedding'"),
        (
            {
                **FILE,
                "columns": [{"name": "a", "dtype": "int64", "encode": {"kind": "ordinal", "categories": [2**60]}}],
            },
            "cannot be told from its neighbours",
        ),
    ],
)
def test_a_file_that_is_wrong_is_an_error_of_the_load(tmp_path: Path, content: Any, words: str) -> None:
    (tmp_path / "fitted.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InvalidManifest, match=words) as caught:
        step("tabular.encode", tmp_path, file="fitted.json", input="x").preview(spec("x", "float32", -1, -1))
    assert "fitted.json" in caught.value.message


def test_a_file_that_is_huge_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "fitted.json").open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(InvalidManifest, match="bytes, it may have 67108864"):
        step("tabular.encode", tmp_path, file="fitted.json", input="x").preview(spec("x", "float32", -1, -1))


@pytest.mark.parametrize(
    ("uses", "words"),
    [
        (["impute", "scale"], "put use|is not taken after this step"),
        (["encode"], "the scaled input 'age' comes from nowhere: put use: tabular.scale before"),
        (["scale", "encode"], "the imputed input 'age' comes from nowhere: put use: tabular.impute before"),
        (["impute", "encode"], "column 'age' is not taken after this step: list tabular.impute, tabular.scale"),
        (["scale", "impute", "encode"], "'age' is not taken after this step"),
    ],
)
def test_steps_that_are_missing_or_in_another_order_are_named(tmp_path: Path, uses: list[str], words: str) -> None:
    (tmp_path / "fitted.json").write_text(json.dumps(FILE))
    entries = [entry for use in uses for entry in STEPS if entry["use"] == f"tabular.{use}"]
    model = Signature((TensorSpec("x", "float64", (-1, 3)),), (TensorSpec("y", "float32", (-1, 1)),))
    with pytest.raises(InvalidManifest, match=words):
        CATALOG.build(PipelineSpec(tuple(entries), ()), tmp_path).preview(model)


def test_a_matrix_of_another_width_is_an_error_of_the_load(tmp_path: Path) -> None:
    (tmp_path / "fitted.json").write_text(json.dumps(FILE))
    made = step("tabular.encode", tmp_path, file="fitted.json", input="x")
    with pytest.raises(InvalidManifest, match=r"makes a matrix of 3 columns, tensor 'x' has shape \[-1, 5\]"):
        made.preview(spec("x", "float32", -1, 5))
    (tmp_path / "none.json").write_text(json.dumps({**FILE, "columns": [{"name": "age"}]}))
    with pytest.raises(InvalidManifest, match="no column of the file has 'scale': leave this step out"):
        step("tabular.scale", tmp_path, file="none.json").preview(spec("age", "float64", -1))
