"""Tabular models, models with requirements and another package's runtime, through a live server with tritonclient."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from inference_engine.infra.runtimes.trust import digest_of
from tests.conftest import ROOT, LiveServer
from tests.core.test_docs_examples import blocks
from tests.fixtures import tabular
from tests.runtimes.test_tabular import ROWS, ROWS32, Trap

pytest.importorskip("hatchling", reason="hatchling is not installed")

COUNTER = """
import tiny_words

class Counter:
    inputs = [{"name": "x", "dtype": "float32", "shape": [-1, 1]}]

    def predict(self, inputs):
        return {"y": inputs["x"] * tiny_words.FACTOR}
"""
TYPES = {"float32": "FP32", "float64": "FP64", "int64": "INT64", "object": "BYTES"}


def put(models: Path, name: str, manifest: str = "") -> Path:
    folder = models / name / "1"
    folder.mkdir(parents=True)
    if manifest:
        (folder / "model.yaml").write_text(f'name: {name}\nversion: "1"\n{manifest}')
    return folder


def wheel(folder: Path) -> str:
    """A package `tiny_words`, as a wheel made by hand; its file name."""
    name = "tiny_words-1.0-py3-none-any.whl"
    info = "tiny_words-1.0.dist-info"
    with zipfile.ZipFile(folder / name, "w") as file:
        file.writestr("tiny_words.py", "FACTOR = 7\n")
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-words\nVersion: 1.0\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    return name


def put_counter(models: Path, name: str, requirement: str) -> None:
    folder = put(models, name, "runtime: python\nartifact: model.py:Counter\n")
    (folder / "model.py").write_text(COUNTER)
    (folder / "requirements.txt").write_text(requirement.format(wheel=wheel(folder)) + "\n")


def lay_out(models: Path, marker: Path) -> str:
    """Every kind of model; gives the digest of the one pickle that is to be trusted."""
    tabular.save_skops(tabular.logistic(("a", "b", "c")), models / "lone-skops" / "1" / "model.skops")
    tabular.xgboost_model(models / "lone-ubj" / "1" / "model.ubj")
    tabular.lightgbm_model(models / "lone-txt" / "1" / "model.txt")
    tabular.save_skops(tabular.columns(), models / "people" / "1" / "model.skops")
    folder = put(models, "mlflow", "runtime: mlflow\nartifact: MLmodel\n")
    (folder / "MLmodel").write_text("mlflow_version: 3.1.0\nflavors:\n  lightgbm: {data: model.txt}\n")
    tabular.lightgbm_model(folder / "model.txt")
    folder = put(models, "trusted", "runtime: sklearn\nartifact: model.pkl\n")
    (folder / "model.pkl").write_bytes(pickle.dumps(tabular.logistic()))
    trusted = digest_of((folder / "model.pkl").read_bytes())
    for name, field in (("trap", ""), ("self-trust", "options: {trusted_types: [pathlib.Path]}\n")):
        folder = put(models, name, f"runtime: sklearn\nartifact: model.pkl\n{field}")
        (folder / "model.pkl").write_bytes(pickle.dumps(Trap(marker)))
    put_counter(models, "counter", "./{wheel}")
    put_counter(models, "unknown", "./missing-1.0-py3-none-any.whl")
    folder = put(models, "nearest", "runtime: nearest_row\nartifact: rows.csv\noptions: {metric: manhattan}\n")
    (folder / "rows.csv").write_text("0,0,origin\n10,10,far\n")
    older(models / "older" / "1")
    write_manual(models)
    return trusted


def older(folder: Path) -> None:
    """A file that says it is of another version of scikit-learn."""
    import sklearn

    folder.mkdir(parents=True)
    whole = tabular.save_skops(tabular.logistic(), folder.parents[1] / "whole.zip")
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(folder / "model.skops", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content.replace(sklearn.__version__.encode(), b"1.5.0"))
    whole.unlink()


def write_manual(models: Path) -> None:
    """The models of `docs/runtimes/tabular.md`, with its manifests and its one program."""
    for block in blocks("runtimes/tabular.md", "yaml"):
        name = re.findall(r"^name: (.*)$", block, re.MULTILINE)[0]
        folder = put(models, name)
        (folder / "model.yaml").write_text(block)
        MANUAL[name](folder)
    (program,) = blocks("runtimes/tabular.md", "python")
    exec(program.replace("models/", f"{models}/"), {"pipeline": churn()})


def churn() -> Any:
    """A forest over a column of numbers and one of texts."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    table = tabular.people()
    columns = ColumnTransformer([("n", "passthrough", ["age"]), ("w", OneHotEncoder(), ["city"])])
    forest = make_pipeline(columns, RandomForestClassifier(4, random_state=0))
    return forest.fit(table[["age", "city"]], table["children"] > 1)


