"""A benchmark in words: the table, the recommendation, and the same as JSON and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from inference_engine.adapters.cli.bench.figures import Level
from inference_engine.adapters.cli.output import size

Column = tuple[str, Callable[[Level], str]]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one run of `bench` found, as it is written to files.

    `unit` is that of the throughput, `messages` the first message of each error, `stopped` the error that
    ended it early.
    """

    model: str
    where: str
    kind: str
    unit: str
    aim: str = "throughput"
    max_p99_ms: float | None = None
    settings: dict[str, Any] = {}
    levels: list[Level] = []
    recommended: Level | None = None
    advice: list[str] = []
    messages: dict[str, str] = {}
    interrupted: bool = False
    stopped: str = ""


def number(value: float | None) -> str:
    """Three figures or more: 12,345, 123, 12.3, 1.23, 0.123."""
    if value is None:
        return "-"
    for least, text in ((100, f"{value:,.0f}"), (10, f"{value:.1f}"), (1, f"{value:.2f}")):
        if value >= least:
            return text
    return f"{value:.3f}"


def table(levels: Sequence[Level], width: int | None = None) -> tuple[list[str], list[list[str]]]:
    """Head and cells. Columns that say nothing anywhere are left out; with a `width`, also those that do not fit."""
    streams = any(level.tokens_per_s is not None for level in levels)
    columns = [*_FIRST, *(_STREAMS if streams else _ANSWERS), *_LAST]
    if all(level.rows == 1 for level in levels):
        columns = [column for column in columns if column[0] not in ("ROWS", "ROWS/S")]
    shown = {name: [show(level) for level in levels] for name, show in columns}
    names = [name for name in shown if name not in _OPTIONAL or any(cell not in ("-", "0") for cell in shown[name])]
    for name in _LEAST_WANTED:
        if width is None or sum(max(map(len, (one, *shown[one]))) + 2 for one in names) <= width:
            break
        names = [one for one in names if one != name]
    return names, [list(row) for row in zip(*(shown[name] for name in names), strict=True)]


def _errors(level: Level) -> str:
    return ", ".join(f"{count:,} {code}" for code, count in sorted(level.errors.items())) or "0"


def _memory(level: Level) -> str:
    known = [part for part in (level.server_bytes, level.runner_bytes) if part is not None]
    return size(sum(known)) if known else "-"


_FIRST: list[Column] = [
    ("AT ONCE", lambda level: str(level.concurrency) + ("" if level.stable else " ~")),
    ("ROWS", lambda level: str(level.rows)),
]
_ANSWERS: list[Column] = [
    ("REQ/S", lambda level: number(level.requests_per_s)),
    ("ROWS/S", lambda level: number(level.rows_per_s)),
    ("P50 MS", lambda level: number(level.p50_ms)),
    ("P90 MS", lambda level: number(level.p90_ms)),
    ("P95 MS", lambda level: number(level.p95_ms)),
    ("P99 MS", lambda level: number(level.p99_ms)),
    ("QUEUE MS", lambda level: number(level.queue_ms)),
    ("COMPUTE MS", lambda level: number(level.compute_ms)),
    ("BATCH", lambda level: number(level.batch_rows)),
]
_STREAMS: list[Column] = [
    ("TOKENS/S", lambda level: number(level.tokens_per_s)),
    ("PER STREAM", lambda level: number(level.stream_tokens_per_s)),
    ("FIRST P50 MS", lambda level: number(level.first_token_p50_ms)),
    ("FIRST P99 MS", lambda level: number(level.first_token_p99_ms)),
    ("NEXT P50 MS", lambda level: number(level.inter_token_p50_ms)),
    ("NEXT P99 MS", lambda level: number(level.inter_token_p99_ms)),
    ("REQ/S", lambda level: number(level.requests_per_s)),
    ("QUEUE MS", lambda level: number(level.queue_ms)),
]
_LAST: list[Column] = [
    ("SERVER CPU", lambda level: number(level.server_cpu)),
    ("RUNNER CPU", lambda level: number(level.runner_cpu)),
    ("LOAD CPU", lambda level: number(level.generator_cpu)),
    ("MEMORY", _memory),
    ("ERRORS", _errors),
]
_OPTIONAL = {"SERVER CPU", "RUNNER CPU", "LOAD CPU", "MEMORY", "ERRORS"}
_LEAST_WANTED = (
    *("LOAD CPU", "MEMORY", "SERVER CPU", "RUNNER CPU", "P95 MS", "P90 MS", "NEXT P99 MS", "REQ/S", "COMPUTE MS"),
    *("QUEUE MS", "BATCH"),
)


def sentence(outcome: Outcome) -> str:
    """What to run at."""
    best, aim, max_p99_ms = outcome.recommended, outcome.aim, outcome.max_p99_ms
    limit = f" with a p99 of at most {max_p99_ms:g} ms" if max_p99_ms is not None else ""
    if best is None:
        return f"no level without errors{limit}"
    what = "most throughput" if aim == "throughput" else "soonest answers"
    rows = f" of {best.rows} rows" if best.rows > 1 else ""
    first = "first token " if best.tokens_per_s is not None else ""
    return (
        f"{what}{limit}: {best.concurrency} at once{rows}: {number(best.throughput)} {outcome.unit}, "
        f"{first}p50 {number(best.middle_ms)} ms, p99 {number(best.tail_ms)} ms"
    )


def as_csv(levels: Sequence[Level]) -> str:
    """One line for each level, with the names of the fields as head; `errors` are their sum."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Level.__struct_fields__)
    for level in levels:
        values: Mapping[str, Any] = msgspec.structs.asdict(level)
        writer.writerow(
            [
                sum(value.values()) if isinstance(value, dict) else "" if value is None else value
                for value in values.values()
            ]
        )
    return text.getvalue()


def write_file(file: Path, content: bytes) -> None:
    """Raises `click.ClickException`: it cannot be written."""
    try:
        file.write_bytes(content)
    except OSError as error:
        raise click.ClickException(f"{file} cannot be written: {error.strerror}") from None
