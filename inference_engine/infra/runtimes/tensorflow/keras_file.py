"""Opens a Keras 3 file and makes one function of its model. Files that carry code need the operator's trust."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from inference_engine.domain.errors import ModelLoadFailed, RuntimeMissing
from inference_engine.domain.model import Manifest
from inference_engine.infra.runtimes.tensorflow.saved_model import damaged
from inference_engine.infra.runtimes.trust import digest_of, require_trust

_CODE = frozenset(("Lambda", "__lambda__", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer"))
"""Classes whose configuration holds Python's byte code, a pickle, or the path of a graph outside the file."""
_CONFIG = "config.json"


def open_keras(path: Path, manifest: Manifest) -> tuple[Any, Any, list[str], list[str]]:
    """The model at `path`, a concrete function of its flat inputs, and the names of inputs and outputs.

    Raises:
        ModelLoadFailed: it is damaged, carries code (a Lambda layer) that nobody trusts, or does not tell its inputs.
    """
    content = path.read_bytes()
    if word := _code_in(path, content):
        require_trust(path, digest_of(content), manifest, f"holds a {word}, which is code or reads files")
    import keras
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        raise RuntimeMissing(
            f"Keras is set to the backend {keras.backend.backend()!r}: set KERAS_BACKEND=tensorflow for the server"
        )
    try:
        model = _trusted_model(content) if word else keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged file fails in many ways; safe mode raises ValueError
        raise damaged(path, error) from None
    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        raise ModelLoadFailed(
            f"{path} does not tell its inputs: build it from keras.Input, or export it with model.export(FOLDER)",
            param="artifact",
        )
    structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input

    def compute(*flat: Any) -> Any:
        return keras.tree.flatten(model(keras.tree.pack_sequence_as(structure, list(flat)), training=False))

    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in keras.tree.flatten(structure)]
    try:
        function = tf.function(compute, input_signature=specs).get_concrete_function()
    except Exception as error:  # the model's own layers run here
        raise damaged(path, error) from None
    inputs = [tensor.name for tensor in keras.tree.flatten(structure)]
    outputs = [model.layers[-1].name] if isinstance(model, keras.Sequential) else list(model.output_names)
    return model, function, inputs, outputs


def _trusted_model(content: bytes) -> Any:
    """The model in the bytes that the operator trusts. Keras reads files alone, so they are written to one of ours."""
    import keras

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "model.keras"
        copy.write_bytes(content)
        return keras.saving.load_model(copy, compile=False, safe_mode=False)


def _code_in(path: Path, content: bytes) -> str:
    """The first class in a Keras file that carries code, "" where there is none.

    Raises:
        ModelLoadFailed: it is no whole archive, or a member's name leads out of it.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
                    raise ModelLoadFailed(
                        f"{path} is refused because its member {name!r} leads out of the archive", param="artifact"
                    )
            config = json.loads(archive.read(_CONFIG))
    except (zipfile.BadZipFile, KeyError, ValueError, RecursionError, NotImplementedError, OSError) as error:
        raise damaged(path, error) from None
    return next(_code(config), "")


def _code(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            name, settings = item.get("class_name"), item.get("config")
            if name in _CODE:
                yield f"{name} layer"
            if isinstance(settings, dict) and isinstance(settings.get("vocabulary"), str):
                yield f"vocabulary in the file {settings['vocabulary'][:80]!r}"
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
