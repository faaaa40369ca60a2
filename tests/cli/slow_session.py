"""A program for the terminal test: `run guide` over a fake engine whose answers take a minute after the first word."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inference_engine.adapters.cli import main
from tests.cli.fakes import FakeComposition, FakeEngine, FakeStream


class SlowStream(FakeStream):
    def _give(self, pieces: Any, stop_after: int | None) -> Iterator[str]:
        yield pieces[0]
        time.sleep(60)
        yield from super()._give(pieces[1:], stop_after)


class SlowEngine(FakeEngine):
    def generate(self, target: str, messages: Any = None, **sampling: Any) -> FakeStream:
        return SlowStream(["You ", "said: ", messages[-1]["content"]])


if __name__ == "__main__":
    composition = FakeComposition(Path(sys.argv[1]))
    composition.fake = SlowEngine()
    sys.exit(main(composition, ["run", "guide"]))
