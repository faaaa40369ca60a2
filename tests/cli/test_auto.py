"""The command `auto`, and what `doctor` and `show` say of it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from inference_engine.adapters.cli.app import main
from inference_engine.domain.choices import Candidate, RuntimeChoice
from inference_engine.infra.choices_file import ChoicesFile
from tests.cli.fakes import FakeComposition

CHOICE = RuntimeChoice(
    key="k",
    model="chat:1",
    aim="throughput",
    streams=16,
    chosen="openvino",
    candidates=(Candidate("llama_cpp", "1", 100.0, 0.5), Candidate("openvino", "2", 212.0, 0.2, 0.03, 0.99)),
    measured_at=datetime(2026, 1, 1, tzinfo=UTC),
)


@pytest.fixture
def store(composition: FakeComposition) -> ChoicesFile:
    settings, _ = composition.settings({})
    found = ChoicesFile(settings.state_dir)
    found.keep(CHOICE)
    return found


def test_it_shows_the_figures(
    store: ChoicesFile, composition: FakeComposition, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(composition, ["auto"]) == 0
    shown = capsys.readouterr().out
    for word in ("chat:1", "throughput", "* openvino", "212.0", "0.030", "100.0"):
        assert word in shown
    assert main(composition, ["auto", "other:1", "--json"]) == 0
    assert '"choices": []' in capsys.readouterr().out


def test_it_forgets(store: ChoicesFile, composition: FakeComposition, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(composition, ["auto", "other:1", "--forget"]) == 0
    assert len(store.all()) == 1
    assert main(composition, ["auto", "chat:1", "--forget", "--json"]) == 0
    assert '"forgotten": 1' in capsys.readouterr().out
    assert main(composition, ["auto"]) == 0
    assert "nothing has been measured" in capsys.readouterr().err


def test_doctor_tells_what_was_chosen(
    store: ChoicesFile, composition: FakeComposition, capsys: pytest.CaptureFixture[str]
) -> None:
    main(composition, ["doctor"])
    assert "chat:1 runs on openvino for throughput: 2.1x llama_cpp at 16 streams" in capsys.readouterr().out


def test_the_reason_is_in_words(tmp_path: Path) -> None:
    assert CHOICE.why == "2.1x llama_cpp at 16 streams"
