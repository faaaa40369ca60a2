"""Runs MLflow model folders: hands a native file inside to its own runtime, and else loads the Python function.

`artifact` is the folder's `MLmodel` file (or the folder). Flavours with a native file (onnx, xgboost, lightgbm,
sklearn) need no mlflow. `python_function` needs it and runs the code of the folder: that takes the operator's trust.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import numpy as np

from inference_engine.core.yaml_source import YamlError, parse_yaml
from inference_engine.domain.errors import InferenceFailed, ModelLoadFailed, RuntimeMissing
from inference_engine.domain.model import Manifest, Signature, TensorSpec
from inference_engine.domain.ports import Loaded, Runtime
from inference_engine.domain.runtime_defaults import RuntimeDefaults
from inference_engine.domain.tensors import Array, Tensors
from inference_engine.infra.runtimes.catalog import EntryPointCatalog
from inference_engine.infra.runtimes.files import artifact_path, file_inside
from inference_engine.infra.runtimes.options import decode_options
from inference_engine.infra.runtimes.tabular import PREDICTION, agreed, outgoing, text
from inference_engine.infra.runtimes.trust import require_trust, tree_digest

_NATIVE: Mapping[str, str] = {"onnx": "data", "xgboost": "data", "lightgbm": "data", "sklearn": "pickled_model"}
"""Flavours that another runtime of the same name runs, best first, and the key of their file."""
_COLUMN_TYPES = {
    "boolean": "bool",
    "integer": "int32",
    "long": "int64",
    "float": "float32",
    "double": "float64",
    "string": "bytes",
}


class MlflowOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`options` of an mlflow model that only has the flavour python_function. It has none."""


class MlflowRuntime(RuntimeDefaults):
    """One MLflow model: another runtime behind it, or a Python function."""

    def __init__(self) -> None:
        self._native: Runtime | None = None
        self._function: Any = None
        self._inputs: tuple[TensorSpec, ...] = ()
        self._output = PREDICTION
        self._table = False

    def load(self, manifest: Manifest, folder: Path) -> Loaded:
        path = artifact_path(folder, manifest.artifact)
        home = PurePosixPath(manifest.artifact)
        if path.is_dir():
            path = artifact_path(folder, str(home / "MLmodel"))
        else:
            home = home.parent
        described = _read(path)
        flavours = described["flavors"]
        told = {"mlflow": str(described.get("mlflow_version", "unknown"))}
        for name, key in _NATIVE.items():
            if isinstance(found := flavours.get(name), dict) and isinstance(file := found.get(key), str):
                manifest = _with_types(manifest, found) if name == "sklearn" else manifest
                return self._load_native(manifest, folder, name, str(home / file), told)
        if "python_function" in flavours:
            return self._load_function(manifest, path, described, told)
        raise ModelLoadFailed(
            f"{path}: none of its flavours can be run here: {', '.join(map(str, flavours)) or 'it names none'}; log "
            f"the model with one of {', '.join(_NATIVE)}, python_function",
            param="artifact",
        )

    def _load_native(self, manifest: Manifest, folder: Path, runtime: str, file: str, told: dict[str, str]) -> Loaded:
        file_inside(folder, file, "artifact")
        self._native = EntryPointCatalog().create(runtime)
        loaded = self._native.load(msgspec.structs.replace(manifest, runtime=runtime, artifact=file), folder)
        return msgspec.structs.replace(loaded, details=loaded.details | told | {"flavour": runtime})

    def _load_function(self, manifest: Manifest, path: Path, described: Mapping[str, Any], told: Any) -> Loaded:
        decode_options(manifest.options, MlflowOptions, "mlflow")
        require_trust(path.parent, tree_digest(path.parent), manifest, "has only the flavour python_function")
        try:
            from mlflow import pyfunc
        except ImportError as error:
            raise RuntimeMissing(
                f"mlflow cannot be imported ({error}): pip install 'inference-engine[mlflow]'"
            ) from error
        signature = _signature(path, described)
        self._table = _is_table(described)
        if manifest.signature is not None:
            signature = manifest.signature if signature is None else agreed(manifest.signature, signature, path)
        if signature is None:
            raise ModelLoadFailed(
                f"{path} has no signature: log the model with one, or declare it in model.yaml", param="signature"
            )
        self._inputs = signature.inputs
        if len(signature.outputs) == 1:
            self._output = signature.outputs[0].name
        sys.dont_write_bytecode = True  # the folder's digest shall be the same at the next load
        try:
            self._function = pyfunc.load_model(str(path.parent))
        except Exception as error:  # the folder's own code
            raise ModelLoadFailed(
                f"{path} cannot be loaded by MLflow: {type(error).__name__}: {error}", param="artifact"
            ) from error
        return Loaded(("predict",), signature, details=told | {"flavour": "python_function"})

    def run(self, batch: Tensors) -> Tensors:
        if self._native is not None:
            return self._native.run(batch)
        try:
            found = self._function.predict(self._rows(batch))
        except Exception as error:  # the folder's own code
            raise InferenceFailed(f"the MLflow function failed: {type(error).__name__}: {error}") from error
        return _named(found, self._output)

    def _rows(self, batch: Tensors) -> Any:
        given = {spec.name: _given(spec, batch[spec.name]) for spec in self._inputs}
        if self._table:
            import pandas

            return pandas.DataFrame({name: array.ravel() for name, array in given.items()})
        return given if len(given) > 1 else next(iter(given.values()))

    def gauges(self) -> Mapping[str, float]:
        return self._native.gauges() if self._native is not None else {}

    def close(self) -> None:
        if self._native is not None:
            self._native.close()
        self._native = self._function = None


