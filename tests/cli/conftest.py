"""What every test of the commands starts from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.fakes import FakeComposition


@pytest.fixture
def composition(tmp_path: Path) -> FakeComposition:
    return FakeComposition(tmp_path)
