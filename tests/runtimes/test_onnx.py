"""The onnx runtime against the real library."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import inference_engine
from inference_engine.domain.errors import (
    InvalidManifest,
    InvalidRequest,
    InvalidTensor,
    ModelLoadFailed,
    RuntimeMissing,
    UnsupportedTask,
)
from inference_engine.domain.model import Execution, Manifest, Signature, TensorSpec
from inference_engine.domain.requests import Complete
from inference_engine.domain.results import Delivered
from inference_engine.domain.tensors import Tensors
from inference_engine.infra.repository import FolderRepository
from inference_engine.infra.runtimes.onnx import OnnxRuntime
from tests.core.test_docs_examples import blocks
from tests.fixtures.tiny_onnx import (
    custom_onnx,
    external_onnx,
    identity_onnx,
    mlp_onnx,
    quantized_onnx,
    sequence_onnx,
)
from tests.runtimes.conftest import Recorder


def manifest(signature: Signature | None = None, device: str = "auto", **options: object) -> Manifest:
    execution = Execution(threads=1, device=device)
    return Manifest("m", "1", "onnx", "model.onnx", signature=signature, execution=execution, options=options)


def run_identity(folder: Path, kind: str, x: np.ndarray, shape: tuple[str | int, ...] = ("batch", 2)) -> Tensors:
    identity_onnx(folder / "model.onnx", kind, shape)
    runtime = OnnxRuntime()
    runtime.load(manifest(), folder)
    return runtime.run({"x": x})


def test_the_signature_is_found_and_rows_are_computed(tmp_path: Path) -> None:
    mlp_onnx(tmp_path / "model.onnx", hidden=32)
    runtime = OnnxRuntime()
    loaded = runtime.load(manifest(), tmp_path)
    assert loaded.kinds == ("predict",)
    assert loaded.signature == Signature(
        (TensorSpec("x", "float32", (-1, 256)),), (TensorSpec("y", "float32", (-1, 10)),)
    )
    assert loaded.signature.batched
    x = np.random.default_rng(0).standard_normal((5, 256), dtype=np.float32)
    x.setflags(write=False)
    together = runtime.run({"x": x})["y"]
    alone = np.concatenate([runtime.run({"x": x[row : row + 1]})["y"] for row in range(5)])
    assert together.shape == (5, 10)
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    runtime.close()


def test_the_built_in_iris_model_knows_its_flowers() -> None:
    folder = Path(inference_engine.__file__).parent / "infra/builtin_models/iris/1"
    runtime = OnnxRuntime()
    loaded = runtime.load(manifest(), folder)
    assert loaded.signature is not None
    assert loaded.signature.inputs == (TensorSpec("input", "float32", (-1, 4)),)
    outputs = runtime.run({"input": np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]], np.float32)})
    assert all(output.shape[0] == 2 for output in outputs.values())


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("FLOAT", "float32"),
        ("DOUBLE", "float64"),
        ("FLOAT16", "float16"),
        ("BOOL", "bool"),
        ("INT8", "int8"),
        ("UINT8", "uint8"),
        ("INT16", "int16"),
        ("UINT16", "uint16"),
        ("INT32", "int32"),
        ("UINT32", "uint32"),
        ("INT64", "int64"),
        ("UINT64", "uint64"),
    ],
)
def test_every_dtype_goes_in_and_out(tmp_path: Path, kind: str, dtype: str) -> None:
    x = np.array([[0, 1], [1, 0]]).astype(dtype)
    y = run_identity(tmp_path, kind, x)["y"]
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, x)
    assert not np.may_share_memory(x, y)


def test_strings_are_bytes_outside(tmp_path: Path) -> None:
    x = np.array([["é".encode(), b""], [b"a b", "漢".encode()]], dtype=object)
    y = run_identity(tmp_path, "STRING", x)["y"]
    assert y.dtype == object
    assert y.tolist() == x.tolist()


def test_bytes_that_are_not_text_name_the_tensor(tmp_path: Path) -> None:
    with pytest.raises(InvalidTensor, match="input 'x' holds bytes that are not UTF-8") as caught:
        run_identity(tmp_path, "STRING", np.array([[b"\xff", b""]], dtype=object))
    assert caught.value.param == "x"


def test_a_scalar_and_a_fixed_shape_are_kept(tmp_path: Path) -> None:
    assert run_identity(tmp_path, "FLOAT", np.array(2.5, np.float32), ())["y"] == np.float32(2.5)
    with pytest.raises(InvalidRequest, match="ONNX Runtime refuses"):
        run_identity(tmp_path, "FLOAT", np.zeros((3, 2), np.float32), (1, 2))


def test_a_type_that_cannot_be_served_is_named(tmp_path: Path) -> None:
    sequence_onnx(tmp_path / "model.onnx")
    with pytest.raises(ModelLoadFailed, match=r"'y' is a seq\(tensor\(float\)\), not a tensor.*zipmap"):
        OnnxRuntime().load(manifest(), tmp_path)
    identity_onnx(tmp_path / "model.onnx", "BFLOAT16")
    with pytest.raises(ModelLoadFailed, match=r"'x' is a tensor\(bfloat16\), which is not supported"):
        OnnxRuntime().load(manifest(), tmp_path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (TensorSpec("z", "float32", (-1, 2)), r"signature's inputs are \['z'\], the model's are \['x'\]"),
        (TensorSpec("x", "float64", (-1, 2)), "'x' is float64"),
        (TensorSpec("x", "float32", (-1, 2, 2)), "'x' is float32"),
        (TensorSpec("x", "float32", (-1, 3)), "'x' is float32"),
    ],
)
def test_a_signature_that_differs_from_the_model_names_the_tensor(
    tmp_path: Path, spec: TensorSpec, message: str
) -> None:
    identity_onnx(tmp_path / "model.onnx")
    with pytest.raises(ModelLoadFailed, match=message):
        OnnxRuntime().load(manifest(Signature((spec,))), tmp_path)


def test_a_signature_may_be_given_in_part(tmp_path: Path) -> None:
    identity_onnx(tmp_path / "model.onnx")
    given = Signature((TensorSpec("x", "float32", (-1, 2)),))
    loaded = OnnxRuntime().load(manifest(given), tmp_path)
    assert loaded.signature == Signature(given.inputs, (TensorSpec("y", "float32", (-1, 2)),))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 2}, "options.threads is not an option of the onnx runtime"),
        ({"graph_optimization": "max"}, "options.graph_optimization"),
        ({"spinning": "yes"}, "options.spinning"),
        ({"intra_op_threads": -1}, "options.intra_op_threads"),
        ({"inter_op_threads": 0}, "options.inter_op_threads"),
        ({"session": {"memory_arena": "no"}}, "options.session.memory_arena"),
        ({"session": {"arena": False}}, "options.session: .*unknown field `arena`"),
        ({"session": {"free_dimensions": {"batch": 0}}}, "options.session.free_dimensions"),
        ({"provider_options": {"gpu": {}}}, "options.provider_options: 'gpu' is unknown; known are cpu, cuda"),
    ],
)
def test_a_bad_option_is_named(tmp_path: Path, options: dict[str, object], message: str) -> None:
    identity_onnx(tmp_path / "model.onnx")
    with pytest.raises(InvalidManifest, match=message):
        OnnxRuntime().load(manifest(**options), tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"graph_optimization": "extended", "inter_op_threads": 2},
        {"io_binding": True},
        {"provider_options": {"cpu": {"use_arena": 0}}},
        {"session": {"memory_arena": False, "memory_pattern": False, "prepacking": False, "deterministic": True}},
        {"session": {"denormals_as_zero": True}, "spinning": True},
    ],
)
def test_options_do_not_change_the_answer(tmp_path: Path, options: dict[str, object]) -> None:
    mlp_onnx(tmp_path / "model.onnx", hidden=32)
    x = np.random.default_rng(1).standard_normal((5, 512), dtype=np.float32)[:, ::2]  # not contiguous
    plain, changed = OnnxRuntime(), OnnxRuntime()
    plain.load(manifest(), tmp_path)
    changed.load(manifest(**options), tmp_path)
    np.testing.assert_allclose(changed.run({"x": x})["y"], plain.run({"x": x})["y"], rtol=1e-5, atol=1e-5)


def test_bound_scalars_keep_their_shape_and_texts_cannot_be_bound(tmp_path: Path) -> None:
    identity_onnx(tmp_path / "model.onnx", "FLOAT", ())
    runtime = OnnxRuntime()
    runtime.load(manifest(io_binding=True), tmp_path)
    assert runtime.run({"x": np.array(2.5, np.float32)})["y"].shape == ()
    identity_onnx(tmp_path / "model.onnx", "STRING")
    with pytest.raises(InvalidManifest, match=r"options.io_binding: 'x' holds texts"):
        OnnxRuntime().load(manifest(io_binding=True), tmp_path)


def test_a_free_dimension_can_be_fixed(tmp_path: Path) -> None:
    identity_onnx(tmp_path / "model.onnx", "FLOAT", ("batch", "width"))
    runtime = OnnxRuntime()
    loaded = runtime.load(manifest(session={"free_dimensions": {"width": 3}}), tmp_path)
    assert loaded.signature is not None
    assert loaded.signature.inputs == (TensorSpec("x", "float32", (-1, 3)),)


def test_a_quantized_model_computes_what_the_library_does(tmp_path: Path) -> None:
    import onnxruntime

    path = quantized_onnx(tmp_path / "model.onnx")
    runtime = OnnxRuntime()
    runtime.load(manifest(), tmp_path)
    x = np.random.default_rng(2).random((6, 4), np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(runtime.run({"x": x})["y"], session.run(["y"], {"x": x})[0])


def test_the_manual_makes_models_that_are_served(tmp_path: Path) -> None:
    """The page's model, and the same model quantized (QDQ, calibrated), as ONNX Runtime itself computes them."""
    import onnxruntime

    rows = np.random.default_rng(3).uniform(0, 7, (16, 4)).astype(np.float32)
    answers = []
    for script in blocks("runtimes/onnx.md", "python"):
        subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=100, capture_output=True)
        (model,), broken = FolderRepository([tmp_path / "models"]).scan()
        assert broken == []
        runtime = OnnxRuntime()
        loaded = runtime.load(model.manifest, model.folder)
        assert loaded.signature is not None
        assert loaded.signature.batched
        answers.append(runtime.run({"flower": rows})["probabilities"])
        session = onnxruntime.InferenceSession(str(model.folder / "model.onnx"), providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(answers[-1], session.run(None, {"flower": rows})[0], rtol=1e-6)
    operators = {node.op_type for node in onnx.load(str(model.folder / "model.onnx")).graph.node}
    assert "DequantizeLinear" in operators
    np.testing.assert_allclose(*answers, atol=0.05)


@pytest.mark.parametrize(("opset", "ir", "said"), [(99, 8, "Opset 99"), (17, 99, "IR version: 99")])
def test_a_file_that_is_too_new_is_told(tmp_path: Path, opset: int, ir: int, said: str) -> None:
    identity_onnx(tmp_path / "model.onnx")
    model = onnx.load(str(tmp_path / "model.onnx"))
    model.opset_import[0].version, model.ir_version = opset, ir
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelLoadFailed, match=rf"it has {said}, which is newer than \d+, .*update onnxruntime"):
        OnnxRuntime().load(manifest(), tmp_path)


