"""Reads a model's `requirements.txt` before pip does: it may name packages, and nothing of where they come from.

The operator allows that packages are installed; which index, which hosts and which files of this machine are asked is
the operator's own configuration of pip. Format: https://pip.pypa.io/en/stable/reference/requirements-file-format
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from inference_engine.domain.errors import ModelLoadFailed

_PLAIN_OPTIONS = frozenset(
    ("--pre", "--prefer-binary", "--only-binary", "--no-binary", "--require-hashes", "--no-index")
)
_FILE_OPTIONS = frozenset(("-r", "--requirement", "-c", "--constraint"))
_URL = re.compile(r"(^|@\s*)[A-Za-z][A-Za-z0-9+.-]*:")
_ARCHIVE = re.compile(r"\.(whl|zip|tar|tgz|tar\.\w+)$")
_CODING = re.compile(r"coding[:=]\s*([-\w.]+)")
_COMMENT = re.compile(r"(^|\s)#.*$")


def check_requirements(file: Path) -> None:
    """Return when `file`, and the files beside it that it includes, name packages or archives beside it alone.

    Raises:
        ModelLoadFailed: it names an index, a URL, a path that leads out of the folder, or is no text; the message has
            the line. OSError: a file cannot be read.
    """
    waiting, seen = [file], set()
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            waiting += [file.parent / name for name in _included(current)]


def _included(file: Path) -> Iterator[str]:
    """The files that `file` includes; each line is looked at on the way."""
    for number, line in _lines(file):
        place = f"{file}:{number}: {line[:100]!r}"
        words = line.split()
        option, _, value = words[0].partition("=")
        if "${" in line:
            raise _refused(place, "variables are not filled in: write the value")
        if line.startswith("-"):
            if option in _PLAIN_OPTIONS:
                continue
            attached = option[:2] if option[:2] in ("-r", "-c") and not option.startswith("--") else option
            if attached not in _FILE_OPTIONS:
                raise _refused(place, "where packages come from is for the operator's own configuration of pip to say")
            name = value or line[len(attached) :].strip()
            _check_beside(file.parent, name, place)
            yield name
        else:
            _check_requirement(file.parent, line, place)


def _check_requirement(folder: Path, line: str, place: str) -> None:
    wanted, *options = re.split(r"\s+(?=--)", line)
    if any(not option.startswith("--hash") for option in options):
        raise _refused(place, "of a requirement's options only --hash is taken")
    if _URL.search(wanted):
        raise _refused(place, "a URL is not taken: put the archive beside the file and name it as ./NAME.whl")
    name = re.sub(r"\[[^\]]*\]$", "", wanted.partition(";")[0].strip())
    if "/" in name or "\\" in name or name.startswith((".", "~")) or _ARCHIVE.search(name):
        _check_beside(folder, name, place)


def _check_beside(folder: Path, name: str, place: str) -> None:
    path = folder / name
    if Path(name).is_absolute() or path.resolve().parent != folder.resolve():
        raise _refused(place, "only files that lie beside it may be named")


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """What pip reads as lines, with the number of their first one: comments are gone, continued lines joined."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelLoadFailed(f"{file} is not text in UTF-8: {error}", param="requirements.txt") from None
    for number, line in enumerate(text.splitlines()[:2], 1):
        if line.startswith("#") and (told := _CODING.search(line)) and told[1].lower() not in ("utf-8", "utf8"):
            raise _refused(f"{file}:{number}: {line[:100]!r}", "it must be UTF-8")  # pip would read other lines than we
    held, start = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        start = start if held else number
        if raw.endswith("\\") and not raw.lstrip().startswith("#"):
            held += raw.strip("\\")  # as pip does
            continue
        line, held = _COMMENT.sub("", held + raw).strip(), ""
        if line:
            yield start, line
    if line := _COMMENT.sub("", held).strip():
        yield start, line


def _refused(place: str, why: str) -> ModelLoadFailed:
    return ModelLoadFailed(f"{place} is refused: {why}", param="requirements.txt")
