"""The commands `pull`, `create`, `cp` and `rm`: they change which models there are."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from inference_engine.adapters.cli.client import Client, NewModel, Step
from inference_engine.adapters.cli.options import Session, client_options, pass_session
from inference_engine.adapters.cli.output import note, print_json

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("model")
@client_options
@pass_session
def pull(session: Session, model: str, connect: Callable[[], Client]) -> None:
    """Fetch a model: NAME[:TAG] from the registry, hf.co/OWNER/NAME[:QUANTIZATION] from the Hugging Face Hub.

    Interrupted, it goes on where it stopped when it is asked for again.
    """
    with connect() as client:
        _show(session, client.pull(model))


@click.command()
@click.argument("model")
@click.option("--from", "base", metavar="MODEL", help="The model to start from.")
@click.option("--file", "files", multiple=True, type=_FILE, help="GGUF file; all parts, and a projector, one by one.")
@click.option("--adapter", "adapters", multiple=True, type=_FILE, help="LoRA adapter as GGUF; several may be given.")
@click.option("--system", metavar="TEXT", help="What the model is told when a chat brings no system message.")
@click.option("--template", type=_FILE, help="File with a Jinja chat template.")
@click.option("--licence", metavar="TEXT", help="Its licence.")
@click.option("--parameter", "parameters", metavar="NAME=VALUE", multiple=True, help="A default, as temperature=0.2.")
@client_options
@pass_session
def create(
    session: Session,
    model: str,
    base: str | None,
    files: tuple[Path, ...],
    adapters: tuple[Path, ...],
    system: str | None,
    template: Path | None,
    licence: str | None,
    parameters: tuple[str, ...],
    connect: Callable[[], Client],
) -> None:
    """Make a model from another one (--from), or from GGUF files (--file)."""
    if (base is None) == (not files):
        raise click.UsageError("give either --from MODEL or --file FILE")
    new = NewModel(
        base=base,
        files=files,
        adapters=adapters,
        system=system,
        template=None if template is None else _text(template),
        licence=licence,
        parameters=_parameters(parameters),
    )
    with connect() as client:
        _show(session, client.create(model, new))


@click.command("cp")
@click.argument("source")
@click.argument("destination")
@client_options
@pass_session
def copy(session: Session, source: str, destination: str, connect: Callable[[], Client]) -> None:
    """Give a model a second name. The files are shared, not copied, where the disk allows that."""
    with connect() as client:
        client.copy(source, destination)
    _done(session, f"copied {source} to {destination}")


@click.command("rm")
@click.argument("targets", metavar="MODEL...", nargs=-1, required=True)
@client_options
@pass_session
def remove(session: Session, targets: tuple[str, ...], connect: Callable[[], Client]) -> None:
    """Delete models and their files."""
    with connect() as client:
        for target in targets:
            client.delete(target)
            _done(session, f"deleted {target}")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{file} cannot be read: {error}", param_hint="--template") from None


def _done(session: Session, text: str) -> None:
    if session.json:
        print_json({"status": text})
    elif not session.quiet:
        note(text)


def _parameters(given: tuple[str, ...]) -> dict[str, Any]:
    """`NAME=VALUE` pairs; a value is JSON where it can be read so, else text. A name given twice makes a list."""
    found: dict[str, Any] = {}
    for pair in given:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--parameter")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        found[name] = value if name not in found else [*_listed(found[name]), value]
    return found


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _show(session: Session, steps: Iterator[Step]) -> None:
    """Every step as a line of JSON; or bars in a terminal; or each status once."""
    if session.json:
        for step in steps:
            print_json({name: value for name, value in _fields(step).items() if value not in ("", 0)})
    elif session.quiet or not sys.stderr.isatty():
        said = ""
        for step in steps:
            if step.status != said and not session.quiet:
                note(step.status)
            said = step.status
    else:
        _bars(steps)


def _fields(step: Step) -> dict[str, Any]:
    return {name: getattr(step, name) for name in step.__struct_fields__}


def _bars(steps: Iterator[Step]) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bars: dict[str, Any] = {}
        for step in steps:
            if not step.digest:
                progress.console.print(step.status, markup=False, highlight=False)
                continue
            if step.digest not in bars:
                bars[step.digest] = progress.add_task(step.status, total=step.total)
            progress.update(bars[step.digest], completed=step.completed)
