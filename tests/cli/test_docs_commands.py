"""Every command line in the manual is one that the program understands, and each command is in the manual."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from inference_engine.adapters.cli.app import program
from inference_engine.adapters.cli.chat import SAMPLING
from inference_engine.adapters.cli.options import Session
from tests.cli.fakes import FakeComposition

DOCS = Path(__file__).parents[2] / "docs"
PAGES = (
    *("cli.md", "configuration.md", "models.md", "language-models.md", "model-store.md"),
    *("runtimes/auto.md", "runtimes/tabular.md"),
)


def command_lines() -> list[str]:
    text = "\n".join((DOCS / page).read_text() for page in PAGES)
    found = re.findall(r"^\$ (.*inference-engine .*)$", text, re.MULTILINE)
    return [line for line in found if "_COMPLETE" not in line]


@pytest.mark.parametrize("line", command_lines())
def test_a_documented_command_line_is_understood(line: str, composition: FakeComposition) -> None:
    words = shlex.split(line.rpartition("|")[2].replace("$(openssl rand -hex 20)", "k"))
    words = words[words.index("inference-engine") + 1 :]
    command: click.Command = program
    while isinstance(command, click.Group) and words[0] != "--help":
        command = command.commands[words.pop(0)]
    if words != ["--help"]:
        command.make_context("x", words, obj=Session(composition))


def test_there_are_documented_command_lines() -> None:
    assert len(command_lines()) >= 12


def test_every_command_and_flag_of_our_own_is_in_the_manual() -> None:
    page = (DOCS / "cli.md").read_text()
    for name in program.commands:
        assert re.search(rf"`{name}\b", page), name
    for name in (
        *SAMPLING,
        "--server",
        "--local",
        "--models",
        "--api-key",
        "--quiet",
        "--json",
        "--verbose",
        "--manifest",
    ):
        assert name in page, name
