"""Opens a SavedModel and finds the signature to serve. Refuses graphs that leave the model's folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from inference_engine.domain.errors import InvalidManifest, ModelLoadFailed

MODEL_FILE = "saved_model.pb"
_DEFAULT = "serving_default"
_FILE_OPERATORS = ("ReadFile", "WriteFile", "MatchingFiles", "WholeFileReader", "WholeFileReaderV2", "PrintV2")
_DATA_OPERATORS = ("LoadDataset", "SaveDataset", "SaveDatasetV2", "SnapshotDataset", "SnapshotDatasetV2")
_OUTSIDE = frozenset((*_FILE_OPERATORS, *_DATA_OPERATORS, "PyFunc", "PyFuncStateless", "EagerPyFunc"))
"""Operators that touch files of their own choosing, or call Python."""


def open_saved_model(folder: Path, wanted: str | None) -> tuple[Any, Any]:
    """The model in `folder`, which must be kept as long as its function is used, and the function of a signature.

    Raises:
        ModelLoadFailed: it is damaged, or reaches out of its folder. InvalidManifest: there is no such signature.
    """
    import tensorflow as tf

    file = folder / MODEL_FILE
    if not file.is_file():
        raise ModelLoadFailed(f"{folder} holds no {MODEL_FILE}: it is no SavedModel", param="artifact")
    _vet(file)
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


def _vet(file: Path) -> None:
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    content = saved_model_pb2.SavedModel()
    try:
        content.ParseFromString(file.read_bytes())
    except DecodeError as error:
        raise damaged(file, error) from None
    for graph in content.meta_graphs:
        nodes = [*graph.graph_def.node, *(n for f in graph.graph_def.library.function for n in f.node_def)]
        for node in nodes:
            if node.op in _OUTSIDE:
                raise ModelLoadFailed(
                    f"{file} is refused because its operator {node.name!r} ({node.op}) touches files or calls Python",
                    param="artifact",
                )
        for asset in graph.asset_file_def:
            path = PurePosixPath(asset.filename)
            if path.is_absolute() or ".." in path.parts:
                raise ModelLoadFailed(
                    f"{file} is refused because its asset {asset.filename!r} lies outside the model", param="artifact"
                )
