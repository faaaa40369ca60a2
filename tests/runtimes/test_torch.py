"""The torch runtime against PyTorch itself."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from inference_engine.domain.errors import InferenceFailed, InvalidManifest, ModelLoadFailed, RuntimeMissing
from inference_engine.domain.model import Execution, Manifest, Signature, TensorSpec
from inference_engine.infra.manifest_files import read_manifest
from inference_engine.infra.repository import FolderRepository
from inference_engine.infra.runtimes.torch import TorchRuntime
from inference_engine.infra.runtimes.torch.vetting_script import vet_script
from inference_engine.infra.runtimes.trust import TRUSTED_DIGESTS, digest_of
from tests.core.test_docs_examples import blocks
from tests.fixtures.tiny_torch import Touch, expected, net, rewritten, sample, save_program, save_script

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'inference-engine[torch]'")
pytestmark = pytest.mark.slow

INPUTS = (TensorSpec("x", "float32", (-1, 4)), TensorSpec("scale", "float32", (-1, 1)))
OUTPUTS = (TensorSpec("y", "float32", (-1, 3)), TensorSpec("total", "float32", (-1,)))
DECLARED = Signature(INPUTS, OUTPUTS)
WEIGHTS = {"class": "model.py:Net", "init": {"hidden": 8}}


def manifest(
    artifact: str, signature: Signature | None = DECLARED, device: str = "auto", **options: object
) -> Manifest:
    execution = Execution(threads=1, device=device)
    return Manifest("m", "1", "torch", artifact, signature=signature, execution=execution, options=options)


@pytest.fixture
def module(tmp_path: Path) -> Any:
    return net(tmp_path)


def check(runtime: TorchRuntime, module: Any, names: tuple[str, str] = ("y", "total"), tolerance: float = 1e-6) -> None:
    for rows in (1, 3, 17):
        inputs = sample(rows)
        found = runtime.run(inputs)
        assert tuple(found) == names
        for array, wanted in zip(found.values(), expected(module, inputs), strict=True):
            np.testing.assert_allclose(array, wanted, rtol=tolerance, atol=tolerance)


def test_an_exported_program_tells_its_tensors_and_computes_the_same(tmp_path: Path, module: Any) -> None:
    save_program(module, tmp_path / "model.pt2")
    runtime = TorchRuntime()
    loaded = runtime.load(manifest("model.pt2", None), tmp_path)
    assert loaded.signature == Signature(
        INPUTS, (TensorSpec("output_0", "float32", (-1, 3)), TensorSpec("output_1", "float32", (-1,)))
    )
    assert loaded.signature.batched
    check(runtime, module, ("output_0", "output_1"))
    runtime.close()


def test_torchscript_and_weights_compute_the_same(tmp_path: Path, module: Any) -> None:
    from safetensors.torch import save_file

    save_script(module, tmp_path / "model.pt")
    torch.save(module.state_dict(), tmp_path / "model.pth")
    torch.save({"state_dict": module.state_dict(), "epoch": 3}, tmp_path / "trained.ckpt")
    torch.save(module.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    for artifact, options in (
        ("model.pt", {}),
        ("model.pth", WEIGHTS),
        ("trained.ckpt", WEIGHTS),
        ("old.pt", WEIGHTS),
        ("model.safetensors", WEIGHTS),
    ):
        runtime = TorchRuntime()
        loaded = runtime.load(manifest(artifact, **options), tmp_path)
        assert loaded.signature == DECLARED
        check(runtime, module)


def test_structured_inputs_and_outputs_have_names(tmp_path: Path) -> None:
    class Structured(torch.nn.Module):
        def forward(self, pair: dict[str, Any], factor: float) -> dict[str, Any]:
            return {"sum": pair["a"] + pair["b"], "many": (pair["a"] * factor, pair["b"])}

    example = {"a": torch.ones(2, 3), "b": torch.ones(2, 3)}
    torch.export.save(torch.export.export(Structured(), (example, 2.0)), tmp_path / "model.pt2")
    runtime = TorchRuntime()
    loaded = runtime.load(manifest("model.pt2", None), tmp_path)
    assert loaded.signature is not None
    assert [spec.name for spec in loaded.signature.inputs] == ["pair_a", "pair_b"]
    assert [spec.name for spec in loaded.signature.outputs] == ["sum", "many_0", "many_1"]
    found = runtime.run({"pair_a": np.full((2, 3), 2, np.float32), "pair_b": np.ones((2, 3), np.float32)})
    assert [float(array[0, 0]) for array in found.values()] == [3, 4, 1]


def test_a_dtype_changes_the_computation_and_not_the_client(tmp_path: Path, module: Any) -> None:
    torch.save(module.state_dict(), tmp_path / "model.pth")
    runtime = TorchRuntime()
    runtime.load(manifest("model.pth", dtype="bfloat16", **WEIGHTS), tmp_path)
    check(runtime, module, tolerance=0.05)
    assert runtime.run(sample())["y"].dtype == np.float32


def test_outputs_that_are_the_models_own_memory_are_copied(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(
        "import torch\n"
        "class Counter(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.register_buffer('count', torch.zeros(1))\n"
        "    def forward(self, x):\n"
        "        x.zero_()\n"
        "        return self.count.add_(1)\n"
    )
    torch.save({"count": torch.zeros(1)}, tmp_path / "model.pth")
    runtime = TorchRuntime()
    signature = Signature((TensorSpec("x", "float32", (1,)),))
    runtime.load(manifest("model.pth", signature, **{"class": "model.py:Counter"}), tmp_path)
    x = np.ones(1, np.float32)
    first, second = runtime.run({"x": x})["output"], runtime.run({"x": x})["output"]
    assert (first.tolist(), second.tolist(), x.tolist()) == ([1], [2], [1])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's compiler uses what it deprecates
def test_a_compiled_module_computes_the_same(tmp_path: Path, module: Any) -> None:
    torch.save(module.state_dict(), tmp_path / "model.pth")
    runtime = TorchRuntime()
    assert runtime.load(manifest("model.pth", compile=True, **WEIGHTS), tmp_path).details["compiled"] is True
    check(runtime, module)


@pytest.mark.parametrize("form", ["state", "whole", "legacy"])
def test_a_hostile_pickle_is_not_run(tmp_path: Path, module: Any, form: str) -> None:
    marker = tmp_path / "marker"
    content = {"state": {"w": Touch(marker)}, "whole": Touch(marker), "legacy": {"w": Touch(marker)}}[form]
    torch.save(content, tmp_path / "model.pt", _use_new_zipfile_serialization=form != "legacy")
    with pytest.raises(ModelLoadFailed, match="holds more than tensors"):
        TorchRuntime().load(manifest("model.pt", **WEIGHTS), tmp_path)
    assert not marker.exists()


@pytest.mark.parametrize("form", ["state", "module"])
def test_a_trusted_pickle_is_read_and_no_other(
    tmp_path: Path, module: Any, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """A checkpoint with an object beside the tensors; a whole module, whose class lies in `tiny_net.py` beside it."""
    if form == "state":
        torch.save({"state_dict": module.state_dict(), "folder": Path("runs")}, tmp_path / "model.pt")
        options: dict[str, Any] = WEIGHTS
    else:
        (tmp_path / "tiny_net.py").write_text((tmp_path / "model.py").read_text())
        saving = "import torch, tiny_net; torch.manual_seed(0); torch.save(tiny_net.Net(8), 'model.pt')"
        subprocess.run([sys.executable, "-c", saving], cwd=tmp_path, check=True, timeout=60)
        options = {}
    digest = digest_of((tmp_path / "model.pt").read_bytes())
    with pytest.raises(ModelLoadFailed, match=f"(?s)model.pt holds more than tensors.*{digest}.*trusted_digests"):
        TorchRuntime().load(manifest("model.pt", **options), tmp_path)
    monkeypatch.setenv(TRUSTED_DIGESTS, digest)
    runtime = TorchRuntime()
    runtime.load(manifest("model.pt", **options), tmp_path)
    check(runtime, module)
    if form == "module":
        (tmp_path / "tiny_net.py").unlink()
        with pytest.raises(ModelLoadFailed, match=r"needs classes that are not here .*tiny_net"):
            TorchRuntime().load(manifest("model.pt"), tmp_path)
        with pytest.raises(InvalidManifest, match="in a runner process only"):
            threaded = msgspec.structs.replace(manifest("model.pt"), execution=Execution(executor="thread"))
            TorchRuntime().load(threaded, tmp_path)


def test_torchscript_that_touches_files_is_read_only_if_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "marker"

    class Writes(torch.nn.Module):
        def forward(self, x: torch.Tensor, place: str = str(marker)) -> torch.Tensor:
            torch.save(x, place)
            return x

    class Reads(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.from_file("/etc/hostname", size=1, dtype=torch.uint8)

    signature = Signature((TensorSpec("x", "float32", (-1, 4)),))
    for module, word in ((Reads(), "torch.from_file"), (Writes(), "torch.save")):
        save_script(module, tmp_path / "model.pt")
        with pytest.raises(ModelLoadFailed, match=f"uses '{word}' in code/.*trusted_digests"):
            TorchRuntime().load(manifest("model.pt", signature), tmp_path)
    assert not marker.exists()
    monkeypatch.setenv(TRUSTED_DIGESTS, digest_of((tmp_path / "model.pt").read_bytes()))
    runtime = TorchRuntime()
    runtime.load(manifest("model.pt", signature), tmp_path)
    runtime.run({"x": np.ones((1, 4), np.float32)})
    assert marker.exists()  # so the file was a hostile one


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # those of torch.ao
def test_torchscript_of_many_kinds_only_computes(tmp_path: Path) -> None:
    linear = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LSTM(4, 4))
    quantized = torch.ao.quantization.quantize_dynamic(linear, {torch.nn.Linear, torch.nn.LSTM})
    for module in (torch.nn.Transformer(8, 2, 1, 1, 16), torch.nn.MultiheadAttention(4, 2), linear, quantized):
        vet_script(save_script(module.eval(), tmp_path / "model.pt"))


def hostile_programs(marker: Path, model: dict[str, Any]) -> dict[str, dict[str, bytes]]:
    """Records of an exported program, each of which would run code when PyTorch reads them unseen."""
    import pickle

    pickled = io.BytesIO()
    torch.save({"w": Touch(marker)}, pickled)
    touch = f"__import__('pathlib').Path({str(marker)!r}).touch()"

    def changed(change: Any) -> dict[str, bytes]:
        copy = json.loads(json.dumps(model))
        change(copy)
        return {"models/model.json": json.dumps(copy).encode()}

    def size(copy: dict[str, Any]) -> None:
        copy["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]["as_expr"]["expr_str"] = touch

    def operator(copy: dict[str, Any]) -> None:
        copy["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.system"

    def name(copy: dict[str, Any]) -> None:
        copy["graph_module"]["graph"]["nodes"][0]["name"] = f"a=1\n    {touch}"

    def argument(copy: dict[str, Any]) -> None:
        copy["graph_module"]["module_call_graph"][0]["signature"]["forward_arg_names"][0] = f"x={touch}"

    def keyword(copy: dict[str, Any]) -> None:
        signature = copy["graph_module"]["module_call_graph"][0]["signature"]
        structure = json.loads(signature["in_spec"])
        structure[1]["children_spec"][1]["context"] = json.dumps([f"x={touch}"])
        signature["in_spec"] = json.dumps(structure)

    quoted = f"L[\"'] == {touch} == L['\"]"
    return {
        "pickled sample": {"data/sample_inputs/model.pt": pickled.getvalue()},
        "opaque object": {"data/constants/opaque_obj_0": pickle.dumps(Touch(marker))},
        "compiled code": {"data/aotinductor/model/model.so": b"\x7fELF"},
        "size": changed(size),
        "operator": changed(operator),
        "name": changed(name),
        "argument": changed(argument),
        "keyword": changed(keyword),
        "quoted guard": changed(lambda copy: copy.update(guards_code=[quoted])),
        "guard": changed(lambda copy: copy.update(guards_code=[touch])),
    }


def test_a_hostile_program_is_not_read(tmp_path: Path, module: Any) -> None:
    source = save_program(module, tmp_path / "model.pt2")
    reader = torch._C.PyTorchFileReader(str(source))
    marker = tmp_path / "marker"
    records = reader.get_all_records()
    root = "data/" if "data/models/model.json" in records else ""
    model = json.loads(reader.get_record(f"{root}models/model.json"))
    del reader
    rewritten(source, tmp_path / "same.pt2", {})
    TorchRuntime().load(manifest("same.pt2", None), tmp_path)
    for what, changes in hostile_programs(marker, model).items():
        named = {(name if root else name.removeprefix("data/")): content for name, content in changes.items()}
        rewritten(source, tmp_path / "hostile.pt2", named)
        with pytest.raises(ModelLoadFailed, match=r"it is refused.*trusted_digests"):
            TorchRuntime().load(manifest("hostile.pt2", None), tmp_path)
        assert not marker.exists(), what


def test_damaged_files_are_refused_by_name(tmp_path: Path, module: Any) -> None:
    from safetensors.torch import save_file

    save_file(module.state_dict(), tmp_path / "model.safetensors")
    torch.save(module.state_dict(), tmp_path / "model.pth")
    for file in (
        save_program(module, tmp_path / "model.pt2"),
        save_script(module, tmp_path / "model.pt"),
        tmp_path / "model.pth",
        tmp_path / "model.safetensors",
    ):
        whole = file.read_bytes()
        options = WEIGHTS if file.suffix in (".pth", ".safetensors") else {}
        for content in (b"", b"noise" * 100, whole[: len(whole) // 2], whole[:-20]):
            file.write_bytes(content)
            with pytest.raises(ModelLoadFailed) as caught:
                TorchRuntime().load(manifest(file.name, **options), tmp_path)
            assert str(file) in caught.value.message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"model.pth holds weights alone: name the class"),
        ({"class": "model:Net"}, "must be FILE.py:ClassName"),
        ({"class": "../model.py:Net"}, "inside the model's folder"),
        ({"class": "other.py:Net"}, "does not exist"),
        ({"class": "model.py:Other"}, "no torch.nn.Module called Other"),
        ({"class": "model.py:Net", "init": {"hidden": 9}}, "does not fit Net.*size mismatch"),
        ({"class": "model.py:Net", "init": {"depth": 9}}, "unexpected keyword argument 'depth'"),
        ({"klass": "model.py:Net"}, r"options.klass is not an option of the torch runtime; it takes: class, init"),
        ({"dtype": "int4"}, "options.dtype"),
    ],
)
def test_a_wrong_class_or_option_is_named(
    tmp_path: Path, module: Any, options: dict[str, object], message: str
) -> None:
    torch.save(module.state_dict(), tmp_path / "model.pth")
    with pytest.raises((ModelLoadFailed, InvalidManifest), match=f"(?s){message}"):
        TorchRuntime().load(manifest("model.pth", **options), tmp_path)


def test_signatures_that_do_not_fit_are_named(tmp_path: Path, module: Any) -> None:
    save_program(module, tmp_path / "model.pt2")
    torch.save(module.state_dict(), tmp_path / "model.pth")
    texts = Signature((TensorSpec("x", "bytes", (-1, 4)), INPUTS[1]))
    misspelt = Signature((INPUTS[0], TensorSpec("scales", "float32", (-1, 1))))
    for artifact, signature, message in (
        ("model.pth", None, "declare signature.inputs"),
        ("model.pth", texts, "no tensors of texts"),
        ("model.pth", misspelt, "no parameter 'scales'; it has x, scale"),
        ("model.pth", Signature(INPUTS[:1]), "forward needs 'scale'"),
        ("model.pt2", misspelt, r"signature's inputs are"),
    ):
        options = WEIGHTS if artifact == "model.pth" else {}
        with pytest.raises((ModelLoadFailed, InvalidManifest), match=message):
            TorchRuntime().load(manifest(artifact, signature, **options), tmp_path)
    wrong = Signature(INPUTS, (OUTPUTS[0],))
    runtime = TorchRuntime()
    runtime.load(manifest("model.pth", wrong, **WEIGHTS), tmp_path)
    with pytest.raises(InferenceFailed, match="the signature says"):
        runtime.run(sample())


def test_a_device_that_is_not_there_says_so(tmp_path: Path, module: Any) -> None:
    save_program(module, tmp_path / "model.pt2")
    with pytest.raises(InvalidManifest, match="'tpu' is unknown"):
        TorchRuntime().load(manifest("model.pt2", None, "tpu"), tmp_path)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeMissing, match="sees no cuda device"):
            TorchRuntime().load(manifest("model.pt2", None, "cuda"), tmp_path)


def test_the_manual_makes_models_that_are_served(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (script,) = blocks("runtimes/torch.md", "python")
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=100)
    models, broken = FolderRepository([tmp_path / "models"]).scan()
    assert broken == []
    runtime = TorchRuntime()
    runtime.load(models[0].manifest, models[0].folder)
    assert runtime.run({"x": np.ones((3, 4), np.float32)})["scores"].shape == (3, 3)

    (text,) = blocks("runtimes/torch.md", "yaml")
    (tmp_path / "model.py").write_text(script.partition("folder = ")[0])
    namespace: dict[str, Any] = {}
    exec(script.partition("folder = ")[0], namespace)
    save_file(namespace["Net"]().state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "model.yaml").write_text(text)
    runtime = TorchRuntime()
    runtime.load(read_manifest(tmp_path / "model.yaml", "net", "1"), tmp_path)
    assert runtime.run({"x": np.ones((3, 4), np.float32)})["scores"].shape == (3, 3)