def test_a_missing_custom_operator_is_named(tmp_path: Path) -> None:
    custom_onnx(tmp_path / "model.onnx")
    with pytest.raises(ModelLoadFailed, match=r"operator that is missing here: .*Sharpen.*standard operators"):
        OnnxRuntime().load(manifest(), tmp_path)


def test_a_device_that_is_not_there_says_so(tmp_path: Path) -> None:
    identity_onnx(tmp_path / "model.onnx")
    with pytest.raises(InvalidManifest, match=r"execution.device 'tpu' is unknown"):
        OnnxRuntime().load(manifest(device="tpu"), tmp_path)
    for device in ("cpu:1", "auto:0", "cuda:one"):
        with pytest.raises(InvalidManifest, match=f"execution.device '{device}' is unknown"):
            OnnxRuntime().load(manifest(device=device), tmp_path)
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(RuntimeMissing, match="onnxruntime-gpu"):
            OnnxRuntime().load(manifest(device="cuda"), tmp_path)


def test_external_data_outside_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    np.ones(2, np.float32).tofile(folder / "inside.bin")
    np.ones(2, np.float32).tofile(tmp_path / "secret.bin")
    external_onnx(folder / "model.onnx", "inside.bin")
    runtime = OnnxRuntime()
    runtime.load(manifest(), folder)
    assert runtime.run({"x": np.zeros((1, 2), np.float32)})["y"].tolist() == [[1, 1]]
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    for location in ("../secret.bin", str(tmp_path / "secret.bin"), "missing.bin", "link.bin"):
        external_onnx(folder / "model.onnx", location)
        with pytest.raises(ModelLoadFailed, match="cannot be loaded") as caught:
            OnnxRuntime().load(manifest(), folder)
        assert str(folder / "model.onnx") in caught.value.message


