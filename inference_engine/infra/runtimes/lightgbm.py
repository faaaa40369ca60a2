"""Runs LightGBM models in their own text format. Knows boosters, not how batches are formed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from inference_engine.domain.errors import InferenceFailed, ModelLoadFailed, RuntimeMissing
from inference_engine.domain.model import Manifest, Signature
from inference_engine.domain.ports import Loaded
from inference_engine.domain.runtime_defaults import RuntimeDefaults
from inference_engine.domain.tensors import Array, Tensors
from inference_engine.infra.runtimes.files import artifact_path
from inference_engine.infra.runtimes.options import decode_options
from inference_engine.infra.runtimes.tabular import (
    INPUT,
    LABEL,
    PREDICTION,
    PROBABILITIES,
    agreed,
    probe,
    rows_input,
)
from inference_engine.infra.runtimes.threads import thread_count

_OTHERS = {"raw": {"raw_score": True}, "contributions": {"pred_contrib": True}, "leaves": {"pred_leaf": True}}
"""What `Booster.predict` is asked for by the other methods."""
_FLOATS = ("float32", "float64")


class LightgbmOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`options` of a lightgbm model.

    method: auto gives label and probabilities of a classifier and prediction of any other model; predict is what
    Booster.predict gives; raw is the sum before the link function; contributions are SHAP values with the bias last;
    leaves are the indices of the leaves.
    """

    method: Literal["auto", "predict", "raw", "contributions", "leaves"] = "auto"


class LightgbmRuntime(RuntimeDefaults):
    """One booster. Missing values are NaN; values of categorical features are their codes."""

    def __init__(self) -> None:
        self._booster: Any = None
        self._objective = ""
        self._method = "auto"
        self._threads = 1

    def load(self, manifest: Manifest, folder: Path) -> Loaded:
        options = decode_options(manifest.options, LightgbmOptions, "lightgbm")
        path = artifact_path(folder, manifest.artifact)
        self._threads = thread_count(manifest.execution.threads)
        self._booster, objective = _open(path)
        self._objective, self._method = objective, options.method
        inputs = rows_input(self._booster.num_feature(), "float64")
        if manifest.signature is not None:
            inputs = agreed(Signature(manifest.signature.inputs), Signature(inputs), path, _FLOATS).inputs
        signature = agreed(manifest.signature, Signature(inputs, probe(inputs, self.run)), path, _FLOATS)
        import lightgbm

        details = {
            "objective": objective,
            "features": self._booster.feature_name(),
            "trees": self._booster.num_trees(),
            "size_bytes": path.stat().st_size,
            "threads": self._threads,
            "library": f"lightgbm {lightgbm.__version__}",
        }
        return Loaded(("predict",), signature, details=details)

    def run(self, batch: Tensors) -> Tensors:
        try:
            found = self._booster.predict(batch[INPUT], num_threads=self._threads, **_OTHERS.get(self._method, {}))
        except Exception as error:  # LightGBM raises its own error, ValueError and TypeError
            raise InferenceFailed(f"LightGBM failed: {error}") from error
        return self._named(np.asarray(found))

    def _named(self, found: Array) -> dict[str, Array]:
        if self._method != "auto":
            return {PREDICTION: found}
        if self._objective == "binary":
            return {LABEL: (found > 0.5).astype(np.int64), PROBABILITIES: np.stack([1 - found, found], axis=1)}
        if self._objective in ("multiclass", "multiclassova"):
            return {LABEL: found.argmax(axis=1).astype(np.int64), PROBABILITIES: found}
        return {PREDICTION: found}

    def close(self) -> None:
        self._booster = None


def _open(path: Path) -> tuple[Any, str]:
    """The booster, and the first word of its objective ("" where the file names none)."""
    try:
        import lightgbm
    except ImportError as error:
        raise RuntimeMissing(
            f"lightgbm cannot be imported ({error}): pip install 'inference-engine[lightgbm]'"
        ) from error
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        content = ""
    if not content.startswith("tree\n"):
        raise ModelLoadFailed(
            f"{path} is not a LightGBM model in text form: save it with Booster.save_model('model.txt'); a pickle is "
            "run by the sklearn runtime",
            param="artifact",
        )
    last = "end of parameters" if "\nparameters:" in content else "end of trees"
    if f"\n{last}" not in content:  # LightGBM reads such a file as a smaller model, or crashes
        raise ModelLoadFailed(f"{path} is cut short: it lacks the line {last!r}; copy it again", param="artifact")
    header = content[: content.find("\nTree=")]
    lines = [line.partition("=")[2] for line in header.splitlines() if line.startswith("objective=")]
    try:
        booster = lightgbm.Booster(model_str=content)
    except Exception as error:  # LightGBM raises its own error, ValueError and KeyError
        raise ModelLoadFailed(
            f"{path} cannot be loaded by LightGBM {lightgbm.__version__}: {error}. The file may be damaged",
            param="artifact",
        ) from None
    return booster, lines[0].split()[0] if lines else ""
