"""Runs XGBoost models in their own file formats (JSON and UBJSON). Knows boosters, not how batches are formed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from inference_engine.domain.errors import InferenceFailed, ModelLoadFailed, RuntimeMissing
from inference_engine.domain.model import Manifest, Signature
from inference_engine.domain.ports import Loaded
from inference_engine.domain.runtime_defaults import RuntimeDefaults
from inference_engine.domain.tensors import Array, Tensors
from inference_engine.infra.formats.ubjson import BrokenUbjson, check_ubjson
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

_OTHERS: Mapping[str, dict[str, bool]] = {
    "margin": {"output_margin": True},
    "contributions": {"pred_contribs": True},
    "leaves": {"pred_leaf": True},
}
"""What `Booster.predict` is asked for by the other methods."""
_FLOATS = ("float32", "float64")


class XgboostOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`options` of an xgboost model.

    method: auto gives label and probabilities of a classifier and prediction of any other model, as XGBoost's
    scikit-learn classes do; predict is what Booster.predict gives; margin is the sum before the link function;
    contributions are SHAP values with the bias last; leaves are the indices of the leaves.
    """

    method: Literal["auto", "predict", "margin", "contributions", "leaves"] = "auto"


class XgboostRuntime(RuntimeDefaults):
    """One booster. Missing values are NaN."""

    def __init__(self) -> None:
        self._booster: Any = None
        self._objective = ""
        self._method = "auto"
        self._trees = (0, 0)

    def load(self, manifest: Manifest, folder: Path) -> Loaded:
        options = decode_options(manifest.options, XgboostOptions, "xgboost")
        path = artifact_path(folder, manifest.artifact)
        threads = thread_count(manifest.execution.threads)
        self._booster = _open(path, threads)
        config = json.loads(self._booster.save_config())
        self._objective, self._method = config["learner"]["objective"]["name"], options.method
        if self._booster.attr("best_iteration") is not None:  # training stopped early: later trees are worse
            self._trees = (0, int(self._booster.attr("best_iteration")) + 1)
        inputs = rows_input(self._booster.num_features(), "float32")
        if manifest.signature is not None:
            inputs = agreed(Signature(manifest.signature.inputs), Signature(inputs), path, _FLOATS).inputs
        signature = agreed(manifest.signature, Signature(inputs, probe(inputs, self.run)), path, _FLOATS)
        import xgboost

        details = {
            "objective": self._objective,
            "features": self._booster.feature_names or self._booster.num_features(),
            "rounds": self._booster.num_boosted_rounds(),
            "size_bytes": path.stat().st_size,
            "threads": threads,
            "library": f"xgboost {xgboost.__version__}",
        }
        return Loaded(("predict",), signature, details=details)

    def run(self, batch: Tensors) -> Tensors:
        rows = batch[INPUT]
        try:
            if self._method in _OTHERS and self._method != "margin":
                import xgboost

                matrix = xgboost.DMatrix(rows)
                found = self._booster.predict(
                    matrix, iteration_range=self._trees, validate_features=False, **_OTHERS[self._method]
                )
            else:
                found = self._booster.inplace_predict(
                    rows,
                    iteration_range=self._trees,
                    predict_type="margin" if self._method == "margin" else "value",
                    validate_features=False,
                )
        except Exception as error:  # XGBoost raises its own error, ValueError and TypeError
            raise InferenceFailed(f"XGBoost failed: {error}") from error
        return self._named(np.asarray(found))

    def _named(self, found: Array) -> dict[str, Array]:
        if self._method != "auto":
            return {PREDICTION: found}
        if self._objective == "binary:logistic":
            return {LABEL: (found > 0.5).astype(np.int64), PROBABILITIES: np.stack([1 - found, found], axis=1)}
        if self._objective == "multi:softprob":
            return {LABEL: found.argmax(axis=1).astype(np.int64), PROBABILITIES: found}
        if self._objective in ("multi:softmax", "binary:hinge"):
            return {LABEL: found.astype(np.int64)}
        return {PREDICTION: found}

    def close(self) -> None:
        self._booster = None


def _open(path: Path, threads: int) -> Any:
    try:
        import xgboost
    except ImportError as error:
        raise RuntimeMissing(
            f"xgboost cannot be imported ({error}): pip install 'inference-engine[xgboost]'"
        ) from error
    content = path.read_bytes()
    if not content.startswith(b"{"):
        raise ModelLoadFailed(
            f"{path} is not an XGBoost model in JSON or UBJSON: save it with Booster.save_model('model.ubj'); the old "
            "binary format must be converted with an XGBoost below 3.1, a pickle is run by the sklearn runtime",
            param="artifact",
        )
    _check_whole(path, content)
    try:
        booster = xgboost.Booster({"nthread": threads})
        booster.load_model(bytearray(content))
        booster.set_param({"nthread": threads})
        booster.save_config()
    except Exception as error:  # XGBoost raises its own error, ValueError and UnicodeDecodeError
        reason = str(error).strip().partition("\n")[0].rpartition("] ")[2].removesuffix("Stack trace:").rstrip(" :")
        raise ModelLoadFailed(
            f"{path} cannot be loaded by XGBoost {xgboost.__version__}: {reason}. The file may be damaged or "
            "written by a newer version",
            param="artifact",
        ) from None
    return booster


def _check_whole(path: Path, content: bytes) -> None:
    """XGBoost crashes on files that were cut short."""
    try:
        if content[1:2] in b'" \t\r\n}':
            msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        else:
            check_ubjson(content)
    except (msgspec.DecodeError, BrokenUbjson) as error:
        raise ModelLoadFailed(f"{path} is damaged: {error}; copy it again", param="artifact") from None
