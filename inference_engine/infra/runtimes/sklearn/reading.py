"""Reads estimators from files: skops by a list of types, pickles only where the operator trusts them."""

from __future__ import annotations

import importlib
import inspect
import io
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from inference_engine.domain.errors import InvalidManifest, ModelLoadFailed, RuntimeMissing
from inference_engine.domain.model import Manifest
from inference_engine.infra.runtimes.trust import digest_of, is_trusted, require_trust

_KNOWN_PACKAGES = frozenset(("sklearn", "xgboost", "lightgbm"))
"""A manifest may name classes of these: they hold numbers and settings. Anything else can be made to run code."""

_SMALL_BYTES = 256 << 20
_MAX_RATIO = 200
"""Most bytes that a byte of a skops archive may become, above the size that is small anyway."""


def read_estimator(path: Path, manifest: Manifest, trusted_types: Sequence[str]) -> tuple[Any, list[str]]:
    """The estimator in `path`, and what the libraries warned of while it was read (other versions above all).

    Raises:
        ModelLoadFailed: the file is damaged, of another format, or holds what is not trusted.
        InvalidManifest: `options.trusted_types` names what a manifest cannot vouch for.
        RuntimeMissing: scikit-learn or skops is not installed.
    """
    try:
        importlib.import_module("sklearn")
    except ImportError as error:
        raise RuntimeMissing(
            f"scikit-learn cannot be imported ({error}): pip install 'inference-engine[sklearn]'"
        ) from error
    content = path.read_bytes()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        if _is_skops(path, content):
            estimator = _read_skops(path, content, manifest, trusted_types)
        elif content.startswith(b"PK\x03\x04"):
            raise _damaged(path, "it is a zip file that holds no schema.json, or not all of it")
        else:
            require_trust(path, digest_of(content), manifest, "is a pickle (or joblib) file")
            estimator = _read_pickle(path, content)
    return estimator, sorted({str(warning.message) for warning in heard})


def _is_skops(path: Path, content: bytes) -> bool:
    """Whether it is an archive with a schema.

    Raises:
        ModelLoadFailed: it would be far larger unpacked than any estimator is, which is read into memory.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            names, unpacked = file.namelist(), sum(member.file_size for member in file.infolist())
    except zipfile.BadZipFile:
        return False
    if unpacked > max(_SMALL_BYTES, _MAX_RATIO * len(content)):
        raise ModelLoadFailed(
            f"{path} is refused: unpacked it has {unpacked // 1_000_000} MB, and packed {len(content) // 1000} kB; if "
            "it is a real model, save it anew without compression",
            param="artifact",
        )
    return "schema.json" in names


def _read_skops(path: Path, content: bytes, manifest: Manifest, trusted_types: Sequence[str]) -> Any:
    try:
        from skops import io as skops
    except ImportError as error:
        raise RuntimeMissing(f"skops cannot be imported ({error}): pip install 'inference-engine[sklearn]'") from error
    if not is_trusted(digest_of(content)):
        _check_types(trusted_types)
    elif manifest.execution.executor == "thread":
        _check_types(trusted_types, "in a thread of the server")
    try:
        asked = skops.get_untrusted_types(data=content)
    except Exception as error:  # whatever a damaged schema leads to
        raise _damaged(path, f"{type(error).__name__}: {error}") from None
    missing = sorted(set(asked) - set(trusted_types))
    if missing:
        raise ModelLoadFailed(
            f"{path} holds types that skops does not trust by itself: {', '.join(missing)}. "
            f"{_remedy(missing, digest_of(content))}",
            param="options.trusted_types",
        )
    try:
        return skops.loads(content, trusted=sorted(trusted_types))
    except Exception as error:  # whatever a damaged schema leads to
        raise _damaged(path, f"{type(error).__name__}: {error}") from None


def _remedy(missing: Iterable[str], digest: str) -> str:
    listed = "list them in options.trusted_types of model.yaml"
    if all(_is_harmless(name) for name in missing):
        return f"If you expect them, {listed}"
    return f"If you know where the file comes from, {listed} and add {digest} to the setting trusted_digests"


def _check_types(names: Sequence[str], where: str = "without the operator's word") -> None:
    for name in names:
        if not _is_harmless(name):
            raise InvalidManifest(
                f"options.trusted_types: {name!r} is not a class of {', '.join(sorted(_KNOWN_PACKAGES))}, so a "
                f"manifest cannot trust it {where}: add the file's digest to the setting trusted_digests",
                param="options.trusted_types",
            )


def _is_harmless(name: str) -> bool:
    """Whether `name` is a class that one of the known packages defines itself (not one that it only imports)."""
    module, _, member = name.rpartition(".")
    if module.partition(".")[0] not in _KNOWN_PACKAGES:
        return False
    try:
        found = getattr(importlib.import_module(module), member, None)
    except ImportError:
        return False
    return inspect.isclass(found) and found.__module__.partition(".")[0] in _KNOWN_PACKAGES


def _read_pickle(path: Path, content: bytes) -> Any:
    import joblib

    try:
        return joblib.load(io.BytesIO(content))
    except ModuleNotFoundError as error:
        raise RuntimeMissing(f"{path} needs the package {error.name}: pip install it for the server") from error
    except Exception as error:  # a pickle may raise anything
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _damaged(path: Path, reason: str) -> ModelLoadFailed:
    return ModelLoadFailed(
        f"{path} cannot be read: {reason}. It is damaged, or was written by a version of scikit-learn or skops that "
        "differs too much from the installed one",
        param="artifact",
    )


def check_estimator(path: Path, estimator: Any) -> None:
    """Raises `ModelLoadFailed` for what cannot predict or was never fitted."""
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    if not any(hasattr(estimator, method) for method in ("predict", "transform", "score_samples")):
        raise ModelLoadFailed(
            f"{path} holds a {type(estimator).__name__}, which has no predict, transform or score_samples",
            param="artifact",
        )
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        raise ModelLoadFailed(
            f"{path} holds a {type(estimator).__name__} that was not fitted: fit it before it is saved",
            param="artifact",
        ) from None
    except TypeError:  # an object of another library with the same methods: it has no such check
        return
