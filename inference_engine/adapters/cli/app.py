"""The program `inference-engine`: its commands, and how failures end it. Imports nothing heavy before it must."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from inference_engine.adapters.cli.analyze import analyze
from inference_engine.adapters.cli.auto import auto
from inference_engine.adapters.cli.batch import batch
from inference_engine.adapters.cli.bench import bench
from inference_engine.adapters.cli.build_llama import build_llama
from inference_engine.adapters.cli.chat import run
from inference_engine.adapters.cli.client import Composition
from inference_engine.adapters.cli.doctor import doctor
from inference_engine.adapters.cli.models import list_models, show
from inference_engine.adapters.cli.options import Session, json_option, pass_session, setting_options
from inference_engine.adapters.cli.output import note, print_json, print_table
from inference_engine.adapters.cli.predict import predict
from inference_engine.adapters.cli.store import copy, create, pull, remove
from inference_engine.adapters.cli.texts import embed, rerank
from inference_engine.adapters.cli.transcribe import transcribe
from inference_engine.core.settings import SettingsError
from inference_engine.domain.errors import EngineError

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(composition: Composition, argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0 (done), 1 (failed), 2 (asked wrongly) or 130 (interrupted).

    Expected failures are told in one line; anything else is a defect and keeps its traceback.
    """
    session = Session(composition)
    try:
        code = program.main(
            args=None if argv is None else list(argv),
            prog_name="inference-engine",
            standalone_mode=False,
            obj=session,
        )
        sys.stdout.flush()
        return code if isinstance(code, int) else OK
    except (click.ClickException, SettingsError, EngineError) as error:
        return _failed(session, error)
    except (click.Abort, KeyboardInterrupt):
        note("")
        return INTERRUPTED
    except BrokenPipeError:  # `inference-engine list | head`: what is left to print goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _failed(session: Session, error: click.ClickException | SettingsError | EngineError) -> int:
    usage = isinstance(error, SettingsError) or (isinstance(error, click.ClickException) and error.exit_code == USAGE)
    message = error.format_message() if isinstance(error, click.ClickException) else str(error)
    if session.json:
        code = error.code if isinstance(error, EngineError) else "usage" if usage else "failed"
        print_json({"error": {"code": code, "message": message}})
    elif isinstance(error, click.ClickException):
        error.show()
    else:
        note(f"{click.style('error:', fg='red', bold=True)} {message}")
    return USAGE if usage else FAILED


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def program() -> None:
    """One self-hosted inference server for every model a team runs.

    Commands that work with models use the running server, and without one the models in this process.
    """


@program.command()
@setting_options
@json_option
@pass_session
def serve(session: Session, flags: Mapping[str, object]) -> None:
    """Serve the models over HTTP until stopped.

    Every flag is a setting, which can also stand in the environment or in a file; `config show` tells what is in force.
    --json is short for --log-format json.
    """
    chosen = {"log_format": "json"} if session.json else {}
    settings, _ = session.settings(dict(flags) | chosen)
    session.composition.serve(settings)


@program.group()
def config() -> None:
    """Look at the settings."""


@config.command("show")
@setting_options
@json_option
@pass_session
def config_show(session: Session, flags: Mapping[str, object]) -> None:
    """Print every setting in force and where its value came from. Keys are masked."""
    settings, origins = session.settings(flags)
    values = settings.shown()
    if session.json:
        fields = {name: {"value": value, "origin": origins.fields[name]} for name, value in values.items()}
        print_json({"file": str(origins.file) if origins.file else None, "settings": fields})
        return
    print_table(
        ("SETTING", "VALUE", "FROM"), [(name, _written(value), origins.fields[name]) for name, value in values.items()]
    )


def _written(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "-" if value in (None, "") else f"{value:g}" if isinstance(value, float) else str(value)


@program.command()
@json_option
@pass_session
def version(session: Session) -> None:
    """Print the version of this program."""
    if session.json:
        print_json({"version": session.composition.version})
    else:
        click.echo(session.composition.version)


for _command in (
    run,
    predict,
    analyze,
    embed,
    rerank,
    transcribe,
    list_models,
    show,
    pull,
    create,
    copy,
    remove,
    batch,
    bench,
    auto,
    doctor,
    build_llama,
):
    program.add_command(_command)
