"""The tensorflow runtime in runner processes, against what TensorFlow itself computes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from inference_engine.domain.errors import EngineError, InvalidManifest, ModelLoadFailed, RuntimeMissing
from inference_engine.domain.model import Execution, Manifest, Signature, TensorSpec
from inference_engine.domain.ports import Executor, Loaded, StoredModel
from inference_engine.infra.executors.runner import RunnerExecutor, Supervision
from inference_engine.infra.repository import FolderRepository
from inference_engine.infra.runtimes.trust import TRUSTED_DIGESTS, digest_of, tree_digest
from tests.conftest import ROOT
from tests.core.test_docs_examples import blocks
from tests.fixtures.tiny_tensorflow import sample

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not find_spec("tensorflow"), reason="needs pip install 'inference-engine[tensorflow]'"),
]
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
SUPERVISION = Supervision()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of `tests/fixtures/tiny_tensorflow.py`, made by TensorFlow in a process of its own."""
    folder = tmp_path_factory.mktemp("tensorflow")
    script = ROOT / "tests" / "fixtures" / "tiny_tensorflow.py"
    subprocess.run([sys.executable, str(script), str(folder)], check=True, timeout=120, env=os.environ | QUIET)
    return folder


@asynccontextmanager
async def started(
    folder: Path,
    artifact: str,
    declared: Signature | None = None,
    device: str = "auto",
    options: dict[str, object] | None = None,
    trusted: str = "",
) -> AsyncIterator[tuple[Executor, Loaded]]:
    execution = Execution(threads=1, device=device)
    manifest = Manifest(
        "m", "1", "tensorflow", artifact, signature=declared, execution=execution, options=options or {}
    )
    environment = QUIET | {TRUSTED_DIGESTS: trusted}
    executor = RunnerExecutor(
        StoredModel(manifest, folder), time.monotonic, lambda: None, SUPERVISION, environment=lambda: environment
    )
    try:
        yield executor, await executor.start()
    finally:
        await executor.stop(2.0)


async def test_a_saved_model_computes_the_same_with_texts(models: Path) -> None:
    async with started(models, "saved") as (executor, loaded):
        assert loaded.signature is not None
        assert set(loaded.signature.inputs) == {TensorSpec("x", "float32", (-1, 4)), TensorSpec("text", "bytes", (-1,))}
        assert set(loaded.signature.outputs) == {
            TensorSpec("y", "float32", (-1, 3)),
            TensorSpec("upper", "bytes", (-1,)),
        }
        result = await executor.run([sample()], [3])
        np.testing.assert_allclose(result.outputs[0]["y"], np.load(models / "expected.npz")["y"], rtol=1e-6)
        assert result.outputs[0]["upper"].tolist() == [b"A\xc3\xa9"] * 3


async def test_the_named_signature_is_served(models: Path) -> None:
    async with started(models, "saved", options={"signature": "double"}) as (executor, _):
        x = sample()["x"]
        np.testing.assert_array_equal((await executor.run([{"x": x}], [3])).outputs[0]["output_0"], x * 2)


async def test_a_keras_file_computes_the_same(models: Path) -> None:
    expected = np.load(models / "expected.npz")
    async with started(models, "model.keras") as (executor, loaded):
        assert loaded.signature is not None
        assert [spec.name for spec in loaded.signature.inputs] == ["left", "right"]
        x = sample()["x"]
        found = (await executor.run([{"left": x, "right": x[:, :2]}], [3])).outputs[0]
        assert list(found) == ["scores", "joined"]
        for name, array in found.items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6)
    async with started(models, "sequential.keras") as (executor, loaded):
        assert loaded.signature is not None
        assert loaded.signature.batched
        assert (await executor.run([{"x": x}], [3])).outputs[0]["y"].shape == (3, 2)


async def test_a_keras_model_that_was_exported_computes_the_same(models: Path) -> None:
    expected = np.load(models / "expected.npz")
    async with started(models, "exported") as (executor, loaded):
        assert loaded.signature is not None
        assert {spec.name for spec in loaded.signature.inputs} == {"left", "right"}
        x = sample()["x"]
        found = (await executor.run([{"left": x, "right": x[:, :2]}], [3])).outputs[0]
        for name, array in zip(("scores", "joined"), found.values(), strict=True):
            np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6)


HOSTILE = {
    "hostile": "hostile touches files.*WriteFile",
    "checkpoint": "checkpoint writes or reads a file while it is loaded or served.*SaveV2",
    "spy": "spy reads a file that is not its asset.*InitializeTableFromTextFileV2",
    "lambda.keras": "lambda.keras holds a Lambda layer",
    "file.keras": "file.keras holds a vocabulary in the file '/etc/passwd'",
    "graph.keras": "graph.keras holds a TFSMLayer layer",
}


