"""What the server keeps of models that are gone: its memory after 100 loads and unloads of a model, against before.

Memory is what the server's process alone holds (USS). Before is after a warm-up, in which libraries are imported and
the memory of the allocators settles; each load is followed by a request, so that everything for answers is made.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil

from benchmarks.compare import Result, Row, Target, plain_row
from benchmarks.load import Caller, Post, infer_post
from benchmarks.models import ECHO_INPUTS, MLP_INPUTS, add_echo, add_mlp
from benchmarks.plan import Plan
from benchmarks.processes import HttpProcess, engine

_TARGET = Target("at most", 5, 1, "%")
_WARM_UP = 20
_TIMES = 100
_QUICK_TIMES = 30
_SETTLE_S = 1.5


def measure(plan: Plan) -> Result:
    models = plan.folder / "loads"
    posts: dict[str, Post] = {}
    for executor in ("runner", "thread"):
        add_mlp(models, f"onnx-{executor}", executor)
        add_echo(models, f"python-{executor}", executor)
        posts[f"onnx-{executor}"] = infer_post(f"onnx-{executor}", MLP_INPUTS, binary=True)
        posts[f"python-{executor}"] = infer_post(f"python-{executor}", ECHO_INPUTS)
    times = _QUICK_TIMES if plan.quick else _TIMES
    rows: list[Row] = []
    notes: list[str] = []
    for model, post in posts.items():
        with _server(plan.folder, models, set(posts)) as server:
            _cycle(server, model, post, _WARM_UP)
            before = _own_bytes(server)
            _cycle(server, model, post, times)
            after = _own_bytes(server)
        rows.append(plain_row(f"{model}, {times} times", "% more", [100 * (after / before - 1)], _TARGET))
        notes.append(f"{model} {before / 1e6:.1f} to {after / 1e6:.1f} MB")
    return Result(rows, [f"Each with a server of its own: {', '.join(notes)}."])


@contextmanager
def _server(folder: Path, models: Path, names: set[str]) -> Iterator[HttpProcess]:
    """A server that holds none of its models."""
    with engine(folder, models) as server:
        for name in names:
            server.post(f"/v2/repository/models/{name}/unload")
        yield server


def _cycle(server: HttpProcess, model: str, post: Post, times: int) -> None:
    stored = f"/v2/repository/models/{model}"
    with closing(Caller(server.port)) as caller:
        for _ in range(times):
            for one in (Post(f"{stored}/load", b"{}"), post, Post(f"{stored}/unload", b"{}")):
                caller.answer(one)


def _own_bytes(server: HttpProcess) -> int:
    time.sleep(_SETTLE_S)
    return int(psutil.Process(server.pid).memory_full_info().uss)
