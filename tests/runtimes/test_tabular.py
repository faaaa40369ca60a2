"""The runtimes of tabular models against the real libraries."""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_engine.domain.errors import (
    InvalidManifest,
    InvalidRequest,
    InvalidTensor,
    ModelLoadFailed,
    RuntimeMissing,
)
from inference_engine.domain.model import Execution, ExecutorKind, Manifest, Signature, TensorSpec
from inference_engine.domain.ports import Loaded, Runtime
from inference_engine.infra.formats.ubjson import BrokenUbjson, check_ubjson
from inference_engine.infra.runtimes.catalog import EntryPointCatalog
from inference_engine.infra.runtimes.trust import TRUSTED_DIGESTS, digest_of, tree_digest
from tests.fixtures import tabular

for library in ("sklearn", "skops", "xgboost", "lightgbm", "pandas"):
    pytest.importorskip(library, reason=f"{library} is not installed")

ROWS = tabular.flowers()[0]
ROWS32 = ROWS.astype(np.float32)


def load(
    name: str,
    folder: Path,
    artifact: str,
    signature: Signature | None = None,
    executor: ExecutorKind = "runner",
    **options: object,
) -> tuple[Runtime, Loaded]:
    execution = Execution(threads=1, executor=executor)
    manifest = Manifest("m", "1", name, artifact, signature=signature, execution=execution, options=options)
    runtime = EntryPointCatalog().create(name)
    return runtime, runtime.load(manifest, folder)


# -- scikit-learn -----------------------------------------------------------------------------------------------------


def test_a_classifier_gives_labels_and_probabilities(tmp_path: Path) -> None:
    model = tabular.logistic(("setosa", "versicolor", "virginica"))
    tabular.save_skops(model, tmp_path / "m.skops")
    runtime, loaded = load("sklearn", tmp_path, "m.skops")
    assert loaded.signature == Signature(
        (TensorSpec("input", "float64", (-1, 4)),),
        (TensorSpec("label", "bytes", (-1,)), TensorSpec("probabilities", "float64", (-1, 3))),
    )
    assert loaded.details["classes"] == ["setosa", "versicolor", "virginica"]
    given = ROWS.copy()
    given.setflags(write=False)
    found = runtime.run({"input": given})
    assert [label.decode() for label in found["label"]] == model.predict(ROWS).tolist()
    np.testing.assert_array_equal(found["probabilities"], model.predict_proba(ROWS))
    runtime.close()


@pytest.mark.parametrize(
    ("method", "output"),
    [
        ("predict", "label"),
        ("predict_proba", "probabilities"),
        ("predict_log_proba", "log_probabilities"),
        ("decision_function", "decision"),
    ],
)
def test_one_method_can_be_chosen(tmp_path: Path, method: str, output: str) -> None:
    model = tabular.logistic()
    tabular.save_skops(model, tmp_path / "m.skops")
    runtime, _ = load("sklearn", tmp_path, "m.skops", method=method)
    found = runtime.run({"input": ROWS})
    assert list(found) == [output]
    np.testing.assert_array_equal(found[output], getattr(model, method)(ROWS))


def test_a_method_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    tabular.save_skops(tabular.logistic(), tmp_path / "m.skops")
    with pytest.raises(InvalidManifest, match="no transform; it has: predict, predict_proba"):
        load("sklearn", tmp_path, "m.skops", method="transform")


def other_estimators() -> dict[str, tuple[Any, str]]:
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import LinearRegression
    from sklearn.svm import LinearSVC

    rows, kinds = tabular.flowers()
    return {
        "linear": (LinearRegression().fit(rows, kinds), "prediction"),
        "many targets": (LinearRegression().fit(rows, rows[:, :2]), "prediction"),
        "margins": (LinearSVC(random_state=0).fit(rows, kinds), "decision"),
        "clusters": (KMeans(3, n_init=1, random_state=0).fit(rows), "label"),
        "components": (PCA(2).fit(rows), "transformed"),
        "boosted": (HistGradientBoostingRegressor(max_iter=3).fit(rows, kinds), "prediction"),
    }


