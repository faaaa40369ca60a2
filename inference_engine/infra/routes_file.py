"""Pinned routes in `<state_dir>/routes.yaml`: survives restarts, readable and editable by people. Resolves nothing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from inference_engine.core.settings import SettingsError
from inference_engine.core.yaml_source import YamlDocument, YamlError, parse_yaml
from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.model import ModelRef, check_name

_HEAD = "# Pinned routes, public name: model:version. Written by the server; edit only while it is stopped.\n"


class RoutesFile:
    """A `RouteStore` over one small file. A reader never sees half of a write."""

    def __init__(self, state_dir: Path) -> None:
        self._file = state_dir / "routes.yaml"

    def read(self) -> Mapping[str, ModelRef]:
        """Pinned routes by public name; none when there is no file yet.

        Raises:
            SettingsError: the file was edited into something else; the message names the line.
        """
        try:
            document = parse_yaml(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except YamlError as error:
            raise SettingsError(f"{self._file}:{error.line}: {error.problem}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{self._file}: cannot be read: {error}") from None
        if not isinstance(document.data, dict | None):
            raise SettingsError(f"{self._file}:1: must hold `name: model:version` lines")
        return {str(name): self._target(document, name) for name in document.data or {}}

    def write(self, routes: Mapping[str, ModelRef]) -> None:
        import yaml

        folder = self._file.parent
        folder.mkdir(parents=True, exist_ok=True)
        text = _HEAD + yaml.safe_dump({name: str(ref) for name, ref in routes.items()}, sort_keys=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".routes-", suffix=".yaml")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).replace(self._file)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _sync_folder(folder)

    def _target(self, document: YamlDocument, name: object) -> ModelRef:
        model, colon, version = str(document.data[name]).partition(":")
        try:
            check_name(str(name), "route")
            check_name(model, "model")
            if not colon:
                raise InvalidRequest(f"{model!r} names no version: write model:version")
            return ModelRef(model, check_name(version, "version"))
        except InvalidRequest as error:
            line = document.line((str(name),))
            raise SettingsError(f"{self._file}:{line}: route {name!r}: {error.message}") from None


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
