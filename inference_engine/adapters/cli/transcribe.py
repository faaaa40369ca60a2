"""The command `transcribe`: an audio file in, what was spoken out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

from inference_engine.adapters.cli.client import Client
from inference_engine.adapters.cli.options import Session, client_options, pass_session
from inference_engine.adapters.cli.output import print_json, printable, spinner


@click.command()
@click.argument("model")
@click.argument("file", metavar="FILE|-")
@click.option("--language", metavar="CODE", help="What is spoken, as en or de. Without it the model finds out.")
@click.option("--prompt", metavar="TEXT", help="Words that may be spoken.")
@click.option("--translate", is_flag=True, help="Write English, whatever is spoken.")
@click.option("--timestamps", is_flag=True, help="Say when each stretch was spoken.")
@client_options
@pass_session
def transcribe(
    session: Session,
    model: str,
    file: str,
    language: str | None,
    prompt: str | None,
    translate: bool,
    timestamps: bool,
    connect: Callable[[], Client],
) -> None:
    """Write down the speech in an audio FILE with MODEL."""
    if translate and language:
        raise click.UsageError("--language cannot be combined with --translate")
    audio = _audio(file)
    options = {name: value for name, value in (("language", language), ("prompt", prompt)) if value}
    with connect() as client:
        with spinner(f"loading {model}"):
            view = client.load(model)
        with spinner("listening"):
            found = client.transcribe(model, audio, timestamps=timestamps, translate=translate, **options)
    if session.json:
        print_json({"model": view.target, "text": found.text, "segments": found.segments})
    elif timestamps:
        for segment in found.segments:
            click.echo(f"[{_clock(segment.start_s)} - {_clock(segment.end_s)}] {printable(segment.text)}")
    else:
        click.echo(printable(found.text))


def _audio(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise click.BadParameter(f"cannot be read: {error}", param_hint="FILE") from None


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0.0, seconds), 60)
    return f"{int(minutes):02}:{rest:05.2f}"
