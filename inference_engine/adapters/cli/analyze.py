"""The command `analyze`: image files in, what is in them out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from inference_engine.adapters.cli.client import Client, Seen, SeenImage
from inference_engine.adapters.cli.options import Session, client_options, pass_session
from inference_engine.adapters.cli.output import note, print_json, print_table, printable, spinner

_TASKS = ("classify", "detect", "describe", "embed")


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--task", "tasks", multiple=True, type=click.Choice(_TASKS), help="What to do; may be given several times."
)
@click.option("--model", metavar="NAME", help="The model to do it. Without it one is chosen by the task.")
@click.option("--top-k", type=click.IntRange(min=1), help="The most labels and objects of an image.")
@click.option("--threshold", type=float, help="Only what scores as much or more.")
@click.option("--prompt", metavar="TEXT", help="What is asked for a description.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="The longest description.")
@client_options
@pass_session
def analyze(
    session: Session,
    /,
    files: tuple[Path, ...],
    tasks: tuple[str, ...],
    connect: Callable[[], Client],
    **options: Any,
) -> None:
    """Classify, search, describe or embed images. Without --task, classify and search them."""
    images = [_read(path) for path in files]
    given = {name: value for name, value in options.items() if value is not None}
    with connect() as client, spinner("looking"):
        seen = client.analyze_images(images, tasks, **given)
    if session.json:
        results = [
            {"file": str(path), **msgspec.to_builtins(found)} for path, found in zip(files, seen.results, strict=True)
        ]
        print_json({"results": results, "models": seen.models})
    else:
        _print(files, seen)
        if not session.quiet:
            by = ", ".join(f"{task} by {model.model}:{model.version}" for task, model in seen.models.items())
            note(by)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise click.BadParameter(f"{path} cannot be read: {error.strerror}", param_hint="FILE") from None


def _print(files: tuple[Path, ...], seen: Seen) -> None:
    rows = [(str(path), *row) for path, found in zip(files, seen.results, strict=True) for row in _rows(found)]
    print_table(("FILE", "TASK", "FOUND", "SCORE", "BOX"), rows)


def _rows(found: SeenImage) -> Iterator[tuple[str, str, str, str]]:
    for label in found.labels or ():
        yield "classify", printable(label.label), f"{label.score:.3f}", ""
    for one in found.objects or ():
        yield "detect", printable(one.label), f"{one.score:.3f}", " ".join([f"{side:.0f}" for side in one.box])
    if found.objects == []:
        yield "detect", "nothing", "", ""
    if found.description is not None:
        yield "describe", " ".join(printable(found.description).split()), "", ""
    if found.embedding is not None:
        yield "embed", f"{len(found.embedding)} values", "", ""
