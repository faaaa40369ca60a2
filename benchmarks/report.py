"""Shows results as tables: on the terminal, and in RESULTS.md, where each benchmark has the section of its last run."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks.compare import Result, Row
from benchmarks.processes import ROOT, cores

RESULTS = Path(__file__).parent / "RESULTS.md"
_HEAD = """# Results

Written by `python -m benchmarks`; each section is the last run of one benchmark. Values are medians over the rounds.
Ours and its peer are measured in turns within one run, and the ratio is taken within each round: only ratios can be
compared between machines. The spread is the lowest and the highest round. Targets: the ratio to reach, and the one to
stretch for in brackets.
"""
_SECTION = re.compile(r"^## (\w+)$", re.MULTILINE)
_COLUMNS = ("what", "ours", "peer", "unit", "ratio", "spread", "target", "verdict")


@dataclass(frozen=True)
class Run:
    """When, where and how results came about."""

    command: str
    rounds: int
    started: datetime
    load_average: tuple[float, float, float]
    commit: str

    @classmethod
    def begin(cls, command: str, rounds: int) -> Run:
        return cls(command, rounds, datetime.now(UTC), os.getloadavg(), _commit())

    def __str__(self) -> str:
        memory_gb = psutil.virtual_memory().total / 1e9
        return (
            f"{self.started:%Y-%m-%d %H:%M} UTC, commit {self.commit}, `{self.command}`, {self.rounds} rounds.\n"
            f"{_processor()}, {len(cores())} cores, {memory_gb:.0f} GB, {platform.system()} {platform.machine()}, "
            f"Python {platform.python_version()}; load average before the run "
            f"{' '.join(f'{value:.2f}' for value in self.load_average)}."
        )


def cells(row: Row) -> tuple[str, ...]:
    """One line of a table, in the order of `_COLUMNS`."""
    ratio = "" if row.peer is None else f"{row.judged:.2f}"
    low, high = row.spread
    spread = f"{low:.2f} to {high:.2f}" if row.peer is not None else f"{_number(low)} to {_number(high)}"
    peer = "" if row.peer is None else f"{_number(row.peer)} ({row.peer_name})"
    target = "" if row.target is None else str(row.target)
    return row.what, _number(row.ours), peer, row.unit, ratio, spread, target, row.verdict


def text_table(rows: list[Row]) -> str:
    """For a terminal."""
    lines = [_COLUMNS, *map(cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def write(name: str, result: Result, run: Run, file: Path = RESULTS) -> None:
    """Replace the section of one benchmark; the others stay."""
    sections = _sections(file.read_text()) if file.exists() else {}
    sections[name] = _section(result, run)
    parts = [_HEAD, *(f"## {name}\n\n{sections[name]}\n" for name in sorted(sections))]
    file.write_text("\n".join(parts))


def _sections(text: str) -> dict[str, str]:
    pieces = _SECTION.split(text)[1:]
    return {name: body.strip() for name, body in zip(pieces[::2], pieces[1::2], strict=True)}


def _section(result: Result, run: Run) -> str:
    lines = [" | ".join(line) for line in (_COLUMNS, ("---",) * len(_COLUMNS), *map(cells, result.rows))]
    table = "\n".join(f"| {line} |" for line in lines)
    return "\n\n".join([str(run), table, *result.notes])


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _processor() -> str:
    try:
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _commit() -> str:
    """The commit that is checked out, read from the files of git; "unknown" outside a plain clone."""
    git = ROOT / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head[:12]
        name = head.removeprefix("ref: ")
        if (git / name).exists():
            return (git / name).read_text().strip()[:12]
        packed = (git / "packed-refs").read_text().splitlines()
        return next((line[:12] for line in packed if line.endswith(f" {name}")), "unknown")
    except OSError:
        return "unknown"