@pytest.mark.parametrize("name", ["linear", "many targets", "margins", "clusters", "components", "boosted"])
def test_each_kind_of_estimator_has_the_outputs_that_fit(tmp_path: Path, name: str) -> None:
    model, output = other_estimators()[name]
    tabular.save_skops(model, tmp_path / "m.skops")
    from skops.io import get_untrusted_types

    asked = get_untrusted_types(file=tmp_path / "m.skops")
    runtime, loaded = load("sklearn", tmp_path, "m.skops", trusted_types=asked)
    found = runtime.run({"input": ROWS})
    call = {"decision": "decision_function", "transformed": "transform"}.get(output, "predict")
    np.testing.assert_allclose(found[output], getattr(model, call)(ROWS), rtol=1e-12)
    assert loaded.signature is not None
    for spec in loaded.signature.outputs:
        assert spec.dtype == found[spec.name].dtype.name
        assert spec.shape[1:] == found[spec.name].shape[1:]


def test_named_columns_are_tensors_of_their_own(tmp_path: Path) -> None:
    model, table = tabular.columns(), tabular.people()
    tabular.save_skops(model, tmp_path / "m.skops")
    runtime, loaded = load("sklearn", tmp_path, "m.skops")
    assert loaded.signature is not None
    assert loaded.signature.inputs == (
        TensorSpec("age", "float64", (-1,)),
        TensorSpec("city", "bytes", (-1,)),
        TensorSpec("children", "int64", (-1,)),
    )
    cities = np.array([city.encode() for city in table["city"]], dtype=object)
    given = {"age": table["age"].to_numpy(), "city": cities, "children": table["children"].to_numpy()}
    np.testing.assert_array_equal(runtime.run(given)["prediction"], model.predict(table))
    with pytest.raises(InvalidTensor, match="'city' holds bytes that are not UTF-8"):
        runtime.run(given | {"city": np.array([b"\xff"] * len(cities), dtype=object)})


def test_texts_are_one_tensor(tmp_path: Path) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts, kinds = ["good day", "schöner Tag", "bad night", "bad day"], ["+", "+", "-", "-"]
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, kinds)
    tabular.save_skops(model, tmp_path / "m.skops")
    runtime, loaded = load("sklearn", tmp_path, "m.skops")
    assert loaded.signature is not None
    assert loaded.signature.inputs == (TensorSpec("input", "bytes", (-1,)),)
    found = runtime.run({"input": np.array([text.encode() for text in texts], dtype=object)})
    np.testing.assert_array_equal(found["probabilities"], model.predict_proba(texts))


def test_a_forest_needs_a_type_that_the_manifest_names(tmp_path: Path) -> None:
    model = tabular.forest()
    tabular.save_skops(model, tmp_path / "m.skops")
    with pytest.raises(ModelLoadFailed, match=r"sklearn\.tree\._tree\.Tree.*options\.trusted_types") as caught:
        load("sklearn", tmp_path, "m.skops")
    assert caught.value.param == "options.trusted_types"
    runtime, _ = load("sklearn", tmp_path, "m.skops", trusted_types=["sklearn.tree._tree.Tree"])
    np.testing.assert_array_equal(runtime.run({"input": ROWS})["probabilities"], model.predict_proba(ROWS))


def test_rows_that_the_library_refuses_are_the_clients_fault(tmp_path: Path) -> None:
    tabular.save_skops(tabular.logistic(), tmp_path / "m.skops")
    runtime, _ = load("sklearn", tmp_path, "m.skops")
    with pytest.raises(InvalidRequest, match="NaN"):
        runtime.run({"input": np.full((1, 4), np.nan)})


def test_an_estimator_that_was_never_fitted_is_refused(tmp_path: Path) -> None:
    from sklearn.linear_model import Ridge

    tabular.save_skops(Ridge(), tmp_path / "m.skops")
    with pytest.raises(ModelLoadFailed, match="Ridge that was not fitted"):
        load("sklearn", tmp_path, "m.skops")


