"""What a person sees while it is measured: a table that grows and a bar in a terminal, else a line for each level.

All of it goes to stderr; the result is printed by the command.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from inference_engine.adapters.cli.bench.figures import Level, Window, percentile, together
from inference_engine.adapters.cli.bench.measuring import Step
from inference_engine.adapters.cli.bench.report import number, table
from inference_engine.adapters.cli.output import note

if TYPE_CHECKING:
    from rich.console import RenderableType


class Lines:
    """A `Watcher` for pipes and logs."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        self._total = total
        self._done = 0
        self._quiet = quiet

    def window(self, step: Step, windows: Sequence[Window]) -> None:
        """Nothing: a log needs no windows."""

    def level(self, level: Level) -> None:
        self._done += 1
        if not self._quiet:
            rows = f", {level.rows} rows" if level.rows > 1 else ""
            unit, first = ("rows/s", "") if level.tokens_per_s is None else ("tokens/s", "first token ")
            found = f"{number(level.throughput)} {unit}, {first}p99 {number(level.tail_ms)} ms"
            note(f"[{self._done}/{self._total}] {level.concurrency} at once{rows}: {found}")


class Screen:
    """A `Watcher` that draws."""

    def __init__(self, title: str, total: int, live: Any) -> None:
        self._title = title
        self._total = total
        self._live = live
        self._levels: list[Level] = []
        self._now = "warming up"
        self._began = time.monotonic()
        self.draw()

    def window(self, step: Step, windows: Sequence[Window]) -> None:
        joined = together(windows)
        rows = f", {step.rows} rows" if step.rows > 1 else ""
        unit = "tokens/s" if joined.pieces else "req/s"
        tail = percentile(joined.latencies_s, 99)
        self._now = f"{step.concurrency} at once{rows}: window {len(windows)}, {number(windows[-1].rate)} {unit}" + (
            f", p99 {number(tail * 1000)} ms" if tail is not None else ""
        )
        self.draw()

    def level(self, level: Level) -> None:
        self._levels.append(level)
        self._now = "warming up"
        self.draw()

    def draw(self) -> None:
        self._live.update(self._picture(), refresh=True)

    def _picture(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        parts: list[RenderableType] = [Text(self._title, style="bold")]
        if self._levels:
            head, rows = table(self._levels, self._live.console.width)
            grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
            for name in head:
                grid.add_column(name, justify="right", header_style="bold", no_wrap=True)
            for row in rows:
                grid.add_row(*row)
            parts.append(grid)
        done = len(self._levels)
        line = Table.grid(padding=(0, 1))
        line.add_row(ProgressBar(self._total, done, width=24), f"{done}/{self._total}", self._left(done), self._now)
        return Group(*parts, line)

    def _left(self, done: int) -> str:
        if not done:
            return ""
        seconds = (time.monotonic() - self._began) / done * (self._total - done)
        return f"about {seconds:.0f} s left"


@contextmanager
def watching(title: str, total: int, *, quiet: bool) -> Iterator[Lines | Screen]:
    """The watcher that fits where stderr goes."""
    if quiet or not sys.stderr.isatty():
        if not quiet:
            note(title)
        yield Lines(total, quiet=quiet)
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), transient=True, auto_refresh=False) as live:
        yield Screen(title, total, live)
