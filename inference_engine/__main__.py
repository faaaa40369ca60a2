"""The program `inference-engine`, also as `python -m inference_engine`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from inference_engine.adapters import cli
from inference_engine.core.version import __version__

if TYPE_CHECKING:
    from inference_engine.adapters.python_api import AsyncEngine
    from inference_engine.bootstrap import CommandComposition
    from inference_engine.core.settings import Origins, Settings
    from inference_engine.domain.choices import ChoiceStore
    from inference_engine.domain.hardware import Hardware
    from inference_engine.domain.model import Manifest
    from inference_engine.domain.ports import ModelRepository, RuntimeInfo
    from inference_engine.infra.native_build import NativeBuild


class _Later:
    """The composition of `bootstrap`, imported when the first command needs it: `--help` is instant."""

    version = __version__

    def _now(self) -> CommandComposition:
        from inference_engine.bootstrap import CommandComposition

        return CommandComposition()

    def settings(self, flags: Mapping[str, object]) -> tuple[Settings, Origins]:
        return self._now().settings(flags)

    def serve(self, settings: Settings) -> None:
        self._now().serve(settings)

    def engine(self, settings: Settings) -> AbstractContextManager[cli.Engine]:
        return self._now().engine(settings)

    def async_engine(self, settings: Settings) -> AsyncEngine:
        return self._now().async_engine(settings)

    def repository(self, settings: Settings) -> ModelRepository:
        return self._now().repository(settings)

    def runtimes(self) -> Sequence[RuntimeInfo]:
        return self._now().runtimes()

    def choices(self, settings: Settings) -> ChoiceStore:
        return self._now().choices(settings)

    def hardware(self) -> Hardware:
        return self._now().hardware()

    def native_build(self, settings: Settings) -> NativeBuild:
        return self._now().native_build(settings)

    def manifest_yaml(self, manifest: Manifest) -> str:
        return self._now().manifest_yaml(manifest)


def main() -> None:
    sys.exit(cli.main(_Later()))


if __name__ == "__main__":
    main()
