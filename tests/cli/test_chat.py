"""Conversations: one-shot for scripts, by keyboard, and in a real pseudo-terminal."""

from __future__ import annotations

import io
import itertools
import json
import os
import pty
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from inference_engine.adapters.cli import main
from inference_engine.adapters.cli.chat import SAMPLING, Conversation, Terminal
from inference_engine.adapters.cli.local_client import LocalClient
from inference_engine.adapters.cli.output import printable
from inference_engine.domain.requests import Sampling
from tests.cli.fakes import FakeComposition, FakeEngine, FakeRepository

HERE = Path(__file__).parent


@contextmanager
def conversation(engine: FakeEngine, written: list[str]) -> Iterator[Conversation]:
    @contextmanager
    def opened() -> Iterator[FakeEngine]:
        yield engine

    ticks = itertools.count()
    with LocalClient(opened(), FakeRepository([], [])) as client:
        yield Conversation(client, "guide", {}, written.append, clock=lambda: float(next(ticks)))


def keyboard(*lines: str | type[BaseException]) -> Callable[[str], str]:
    """Someone who types these lines and then presses Ctrl-D."""
    typed = iter(lines)

    def read(prompt: str) -> str:
        line = next(typed, EOFError)
        if isinstance(line, str):
            return line
        raise line

    return read


def talk(engine: FakeEngine, *lines: str | type[BaseException], verbose: bool = False) -> list[str]:
    written: list[str] = []
    with conversation(engine, written) as chat:
        Terminal(chat, keyboard(*lines), verbose).talk()
    return written


def test_the_history_goes_with_every_question() -> None:
    engine = FakeEngine()
    assert "".join(talk(engine, "one", "two")) == "You said: oneYou said: two"
    assert engine.asked[1][0] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "You said: one"},
        {"role": "user", "content": "two"},
    ]


def test_commands_change_what_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    talk(
        engine,
        *("one", "/clear", "/system be brief", "/set temperature 0.2", "/set stop END", "two"),
        *(
            "/set temperature",
            "/system",
            "three",
            "/set top_q 1",
            "/set top_k many",
            "/clera",
            "/help",
            "/bye",
            "never",
        ),
    )
    assert engine.asked[1] == (
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": "two"}],
        {"temperature": 0.2, "stop": ("END",)},
    )
    messages, sampling = engine.asked[2]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert sampling == {"stop": ("END",)}
    assert len(engine.asked) == 3
    said = capsys.readouterr().err
    for words in ("did you mean 'top_p'", "top_k takes a number", "unknown command /clera: did you mean '/clear'"):
        assert words in said


def test_a_message_may_have_several_lines() -> None:
    engine = FakeEngine()
    talk(engine, '"""first', "  second", 'third"""', '"""short"""', '"""', '"""', "")
    assert [asked[0][-1]["content"] for asked in engine.asked] == ["first\n  second\nthird", "short"]


def test_ctrl_c_stops_the_answer_and_not_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    engine.stop_after = 1
    talk(engine, "one", KeyboardInterrupt, "two")
    assert len(engine.asked) == 2
    assert engine.asked[1][0][1] == {"role": "assistant", "content": "You "}
    assert all(stream.closed for stream in engine.streams)
    assert "(stopped)" in capsys.readouterr().err


def test_an_error_leaves_the_conversation_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    with conversation(engine, []) as chat:
        chat.target = "iris"
        Terminal(chat, keyboard("one"), False).talk()
        assert chat.messages == []
    assert "iris does not chat" in capsys.readouterr().err


def test_figures_are_counted_by_the_clock() -> None:
    with conversation(FakeEngine(), []) as chat:
        answer = chat.ask("x")
    # started 0, first token 1, ended 2; three tokens, two of them decoded after the first
    assert (answer.first_token_s, answer.seconds, answer.tokens_per_second) == (1.0, 2.0, 2.0)
    assert answer.usage == {"prompt_tokens": 7, "completion_tokens": 3, "cached_tokens": 3, "reasoning_tokens": 0}


def test_what_can_be_set_is_what_the_domain_knows() -> None:
    assert set(SAMPLING) <= set(Sampling.__struct_fields__)


def test_a_model_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\tc\n\x07é") == "a[2Jb\tc\né"


def test_one_shot(composition: FakeComposition, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["run", "guide", "hi", "--temperature", "0.5", "--stop", "END", "--system", "be brief", "--verbose"]
    assert main(composition, argv) == 0
    captured = capsys.readouterr()
    assert captured.out == "You said: hi\n"
    assert "3 completion tokens" in captured.err
    messages, sampling = composition.fake.asked[0]
    assert messages[0] == {"role": "system", "content": "be brief"}
    assert sampling == {"temperature": 0.5, "stop": ("END",)}


def test_text_on_stdin_is_the_prompt_and_json_is_one_object(
    composition: FakeComposition, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("hi\n"))
    assert main(composition, ["run", "guide", "--json", "--quiet"]) == 0
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert (answer["model"], answer["answer"], answer["finish_reason"]) == ("guide:1", "You said: hi", "stop")
    assert captured.err == ""
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(composition, ["run", "guide"]) == 2


def test_an_interrupted_script_says_so_with_its_exit_code(composition: FakeComposition) -> None:
    composition.fake.stop_after = 1
    assert main(composition, ["run", "guide", "hi"]) == 130


def test_a_whole_session_in_a_terminal(tmp_path: Path) -> None:
    child, terminal = pty.fork()
    if child == 0:  # in the new terminal; exec leaves nothing of pytest behind
        environ = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "TERM": "dumb"}
        os.execve(sys.executable, [sys.executable, str(HERE / "slow_session.py"), str(tmp_path)], environ)

    seen = b""

    def until(words: bytes) -> None:
        nonlocal seen
        while words not in seen:
            ready, _, _ = select.select([terminal], [], [], 20)
            assert ready, f"waited for {words!r}, saw {seen!r}"
            seen += os.read(terminal, 4096)
        seen = seen.partition(words)[2]

    try:
        until(b">>> ")
        os.write(terminal, b"hello\n")
        until(b"You ")
        os.write(terminal, b"\x03")
        until(b"(stopped)")
        until(b">>> ")
        os.write(terminal, b"/set temperature 0.1\n")
        until(b"temperature 0.1")
        until(b">>> ")
        os.write(terminal, b"\x04")
        _, status = os.waitpid(child, 0)
        child = 0
        assert os.waitstatus_to_exitcode(status) == 0
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        os.close(terminal)
