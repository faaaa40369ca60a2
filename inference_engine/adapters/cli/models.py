"""The commands `list` and `show`: which models there are, and all that is known of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click
import msgspec

from inference_engine.adapters.cli.client import Client, ModelView
from inference_engine.adapters.cli.options import Session, client_options, pass_session
from inference_engine.adapters.cli.output import note, print_json, print_table, size


@click.command("list")
@client_options
@pass_session
def list_models(session: Session, connect: Callable[[], Client]) -> None:
    """List the models, loaded or not."""
    with connect() as client:
        models, broken = client.models(), client.broken()
    if session.json:
        print_json({"models": models, "broken": broken})
        return
    for message in () if session.quiet else broken:
        note(f"cannot be used: {message}")
    if not models:
        note("no models: put some in a folder and name it with --models (docs/models.md)")
        return
    rows = [
        (
            model.target,
            model.runtime,
            model.task or "-",
            model.state,
            size(model.size_bytes),
            size(model.memory_bytes) if model.memory_bytes else "-",
            ", ".join(model.routes) or "-",
        )
        for model in models
    ]
    print_table(("MODEL", "RUNTIME", "TASK", "STATE", "FILES", "MEMORY", "ANSWERS TO"), rows)


@click.command()
@click.argument("model")
@click.option("--manifest", is_flag=True, help="Print the manifest as a model.yaml, also one that was assumed.")
@client_options
@pass_session
def show(session: Session, model: str, manifest: bool, connect: Callable[[], Client]) -> None:
    """Show one model: NAME, or NAME:VERSION for an exact one."""
    with connect() as client:
        view, stored = client.show(model)
    if session.json:
        print_json(msgspec.to_builtins(view) | {"manifest": msgspec.to_builtins(stored)})
    elif manifest:
        click.echo(session.composition.manifest_yaml(stored), nl=False)
    else:
        for name, text in _details(view):
            click.echo(f"{click.style(name.ljust(14), bold=True)}{text}")


def _details(view: ModelView) -> list[tuple[str, str]]:
    lines = [
        ("model", view.target),
        ("description", view.description),
        ("task", view.task),
        ("runtime", view.runtime + _chosen(view.details)),
        ("stages", ", ".join(view.details.get("stages", ()))),
        ("state", view.state + (f", process {view.pid}" if view.pid else "")),
        ("error", str((view.error or {}).get("message", ""))),
        ("warnings", " ".join(" ".join(str(line).split()) for line in view.details.get("warnings", ()))),
        ("files", size(view.size_bytes)),
        ("memory", size(view.memory_bytes) if view.memory_bytes else ""),
        ("context", f"{view.context_length} tokens" if view.context_length else ""),
        ("inputs", _tensors(view.signature, "inputs")),
        ("outputs", _tensors(view.signature, "outputs")),
        ("answers to", ", ".join(view.routes)),
        ("adapters", ", ".join(f"{view.name}@{adapter}" for adapter in view.adapters)),
        ("capabilities", ", ".join(view.capabilities)),
        ("tags", ", ".join(view.tags)),
        ("licence", view.licence),
        ("last used", f"{view.last_used_at:%Y-%m-%d %H:%M:%S} UTC" if view.last_used_at else ""),
    ]
    return [(name, text) for name, text in lines if text]


def _chosen(details: Mapping[str, Any]) -> str:
    """What `runtime: auto` has made of it."""
    auto = details.get("auto")
    return f", chose {auto['chosen']}: {auto['why']}" if auto else ""


def _tensors(signature: Mapping[str, Any] | None, side: str) -> str:
    specs = (signature or {}).get(side, ())
    return ", ".join(f"{spec['name']} {spec['dtype']}{list(spec['shape'])}" for spec in specs)