def test_another_version_is_told_in_the_details(tmp_path: Path) -> None:
    whole = tabular.save_skops(tabular.logistic(), tmp_path / "whole.skops")
    import sklearn

    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(tmp_path / "m.skops", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "schema.json":
                content = content.replace(sklearn.__version__.encode(), b"1.5.0")
            new.writestr(name, content)
    _, loaded = load("sklearn", tmp_path, "m.skops")
    assert any("1.5.0" in line for line in loaded.details["warnings"])


# -- what could run code ----------------------------------------------------------------------------------------------


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("name", ["m.pkl", "m.joblib", "m.skops"])
def test_a_pickle_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    marker = tmp_path / "ran"
    (tmp_path / name).write_bytes(pickle.dumps(Trap(marker)))
    with pytest.raises(ModelLoadFailed, match="it is refused") as caught:
        load("sklearn", tmp_path, name)
    digest = digest_of((tmp_path / name).read_bytes())
    assert digest in caught.value.message
    assert not marker.exists()
    monkeypatch.setenv(TRUSTED_DIGESTS, digest)
    with pytest.raises(ModelLoadFailed, match="holds a NoneType"):
        load("sklearn", tmp_path, name)
    assert marker.exists()  # so the trap was a real one


def test_a_trusted_pickle_runs_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import joblib

    model = tabular.logistic()
    joblib.dump(model, tmp_path / "m.joblib", compress=3)
    digest = digest_of((tmp_path / "m.joblib").read_bytes())
    monkeypatch.setenv(TRUSTED_DIGESTS, f"sha256:{'0' * 64},{digest}")
    runtime, _ = load("sklearn", tmp_path, "m.joblib")
    np.testing.assert_array_equal(runtime.run({"input": ROWS})["label"], model.predict(ROWS))
    with pytest.raises(InvalidManifest, match="in a runner process only"):
        load("sklearn", tmp_path, "m.joblib", executor="thread")
    with (tmp_path / "m.joblib").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelLoadFailed, match="it is refused"):
        load("sklearn", tmp_path, "m.joblib")


def test_a_pickle_of_an_unknown_package_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"cno_such_package\nModel\n."
    (tmp_path / "m.pkl").write_bytes(content)
    monkeypatch.setenv(TRUSTED_DIGESTS, digest_of(content))
    with pytest.raises(RuntimeMissing, match="needs the package no_such_package"):
        load("sklearn", tmp_path, "m.pkl")


def test_a_manifest_cannot_trust_code(tmp_path: Path) -> None:
    tabular.save_skops(tabular.logistic(), tmp_path / "m.skops")
    for name in ("posix.system", "builtins.eval", "sklearn.os.system", "sklearn.base.clone", "numpy.load", "nothing"):
        with pytest.raises(InvalidManifest, match="a manifest cannot trust it") as caught:
            load("sklearn", tmp_path, "m.skops", trusted_types=[name])
        assert caught.value.param == "options.trusted_types"


def test_a_skops_file_with_a_callable_does_not_run(tmp_path: Path) -> None:
    import os

    from sklearn.preprocessing import FunctionTransformer

    tabular.save_skops(FunctionTransformer(os.system), tmp_path / "m.skops")
    with pytest.raises(ModelLoadFailed, match=r"posix\.system.*trusted_digests"):
        load("sklearn", tmp_path, "m.skops")


# -- gradient boosting ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["ubj", "json"])
def test_xgboost_classes(tmp_path: Path, ending: str) -> None:
    import xgboost

    booster = tabular.xgboost_model(tmp_path / f"m.{ending}")
    runtime, loaded = load("xgboost", tmp_path, f"m.{ending}")
    assert loaded.signature == Signature(
        (TensorSpec("input", "float32", (-1, 4)),),
        (TensorSpec("label", "int64", (-1,)), TensorSpec("probabilities", "float32", (-1, 3))),
    )
    wanted = booster.predict(xgboost.DMatrix(ROWS32))
    found = runtime.run({"input": ROWS32})
    np.testing.assert_allclose(found["probabilities"], wanted, rtol=1e-6)
    np.testing.assert_array_equal(found["label"], wanted.argmax(axis=1))


@pytest.mark.parametrize("objective", ["reg:squarederror", "binary:logistic"])
def test_xgboost_numbers(tmp_path: Path, objective: str) -> None:
    import xgboost

    booster = tabular.xgboost_model(tmp_path / "m.ubj", objective)
    matrix = xgboost.DMatrix(ROWS32)
    methods: dict[str, dict[str, Any]] = {
        "predict": {},
        "margin": {"output_margin": True},
        "contributions": {"pred_contribs": True},
        "leaves": {"pred_leaf": True},
    }
    for method, arguments in methods.items():
        runtime, _ = load("xgboost", tmp_path, "m.ubj", method=method)
        found = runtime.run({"input": ROWS32})["prediction"]
        np.testing.assert_allclose(found, booster.predict(matrix, **arguments), rtol=1e-5)
    if objective.startswith("binary"):
        found = load("xgboost", tmp_path, "m.ubj")[0].run({"input": ROWS32})
        np.testing.assert_allclose(found["probabilities"][:, 1], booster.predict(matrix), rtol=1e-6)


