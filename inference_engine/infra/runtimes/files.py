"""Resolves the files a manifest names, and keeps them inside the model's folder."""

from __future__ import annotations

from pathlib import Path

from inference_engine.domain.errors import InvalidManifest, ModelLoadFailed


def artifact_path(folder: Path, name: str, field: str = "artifact") -> Path:
    """The existing file `name` in `folder`.

    Raises:
        InvalidManifest: the name is absolute or leads out of the folder. ModelLoadFailed: there is no such file.
    """
    path = folder / name
    if not name or not path.resolve().is_relative_to(folder.resolve()):
        raise InvalidManifest(f"{field} {name!r} must be a path inside the model's folder", param=field)
    if not path.exists():
        raise ModelLoadFailed(f"{path} does not exist: put it there or correct {field} in model.yaml", param=field)
    return path
