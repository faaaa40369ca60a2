"""Wrong, cut and hostile model files on a live server: the file is named, nothing runs, nothing else is touched.

Every row of the tables is a folder that somebody might have downloaded. It is loaded through the admin API.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.conftest import ROOT, LiveServer
from tests.fixtures import tabular, tiny_onnx, tiny_torch

BUILTIN = ROOT / "inference_engine" / "infra" / "builtin_models"
IRIS = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}]}
NET = """
options: {class: "model.py:Net", init: {hidden: 8}}
signature:
  inputs: [{name: x, dtype: float32, shape: [-1, 4]}, {name: scale, dtype: float32, shape: [-1, 1]}]
"""
TRUST = "sha256:[0-9a-f]{64} to the setting trusted_digests"
# fmt: off
EVERYDAY = frozenset((
    "onnx-cut", "onnx-pickle", "onnx-absolute", "onnx-above", "onnx-link", "onnx-custom", "onnx-huge", "onnx-new",
    "onnx-map", "skl-trap", "skl-bomb", "xgb-cut", "lgb-cut", "lgb-lies", "flow-trap", "flow-above", "gguf-cut",
    "gguf-onnx", "py-broken",
))
# fmt: on
"""Rows that are tried in every run of the tests; the others take another minute."""
Case = tuple[str, str, str, Callable[[Path], object], str]
"""Name, runtime, artifact with more lines of the manifest, what puts the files there, and the error's pattern."""


class Canary:
    """Unpickled, it writes a file outside the model's folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


def half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def slip(path: Path) -> None:
    """An archive with a member that leads out of the folder it is unpacked in."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("schema.json", "{}")
        archive.writestr("../../../../canary-slip", "x")


