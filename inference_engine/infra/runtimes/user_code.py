"""Imports a user's file and finds the place in it where it failed. Knows no model."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from inference_engine.domain.errors import EngineError, ModelError

_import_lock = threading.Lock()  # imports of a model's siblings go through the process-wide sys.path


@contextmanager
def user_code(kind: type[ModelError], folder: Path) -> Iterator[None]:
    """Turn what the user's code raises into `kind`, naming the place in the user's file instead of ours."""
    try:
        yield
    except EngineError:
        raise
    except (Exception, SystemExit) as error:  # the border to foreign code: anything may come
        raise blamed(kind, error, folder) from error


def blamed(kind: type[ModelError], error: BaseException, folder: Path) -> ModelError:
    """What the user's code raised, as `kind`, naming the place in the user's file."""
    return kind(f"{type(error).__name__}: {error}{_place(error, folder)}")


def import_file(path: Path) -> ModuleType:
    """Run `path` as a module of its own name, so that two models' model.py do not meet."""
    name = f"_model_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def siblings_importable(folder: Path) -> Iterator[None]:
    """Let plain imports find files in `folder`. The modules found are then forgotten, so that the next model in this
    process finds its own; imports made later, inside functions, find the folder that was loaded first."""
    home = str(folder.resolve())
    with _import_lock:
        before = set(sys.modules)
        if home not in sys.path:
            sys.path.insert(0, home)
        try:
            yield
        finally:
            for name in set(sys.modules) - before:
                file = getattr(sys.modules[name], "__file__", None) or ""
                if not name.startswith("_model_") and file.startswith(home):
                    del sys.modules[name]


def _place(error: BaseException, folder: Path) -> str:
    home = folder.resolve()
    if isinstance(error, SyntaxError):
        return ""  # its text names file and line already
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _inside(frame.filename, home)]
    if not frames:
        return ""
    last = frames[-1]
    return f" ({Path(last.filename).resolve().relative_to(home)}, line {last.lineno}, in {last.name})"


def _inside(file: str, home: Path) -> bool:
    return Path(file).resolve().is_relative_to(home)
