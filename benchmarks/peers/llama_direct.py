"""xllamacpp called in process: `python -m benchmarks.peers.llama_direct FILE.gguf PARALLEL CONTEXT N_BATCH THREADS`.

Answers `{"prompts": [...], "max_tokens": N}` on stdin with `{"tokens": T, "seconds": S}`: each prompt is streamed in a
thread of its own, at the same time, and its text is read from every chunk.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import xllamacpp


class _Choice(msgspec.Struct):
    text: str = ""


class _Usage(msgspec.Struct):
    completion_tokens: int


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None


_decode = msgspec.json.Decoder(_Chunk).decode


class _Reader:
    """The callback of one stream."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.tokens = 0

    def __call__(self, raw: bytes) -> bool:
        chunk = _decode(raw)
        self.text += [choice.text for choice in chunk.choices]
        if chunk.usage is not None:
            self.tokens = chunk.usage.completion_tokens
        return False


def _server(path: Path, parallel: int, context: int, n_batch: int, threads: int) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.verbosity = -1
    params.ui = False
    params.n_parallel = parallel
    params.n_ctx = parallel * context
    params.n_batch = n_batch
    params.n_ubatch = min(n_batch, params.n_ubatch)
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    return xllamacpp.Server(params)


def _answer(server: Any, prompts: list[str], max_tokens: int) -> dict[str, float]:
    readers = [_Reader() for _ in prompts]
    bodies = [
        msgspec.json.encode(
            {"prompt": prompt, "n_predict": max_tokens, "temperature": 0, "ignore_eos": True, "stream": True}
        )
        for prompt in prompts
    ]
    threads = [
        threading.Thread(target=server.handle_completions, args=pair) for pair in zip(bodies, readers, strict=True)
    ]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"tokens": sum(reader.tokens for reader in readers), "seconds": time.perf_counter() - started}


def main() -> None:
    path, (parallel, context, n_batch, threads) = Path(sys.argv[1]), map(int, sys.argv[2:6])
    answers = os.fdopen(os.dup(1), "w")  # llama.cpp may print: only answers go to the real output
    os.dup2(2, 1)
    server = _server(path, parallel, context, n_batch, threads)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        print(json.dumps(_answer(server, question["prompts"], question["max_tokens"])), file=answers, flush=True)
    answers.flush()
    os._exit(0)  # its threads abort when the interpreter is torn down


if __name__ == "__main__":
    main()