def test_an_xgboost_classifier_that_stopped_early_uses_its_best_trees(tmp_path: Path) -> None:
    import xgboost

    rows, kinds = tabular.flowers()
    model = xgboost.XGBClassifier(n_estimators=40, early_stopping_rounds=1, learning_rate=1.5, n_jobs=1)
    model.fit(rows[::2], kinds[::2], eval_set=[(rows[1::2], kinds[1::2])], verbose=False)
    model.save_model(tmp_path / "m.ubj")
    runtime, _ = load("xgboost", tmp_path, "m.ubj")
    found = runtime.run({"input": ROWS32})
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(ROWS32), rtol=1e-6)
    np.testing.assert_array_equal(found["label"], model.predict(ROWS32))


@pytest.mark.parametrize("objective", ["multiclass", "binary", "regression"])
def test_lightgbm(tmp_path: Path, objective: str) -> None:
    booster = tabular.lightgbm_model(tmp_path / "m.txt", objective)
    wanted = booster.predict(ROWS)
    runtime, loaded = load("lightgbm", tmp_path, "m.txt")
    assert loaded.signature is not None
    assert loaded.signature.inputs == (TensorSpec("input", "float64", (-1, 4)),)
    found = runtime.run({"input": ROWS})
    if objective == "multiclass":
        np.testing.assert_array_equal(found["probabilities"], wanted)
        np.testing.assert_array_equal(found["label"], wanted.argmax(axis=1))
    elif objective == "binary":
        np.testing.assert_array_equal(found["probabilities"][:, 1], wanted)
    else:
        np.testing.assert_array_equal(found["prediction"], wanted)
    for method, arguments in {"raw": {"raw_score": True}, "contributions": {"pred_contrib": True}}.items():
        runtime, _ = load("lightgbm", tmp_path, "m.txt", method=method)
        np.testing.assert_array_equal(runtime.run({"input": ROWS})["prediction"], booster.predict(ROWS, **arguments))


