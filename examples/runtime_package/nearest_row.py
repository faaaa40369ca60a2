"""A whole runtime: answers each row with the label of the nearest row of a CSV file (`1.5,2.0,label` on each line)."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from inference_engine.domain.errors import InvalidManifest, ModelLoadFailed
from inference_engine.domain.model import Manifest, Signature, TensorSpec
from inference_engine.domain.ports import Loaded
from inference_engine.domain.runtime_defaults import RuntimeDefaults
from inference_engine.domain.tensors import Tensors


class NearestRowRuntime(RuntimeDefaults):
    """One table. `options: {metric: euclidean | manhattan}` chooses the distance."""

    def load(self, manifest: Manifest, folder: Path) -> Loaded:
        """Called once, in a process of the model's own: read the artifact and say what the model takes and gives."""
        unknown = sorted(manifest.options.keys() - {"metric"})
        if unknown:
            raise InvalidManifest(f"options.{unknown[0]} is unknown: this runtime takes metric", param="options")
        self._order = {"euclidean": 2, "manhattan": 1}.get(manifest.options.get("metric", "euclidean"))
        if self._order is None:
            raise InvalidManifest("options.metric must be euclidean or manhattan", param="options.metric")
        path = folder / manifest.artifact
        try:
            with path.open(newline="", encoding="utf-8") as file:
                lines = [line for line in csv.reader(file) if line]
            self._rows = np.array([line[:-1] for line in lines], dtype=np.float32)
        except (OSError, ValueError) as error:
            raise ModelLoadFailed(f"{path} is no table of numbers and a label: {error}", param="artifact") from error
        if self._rows.ndim != 2 or not self._rows.size:
            raise ModelLoadFailed(f"{path} holds no rows", param="artifact")
        self._labels = np.array([line[-1].encode() for line in lines], dtype=object)
        signature = Signature(
            inputs=(TensorSpec("input", "float32", (-1, self._rows.shape[1])),),
            outputs=(TensorSpec("label", "bytes", (-1,)), TensorSpec("distance", "float32", (-1,))),
        )
        return Loaded(("predict",), signature, details={"rows": len(lines)})

    def run(self, batch: Tensors) -> Tensors:
        """Compute one batch, merged from the requests that wait. The inputs fit the signature: that is checked."""
        distances = np.linalg.norm(batch["input"][:, None, :] - self._rows[None], ord=self._order, axis=2)
        nearest = distances.argmin(axis=1)
        return {"label": self._labels[nearest], "distance": distances.min(axis=1)}

    def close(self) -> None:
        """Free what `load` took."""
        self._rows = self._labels = np.empty(0)
