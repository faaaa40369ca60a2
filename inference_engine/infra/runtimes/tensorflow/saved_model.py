"""Opens a SavedModel and finds the signature to serve. Graphs that leave the model's folder need trust."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from inference_engine.domain.errors import InvalidManifest, ModelLoadFailed
from inference_engine.domain.model import Manifest
from inference_engine.infra.runtimes.tensorflow.vetting import reaching_out
from inference_engine.infra.runtimes.trust import require_trust, tree_digest

MODEL_FILE = "saved_model.pb"
_DEFAULT = "serving_default"


def open_saved_model(folder: Path, wanted: str | None, manifest: Manifest) -> tuple[Any, Any]:
    """The model in `folder`, which must be kept as long as its function is used, and the function of a signature.

    Raises:
        ModelLoadFailed: it is damaged, or reaches out of its folder and nobody trusts it.
        InvalidManifest: there is no such signature.
    """
    import tensorflow as tf

    file = folder / MODEL_FILE
    if not file.is_file():
        raise ModelLoadFailed(f"{folder} holds no {MODEL_FILE}: it is no SavedModel", param="artifact")
    if reason := _looked_through(file):
        require_trust(folder, tree_digest(folder), manifest, reason)
    try:
        model = tf.saved_model.load(str(folder))
    except Exception as error:  # a damaged model fails in many ways
        raise damaged(folder, error) from None
    signatures = dict(model.signatures)
    known = ", ".join(sorted(signatures)) or "none"
    name = wanted or (_DEFAULT if _DEFAULT in signatures or len(signatures) != 1 else next(iter(signatures)))
    if name not in signatures:
        raise InvalidManifest(
            f"options.signature: {folder} has no signature {name!r}; it has: {known}", param="options.signature"
        )
    return model, signatures[name]


def damaged(path: Path, error: Exception) -> ModelLoadFailed:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ModelLoadFailed(
        f"{path} cannot be loaded by TensorFlow: {type(error).__name__}: {lines[0][:500]}. It may be damaged",
        param="artifact",
    )


def _looked_through(file: Path) -> str:
    """How the graphs in `file` touch files of their choosing or call Python; "" where they do not.

    Raises:
        ModelLoadFailed: it is damaged, or an asset lies outside the model's folder.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    content = saved_model_pb2.SavedModel()
    try:
        content.ParseFromString(file.read_bytes())
    except DecodeError as error:
        raise damaged(file, error) from None
    for graph in content.meta_graphs:
        for asset in graph.asset_file_def:
            path = PurePosixPath(asset.filename)
            if path.is_absolute() or ".." in path.parts:
                raise ModelLoadFailed(
                    f"{file} is refused because its asset {asset.filename!r} lies outside the model", param="artifact"
                )
    return next((reason for graph in content.meta_graphs for reason in reaching_out(graph)), "")
