"""The command `build-llama`: llama.cpp built for this machine's processor, or taken away again."""

from __future__ import annotations

import signal
import sys

import click

from inference_engine.adapters.cli.options import Session, config_option, json_option, pass_session
from inference_engine.adapters.cli.output import note, print_json


@click.command("build-llama")
@click.option("--remove", is_flag=True, help="Delete the build; the published library is used again.")
@click.option("--source", metavar="PATH", help="An sdist of xllamacpp, for a machine that cannot fetch it.")
@click.option("--jobs", type=click.IntRange(1), help="Files compiled at once; by default one for each processor.")
@json_option
@config_option
@pass_session
def build_llama(session: Session, config: str | None, remove: bool, source: str | None, jobs: int | None) -> None:
    """Build llama.cpp for this machine's processor, which makes language models faster.

    Takes about 7 minutes on two processors and needs cmake and a C++ compiler. The build is used by models that are
    loaded from then on, after its answers were found to be those of the published library.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the compilers are ended, too
    settings, _ = session.settings({"config": config})
    native = session.composition.native_build(settings)
    if remove:
        removed = native.remove()
        _say(
            session, {"removed": removed}, "removed; the published library is used" if removed else "there is no build"
        )
        return
    status = native.build(_Bar(quiet=session.quiet or session.json), source=source, jobs=jobs)
    _say(session, status, f"built {status.version} in {status.folder}; its answers are the same, and it is used now")


def _say(session: Session, value: object, text: str) -> None:
    if session.json:
        print_json(value)
    else:
        click.echo(text)


class _Bar:
    """Progress on stderr: one line that changes in a terminal, else a line for each twentieth."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._last = ""

    def __call__(self, doing: str, share: float) -> None:
        text = f"{doing} {int(share * 20) * 5}%" if 0 < share < 1 else doing
        if self._quiet or text == self._last:
            return
        self._last = text
        if sys.stderr.isatty():
            click.echo(f"\r\x1b[K{text}", nl=share >= 1, err=True)
        else:
            note(text)