def demand(folder: Path) -> None:
    import xgboost

    data, kinds = tabular.flowers()
    matrix = xgboost.DMatrix(data[:, :3], kinds.astype(float))
    xgboost.train({"nthread": 1}, matrix, num_boost_round=2).save_model(folder / "model.ubj")


def forecast(folder: Path) -> None:
    (folder / "MLmodel").write_text("flavors:\n  lightgbm: {data: model.txt}\n")
    tabular.lightgbm_model(folder / "model.txt")


MANUAL: dict[str, Callable[[Path], object]] = {
    "churn": lambda folder: None,  # the page's program saves it
    "demand": demand,
    "ranking": lambda folder: tabular.lightgbm_model(folder / "model.txt", "regression"),
    "forecast": forecast,
}


@pytest.fixture(scope="module")
def marker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("marker") / "ran"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, marker: Path) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("tabular")
    trusted = lay_out(folder / "models", marker)
    target = folder / "packages"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index"]
    package = ROOT / "examples" / "runtime_package"
    subprocess.run(
        [*pip, "--no-build-isolation", "--target", str(target), str(package)], check=True, timeout=100, cwd=folder
    )
    options = ("--models", str(folder / "models"), "--trusted-digests", trusted, "--install-requirements")
    server = LiveServer(folder, *options, PYTHONPATH=str(target))
    server.start()
    yield server
    assert server.stop() == 0


