"""Runs scikit-learn estimators and pipelines; `docs/runtimes/tabular.md` is its manual."""

from inference_engine.infra.runtimes.sklearn.runtime import SklearnRuntime

__all__ = ["SklearnRuntime"]
