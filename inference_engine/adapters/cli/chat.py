"""The command `run`: a conversation with a model in the terminal, or one answer for a script."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any

import click
import msgspec

from inference_engine.adapters.cli.client import Client
from inference_engine.adapters.cli.options import Session, client_options, pass_session
from inference_engine.adapters.cli.output import note, print_json, printable, spinner
from inference_engine.core.yaml_source import suggestion
from inference_engine.domain.errors import EngineError

SAMPLING: dict[str, type[float] | type[int] | type[str]] = {
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "min_p": float,
    "max_tokens": int,
    "seed": int,
    "repeat_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "stop": str,
}
HELP = '''\
/set NAME VALUE   change how tokens are chosen: {names}
/set NAME         back to the model's default; /set alone shows what is set
/system TEXT      what the model is told before the conversation; /system alone clears it
/clear            forget the conversation
/help, /bye       this text; leave (also Ctrl-D)
"""               begins and ends a message of several lines
Ctrl-C            stops the answer'''


class Answer(msgspec.Struct, frozen=True):
    """One answer with its figures. `seconds` runs to the last token, `first_token_s` to the first."""

    model: str
    answer: str
    finish_reason: str | None
    usage: dict[str, int]
    seconds: float
    first_token_s: float
    tokens_per_second: float | None
    interrupted: bool = False


class Conversation:
    """The messages so far and the settings that go with the next one. `write` gets the answer as it comes."""

    def __init__(
        self,
        client: Client,
        target: str,
        sampling: dict[str, Any],
        write: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.target = target
        self.sampling = sampling
        self.system = ""
        self.messages: list[dict[str, str]] = []
        self._client = client
        self._write = write
        self._clock = clock

    def ask(self, text: str) -> Answer:
        """Put `text` to the model. Ctrl-C ends the answer early; what came so far stays in the conversation.

        Raises:
            EngineError: the model could not answer; the conversation is as it was.
        """
        head = [{"role": "system", "content": self.system}] if self.system else []
        question = {"role": "user", "content": text}
        started = first = self._clock()
        pieces: list[str] = []
        interrupted = False
        stream = self._client.generate(self.target, [*head, *self.messages, question], self.sampling)
        try:
            for piece in stream:
                if not pieces:
                    first = self._clock()
                pieces.append(piece)
                self._write(piece)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            stream.close()
        answer = "".join(pieces)
        self.messages += [question, {"role": "assistant", "content": answer}]
        usage, ended = stream.usage, self._clock()
        decoded = usage.completion_tokens - 1 if usage else 0  # the first token is the prefill's
        return Answer(
            self.target,
            answer,
            stream.finish_reason,
            {name: getattr(usage, name) for name in usage.__struct_fields__} if usage else {},
            seconds=round(ended - started, 3),
            first_token_s=round(first - started, 3),
            tokens_per_second=round(decoded / (ended - first), 2) if decoded > 0 and ended > first else None,
            interrupted=interrupted,
        )

    def set(self, name: str, text: str) -> None:
        """Change one sampling value; an empty text takes the model's default again.

        Raises:
            ValueError: no such value, or not a number.
        """
        if name not in SAMPLING:
            raise ValueError(f"{name!r} cannot be set: {suggestion(name, SAMPLING)}")
        if not text:
            self.sampling.pop(name, None)
            return
        try:
            value = SAMPLING[name](text)
        except ValueError:
            raise ValueError(f"{name} takes a number, not {text!r}") from None
        self.sampling[name] = (value,) if name == "stop" else value


class Terminal:
    """The loop of questions and answers. `read` shows a prompt and gives one line, or raises EOFError."""

    def __init__(self, conversation: Conversation, read: Callable[[str], str], verbose: bool) -> None:
        self._conversation = conversation
        self._read = read
        self._verbose = verbose

    def talk(self) -> None:
        """Until /bye or Ctrl-D."""
        while True:
            try:
                text = self._message()
                if text.startswith("/"):
                    if not self._command(text):
                        return
                elif text:
                    self._answer(text)
            except EOFError:
                note("")
                return
            except KeyboardInterrupt:
                note("\nCtrl-D or /bye leaves")

    def _message(self) -> str:
        line = self._read(">>> ").strip()
        if not line.startswith('"""'):
            return line
        lines = [line[3:]]
        while not (len(lines[-1]) >= 3 and lines[-1].rstrip().endswith('"""')):
            lines.append(self._read("... "))
        lines[-1] = lines[-1].rstrip()[:-3]
        return "\n".join(lines).strip()

    def _answer(self, text: str) -> None:
        try:
            answer = self._conversation.ask(text)
        except EngineError as error:
            note(f"{click.style('error:', fg='red', bold=True)} {error.message}")
            return
        click.echo()
        if answer.interrupted:
            note("(stopped)")
        if self._verbose:
            note(figures(answer))

    def _command(self, line: str) -> bool:
        """Obey a line that starts with a slash; False when it says to leave."""
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        if word in ("/bye", "/exit", "/quit"):
            return False
        if word == "/clear":
            self._conversation.messages.clear()
            note("the conversation is forgotten")
        elif word == "/system":
            self._conversation.system = rest
            note("the system message is set" if rest else "there is no system message now")
        elif word == "/set":
            self._set(rest)
        elif word in ("/help", "/?"):
            note(HELP.format(names=", ".join(SAMPLING)))
        else:
            note(f"unknown command {word}: {suggestion(word, ['/help', '/clear', '/set', '/system', '/bye'])}")
        return True

    def _set(self, rest: str) -> None:
        name, _, value = rest.partition(" ")
        if name:
            try:
                self._conversation.set(name, value.strip())
            except ValueError as error:
                note(str(error))
                return
        shown = ", ".join(f"{key} {value}" for key, value in self._conversation.sampling.items())
        note(shown or "the model's defaults are in force")


def figures(answer: Answer) -> str:
    """The figures of an answer on one line."""
    parts = [f"{answer.usage.get(name, 0)} {name.replace('_', ' ')}" for name in answer.usage]
    parts.append(f"first token after {answer.first_token_s:.2f} s")
    if answer.tokens_per_second is not None:
        parts.append(f"{answer.tokens_per_second:.1f} tokens/s")
    return ", ".join(parts)


def _sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, kind in reversed(SAMPLING.items()):
        command = click.option("--" + name.replace("_", "-"), name, type=kind, help=f"Sampling: {name}.")(command)
    return command


@click.command()
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("--system", metavar="TEXT", default="", help="What the model is told before the conversation.")
@click.option("--verbose", "-v", is_flag=True, help="Print token counts and speed after each answer.")
@_sampling_options
@client_options
@pass_session
def run(
    session: Session,
    /,
    model: str,
    prompt: str | None,
    *,
    system: str,
    verbose: bool,
    connect: Callable[[], Client],
    **sampling: Any,
) -> None:
    """Talk with MODEL in the terminal.

    With PROMPT, or with text on stdin, answer once and leave. /help inside a conversation lists what can be typed.
    """
    interactive = prompt is None and sys.stdin.isatty()
    if interactive and session.json:
        raise click.UsageError("--json needs a PROMPT, or text on stdin")
    if prompt is None and not interactive:
        prompt = sys.stdin.read().strip()
    if not interactive and not (prompt or "").strip():
        raise click.UsageError("the prompt is empty: give PROMPT, or text on stdin")
    with connect() as client:
        with spinner(f"loading {model}"):
            view = client.load(model)
        conversation = Conversation(client, model, {}, _ignore if session.json else _write)
        conversation.system = system
        for name, value in sampling.items():
            conversation.set(name, "" if value is None else str(value))
        if interactive:
            if not session.quiet:
                note(f"{view.target} is ready. /help lists what can be typed, Ctrl-D leaves.")
            Terminal(conversation, _line_editor(), verbose).talk()
        else:
            _once(session, conversation, view.target, prompt or "", verbose)


def _once(session: Session, conversation: Conversation, exact: str, prompt: str, verbose: bool) -> None:
    answer = conversation.ask(prompt)
    if session.json:
        print_json(msgspec.structs.replace(answer, model=exact))
    else:
        click.echo()
    if verbose and not session.json:
        note(figures(answer))
    if answer.interrupted:
        raise KeyboardInterrupt


def _write(piece: str) -> None:
    sys.stdout.write(printable(piece) if sys.stdout.isatty() else piece)
    sys.stdout.flush()


def _ignore(_: str) -> None:
    pass


def _line_editor() -> Callable[[str], str]:
    """`input`, with history and editing keys where the platform has them."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 # importing it is what makes input() editable
    return input
