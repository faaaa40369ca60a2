"""The command `auto`: what `runtime: auto` has chosen on this machine, and forgetting it."""

from __future__ import annotations

import click

from inference_engine.adapters.cli.options import Session, config_option, json_option, pass_session
from inference_engine.adapters.cli.output import note, print_json, print_table


@click.command()
@click.argument("model", required=False)
@click.option("--forget", is_flag=True, help="Forget it, so that it is measured again at the next load.")
@json_option
@config_option
@pass_session
def auto(session: Session, model: str | None, forget: bool, config: str | None) -> None:
    """Show which runtime `runtime: auto` has chosen for each model, or for MODEL (NAME:VERSION)."""
    settings, _ = session.settings({"config": config})
    store = session.composition.choices(settings)
    if forget:
        count = store.forget(model)
        if session.json:
            print_json({"forgotten": count})
        else:
            note(f"{count} forgotten; a loaded model keeps its runtime until it is loaded again")
        return
    choices = [choice for choice in store.all() if model in (None, choice.model)]
    if session.json:
        print_json({"choices": choices})
    elif not choices:
        note("nothing has been measured: load a model whose model.yaml says `runtime: auto`")
    else:
        rows = [
            (
                choice.model if candidate is choice.candidates[0] else "",
                choice.aim if candidate is choice.candidates[0] else "",
                ("* " if candidate.runtime == choice.chosen else "  ") + candidate.runtime,
                f"{candidate.tokens_per_s:.1f}" if candidate.tokens_per_s else "-",
                f"{candidate.first_token_s:.3f}" if candidate.first_token_s else "-",
                "-" if candidate.difference is None else f"{candidate.difference:.3f}",
                candidate.refused or "-",
            )
            for choice in choices
            for candidate in choice.candidates
        ]
        print_table(("MODEL", "AIM", "RUNTIME", "TOKENS/S", "FIRST TOKEN S", "DIFFERENCE", "NOT CHOSEN BECAUSE"), rows)
