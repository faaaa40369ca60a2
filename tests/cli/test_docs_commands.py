"""Every command line in the manual is one that the program understands, and each command is in the manual."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from inference_engine.adapters.cli.app import program
from inference_engine.adapters.cli.bench.figures import Level
from inference_engine.adapters.cli.bench.report import Outcome, table
from inference_engine.adapters.cli.bench.tune import Tuned
from inference_engine.adapters.cli.chat import SAMPLING
from inference_engine.adapters.cli.options import Session
from tests.cli.fakes import FakeComposition

DOCS = Path(__file__).parents[2] / "docs"
PAGES = (
    "benchmarking.md",
    "cli.md",
    "configuration.md",
    "models.md",
    "language-models.md",
    "model-store.md",
    "images.md",
    "runtimes/auto.md",
    "runtimes/tabular.md",
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


def test_every_option_and_column_of_bench_is_in_the_manual() -> None:
    page, shared = (DOCS / "benchmarking.md").read_text(), (DOCS / "cli.md").read_text()
    for parameter in program.commands["bench"].params:
        for name in parameter.opts:
            if name.startswith("--"):
                assert f"`{name}" in page or f" {name} " in page or f"`{name}`" in shared, name
    streams = Level(concurrency=1, rows=2, seconds=1, stable=True, requests=1, tokens_per_s=1.0, generator_cpu=1.0)
    tensors = Level(concurrency=1, rows=2, seconds=1, stable=True, requests=1, errors={"timeout": 1}, runner_bytes=1)
    for name in {*table([streams])[0], *table([tensors])[0]}:
        assert name.removesuffix(" MS").split()[0] in page, name
    for kind in (Outcome, Tuned):
        for field in kind.__struct_fields__:
            assert f'"{field}"' in shared, field