def _with_types(manifest: Manifest, flavour: Mapping[str, Any]) -> Manifest:
    """The types that MLflow recorded for a skops file, unless `options` names its own. They are checked like those."""
    types = flavour.get("skops_trusted_types")
    if not isinstance(types, list) or "trusted_types" in manifest.options:
        return manifest
    return msgspec.structs.replace(manifest, options={**manifest.options, "trusted_types": types})


def _given(spec: TensorSpec, array: Array) -> Array:
    return text(spec.name, array) if spec.dtype == "bytes" else array


def _named(found: Any, alone: str) -> dict[str, Array]:
    """A DataFrame's columns, a dict's items, or one output called `alone`."""
    if hasattr(found, "columns"):
        return {str(name): outgoing(found[name].to_numpy()) for name in found.columns}
    if isinstance(found, dict):
        return {str(name): outgoing(value) for name, value in found.items()}
    return {alone: outgoing(found.to_numpy() if hasattr(found, "to_numpy") else found)}


def _read(path: Path) -> dict[str, Any]:
    """The `MLmodel` file.

    Raises:
        ModelLoadFailed: it is no YAML, or names no flavours.
    """
    try:
        data = parse_yaml(path.read_text(encoding="utf-8")).data
    except YamlError as error:
        raise ModelLoadFailed(f"{path}:{error.line}: {error.problem}", param="artifact") from None
    except UnicodeDecodeError as error:
        raise ModelLoadFailed(f"{path} is not text: name the MLmodel file ({error})", param="artifact") from None
    if not isinstance(data, dict) or not isinstance(data.get("flavors"), dict):
        raise ModelLoadFailed(f"{path} names no flavors: it is not an MLmodel file", param="artifact")
    return data


def _signature(path: Path, described: Mapping[str, Any]) -> Signature | None:
    """What MLflow recorded of inputs and outputs; None where it recorded no inputs."""
    given = described.get("signature")
    if not isinstance(given, dict) or not given.get("inputs"):
        return None
    inputs = _specs(path, given["inputs"], "input")
    outputs = _specs(path, given["outputs"], PREDICTION) if given.get("outputs") else ()
    return Signature(inputs, outputs)


def _is_table(described: Mapping[str, Any]) -> bool:
    return '"tensor"' not in str(described.get("signature", {}).get("inputs"))


def _specs(path: Path, listed: str, alone: str) -> tuple[TensorSpec, ...]:
    try:
        return tuple(_spec(column, alone) for column in json.loads(listed))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelLoadFailed(
            f"{path}: its signature holds a type that cannot be served ({error}): declare the signature in model.yaml",
            param="signature",
        ) from None


def _spec(column: Mapping[str, Any], alone: str) -> TensorSpec:
    name = str(column.get("name", alone))
    if column["type"] == "tensor":
        told = column["tensor-spec"]
        dtype = "bytes" if np.dtype(told["dtype"]).kind in "OSU" else np.dtype(told["dtype"]).name
        return TensorSpec(name, dtype, tuple(told["shape"]))
    return TensorSpec(name, _COLUMN_TYPES[column["type"]], (-1,))
