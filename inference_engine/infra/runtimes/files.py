"""Resolves the files a manifest names, and keeps them inside the model's folder."""

from __future__ import annotations

from pathlib import Path

from inference_engine.domain.errors import InvalidManifest, ModelLoadFailed


def artifact_path(folder: Path, name: str) -> Path:
    """The existing artifact `name` in `folder`. A symbolic link that the operator put there may lead elsewhere.

    Raises:
        InvalidManifest: the name is absolute or leads out of the folder. ModelLoadFailed: there is no such file.
    """
    return _existing(folder, name, "artifact")


def file_inside(folder: Path, name: str, field: str) -> Path:
    """The existing file `name` that really lies in `folder`, for files whose content may be shown to clients.

    Raises:
        InvalidManifest: the name, or a symbolic link on the way, leads out. ModelLoadFailed: there is no such file.
    """
    path = _existing(folder, name, field)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise _leads_out(name, field)
    return path


def _leads_out(name: str, field: str) -> InvalidManifest:
    return InvalidManifest(f"{field} {name!r} must be a path inside the model's folder", param=field)


def _existing(folder: Path, name: str, field: str) -> Path:
    path = folder / name
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise _leads_out(name, field)
    if not path.exists():
        raise ModelLoadFailed(f"{path} does not exist: put it there or correct {field} in model.yaml", param=field)
    return path