async def test_hostile_models_are_refused_and_nothing_is_written(models: Path) -> None:
    rewritten(models, "file.keras", b'{"name": "y"', b'{"vocabulary": "/etc/passwd", "name": "y"')
    rewritten(models, "graph.keras", b'"Dense"', b'"TFSMLayer"')
    for artifact, message in HOSTILE.items():
        path = models / artifact
        digest = tree_digest(path) if path.is_dir() else digest_of(path.read_bytes())
        with pytest.raises(ModelLoadFailed, match=f"{message}.*{digest} to the setting trusted_digests"):
            async with started(models, artifact):
                pass
    assert not list(models.glob("marker*"))


def rewritten(models: Path, name: str, old: bytes, new: bytes) -> None:
    """`sequential.keras` with another configuration, and a member that would leave the folder it is unpacked in."""
    with zipfile.ZipFile(models / "sequential.keras") as source, zipfile.ZipFile(models / name, "w") as target:
        for member in source.namelist():
            content = source.read(member)
            target.writestr(member, content.replace(old, new) if member == "config.json" else content)


async def test_a_member_that_leads_out_of_the_archive_is_refused(models: Path) -> None:
    rewritten(models, "slip.keras", b"", b"")
    with zipfile.ZipFile(models / "slip.keras", "a") as archive:
        archive.writestr("assets/../../../slipped", "x")
    with pytest.raises(ModelLoadFailed, match=r"its member 'assets/../../../slipped' leads out of the archive"):
        async with started(models, "slip.keras"):
            pass
    assert not (models.parent / "slipped").exists()


async def test_what_the_operator_trusts_is_loaded(models: Path) -> None:
    digest = digest_of((models / "lambda.keras").read_bytes())
    async with started(models, "lambda.keras", trusted=digest) as (executor, loaded):
        assert loaded.signature is not None
        (given,) = loaded.signature.inputs
        x = sample()["x"]
        ((found,),) = [list(output.values()) for output in (await executor.run([{given.name: x}], [3])).outputs]
        np.testing.assert_allclose(found, x * 2)
    async with started(models, "hostile", trusted=tree_digest(models / "hostile")) as (executor, _):
        await executor.run([{"x": x}], [3])
    assert (models / "marker").read_text() == "written"  # so the model was a hostile one
    (models / "marker").unlink()


async def test_a_table_in_an_asset_is_looked_up(models: Path) -> None:
    (models / "words.txt").unlink(missing_ok=True)  # it was copied into the model
    async with started(models, "words") as (executor, _):
        word = np.array([b"no", b"maybe", b"yes"], object)
        assert (await executor.run([{"word": word}], [3])).outputs[0]["index"].tolist() == [1, -1, 0]


async def test_damaged_models_and_wrong_options_are_named(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "saved", tmp_path / "cut")
    graph = tmp_path / "cut" / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:500])
    shutil.copytree(models / "saved", tmp_path / "weightless")
    next((tmp_path / "weightless" / "variables").glob("*.data*")).write_bytes(b"")
    (tmp_path / "cut.keras").write_bytes((models / "model.keras").read_bytes()[:900])
    (tmp_path / "model.h5").write_bytes(b"\x89HDF\r\n")
    shutil.copytree(models / "saved", tmp_path / "saved")
    wrong = Signature((TensorSpec("z", "float32", (-1, 4)),))
    cases: list[tuple[str, dict[str, object], type[EngineError], str]] = [
        ("cut", {}, ModelLoadFailed, "cannot be loaded by TensorFlow"),
        ("weightless", {}, ModelLoadFailed, "cannot be loaded by TensorFlow"),
        ("cut.keras", {}, ModelLoadFailed, "cannot be loaded by TensorFlow"),
        ("model.h5", {}, ModelLoadFailed, "neither the folder of a SavedModel nor a .keras file"),
        ("saved", {"declared": wrong}, ModelLoadFailed, "signature's inputs are"),
        ("saved", {"device": "tpu"}, InvalidManifest, "'tpu' is unknown"),
        ("saved", {"device": "cuda:9"}, RuntimeMissing, "sees 0 GPUs"),
        ("saved", {"options": {"threads": 2}}, InvalidManifest, "options.threads is not an option"),
        ("saved", {"options": {"signature": "other"}}, InvalidManifest, "'other'; it has: double, serving_default"),
    ]
    for artifact, wanted, kind, message in cases:
        with pytest.raises(kind, match=message):
            async with started(tmp_path, artifact, **wanted):  # type: ignore[arg-type]
                pass


async def test_the_manual_makes_a_model_that_is_served(tmp_path: Path) -> None:
    (script,) = blocks("runtimes/tensorflow.md", "python")
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=100, env=os.environ | QUIET)
    models, broken = FolderRepository([tmp_path / "models"]).scan()
    assert broken == []
    assert models[0].manifest.artifact == "saved"
    (text,) = blocks("runtimes/tensorflow.md", "yaml")
    (models[0].folder / "model.yaml").write_text(text)
    (model,), _ = FolderRepository([tmp_path / "models"]).scan()
    async with started(model.folder, model.manifest.artifact, options=model.manifest.options) as (executor, _):
        result = await executor.run([{"x": np.ones((2, 4), np.float32)}], [2])
        assert result.outputs[0]["scores"].tolist() == [[4, 4, 4]] * 2
