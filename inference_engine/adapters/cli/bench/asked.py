"""What the person asked of `bench`, read from its options. What can be wrong is found here, before minutes pass."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import click
import msgspec

from inference_engine.adapters.cli.bench.inputs import Wanted, parse_ranges, parse_shapes

Aim = Literal["throughput", "latency"]
_MOST = 4096
_SAVED = (".json", ".csv")
_DRAWN = (".svg", ".html", ".png")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one run. None leaves the choice to the kind of model."""

    model: str
    wanted: Wanted
    server: str | None
    api_key: str | None
    local: bool
    config: str | None
    protocol: str
    grpc: str | None
    kind: str | None
    concurrency: tuple[int, ...] | None
    batch: tuple[int, ...]
    prompt_tokens: int | None
    max_tokens: int | None
    window_s: float | None
    windows: int
    tolerance: float
    max_time_s: float
    timeout_s: float
    aim: Aim
    max_p99_ms: float | None
    tune: bool
    tries: tuple[str, ...]
    write: bool
    saves: tuple[Path, ...]
    plots: tuple[Path, ...]


def read_options(model: str, options: Mapping[str, Any]) -> Asked:
    """Raises `click.UsageError` for what cannot be done, with the option that is at fault."""
    concurrency = numbers(options["concurrency"], "--concurrency") if options["concurrency"] else None
    for option, files, endings in (("--save", options["saves"], _SAVED), ("--plot", options["plots"], _DRAWN)):
        for file in files:
            _check_file(option, file, endings)
    if options["write"] and not options["tune"]:
        raise click.UsageError("--write goes with --tune: without it nothing is recommended for the model.yaml")
    if options["tune"] and (options["server"] or options["protocol"] == "inside") and _given("server", "protocol"):
        raise click.UsageError("--tune measures on servers that it starts itself: leave --server and --protocol out")
    if options["tune"] and options["plots"]:
        raise click.UsageError("--plot draws one sweep: leave --tune out, or take --save")
    if options["tune"] and options["protocol"] == "grpc":
        raise click.UsageError("--tune measures over HTTP: leave --protocol out")
    return Asked(
        model=model,
        wanted=Wanted(
            parse_shapes(options["shape"]), parse_ranges(options["ranges"]), options["data"], options["images"]
        ),
        server=options["server"],
        api_key=options["api_key"],
        local=options["local"] or bool(options["models"]),
        config=options["config"],
        protocol=options["protocol"],
        grpc=options["grpc"],
        kind=options["kind"],
        concurrency=concurrency,
        batch=numbers(options["batch"], "--batch"),
        prompt_tokens=options["prompt_tokens"],
        max_tokens=options["max_tokens"],
        window_s=options["window"],
        windows=options["windows"],
        tolerance=options["tolerance"] / 100,
        max_time_s=options["max_time"] or (300.0 if options["tune"] else 180.0),
        timeout_s=options["timeout"],
        aim=options["aim"],
        max_p99_ms=options["max_p99_ms"],
        tune=options["tune"],
        tries=options["tries"],
        write=options["write"],
        saves=options["saves"],
        plots=options["plots"],
    )


def _given(*names: str) -> bool:
    """Whether one of these options was typed: an environment variable is no wish about this run."""
    context = click.get_current_context()
    return any(context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE for name in names)


def numbers(text: str, option: str) -> tuple[int, ...]:
    """`1,4,16`, or `1:64` for doubling from the first to the last.

    Raises:
        click.BadParameter: it is neither, or a number is not between 1 and 4096.
    """
    try:
        first, colon, last = text.partition(":")
        found = (
            _doubled(int(first), int(last)) if colon else tuple(dict.fromkeys(int(part) for part in text.split(",")))
        )
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a list such as 1,4,16 nor 1:64", param_hint=option) from None
    if not found or not all(1 <= number <= _MOST for number in found):
        raise click.BadParameter(f"{text!r}: numbers from 1 to {_MOST}, the smaller first", param_hint=option)
    return found


def _doubled(first: int, last: int) -> tuple[int, ...]:
    found, number = [], first
    while 0 < number < last:
        found.append(number)
        number *= 2
    return (*found, last) if first <= last else ()


def _check_file(option: str, file: Path, endings: tuple[str, ...]) -> None:
    if file.suffix.lower() not in endings:
        raise click.BadParameter(f"{file} must end in {', '.join(endings)}", param_hint=option)
    if not file.parent.is_dir():
        raise click.BadParameter(f"there is no folder {file.parent}", param_hint=option)
    if file.suffix.lower() == ".png" and importlib.util.find_spec("matplotlib") is None:
        raise click.BadParameter(
            "a .png needs matplotlib: pip install 'inference-engine[bench]'; .svg and .html need nothing",
            param_hint=option,
        )