@pytest.mark.parametrize("name", ["sklearn", "xgboost", "lightgbm"])
def test_damaged_files_are_refused(tmp_path: Path, name: str) -> None:
    whole = {
        "sklearn": lambda: tabular.save_skops(tabular.logistic(), tmp_path / "whole").read_bytes(),
        "xgboost": lambda: (tabular.xgboost_model(tmp_path / "w.ubj"), (tmp_path / "w.ubj").read_bytes())[1],
        "lightgbm": lambda: (tabular.lightgbm_model(tmp_path / "w.txt"), (tmp_path / "w.txt").read_bytes())[1],
    }[name]()
    for content in (b"", b"hello", bytes(range(256)), whole[:60], whole[: len(whole) // 2], whole[: -len(whole) // 4]):
        (tmp_path / "m").write_bytes(content)
        with pytest.raises(ModelLoadFailed, match=str(tmp_path / "m")):
            load(name, tmp_path, "m")


def test_a_signature_that_differs_names_the_tensor(tmp_path: Path) -> None:
    tabular.xgboost_model(tmp_path / "m.ubj")
    with pytest.raises(ModelLoadFailed, match=r"'input' is float32 \[-1, 5\], the model says float32 \[-1, 4\]"):
        load("xgboost", tmp_path, "m.ubj", Signature((TensorSpec("input", "float32", (-1, 5)),)))
    _, loaded = load("xgboost", tmp_path, "m.ubj", Signature((TensorSpec("input", "float64", (-1, 4)),)))
    assert loaded.signature is not None
    assert loaded.signature.inputs[0].dtype == "float64"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{L" + b"\xff" * 8, "less than"),
        (b"{U\x01a[$d#L" + b"\x7f" + b"\xff" * 7, "less than"),
        (b"{U\x01a[#L" + b"\x7f" + b"\xff" * 7, "says that it holds"),
        (b"{U\x01a" + b"[" * 500, "nested more than"),
        (b"{U\x01aS" + b"i\xff", "less than"),
        (b"{U\x01aq", "should be a type"),
        (b"{}U\x01", "something follows"),
    ],
)
def test_ubjson_that_lies_about_its_sizes_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(BrokenUbjson, match=message):
        check_ubjson(content)


# -- MLflow -----------------------------------------------------------------------------------------------------------


def mlflow_folder(folder: Path, flavour: str) -> None:
    (folder / "MLmodel").write_text(f"mlflow_version: 3.1.0\nflavors:\n{flavour}")


def test_mlflow_hands_native_files_to_their_runtimes(tmp_path: Path) -> None:
    tabular.xgboost_model(tmp_path / "model.ubj")
    mlflow_folder(tmp_path, "  python_function: {loader_module: mlflow.xgboost}\n  xgboost: {data: model.ubj}\n")
    runtime, loaded = load("mlflow", tmp_path, "MLmodel", method="margin")
    assert loaded.details["flavour"] == "xgboost"
    direct, _ = load("xgboost", tmp_path, "model.ubj", method="margin")
    given = {"input": ROWS32}
    np.testing.assert_array_equal(runtime.run(given)["prediction"], direct.run(given)["prediction"])
    runtime.close()


def test_mlflow_names_the_types_of_its_skops_files(tmp_path: Path) -> None:
    model = tabular.forest()
    tabular.save_skops(model, tmp_path / "model.skops")
    flavour = "  sklearn: {{pickled_model: model.skops, serialization_format: skops, skops_trusted_types: [{}]}}\n"
    mlflow_folder(tmp_path, flavour.format("sklearn.tree._tree.Tree"))
    runtime, _ = load("mlflow", tmp_path, "MLmodel")
    np.testing.assert_array_equal(runtime.run({"input": ROWS})["label"], model.predict(ROWS))
    mlflow_folder(tmp_path, flavour.format("posix.system"))
    with pytest.raises(InvalidManifest, match=r"posix\.system.*cannot trust it"):
        load("mlflow", tmp_path, "MLmodel")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of MLflow
def test_a_trusted_python_function_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyfunc = pytest.importorskip("mlflow.pyfunc", reason="mlflow is not installed")
    import pandas
    from mlflow.models import infer_signature

    class Double(pyfunc.PythonModel):  # type: ignore[misc, name-defined]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return model_input["a"] * 2

    table = pandas.DataFrame({"a": [1.0, 2.0]})
    signature = infer_signature(table, (table["a"] * 2).rename("doubled"))
    folder = tmp_path / "model"
    pyfunc.save_model(folder, python_model=Double(), signature=signature, pip_requirements=["numpy"])
    monkeypatch.setenv(TRUSTED_DIGESTS, tree_digest(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)  # and give it back what loading sets
    for _ in range(2):  # loading leaves the folder as it was
        runtime, loaded = load("mlflow", folder, "MLmodel")
        assert loaded.signature is not None
        assert loaded.signature.inputs == (TensorSpec("a", "float64", (-1,)),)
        assert runtime.run({"a": np.array([1.0, 2.0])})["doubled"].tolist() == [2, 4]


def test_mlflow_pickles_and_functions_are_refused_unless_trusted(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(Trap(marker)))
    for flavour in (
        "  sklearn: {pickled_model: model.pkl, serialization_format: cloudpickle}\n",
        "  python_function: {loader_module: mlflow.pyfunc.model, python_model: model.pkl}\n",
    ):
        mlflow_folder(tmp_path, flavour)
        with pytest.raises(ModelLoadFailed, match="trusted_digests"):
            load("mlflow", tmp_path, "MLmodel")
    assert not marker.exists()
    before = tree_digest(tmp_path)
    (tmp_path / "more.py").touch()
    assert tree_digest(tmp_path) != before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("flavors: [", "MLmodel:1"),
        ("a: 1", "names no flavors"),
        ("flavors: {spark: {}}", "none of its flavours can be run here: spark"),
        ("flavors: {xgboost: {data: ../../secret}}", "must be a path inside"),
        ("flavors: {xgboost: {data: gone.ubj}}", r"gone\.ubj does not exist"),
    ],
)
def test_a_bad_mlmodel_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "MLmodel").write_text(content)
    with pytest.raises((ModelLoadFailed, InvalidManifest), match=message):
        load("mlflow", tmp_path, "MLmodel")


def test_a_skops_archive_is_known_by_its_content(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("other.txt", "x")
    (tmp_path / "m.skops").write_bytes(content.getvalue())
    with pytest.raises(ModelLoadFailed, match=r"no schema\.json"):
        load("sklearn", tmp_path, "m.skops")
