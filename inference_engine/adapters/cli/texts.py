"""The commands `embed` and `rerank`: texts from the arguments or from stdin, one on each line."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from inference_engine.adapters.cli.client import Client
from inference_engine.adapters.cli.options import Session, client_options, pass_session
from inference_engine.adapters.cli.output import print_json, print_table, printable, spinner

_SHOWN_VALUES = 4
_SHOWN_CHARS = 60


@click.command()
@click.argument("model")
@click.argument("texts", nargs=-1)
@click.option("--dimensions", type=click.IntRange(min=1), metavar="NUMBER", help="Keep so many values of each vector.")
@client_options
@pass_session
def embed(
    session: Session, model: str, texts: tuple[str, ...], dimensions: int | None, connect: Callable[[], Client]
) -> None:
    """Turn TEXTS into vectors with MODEL. Without TEXTS, every line of stdin is one."""
    wanted = texts or lines_of_stdin()
    with connect() as client:
        with spinner(f"loading {model}"):
            view = client.load(model)
        found = client.embed(model, wanted, dimensions)
    if session.json:
        usage = {"prompt_tokens": found.prompt_tokens}
        print_json({"model": view.target, "embeddings": found.embeddings, "usage": usage})
        return
    rows = [
        (_short(text), str(len(vector)), _vector(vector)) for text, vector in zip(wanted, found.embeddings, strict=True)
    ]
    print_table(("TEXT", "VALUES", "VECTOR"), rows)


@click.command()
@click.argument("model")
@click.argument("query")
@click.argument("documents", nargs=-1)
@click.option("--top-n", type=click.IntRange(min=1), metavar="NUMBER", help="Print only so many, the best ones.")
@client_options
@pass_session
def rerank(
    session: Session,
    model: str,
    query: str,
    documents: tuple[str, ...],
    top_n: int | None,
    connect: Callable[[], Client],
) -> None:
    """Order DOCUMENTS by how well they answer QUERY. Without DOCUMENTS, every line of stdin is one."""
    wanted = documents or lines_of_stdin()
    with connect() as client:
        with spinner(f"loading {model}"):
            view = client.load(model)
        found = client.rerank(model, query, wanted)
    order = sorted(range(len(wanted)), key=lambda index: -found.scores[index])[:top_n]
    if session.json:
        results = [{"index": index, "score": found.scores[index], "document": wanted[index]} for index in order]
        print_json({"model": view.target, "results": results, "usage": {"prompt_tokens": found.prompt_tokens}})
        return
    print_table(
        ("SCORE", "INDEX", "DOCUMENT"),
        [(f"{found.scores[index]:.4f}", str(index), _short(wanted[index])) for index in order],
    )


def lines_of_stdin() -> tuple[str, ...]:
    """The lines of stdin that are not empty.

    Raises:
        click.UsageError: there are none, or nobody pipes anything in.
    """
    lines = () if sys.stdin.isatty() else tuple(line.rstrip("\r\n") for line in sys.stdin if line.strip())
    if not lines:
        raise click.UsageError("there is no text: give it as arguments, or one on each line of stdin")
    return lines


def _short(text: str) -> str:
    text = printable(" ".join(text.split()))
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"


def _vector(vector: list[float]) -> str:
    shown = ", ".join(f"{value:.4g}" for value in vector[:_SHOWN_VALUES])
    return f"[{shown}, …]" if len(vector) > _SHOWN_VALUES else f"[{shown}]"
