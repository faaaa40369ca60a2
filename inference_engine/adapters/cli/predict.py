"""The command `predict`: tensors in as JSON, or images and sound as files, tensors out as a table or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import click

from inference_engine.adapters.cli.client import Client, ModelView, Output
from inference_engine.adapters.cli.options import Session, client_options, pass_session
from inference_engine.adapters.cli.output import print_json, print_table, spinner

_CELL = 60
_EXAMPLE = """'{"input": [[5.1, 3.5, 1.4, 0.2]]}'"""


@click.command()
@click.argument("model")
@click.option("--input", "-i", "source", metavar="JSON|@FILE|-", help=f"The inputs by name: {_EXAMPLE}.")
@click.option(
    "--image",
    "--audio",
    "images",
    multiple=True,
    type=click.Path(path_type=Path),
    help="An image or sound file for the model's input of bytes; several make a batch.",
)
@click.option("--stream", is_flag=True, help="Print every response of a model that gives several, as it comes.")
@client_options
@pass_session
def predict(
    session: Session,
    model: str,
    source: str | None,
    images: tuple[Path, ...],
    stream: bool,
    connect: Callable[[], Client],
) -> None:
    """Compute the outputs of MODEL for one batch of inputs."""
    if source is None and not images:
        raise click.UsageError(f"say what MODEL is to compute: --input {_EXAMPLE}, --image FILE or --audio FILE")
    inputs = {} if source is None else read_inputs(source)
    files = [read_image(path) for path in images]
    with connect() as client:
        with spinner(f"loading {model}"):
            view = client.load(model)
        if files:
            inputs[image_input(view, inputs)] = files
        responses = client.predict_stream(model, inputs) if stream else (client.predict(model, inputs),)
        for outputs in responses:
            if session.json:
                print_json({"model": view.target, "outputs": outputs})
            else:
                _print(outputs)


def read_inputs(source: str) -> dict[str, Any]:
    """The inputs from JSON text, from `@FILE`, or from stdin (`-`).

    Raises:
        click.BadParameter: it cannot be read, or is not a JSON object of inputs by name.
    """
    try:
        if source == "-":
            source = sys.stdin.read()
        elif source.startswith("@"):
            source = Path(source[1:]).read_text(encoding="utf-8")
        inputs = json.loads(source, parse_constant=_no_constant)
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"cannot be read: {error}", param_hint="--input") from None
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"is not JSON: {error}; write it as {_EXAMPLE}", param_hint="--input") from None
    if not isinstance(inputs, dict) or not inputs:
        raise click.BadParameter(f"must name every input, as in {_EXAMPLE}", param_hint="--input")
    return inputs


def read_image(path: Path) -> bytes:
    """Raises `click.BadParameter`: it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise click.BadParameter(f"cannot be read: {error}", param_hint="--image") from None


def image_input(view: ModelView, given: Mapping[str, Any]) -> str:
    """The one input of bytes that `given` does not name.

    Raises:
        click.UsageError: there is none, or more than one.
    """
    inputs = (view.signature or {}).get("inputs", ())
    fitting = [spec["name"] for spec in inputs if spec["dtype"] == "bytes" and spec["name"] not in given]
    if len(fitting) != 1:
        named = ", ".join(fitting) or "none"
        raise click.UsageError(
            f"--image and --audio are for a model with one input of bytes, {view.target} has {named}: a pipeline with "
            "image.decode or audio.decode makes one"
        )
    return str(fitting[0])


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _print(outputs: list[Output]) -> None:
    rows = {output.shape[0] if output.shape else None for output in outputs}
    if len(rows) == 1 and None not in rows:
        head = [f"{output.name} {output.dtype}{list(output.shape[1:]) or ''}" for output in outputs]
        cells = zip(*(output.data for output in outputs), strict=True)
        print_table(("ROW", *head), [(str(index), *map(_cell, row)) for index, row in enumerate(cells)])
        return
    table = [(output.name, output.dtype, str(list(output.shape)), _cell(output.data)) for output in outputs]
    print_table(("OUTPUT", "DTYPE", "SHAPE", "DATA"), table)


def _cell(value: Any) -> str:
    text = _text(value)
    return text if len(text) <= _CELL else text[: _CELL - 1] + "…"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_text(item) for item in value[:_CELL]) + "]"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
