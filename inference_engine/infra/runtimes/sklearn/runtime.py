"""The runtime behind a fitted scikit-learn estimator: chooses its methods and names what they give."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from inference_engine.domain.errors import EngineError, InferenceFailed, InvalidManifest, InvalidRequest
from inference_engine.domain.model import Manifest, Signature, TensorSpec
from inference_engine.domain.ports import Loaded
from inference_engine.domain.runtime_defaults import RuntimeDefaults
from inference_engine.domain.tensors import Array, Tensors
from inference_engine.infra.runtimes.files import artifact_path
from inference_engine.infra.runtimes.options import decode_options
from inference_engine.infra.runtimes.sklearn.features import Features, Layout
from inference_engine.infra.runtimes.sklearn.reading import check_estimator, read_estimator
from inference_engine.infra.runtimes.tabular import (
    DECISION,
    LABEL,
    PREDICTION,
    PROBABILITIES,
    agreed,
    outgoing,
    probe,
)
from inference_engine.infra.runtimes.threads import thread_count

Method = Literal[
    "auto", "predict", "predict_proba", "predict_log_proba", "decision_function", "transform", "score_samples"
]
_OUTPUTS = {
    "predict_proba": PROBABILITIES,
    "predict_log_proba": "log_probabilities",
    "decision_function": DECISION,
    "transform": "transformed",
    "score_samples": "scores",
}
_LABELLED = frozenset(("classifier", "clusterer", "outlier_detector"))


class SklearnOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`options` of a sklearn model.

    method: what is computed; auto gives what fits the kind of estimator. layout: matrix takes all features as one
    tensor, columns one tensor for each column; auto takes columns where a ColumnTransformer comes first. dtype: of
    numeric features. trusted_types: types in a skops file beside those that skops trusts.
    """

    method: Method = "auto"
    layout: Layout = "auto"
    dtype: Literal["float32", "float64"] = "float64"
    trusted_types: tuple[str, ...] = ()


class SklearnRuntime(RuntimeDefaults):
    """One fitted estimator."""

    def __init__(self) -> None:
        self._estimator: Any = None
        self._features: Features | None = None
        self._calls: list[tuple[str, Callable[[Any], Any]]] = []
        self._threads = 1

    def load(self, manifest: Manifest, folder: Path) -> Loaded:
        options = decode_options(manifest.options, SklearnOptions, "sklearn")
        path = artifact_path(folder, manifest.artifact)
        self._threads = thread_count(manifest.execution.threads)
        self._estimator, heard = read_estimator(path, manifest, options.trusted_types)
        check_estimator(path, self._estimator)
        _limit_jobs(self._estimator, self._threads)
        self._features = Features(self._estimator, options.layout, options.dtype)
        self._calls = _calls(self._estimator, options.method)
        warnings.filterwarnings("ignore", message="X does not have valid feature names", category=UserWarning)
        inputs = self._features.inputs()
        if manifest.signature is not None:
            declared = agreed(Signature(manifest.signature.inputs), Signature(inputs), path, ("float32", "float64"))
            inputs = declared.inputs
        outputs, failed = self._probe(inputs)
        signature = agreed(manifest.signature, Signature(inputs, outputs), path, ("float32", "float64"))
        details = self._details(path) | ({"warnings": heard + failed} if heard or failed else {})
        return Loaded(("predict",), signature, details=details)

    def _probe(self, inputs: tuple[TensorSpec, ...]) -> tuple[tuple[TensorSpec, ...], list[str]]:
        """Outputs as they are computed; unknown where the estimator refuses made-up rows."""
        assert self._features is not None
        try:
            return probe(inputs, self.run, self._features.samples), []
        except EngineError as error:
            return (), [f"the outputs could not be found with a row of zeros: {error.message}"]

    def run(self, batch: Tensors) -> Tensors:
        assert self._features is not None
        rows = self._features.rows(batch)
        outputs: dict[str, Array] = {}
        try:
            for name, call in self._calls:
                outputs.update(_named(name, call(rows)))
        except ValueError as error:  # how scikit-learn says that the rows are at fault
            raise InvalidRequest(f"scikit-learn refuses the inputs: {error}") from error
        except Exception as error:  # the border to a library that may hold anyone's estimators
            raise InferenceFailed(f"scikit-learn failed: {type(error).__name__}: {error}") from error
        return outputs

    def close(self) -> None:
        self._estimator, self._features, self._calls = None, None, []

    def _details(self, path: Path) -> dict[str, Any]:
        import sklearn

        assert self._features is not None
        found: dict[str, Any] = {
            "estimator": type(self._estimator).__name__,
            "features": self._features.names or self._features.count,
            "size_bytes": path.stat().st_size,
            "threads": self._threads,
            "library": f"scikit-learn {sklearn.__version__}",
        }
        steps = [name for name, _ in getattr(self._estimator, "steps", ())]
        classes = getattr(self._estimator, "classes_", None)
        if isinstance(classes, np.ndarray):
            found["classes"] = classes.tolist()
        return found | ({"steps": steps} if steps else {})


def _calls(estimator: Any, method: Method) -> list[tuple[str, Callable[[Any], Any]]]:
    """The outputs' names and the methods that compute them.

    Raises:
        InvalidManifest: the estimator lacks the method.
    """
    if method == "auto":
        chosen = _fitting(estimator)
    elif hasattr(estimator, method):
        chosen = [method]
    else:
        has = [name for name in ("predict", *_OUTPUTS) if hasattr(estimator, name)]
        raise InvalidManifest(
            f"options.method: {type(estimator).__name__} has no {method}; it has: {', '.join(has)}",
            param="options.method",
        )
    predicted = LABEL if _kind(estimator) in _LABELLED else PREDICTION
    return [(_OUTPUTS.get(name, predicted), getattr(estimator, name)) for name in chosen]


def _fitting(estimator: Any) -> list[str]:
    if not hasattr(estimator, "predict"):
        return [next(name for name in ("transform", "score_samples") if hasattr(estimator, name))]
    if _kind(estimator) not in ("classifier", "outlier_detector"):
        return ["predict"]
    scores = [name for name in ("predict_proba", "decision_function") if hasattr(estimator, name)]
    return ["predict", *scores[:1]]


def _kind(estimator: Any) -> str:
    """`classifier`, `regressor`, `clusterer`, `outlier_detector`, or "" for anything else."""
    from sklearn.utils import get_tags

    try:
        return str(get_tags(estimator).estimator_type or "")
    except (AttributeError, TypeError):  # an object of another library with the same methods
        return str(getattr(estimator, "_estimator_type", ""))


def _named(name: str, found: Any) -> dict[str, Array]:
    """One output, or one for each target where a classifier of several targets gives a list."""
    if isinstance(found, list) and found and isinstance(found[0], np.ndarray):
        return {f"{name}_{target}": outgoing(array) for target, array in enumerate(found)}
    return {name: outgoing(found)}


def _limit_jobs(estimator: Any, threads: int) -> None:
    """Hold parallel estimators to the model's threads; one thread is quickest for single rows anyway."""
    if not hasattr(estimator, "get_params"):
        return
    changed = {
        name: min(value, threads) if value and value > 0 else threads
        for name, value in estimator.get_params(deep=True).items()
        if name.rpartition("__")[2] == "n_jobs" and value is not None
    }
    if changed:
        estimator.set_params(**changed)
