"""The command `bench`: how fast a model answers under load, what held it back, and which settings are best for it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click
import msgspec

from inference_engine.adapters.cli.options import (
    Session,
    config_option,
    json_option,
    models_option,
    pass_session,
    quiet_option,
    server_runs,
    server_url,
)
from inference_engine.adapters.cli.output import note, print_json, print_table

if TYPE_CHECKING:
    from inference_engine.adapters.cli.bench.asked import Asked
    from inference_engine.adapters.cli.bench.own_server import Place
    from inference_engine.adapters.cli.bench.report import Outcome
    from inference_engine.core.settings import Settings

INTERRUPTED = 130


@click.command()
@click.argument("model")
@click.option("--server", "--url", envvar="INFERENCE_ENGINE_SERVER", metavar="URL", help="Server to measure.")
@click.option("--api-key", envvar="INFERENCE_ENGINE_API_KEY", metavar="KEY", help="Key for the server.")
@click.option(
    "--local", is_flag=True, help="Start a server for this measurement even if one runs. Implied by --models."
)
@models_option
@config_option
@click.option(
    "--protocol",
    type=click.Choice(["http", "grpc", "inside"]),
    default="http",
    show_default=True,
    help="How the model is asked; inside: in this process, without a server.",
)
@click.option("--grpc", metavar="HOST:PORT", help="Where the server answers gRPC, if not at the configured port.")
@click.option(
    "--kind",
    type=click.Choice(["predict", "chat", "complete", "embed", "rerank"]),
    help="What to ask, if it is not clear.",
)
@click.option(
    "--concurrency", "-c", metavar="LIST", help="Requests at once: 1,4,16 or 1:64 (doubling). [1:64, chat 1:16]"
)
@click.option("--batch", "-b", metavar="LIST", default="1", show_default=True, help="Rows (or texts) per request.")
@click.option("--shape", multiple=True, metavar="NAME=SIZES", help="Sizes of an input without its rows: x=3,224,224.")
@click.option("--range", "ranges", multiple=True, metavar="NAME=LOW,HIGH", help="Values of an input: ids=0,30000.")
@click.option("--data", type=click.Path(path_type=Path), metavar="FILE", help="Inputs by name, as .json or .npz.")
@click.option(
    "--image", "images", multiple=True, type=click.Path(path_type=Path), metavar="FILE", help="Image to send."
)
@click.option("--prompt-tokens", type=click.IntRange(1), metavar="N", help="Length of prompts and texts. [64]")
@click.option("--max-tokens", type=click.IntRange(2), metavar="N", help="Length of answers. [64]")
@click.option("--window", type=click.FloatRange(0.05), metavar="S", help="Length of one window. [1, chat 3]")
@click.option(
    "--windows", type=click.IntRange(1), default=10, show_default=True, metavar="N", help="Most windows of a level."
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="%",
    help="Three windows that lie so near together end a level.",
)
@click.option("--max-time", type=click.FloatRange(0.1), metavar="S", help="Limit for the whole. [180, with --tune 300]")
@click.option(
    "--timeout", type=click.FloatRange(0.1), default=60.0, show_default=True, metavar="S", help="Limit for one answer."
)
@click.option(
    "--aim",
    type=click.Choice(["throughput", "latency"]),
    default="throughput",
    show_default=True,
    help="What the recommendation is for.",
)
@click.option(
    "--max-p99-ms",
    type=click.FloatRange(0, min_open=True),
    metavar="MS",
    help="Recommend nothing slower (chat: first token).",
)
@click.option("--tune", is_flag=True, help="Try execution settings on servers of its own, and recommend some.")
@click.option(
    "--try",
    "tries",
    multiple=True,
    type=click.Choice(["executor", "threads", "instances", "max_batch_size", "max_delay_ms"]),
    help="With --tune: try this setting only; may be given several times. [all but executor]",
)
@click.option("--write", is_flag=True, help="With --tune: put what is recommended into the model.yaml.")
@click.option(
    "--save",
    "saves",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the figures as .json or .csv.",
)
@click.option(
    "--plot",
    "plots",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw them as .svg, .html or .png.",
)
@quiet_option
@json_option
@pass_session
def bench(session: Session, /, model: str, **options: Any) -> None:
    """Measure MODEL under load: throughput and latency by requests at once.

    A running server is measured as it is; without one, a server is started for the measurement. --tune never touches a
    running server: it starts its own.
    """
    from inference_engine.adapters.cli.bench.asked import read_options

    asked = read_options(model, options)
    flags = {"config": options["config"], "models": options["models"]}
    settings, _ = session.settings(flags)
    if asked.tune:
        from inference_engine.adapters.cli.bench.tune import tune

        tune(session, settings, asked)
        return
    from inference_engine.adapters.cli.bench.run import in_loop, measured

    with _target(session, settings, asked) as target:
        outcome = in_loop(lambda: measured(target, asked, quiet=session.quiet))
    _tell(session, outcome, asked)
    if outcome.interrupted:
        click.get_current_context().exit(INTERRUPTED)


@contextmanager
def _target(session: Session, settings: Settings, asked: Asked) -> Iterator[Any]:
    """What is measured, not opened yet: the models in this process, a server that runs, or one of our own."""
    from inference_engine.adapters.cli.bench.targets import InsideTarget, ServerTarget

    if asked.protocol == "inside":
        yield InsideTarget(session.composition.async_engine(msgspec.structs.replace(settings, cache=False)))
        return
    with _place(session, settings, asked) as place:
        yield ServerTarget(place, asked.protocol, asked.timeout_s)


@contextmanager
def _place(session: Session, settings: Settings, asked: Asked) -> Iterator[Place]:
    from inference_engine.adapters.cli.bench.own_server import Place, own_server

    url = asked.server or server_url(settings)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise click.BadParameter(f"{url!r} is not a URL such as http://127.0.0.1:8000", param_hint="--server")
    if not asked.local and (asked.server or server_runs(url)):
        key = asked.api_key or (None if asked.server else next(iter(settings.api_keys), None))
        yield Place(url, key, asked.grpc or f"{parts.hostname}:{settings.grpc_port}")
        return
    if not session.quiet:
        note("starting a server for the measurement" if asked.local else f"no server at {url}: starting one for this")
    with own_server(settings, asked.config, grpc=asked.protocol == "grpc") as place:
        yield place


def _tell(session: Session, outcome: Outcome, asked: Asked) -> None:
    from inference_engine.adapters.cli.bench.report import as_csv, sentence, table, write_file

    if session.json:
        print_json(outcome)
    elif outcome.levels:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print_table(*table(outcome.levels, width))
        click.echo(f"\n{sentence(outcome)}")
    if not session.quiet:
        for line in outcome.advice:
            note(f"note: {line}")
        for code, message in outcome.messages.items():
            note(f"first {code}: {message}")
    for file in asked.saves:
        text = as_csv(outcome.levels) if file.suffix.lower() == ".csv" else msgspec.json.encode(outcome).decode() + "\n"
        write_file(file, text.encode())
    if asked.plots and outcome.levels:
        from inference_engine.adapters.cli.bench.plots import drawn

        for file in asked.plots:
            write_file(file, drawn(outcome, file.suffix.lower()))
    if outcome.stopped:
        raise click.ClickException(f"stopped after {len(outcome.levels)} levels: {outcome.stopped}")
