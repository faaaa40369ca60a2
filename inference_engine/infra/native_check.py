"""Asks the built-in model a few questions and tells the answers, to compare one llama.cpp with another.

`python -m inference_engine.infra.native_check FOLDER FILE`, once with each library in a process of its own: the one
that is first on the path answers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from inference_engine.domain.model import Execution, Manifest
from inference_engine.domain.requests import Chat, Message, Sampling
from inference_engine.domain.results import Delivered, Delta, TextDelta
from inference_engine.infra.runtimes.llama_cpp import LlamaCppRuntime

QUESTIONS = ("How do I add my own model?", "What is a route?", "Who are you?", "List the commands.", "pip install")
_SAMPLING = Sampling(max_tokens=48, temperature=0, logprobs=2)


class _Sink:
    cancelled = False

    def __init__(self) -> None:
        self.deltas: list[Delta] = []

    def emit(self, *deltas: Delta) -> None:
        self.deltas.extend(deltas)


def _answer(runtime: LlamaCppRuntime, question: str) -> list[list[Any]]:
    """Each position's token, its log probability, and how far behind the second best is."""
    sink = _Sink()
    runtime.generate(Chat((Message("user", question),), _SAMPLING), Delivered(), sink)
    positions = [position for delta in sink.deltas if isinstance(delta, TextDelta) for position in delta.logprobs]
    return [[p.chosen.token, p.chosen.logprob, p.top[0].logprob - p.top[1].logprob] for p in positions]


def main(folder: Path, file: str) -> None:
    import xllamacpp

    runtime = LlamaCppRuntime()
    execution = Execution(threads=1, device="cpu")
    options = {"parallel": 1, "cache_ram_mib": 0}
    runtime.load(Manifest("check", "1", "llama_cpp", file, execution=execution, options=options), folder)
    answers = [_answer(runtime, question) for question in QUESTIONS]
    runtime.close()
    found = {"library": xllamacpp.__file__, "version": xllamacpp.__version__, "answers": answers}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
