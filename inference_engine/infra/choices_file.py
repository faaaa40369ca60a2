"""The choices of `runtime: auto` in `<state_dir>/auto.json`. Measures and chooses nothing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from inference_engine.core.logging import get_logger
from inference_engine.domain.choices import RuntimeChoice

_KEPT = 200
_log = get_logger(__name__)


class ChoicesFile:
    """A `ChoiceStore` over one small file. A file that cannot be read counts as empty: it is measured again."""

    def __init__(self, state_dir: Path) -> None:
        self._file = state_dir / "auto.json"

    def all(self) -> Sequence[RuntimeChoice]:
        try:
            found = msgspec.json.decode(self._file.read_bytes(), type=list[RuntimeChoice])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError) as error:
            _log.warning("kept choices of auto cannot be read", file=str(self._file), error=str(error))
            return []
        return sorted(found, key=lambda choice: (choice.model, choice.aim, choice.measured_at))

    def find(self, key: str) -> RuntimeChoice | None:
        return next((choice for choice in self.all() if choice.key == key), None)

    def keep(self, choice: RuntimeChoice) -> None:
        others = [other for other in self.all() if other.key != choice.key]
        self._write(sorted([*others, choice], key=lambda one: one.measured_at)[-_KEPT:])

    def forget(self, model: str | None = None) -> int:
        known = self.all()
        kept = [] if model is None else [choice for choice in known if choice.model != model]
        if len(kept) < len(known):
            self._write(kept)
        return len(known) - len(kept)

    def _write(self, choices: Iterable[RuntimeChoice]) -> None:
        folder = self._file.parent
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".auto-", suffix=".json")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(msgspec.json.format(msgspec.json.encode(list(choices)), indent=2))
            Path(temporary).replace(self._file)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