def bomb(path: Path) -> None:
    """A skops file of some hundred kilobytes whose schema would be half a gigabyte."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("schema.json", "w") as schema:
        for _ in range(512):
            schema.write(b" " * (1 << 20))


def onnx_of(change: Callable[[Any], None]) -> Callable[[Path], None]:
    """A small model that was changed."""

    def write(folder: Path) -> None:
        import onnx

        tiny_onnx.mlp_onnx(folder / "model.onnx", inputs=4, hidden=8)
        model = onnx.load(str(folder / "model.onnx"))
        change(model)
        (folder / "model.onnx").write_bytes(model.SerializeToString())

    return write


def huge(model: Any) -> None:
    """A weight that is said to have four terabytes, and has none."""
    from onnx import TensorProto, helper

    model.graph.initializer.append(TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 40]))
    model.graph.node.append(helper.make_node("Identity", ["w"], ["big"]))
    model.graph.output.append(helper.make_tensor_value_info("big", 1, None))


def huge_constant(model: Any) -> None:
    """A tensor of four terabytes that is made while the graph is computed."""
    from onnx import helper, numpy_helper

    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 20, 1 << 20]), "shape"))
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["shape"], ["big"]))
    model.graph.output.append(helper.make_tensor_value_info("big", 1, None))


def too_new(model: Any) -> None:
    model.opset_import[0].version = 99


def external(location: Callable[[Path], str]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        secret = folder.parents[2] / "secret.bin"
        secret.write_bytes(bytes(8))
        (folder / "link.bin").symlink_to(secret)
        tiny_onnx.external_onnx(folder / "model.onnx", location(folder))

    return write


def tensors_with(header: dict[str, Any] | bytes, size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + bytes(64)


def mlmodel(flavour: str, *files: Callable[[Path], object]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "MLmodel").write_text(f"flavors:\n  {flavour}\n")
        for make in files:
            make(folder)

    return write


def cases(canary: Path) -> list[Case]:
    trap = pickle.dumps(Canary(canary))
    gguf = (BUILTIN / "guide" / "1" / "guide.gguf").read_bytes()

    def put(name: str, content: bytes) -> Callable[[Path], object]:
        return lambda folder: (folder / name).write_bytes(content)

    def cut(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
        return lambda folder: (make(folder / name), half(folder / name))[1]

    noise = bytes(range(256)) * 40
    outside = r"model\.onnx cannot be loaded by ONNX Runtime"
    iris = (BUILTIN / "iris" / "1" / "model.onnx").read_bytes()
    found: list[Case] = [
        ("onnx-cut", "onnx", "model.onnx", put("model.onnx", iris[: len(iris) // 2]), outside),
        ("onnx-empty", "onnx", "model.onnx", put("model.onnx", b""), outside),
        ("onnx-pickle", "onnx", "model.onnx", put("model.onnx", trap), outside),
        ("onnx-gguf", "onnx", "model.onnx", put("model.onnx", gguf[:9000]), outside),
        ("onnx-absolute", "onnx", "model.onnx", external(lambda f: str(f.parents[2] / "secret.bin")), outside),
        ("onnx-above", "onnx", "model.onnx", external(lambda _: "../../../secret.bin"), outside),
        ("onnx-link", "onnx", "model.onnx", external(lambda _: "link.bin"), outside),
        ("onnx-gone", "onnx", "model.onnx", external(lambda _: "weights.bin"), outside + ".*weights.bin"),
        ("onnx-custom", "onnx", "model.onnx", lambda f: tiny_onnx.custom_onnx(f / "model.onnx"), "missing.*Sharpen"),
        ("onnx-huge", "onnx", "model.onnx", onnx_of(huge), outside),
        ("onnx-new", "onnx", "model.onnx", onnx_of(too_new), r"model\.onnx cannot .* Opset 99, which is newer"),
        ("onnx-map", "onnx", "model.onnx", lambda f: tiny_onnx.sequence_onnx(f / "model.onnx"), "'y' is a seq.*zipmap"),
        ("skl-trap", "sklearn", "m.pkl", put("m.pkl", trap), r"m\.pkl is a pickle.*" + TRUST),
        ("skl-joblib", "sklearn", "m.joblib", put("m.joblib", trap), r"m\.joblib is a pickle.*" + TRUST),
        ("skl-named", "sklearn", "m.skops", put("m.skops", trap), r"m\.skops is a pickle.*" + TRUST),
        (
            "skl-cut",
            "sklearn",
            "m.skops",
            cut("m.skops", lambda p: tabular.save_skops(tabular.logistic(), p)),
            "m.skop",
        ),
        ("skl-slip", "sklearn", "m.skops", lambda f: slip(f / "m.skops"), r"m\.skops cannot be read"),
        (
            "skl-bomb",
            "sklearn",
            "m.skops",
            lambda f: bomb(f / "m.skops"),
            r"m\.skops is refused: unpacked it has 5",
        ),
        ("skl-noise", "sklearn", "m.pkl", put("m.pkl", noise), r"m\.pkl is a pickle"),
        ("xgb-cut", "xgboost", "m.ubj", cut("m.ubj", tabular.xgboost_model), r"m\.ubj is damaged"),
        ("xgb-noise", "xgboost", "m.ubj", put("m.ubj", b"{" + noise), r"m\.ubj is damaged"),
        (
            "xgb-lies",
            "xgboost",
            "m.json",
            put("m.json", b'{"learner": {}, "version": [9, 0, 0]}'),
            r"m\.json cannot be",
        ),
        ("xgb-trap", "xgboost", "m.ubj", put("m.ubj", trap), r"m\.ubj is not an XGBoost model"),
        ("lgb-cut", "lightgbm", "m.txt", cut("m.txt", tabular.lightgbm_model), r"m\.txt is cut short"),
        ("lgb-trap", "lightgbm", "m.txt", put("m.txt", trap), r"m\.txt is not a LightGBM model"),
        ("lgb-lies", "lightgbm", "m.txt", lying_trees, r"the runner process .* while loading .*/lgb-lies/1/m\.txt"),
        (
            "flow-trap",
            "mlflow",
            "MLmodel",
            mlmodel("sklearn: {pickled_model: m.pkl}", put("m.pkl", trap)),
            "trusted_dig",
        ),
        (
            "flow-code",
            "mlflow",
            "MLmodel",
            mlmodel("python_function: {loader_module: mlflow.pyfunc.model, python_model: m.pkl}", put("m.pkl", trap)),
            "flow-code/1 has only the flavour python_function.*" + TRUST,
        ),
        (
            "flow-above",
            "mlflow",
            "MLmodel",
            mlmodel("xgboost: {data: ../../../m.ubj}"),
            "path inside the model's folder",
        ),
        ("flow-cut", "mlflow", "MLmodel", put("MLmodel", b"flavors: {"), "MLmodel:1"),
        ("gguf-cut", "llama_cpp", "m.gguf", put("m.gguf", gguf[: len(gguf) // 2]), r"m\.gguf"),
        ("gguf-lies", "llama_cpp", "m.gguf", put("m.gguf", gguf[:8] + b"\xff" * 16 + gguf[24:]), r"m\.gguf"),
        ("gguf-onnx", "llama_cpp", "m.gguf", put("m.gguf", iris), r"m\.gguf"),
        (
            "py-broken",
            "python",
            "model.py:M",
            put("model.py", b"class M:\n    def predict(self:\n"),
            r"model\.py.*line 2",
        ),
        ("py-absent", "python", "model.py:M", put("model.py", b"class Other: pass\n"), "M"),
        ("py-binary", "python", "model.py:M", put("model.py", trap), r"model\.py|null bytes"),
    ]
    return found


def lying_trees(folder: Path) -> None:
    """A LightGBM model whose trees point to nodes that are not there."""
    tabular.lightgbm_model(folder / "m.txt")
    text = (folder / "m.txt").read_text()
    (folder / "m.txt").write_text(re.sub(r"left_child=.*", "left_child=99999999 99999999 99999999", text))


def torch_cases(canary: Path) -> list[Case]:
    """PyTorch's forms. The pickles are the real thing: only `weights_only` and the vetting stand before them."""

    def saved(content: Any, legacy: bool = False) -> Callable[[Path], None]:
        def write(folder: Path) -> None:
            import torch

            tiny_torch.net(folder)
            torch.save(content, folder / "m.pt", _use_new_zipfile_serialization=not legacy)

        return write

    def net_with(name: str, content: bytes) -> Callable[[Path], None]:
        return lambda folder: (tiny_torch.net(folder), (folder / name).write_bytes(content), None)[-1]

    def cut(name: str, save: Callable[[Any, Path], object]) -> Callable[[Path], None]:
        return lambda folder: (save(tiny_torch.net(folder), folder / name), half(folder / name))[1]

    def other(folder: Path) -> None:
        import torch

        torch.save(tiny_torch.net(folder, hidden=5).state_dict(), folder / "m.pt")

    weight = {"first.weight": {"dtype": "F32", "shape": [8, 4], "data_offsets": [0, 1 << 40]}}
    shape = {"first.weight": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 64]}}
    tensors, signature = "m.safetensors" + NET, NET.replace("options:", "tags: []\n#")
    whole = r"m\.safetensors cannot be loaded by PyTorch.*(Header|header|Metadata|Offset|Overflow|overflow)"
    return [
        ("pt-trap", "torch", "m.pt" + NET, saved(Canary(canary)), r"m\.pt holds more than.*" + TRUST),
        ("pt-list", "torch", "m.pt" + NET, saved({"w": Canary(canary)}), r"m\.pt holds more than.*" + TRUST),
        (
            "pt-old",
            "torch",
            "m.pt" + NET,
            saved({"w": Canary(canary)}, True),
            r"m\.pt holds more than.*" + TRUST,
        ),
        ("pt-other", "torch", "m.pt" + NET, other, r"m\.pt does not fit Net.*size mismatch for first\.weight"),
        ("pt-cut", "torch", "m.pt2", cut("m.pt2", tiny_torch.save_program), r"m\.pt2 cannot be loaded"),
        ("ts-cut", "torch", "m.pt" + signature, cut("m.pt", tiny_torch.save_script), r"m\.pt cannot be loaded"),
        ("pt-slip", "torch", "m.pt" + signature, lambda f: slip(f / "m.pt"), r"m\.pt cannot be loaded"),
        ("st-lies", "torch", tensors, net_with("m.safetensors", tensors_with(weight)), whole),
        ("st-shape", "torch", tensors, net_with("m.safetensors", tensors_with(shape)), whole),
        ("st-header", "torch", tensors, net_with("m.safetensors", tensors_with(b"{}", 1 << 62)), whole),
        ("st-json", "torch", tensors, net_with("m.safetensors", tensors_with(b"{{{{")), whole),
    ]


