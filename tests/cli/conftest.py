"""What every test of the commands starts from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inference_engine.adapters.cli import main
from tests.cli.fakes import FakeComposition


@pytest.fixture
def composition(tmp_path: Path) -> FakeComposition:
    return FakeComposition(tmp_path)


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def call(composition: FakeComposition, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*argv: str) -> Result:
        code = main(composition, argv)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run
