"""Language models through HTTP with `runtime: auto`, against xllamacpp's own HTTP server on the same file.

Both servers are asked by the same client in turns; whoever is not asked is idle. The peer has 16 slots, which is where
it is fastest here, and llama.cpp's defaults otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import psutil

from benchmarks.compare import Result, Row, Target, interleaved, plain_row, ratio_row
from benchmarks.models import auto_root
from benchmarks.plan import Plan
from benchmarks.processes import BenchmarkError, HttpProcess, cores, engine, llama_http
from benchmarks.streams import Intrusion, first_token_s, intrude, prompt, tokens_per_s

SLOTS = 16
CONTEXT = 3072
_PROMPT = 20
_SHARED, _OWN = 400, 112
_LONG = 2000
_RUNNING = 4
_LOAD_LIMIT_S = 240.0
_PEER = "xllamacpp HTTP"


def measure(plan: Plan) -> Result:
    root, file = auto_root(CONTEXT, len(cores()))
    with (
        llama_http(plan.folder, file, SLOTS, CONTEXT, len(cores())) as peer,
        engine(plan.folder, root) as ours,
    ):
        bench = _Bench(plan, ours, peer)
        rows, notes = bench.throughput()
        more, also = bench.latency()
    return Result(rows + more, [*notes, *also])


class _Bench:
    """The two servers, and seeds that are never used twice, so that no prompt is found in a cache unless it should."""

    def __init__(self, plan: Plan, ours: HttpProcess, peer: HttpProcess) -> None:
        self._plan = plan
        self._ours = ours
        self._peer = peer
        self._seed = 0

    def throughput(self) -> tuple[list[Row], list[str]]:
        """All that is asked of `aim: throughput`."""
        note = self._load("throughput")
        try:
            rows = [self._speeds("throughput", streams, 1.8, 2.4) for streams in (16, 64)]
            rows.append(self._against_own_best())
            rows.append(self._front_share())
            rows.append(self._first_token("throughput"))
            rows += self._intrusions("throughput", judged=True)
        finally:
            self._unload("throughput")
        return rows, [note]

    def latency(self) -> tuple[list[Row], list[str]]:
        """All that is asked of `aim: latency`."""
        note = self._load("latency")
        try:
            rows = [self._speeds("latency", 1, 1.0, 1.05), self._first_token("latency")]
            rows += self._intrusions("latency", judged=False)
        finally:
            self._unload("latency")
        return rows, [note]

    def _load(self, aim: str) -> str:
        found = self._ours.post(f"/admin/models/{aim}/1/load", _LOAD_LIMIT_S)
        auto = found["details"]["auto"]
        figures = "; ".join(
            f"{one['runtime']} {one['tokens_per_s']:g} tokens/s"
            + (f", mean difference of logprobs {one['difference']}" if one["difference"] is not None else "")
            + (f", refused: {one['refused']}" if one["refused"] else "")
            for one in auto["candidates"]
        )
        return f"For {aim}, auto chose {auto['chosen']}: {auto['why']} ({figures})."

    def _unload(self, aim: str) -> None:
        self._ours.post(f"/admin/models/{aim}/1/unload", _LOAD_LIMIT_S)

    def _texts(self, count: int, tokens: int = _PROMPT) -> list[str]:
        self._seed += count
        return [prompt(tokens, self._seed - index) for index in range(count)]

    def _turns(self, aim: str, one: Callable[[int, str], float]) -> dict[str, list[float]]:
        ours, peer = (self._ours.port, aim), (self._peer.port, "llm")
        return interleaved(self._plan.rounds, {"ours": partial(one, *ours), "peer": partial(one, *peer)})

    def _speeds(self, aim: str, streams: int, least: float, stretch: float) -> Row:
        def speed(port: int, model: str) -> float:
            return tokens_per_s(port, model, self._texts(streams), self._plan.tokens)

        found = self._turns(aim, speed)
        what = f"{streams} stream{'s' if streams > 1 else ''}, {aim}"
        return ratio_row(
            what, "tokens/s", found["ours"], found["peer"], _PEER, target=Target("at least", least, stretch)
        )

    def _against_own_best(self) -> Row:
        def speed(streams: int) -> float:
            return tokens_per_s(self._ours.port, "throughput", self._texts(streams), self._plan.tokens)

        found = interleaved(self._plan.rounds, {"many": lambda: speed(64), "few": lambda: speed(16)})
        target = Target("at least", 0.95, 1.0)
        return ratio_row("64 streams against 16", "tokens/s", found["many"], found["few"], "ours at 16", target=target)

    def _front_share(self) -> Row:
        """CPU time of the server process against that of the runner, while 16 streams are decoded."""
        front = psutil.Process(self._ours.pid)
        runner = max(front.children(recursive=True), key=lambda child: child.memory_info().rss)

        def used(process: psutil.Process) -> float:
            return sum(process.cpu_times()[:2])

        shares = []
        for _ in range(self._plan.rounds):
            before = used(front), used(runner)
            tokens_per_s(self._ours.port, "throughput", self._texts(16), self._plan.tokens)
            shares.append(100 * (used(front) - before[0]) / (used(runner) - before[1]))
        return plain_row("CPU of the server process, 16 streams", "% of decode", shares, Target("at most", 2, 1, "%"))

    def _first_token(self, aim: str) -> Row:
        def first(port: int, model: str) -> float:
            shared, (one, other) = self._texts(1, _SHARED)[0], self._texts(2, _OWN)
            first_token_s(port, model, shared + one)
            return first_token_s(port, model, shared + other) * 1000

        found = self._turns(aim, first)
        what = f"first token, {_SHARED} tokens shared, {aim}"
        return ratio_row(what, "ms", found["ours"], found["peer"], _PEER, target=Target("at most", 1.0, 0.6))

    def _intrusions(self, aim: str, *, judged: bool) -> list[Row]:
        seen: list[Intrusion] = []

        def gap(port: int, model: str) -> float:
            running, (newcomer,) = self._texts(_RUNNING), self._texts(1, _LONG)
            seen.append(asyncio.run(intrude(port, model, running, newcomer, CONTEXT - 100)))
            return seen[-1].gap_s * 1000

        found = self._turns(aim, gap)
        by_gap = {intrusion.gap_s * 1000: intrusion.first_s for intrusion in seen}
        firsts = {side: [by_gap[value] for value in values] for side, values in found.items()}
        if len(by_gap) != len(seen):
            raise BenchmarkError("two measurements are equal to the last digit")
        what = f"{_LONG}-token prompt beside {_RUNNING} streams, {aim}"
        targets = (Target("at most", 0.1, 0.03), Target("at most", 1.25, 1.0)) if judged else (None, None)
        return [
            ratio_row(f"longest gap: {what}", "ms", found["ours"], found["peer"], _PEER, target=targets[0]),
            ratio_row(f"its first token: {what}", "s", firsts["ours"], firsts["peer"], _PEER, target=targets[1]),
        ]
