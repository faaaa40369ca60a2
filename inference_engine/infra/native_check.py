"""Asks the built-in model a few questions and tells the answers and speeds.

`python -m inference_engine.infra.native_check FOLDER FILE [ROUNDS]`
Run once with each library to be compared, in a process of its own; the library that is first on the path answers.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from inference_engine.domain.model import Execution, Manifest
from inference_engine.domain.requests import Chat, Complete, Message, Sampling
from inference_engine.domain.results import Delivered, Delta, TextDelta
from inference_engine.infra.runtimes.llama_cpp import LlamaCppRuntime

QUESTIONS = ("How do I add my own model?", "What is a route?", "Who are you?", "List the commands.", "pip install")
_TOKENS = 48


class _Sink:
    cancelled = False

    def __init__(self) -> None:
        self.deltas: list[Delta] = []

    def emit(self, *deltas: Delta) -> None:
        self.deltas.extend(deltas)


def _timed(runtime: LlamaCppRuntime, request: Chat | Complete) -> tuple[float, list[Delta]]:
    sink = _Sink()
    started = time.perf_counter()
    runtime.generate(request, Delivered(), sink)
    return time.perf_counter() - started, sink.deltas


def _answer(runtime: LlamaCppRuntime, question: str) -> list[list[Any]]:
    """Each position's token, its log probability, and how far behind the second best is."""
    sampling = Sampling(max_tokens=_TOKENS, temperature=0, logprobs=2)
    _, deltas = _timed(runtime, Chat((Message("user", question),), sampling))
    positions = [position for delta in deltas if isinstance(delta, TextDelta) for position in delta.logprobs]
    return [[p.chosen.token, p.chosen.logprob, p.top[0].logprob - p.top[1].logprob] for p in positions]


def main(folder: Path, file: str, rounds: int = 5) -> None:
    """`rounds` is how often each speed is measured; the best counts."""
    import xllamacpp

    runtime = LlamaCppRuntime()
    execution = Execution(threads=0, device="cpu")
    options = {"parallel": 1, "cache_ram_mib": 0, "n_batch": 512}
    runtime.load(Manifest("check", "1", "llama_cpp", file, execution=execution, options=options), folder)
    answers = [_answer(runtime, question) for question in QUESTIONS]
    prefill, decode = [], []
    for number in range(rounds):
        prompt = f"{number} " + "The server reads its models from a folder and answers questions about them. " * 40
        prefill.append(_timed(runtime, Complete(prompt, Sampling(max_tokens=1)))[0])
        decode.append(_timed(runtime, Complete(f"{number}", Sampling(max_tokens=200, ignore_eos=True)))[0])
    runtime.close()
    found = {
        "library": xllamacpp.__file__,
        "version": xllamacpp.__version__,
        "features": xllamacpp.get_system_info(),
        "answers": answers,
        "prefill_s": min(prefill),
        "decode_s": min(decode),
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