def tensorflow_cases(made: Path) -> list[Case]:
    """TensorFlow's forms, copied from `made` by its script. The runtime's own tests have the finer ones."""

    def copied(name: str) -> Callable[[Path], object]:
        return lambda folder: (
            shutil.copytree(made / name, folder / name) if (made / name).is_dir() else shutil.copy(made / name, folder)
        )

    def cut(folder: Path) -> None:
        copied("saved")(folder)
        half(folder / "saved" / "saved_model.pb")

    def linked(folder: Path) -> None:
        copied("words")(folder)
        from_outside = folder / "words" / "assets" / "words.txt"
        graph = folder / "words" / "saved_model.pb"
        above = b"../" * 2 + b"abc"  # as long as the name that it replaces
        assert len(above) == len(b"words.txt")
        graph.write_bytes(graph.read_bytes().replace(b"words.txt", above))
        assert from_outside.is_file()

    return [
        ("tf-writes", "tensorflow", "hostile", copied("hostile"), "WriteFile.*" + TRUST),
        ("tf-saves", "tensorflow", "checkpoint", copied("checkpoint"), "SaveV2.*" + TRUST),
        ("tf-lambda", "tensorflow", "lambda.keras", copied("lambda.keras"), "Lambda layer.*" + TRUST),
        ("tf-slip", "tensorflow", "m.keras", lambda f: slip(f / "m.keras"), "m.keras is refused because its member"),
        ("tf-asset", "tensorflow", "words", linked, "its asset '../../abc' lies outside the model"),
        ("tf-cut", "tensorflow", "saved", cut, "saved_model.pb cannot be loaded by TensorFlow"),
    ]


