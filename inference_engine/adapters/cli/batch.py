"""The command `batch`: many requests in a file, answered by a running server in the background."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

from inference_engine.adapters.cli.options import (
    Session,
    config_option,
    json_option,
    pass_session,
    quiet_option,
    server_url,
)
from inference_engine.adapters.cli.output import note, print_json, print_table

if TYPE_CHECKING:
    from inference_engine.adapters.cli.batch_client import BatchClient, BatchView

Command = TypeVar("Command", bound=Callable[..., Any])
_POLL_S = (0.2, 5.0)
FAILED = 1


@click.group()
def batch() -> None:
    """Have the requests of a file answered in the background by a running server."""


def _server_options(command: Command) -> Command:
    """The options that choose the server; the command gets a `connect` function for it."""

    @functools.wraps(command)
    def with_server(*args: Any, server: str | None, api_key: str | None, config: str | None, **rest: Any) -> Any:
        session = click.get_current_context().ensure_object(Session)
        return command(*args, connect=lambda: _connect(session, server, api_key, config), **rest)

    decorated: Any = with_server
    for option in (
        quiet_option,
        json_option,
        config_option,
        click.option("--api-key", envvar="INFERENCE_ENGINE_API_KEY", metavar="KEY", help="Key for the server."),
        click.option("--server", envvar="INFERENCE_ENGINE_SERVER", metavar="URL", help="Server to work with."),
    ):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return] # click's decorators keep the function


def _connect(session: Session, server: str | None, api_key: str | None, config: str | None) -> BatchClient:
    from inference_engine.adapters.cli.batch_client import BatchClient

    if server is not None:
        return BatchClient(server, api_key)
    settings, _ = session.settings({"config": config})
    return BatchClient(server_url(settings), api_key or next(iter(settings.api_keys), None))


@batch.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--endpoint", metavar="PATH", help="What the lines ask; the url of the first line if it is left out.")
@click.option("--window", default="24h", show_default=True, help="After this long, what is not answered expires.")
@click.option("--wait", is_flag=True, help="Wait for the end, and print the answers.")
@_server_options
@pass_session
def submit(
    session: Session, file: Path, endpoint: str | None, window: str, wait: bool, connect: Callable[[], BatchClient]
) -> int:
    """Submit FILE, which holds one request on each line."""
    if not file.is_file():
        raise click.BadParameter(f"there is no file {file}", param_hint="FILE")
    with connect() as client:
        view = client.submit(file, endpoint or _first_url(file), window)
        if not wait:
            _print(session, view)
            return 0
        if not session.quiet:
            note(f"submitted as {view.id}")
        view = _end_of(session, client, view)
        return _results(client, view, sys.stdout.buffer)


@batch.command()
@click.argument("id", required=False)
@_server_options
@pass_session
def status(session: Session, id: str | None, connect: Callable[[], BatchClient]) -> None:
    """Show how far the batch ID is; without ID, list the latest."""
    with connect() as client:
        if id is not None:
            _print(session, client.batch(id))
            return
        views = client.batches()
    if session.json:
        print_json({"batches": views})
        return
    rows = [
        (view.id, view.status, _progress(view), f"{datetime.fromtimestamp(view.created_at, UTC):%Y-%m-%d %H:%M:%S} UTC")
        for view in views
    ]
    print_table(("BATCH", "STATUS", "DONE", "CREATED"), rows)


@batch.command()
@click.argument("id")
@_server_options
@pass_session
def cancel(session: Session, id: str, connect: Callable[[], BatchClient]) -> None:
    """Cancel the batch ID; what is answered already becomes its output."""
    with connect() as client:
        _print(session, client.cancel(id))


@batch.command()
@click.argument("id")
@click.option("--errors", is_flag=True, help="Print the lines that failed instead.")
@_server_options
@pass_session
def output(session: Session, id: str, errors: bool, connect: Callable[[], BatchClient]) -> int:
    """Print the answers of the batch ID, one line each."""
    with connect() as client:
        view = client.batch(id)
        if not view.ended:
            raise click.ClickException(f"batch {id} is {view.status}: its output comes when it has ended")
        file_id = view.error_file_id if errors else view.output_file_id
        if file_id is not None:
            _copy(client.content(file_id), sys.stdout.buffer)
        elif not session.quiet:
            note(f"no line of batch {id} {'failed' if errors else 'was answered'}")
    return 0


def _first_url(file: Path) -> str:
    with file.open("rb") as stream:
        line = next((line for line in stream if line.strip()), b"")
    try:
        return str(json.loads(line)["url"])
    except (ValueError, KeyError, TypeError):
        raise click.ClickException(
            f"the first line of {file} is no request with a url: mend it, or name the endpoint with --endpoint"
        ) from None


def _end_of(session: Session, client: BatchClient, view: BatchView) -> BatchView:
    """The batch when it has ended. Ctrl-C stops the waiting, not the batch."""
    wait_s, longest_s = _POLL_S
    told = ""
    while not view.ended:
        time.sleep(wait_s)
        wait_s = min(wait_s * 1.5, longest_s)
        view = client.batch(view.id)
        if not session.quiet and (now := f"{view.status} {_progress(view)}") != told:
            note(now)
            told = now
    return view


def _results(client: BatchClient, view: BatchView, to: BinaryIO) -> int:
    """Print what was answered; the exit code says whether everything was."""
    if view.output_file_id is not None:
        _copy(client.content(view.output_file_id), to)
    for problem in view.errors.data if view.errors else ():
        note(f"line {problem.line}: {problem.message}" if problem.line else problem.message)
    if view.error_file_id is not None:
        note(f"some lines were not answered: see `inference-engine batch output {view.id} --errors`")
    return 0 if view.status == "completed" and view.error_file_id is None else FAILED


def _copy(pieces: Iterator[bytes], to: BinaryIO) -> None:
    for piece in pieces:
        to.write(piece)
    to.flush()


def _progress(view: BatchView) -> str:
    counts = view.request_counts
    failed = f", {counts.failed} failed" if counts.failed else ""
    return f"{counts.completed + counts.failed}/{counts.total}{failed}"


def _print(session: Session, view: BatchView) -> None:
    if session.json:
        print_json(view)
        return
    lines = [("batch", view.id), ("status", view.status), ("endpoint", view.endpoint), ("done", _progress(view))]
    lines += [("problem", f"line {one.line}: {one.message}") for one in (view.errors.data if view.errors else ())]
    for name, text in lines:
        click.echo(f"{click.style(name.ljust(10), bold=True)}{text}")
