"""Throughput of an ensemble of decode + CNN + labels, against the same written by hand in one process.

Both sides are asked in their own process, without HTTP: the ensemble through the Python API, every stage with its own
queue and batches. The hand-written side has no queues, computes each image whole in one thread, and may use whichever
number of threads is best here. Each thread of ONNX Runtime is one on both sides.
"""

from __future__ import annotations

from benchmarks.compare import Result, Target, interleaved, ratio_row
from benchmarks.models import add_vision
from benchmarks.plan import Plan
from benchmarks.processes import BenchmarkError, Peer, cores

_CONCURRENT = 32
_TARGET = Target("at least", 0.8, 0.95)


def measure(plan: Plan) -> Result:
    count = len(cores())
    folders = {executor: plan.folder / executor for executor in ("thread", "runner")}
    for executor, folder in folders.items():
        folder.mkdir()
        add_vision(folder, executor, count)
    arguments = {executor: ("engine", str(folder)) for executor, folder in folders.items()}
    with (
        Peer("vision", plan.folder / "hand.log", "hand", str(folders["thread"])) as hand,
        Peer("vision", plan.folder / "thread.log", *arguments["thread"]) as threads,
        Peer("vision", plan.folder / "runner.log", *arguments["runner"]) as runners,
    ):
        labels = [peer.ask(label="")["label"] for peer in (hand, threads, runners)]
        if len({label for label, _ in labels}) != 1 or max(s for _, s in labels) - min(s for _, s in labels) > 1e-4:
            raise BenchmarkError(f"the answers differ: {labels}")

        def rate(peer: Peer, concurrent: int, seconds: float) -> float:
            return float(peer.ask(seconds=seconds, concurrent=concurrent)["images_per_s"])

        sweep = {number: rate(hand, number, plan.seconds / 2) for number in sorted({1, count, 2 * count})}
        best = max(sweep, key=lambda number: sweep[number])
        for peer in (threads, runners):
            rate(peer, _CONCURRENT, plan.seconds / 2)
        found = interleaved(
            plan.rounds,
            {
                "threads": lambda: rate(threads, _CONCURRENT, plan.seconds),
                "hand": lambda: rate(hand, best, plan.seconds),
                "runners": lambda: rate(runners, _CONCURRENT, plan.seconds),
            },
        )
    peer = f"by hand, {best} threads"
    rows = [
        ratio_row(
            "decode + CNN + labels, stages in threads",
            "images/s",
            found["threads"],
            found["hand"],
            peer,
            target=_TARGET,
        ),
        ratio_row(
            "decode + CNN + labels, stages in runners",
            "images/s",
            found["runners"],
            found["hand"],
            peer,
            target=_TARGET,
        ),
    ]
    swept = ", ".join(f"{number}: {rate:,.0f}" for number, rate in sweep.items())
    return Result(
        rows,
        [
            f"JPEG of 640 x 480, CNN of 97 MFLOP, {_CONCURRENT} requests at once through the Python API, {count} instances "
            f"of the first two stages. By hand, images/s by threads: {swept}."
        ],
    )