def lay_out(models: Path, rows: list[Case]) -> None:
    for name, runtime, artifact, write, _ in rows:
        folder = models / name / "1"
        folder.mkdir(parents=True)
        write(folder)
        (folder / "model.yaml").write_text(f'name: {name}\nversion: "1"\nruntime: {runtime}\nartifact: {artifact}\n')


def check_all(live: LiveServer, rows: list[Case], folder: Path) -> None:
    """Load each, two at a time, and ask another model after each. All are tried before a failure is told."""

    def wrong(row: Case) -> str:
        name, pattern = row[0], row[-1]
        with httpx.Client(base_url=live.url, timeout=180) as http:
            answer = http.post(f"/admin/models/{name}/1/load")
            state = http.get(f"/admin/models/{name}/1").json()
            iris = http.post("/v2/models/iris/infer", json=IRIS)
        refused = answer.status_code == 422 and re.search(pattern, message(answer), re.DOTALL)
        if refused and state["state"] == "failed" and not state.get("pid") and iris.status_code == 200:
            return ""
        return f"{name}: {answer.status_code} {answer.text}, then {state['state']}, iris {iris.status_code}"

    with ThreadPoolExecutor(2) as pool:
        found = [line for line in pool.map(wrong, rows) if line]
    assert not found, "\n".join(found)
    assert not list(folder.rglob("*canary*"))


def iris_of(live: LiveServer) -> Any:
    return httpx.post(f"{live.url}/v2/models/iris/infer", json=IRIS, timeout=30).json()["outputs"]


def message(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["message"])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder for a server, with room above its models for what breaks out."""
    (tmp_path / "server" / "models").mkdir(parents=True)
    return tmp_path


@contextmanager
def served(place: Path) -> Iterator[LiveServer]:
    live = LiveServer(place / "server", "--models", str(place / "server" / "models"))
    live.start()
    try:
        yield live
    finally:
        status = live.stop()
    assert status == 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("everyday", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_wrong_and_hostile_files_are_refused_by_name(place: Path, everyday: bool) -> None:
    rows = [row for row in cases(place / "canary") if (row[0] in EVERYDAY) == everyday]
    lay_out(place / "server" / "models", rows)
    with served(place) as live:
        before = iris_of(live)
        httpx.post(f"{live.url}/admin/models/guide/1/load", timeout=60)
        pid = live.pid_of("guide")
        check_all(live, rows, place)
        assert iris_of(live) == before
        assert live.pid_of("guide") == pid  # its runner was not touched


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(not find_spec("torch"), reason="needs pip install 'inference-engine[torch]'")
def test_pytorch_files_are_refused_by_name(place: Path) -> None:
    rows = torch_cases(place / "canary")
    lay_out(place / "server" / "models", rows)
    with served(place) as live:
        check_all(live, rows, place)


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.skipif(not find_spec("tensorflow"), reason="needs pip install 'inference-engine[tensorflow]'")
def test_tensorflow_files_are_refused_by_name(place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    made = tmp_path_factory.mktemp("made")
    script = ROOT / "tests" / "fixtures" / "tiny_tensorflow.py"
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    subprocess.run([sys.executable, str(script), str(made)], check=True, timeout=180, env=environment)
    rows = tensorflow_cases(made)
    lay_out(place / "server" / "models", rows)
    with served(place) as live:
        check_all(live, rows, place)
    assert not list(made.glob("marker*"))


def test_a_model_that_asks_for_terabytes_fails_alone(place: Path) -> None:
    folder = place / "server" / "models" / "big" / "1"
    folder.mkdir(parents=True)
    onnx_of(huge_constant)(folder)
    with served(place) as live:
        given = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
        answer = httpx.post(f"{live.url}/v2/models/big/infer", json=given, timeout=60)
        assert answer.status_code == 500
        assert "ONNX Runtime failed" in answer.text, answer.text
        assert "alloc" in answer.text
        assert live.model("big")["state"] == "ready"
        assert iris_of(live)


def test_the_traps_are_real(tmp_path: Path) -> None:
    """What the tables rely on: read by the library alone, these files do their harm."""
    pickle.loads(pickle.dumps(Canary(tmp_path / "canary")))
    assert (tmp_path / "canary").is_dir()
    content = io.BytesIO()
    slip(tmp_path / "slip.zip")
    content.write((tmp_path / "slip.zip").read_bytes())
    with zipfile.ZipFile(content) as archive:
        assert any(".." in name for name in archive.namelist())
