"""The input file of a job, line by line, and the check of all lines before the first is done. Knows no dialect."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from inference_engine.domain.jobs import Journal, LineProblem, Task, Work

MAX_PROBLEMS = 100
_SKIP_BYTES = 1 << 20
_LINES_WITH_BLANK = 2  # for each line that may be there, one more may be blank
_SHOWN = 80


class LineLimits(msgspec.Struct, frozen=True):
    """How many lines a job may have, and how long one may be."""

    lines: int
    line_bytes: int


class Checked(msgspec.Struct):
    """What the check found: how many lines there are to do, and why the job cannot be begun."""

    total: int = 0
    problems: list[LineProblem] = []


def lines_of(stream: BinaryIO, limit_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Every line with its number from 1, without white space around it; None for one that is too long.

    Never holds more than `limit_bytes` of a line.
    """
    number = 0
    while line := stream.readline(limit_bytes + 2):
        number += 1
        if len(line.rstrip(b"\r\n")) > limit_bytes:
            while line and not line.endswith(b"\n"):
                line = stream.readline(_SKIP_BYTES)
            yield number, None
        else:
            yield number, line.strip()


def check_lines(stream: BinaryIO, work: Work, limits: LineLimits) -> Checked:
    """Read the whole file once; each line must be a request of its own name. Blocking."""
    found = Checked()
    names: set[bytes] = set()
    for number, line in lines_of(stream, limits.line_bytes):
        found.total += line != b""
        if found.total > limits.lines or number > limits.lines * _LINES_WITH_BLANK:
            found.problems.append(
                LineProblem(
                    "too_many_tasks",
                    f"the file has more than {limits.lines} lines: split it, or raise batch_max_lines",
                    line=number,
                )
            )
            return found
        problem = _problem(line, number, work, limits, names) if line != b"" else None
        if problem is not None:
            found.problems.append(problem)
            if len(found.problems) >= MAX_PROBLEMS:
                return found
    if not found.total:
        found.problems.append(LineProblem("empty_file", "the input file holds no line: put one request on each line"))
    return found


def _problem(line: bytes | None, number: int, work: Work, limits: LineLimits, names: set[bytes]) -> LineProblem | None:
    if line is None:
        message = f"the line is longer than {limits.line_bytes} bytes: ask for less, or raise max_body_mb"
        return LineProblem("line_too_long", message, line=number)
    task = work.read(line)
    if isinstance(task, LineProblem):
        return msgspec.structs.replace(task, line=number)
    digest = hashlib.sha256(task.key.encode()).digest()[:16]
    if digest in names:
        message = f"custom_id {task.key[:_SHOWN]!r} was used by an earlier line: give every line its own"
        return LineProblem("duplicate_custom_id", message, "custom_id", number)
    names.add(digest)
    return None


def next_task(
    lines: Iterator[tuple[int, bytes | None]], work: Work, journal: Journal
) -> tuple[int, Task | LineProblem] | None:
    """The next line that is not done, None at the end. A problem: only an older version took such lines. Blocking."""
    for number, line in lines:
        if line and not journal.has(number):
            return number, work.read(line)
    return None