@pytest.fixture
def client(live: LiveServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(live.url.removeprefix("http://"), network_timeout=100) as made:
        yield made


def ask(client: triton.InferenceServerClient, model: str, **tensors: np.ndarray[Any, Any]) -> Any:
    inputs = []
    for name, array in tensors.items():
        inputs.append(triton.InferInput(name, list(array.shape), TYPES[array.dtype.name]))
        inputs[-1].set_data_from_numpy(array)
    return client.infer(model, inputs)


def test_scikit_learn(client: triton.InferenceServerClient) -> None:
    model = tabular.logistic(("a", "b", "c"))
    found = ask(client, "lone-skops", input=ROWS)
    np.testing.assert_array_equal(found.as_numpy("probabilities"), model.predict_proba(ROWS))
    assert [label.decode() for label in found.as_numpy("label")] == model.predict(ROWS).tolist()


def test_a_file_of_another_version_is_served_with_a_warning(
    client: triton.InferenceServerClient, live: LiveServer
) -> None:
    found = ask(client, "older", input=ROWS)
    np.testing.assert_array_equal(found.as_numpy("label"), tabular.logistic().predict(ROWS))
    said = "from version 1.5.0 when using version"
    assert said in str(live.model("older")["details"])
    assert said in live.log.read_text()
    command = [sys.executable, "-m", "inference_engine", "show", "older", "--server", live.url]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert re.search(rf"^warnings +.*{said}", shown, re.MULTILINE), shown


def test_columns(client: triton.InferenceServerClient) -> None:
    table = tabular.people()
    cities = np.array([city.encode() for city in table["city"]], dtype=object)
    found = ask(client, "people", age=table["age"].to_numpy(), city=cities, children=table["children"].to_numpy())
    np.testing.assert_array_equal(found.as_numpy("prediction"), tabular.columns().predict(table))


def test_xgboost(client: triton.InferenceServerClient, tmp_path: Path) -> None:
    import xgboost

    wanted = tabular.xgboost_model(tmp_path / "m.ubj").predict(xgboost.DMatrix(ROWS32))
    found = ask(client, "lone-ubj", input=ROWS32)
    np.testing.assert_allclose(found.as_numpy("probabilities"), wanted, rtol=1e-6)


@pytest.mark.parametrize("model", ["lone-txt", "mlflow"])
def test_lightgbm(client: triton.InferenceServerClient, tmp_path: Path, model: str) -> None:
    wanted = tabular.lightgbm_model(tmp_path / "m.txt").predict(ROWS)
    np.testing.assert_array_equal(ask(client, model, input=ROWS).as_numpy("probabilities"), wanted)


def test_a_trusted_pickle_is_served_and_no_other_runs(
    client: triton.InferenceServerClient, live: LiveServer, marker: Path
) -> None:
    found = ask(client, "trusted", input=ROWS)
    np.testing.assert_array_equal(found.as_numpy("label"), tabular.logistic().predict(ROWS))
    for name in ("trap", "self-trust"):
        answer = httpx.post(f"{live.url}/v2/repository/models/{name}/load", json={}, timeout=60)
        assert answer.status_code >= 400
        assert "trusted_digests" in answer.text
    assert not marker.exists()


def test_a_model_gets_the_packages_it_asks_for(client: triton.InferenceServerClient, live: LiveServer) -> None:
    x = np.array([[1], [2]], np.float32)
    np.testing.assert_array_equal(ask(client, "counter", x=x).as_numpy("y"), x * 7)
    answer = httpx.post(f"{live.url}/v2/repository/models/unknown/load", json={}, timeout=60)
    assert answer.status_code >= 400
    assert "missing-1.0-py3-none-any.whl" in answer.text
    assert len(list((live.log.parent / "state" / "environments").iterdir())) == 1


def test_a_runtime_of_another_package_is_served(client: triton.InferenceServerClient, live: LiveServer) -> None:
    found = ask(client, "nearest", input=np.array([[1, 2], [9, 9]], np.float32))
    assert found.as_numpy("label").tolist() == [b"origin", b"far"]
    assert found.as_numpy("distance").tolist() == [3, 2]


def test_the_manual(client: triton.InferenceServerClient, live: LiveServer) -> None:
    """Each manifest of the page was served, the program that saves was run, and its requests are answered."""
    for name in MANUAL:
        assert httpx.post(f"{live.url}/admin/models/{name}/1/load", timeout=60).status_code == 200
    asked = re.findall(
        r"curl localhost:8000(\S+) -d '(.*?)'", "\n".join(blocks("runtimes/tabular.md", "sh")), re.DOTALL
    )
    assert len(asked) == 2
    for path, body in asked:
        answer = httpx.post(live.url + path, content=body, timeout=60)
        assert answer.status_code == 200, answer.text
    assert "label" in answer.json()["outputs"][0]["name"]


def test_packages_are_not_installed_unless_the_operator_allows_it(tmp_path: Path) -> None:
    put_counter(tmp_path / "models", "counter", "./{wheel}")
    command = [sys.executable, "-m", "inference_engine", "predict", "counter", "--input", '{"x": [[1]]}']
    ended = subprocess.run(
        [*command, "--models", str(tmp_path / "models")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"INFERENCE_ENGINE_STATE_DIR": str(tmp_path), "PATH": ""},
    )
    assert ended.returncode != 0
    assert re.search(r"requirements\.txt.*install_requirements", ended.stderr, re.DOTALL), ended.stderr
    assert not (tmp_path / "environments").exists()
