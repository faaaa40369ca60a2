"""What the commands print: tables, sizes, JSON, a spinner while a model loads.

Answers go to stdout, everything else to stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
import msgspec


def print_json(value: Any) -> None:
    """One JSON object on one line."""
    click.echo(json.dumps(msgspec.to_builtins(value), ensure_ascii=False))


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns; the head stands out in a terminal."""
    widths = [max(len(line[column]) for line in (head, *rows)) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    ]
    click.echo(click.style(lines[0], bold=True))
    for line in lines[1:]:
        click.echo(line)


def note(text: str) -> None:
    """A line for the person, not for the pipe."""
    click.echo(text, err=True)


def size(count: int) -> str:
    """Bytes for people: `1.5 GB`, with powers of 1024."""
    value = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TB"


@contextmanager
def spinner(text: str) -> Iterator[None]:
    """Show `text` with a moving sign and the seconds gone, if stderr is a terminal; otherwise show nothing."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task(text, total=None)
        yield


def printable(text: str) -> str:
    """`text` without control characters: a model must not steer the terminal it is read in."""
    return "".join(char for char in text if char in "\n\t" or char.isprintable())