def test_an_artifact_outside_the_folder_is_refused(tmp_path: Path) -> None:
    identity_onnx(tmp_path / "model.onnx")
    (tmp_path / "m").mkdir()
    for artifact in ("../model.onnx", str(tmp_path / "model.onnx"), "x/../../model.onnx", ""):
        with pytest.raises(InvalidManifest, match="inside the model's folder"):
            OnnxRuntime().load(Manifest("m", "1", "onnx", artifact), tmp_path / "m")
    (tmp_path / "m" / "link.onnx").symlink_to(tmp_path / "model.onnx")  # placed by the operator
    assert OnnxRuntime().load(Manifest("m", "1", "onnx", "link.onnx"), tmp_path / "m").signature


def test_text_generation_is_not_for_it(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedTask, match="ask it for a prediction"):
        OnnxRuntime().generate(Complete("x"), Delivered(), Recorder())


DAMAGED = """
import sys
from pathlib import Path
from inference_engine.domain.errors import ModelLoadFailed
from inference_engine.domain.model import Execution, Manifest
from inference_engine.infra.runtimes.onnx import OnnxRuntime
for name in sys.argv[2:]:
    try:
        OnnxRuntime().load(Manifest("m", "1", "onnx", name, execution=Execution(threads=1)), Path(sys.argv[1]))
        print(name, "loaded")
    except ModelLoadFailed as error:
        assert str(Path(sys.argv[1]) / name) in str(error), error
        print(name, "refused")
"""


def test_damaged_files_are_refused_quietly(tmp_path: Path) -> None:
    whole = mlp_onnx(tmp_path / "whole", hidden=16).read_bytes()
    generator = random.Random(2)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "random").write_bytes(generator.randbytes(4000))
    for size in (1, 10, 100, len(whole) // 2, len(whole) - 30):
        (tmp_path / f"cut-{size}").write_bytes(whole[:size])
    for index in range(20):
        damaged = bytearray(whole)
        for _ in range(40):
            damaged[generator.randrange(400)] = generator.randrange(256)
        (tmp_path / f"flip-{index}").write_bytes(bytes(damaged))
    names = sorted(path.name for path in tmp_path.iterdir())
    ended = subprocess.run(
        [sys.executable, "-c", DAMAGED, str(tmp_path), *names], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    results = dict(line.split() for line in ended.stdout.splitlines())
    assert results.pop("whole") == "loaded"
    assert {result for name, result in results.items() if not name.startswith("flip")} == {"refused"}
