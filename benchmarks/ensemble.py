"""Throughput of an ensemble of decode + CNN + labels, against the same written by hand in one process.

Both sides are asked in their own process, without HTTP: the ensemble through the Python API, every stage with its own
queue and batches. The hand-written side has no queues, computes each image whole in one thread, and may use whichever
number of threads is best here. ONNX Runtime computes in one thread for each of these, on both sides. Processor time is
told beside it, because it says the same on a busy machine. The target is for runners, which models have unless they say
otherwise.
"""

from __future__ import annotations

from benchmarks.compare import Result, Target, interleaved, ratio_row
from benchmarks.models import add_vision
from benchmarks.plan import Plan
from benchmarks.processes import BenchmarkError, Peer, cores

_CONCURRENT = 32
_CLOSE = 1e-4
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
        scores = [score for _, score in labels]
        if len({label for label, _ in labels}) != 1 or max(scores) - min(scores) > _CLOSE:
            raise BenchmarkError(f"the answers differ: {labels}")

        spent: dict[Peer, list[float]] = {hand: [], threads: [], runners: []}

        def rate(peer: Peer, concurrent: int, seconds: float) -> float:
            found = peer.ask(seconds=seconds, concurrent=concurrent)
            spent[peer].append(found["processor_ms"])
            return float(found["images_per_s"])

        sweep = {number: rate(hand, number, plan.seconds / 2) for number in sorted({1, count, 2 * count})}
        best = max(sweep, key=lambda number: sweep[number])
        for peer in (threads, runners):
            rate(peer, _CONCURRENT, plan.seconds / 2)
        for values in spent.values():
            values.clear()
        found = interleaved(
            plan.rounds,
            {
                "threads": lambda: rate(threads, _CONCURRENT, plan.seconds),
                "hand": lambda: rate(hand, best, plan.seconds),
                "runners": lambda: rate(runners, _CONCURRENT, plan.seconds),
            },
        )
    by_hand = f"by hand, {best} threads"
    what = "decode + CNN + labels, stages in"
    rows = [
        ratio_row(f"{what} threads", "images/s", found["threads"], found["hand"], by_hand),
        ratio_row(f"{what} runners", "images/s", found["runners"], found["hand"], by_hand, target=_TARGET),
        ratio_row("processor time, threads", "ms/image", spent[threads], spent[hand], by_hand),
        ratio_row("processor time, runners", "ms/image", spent[runners], spent[hand], by_hand),
    ]
    swept = ", ".join(f"{number}: {rate:,.0f}" for number, rate in sweep.items())
    return Result(
        rows,
        [
            f"JPEG of 640 x 480, CNN of 97 MFLOP, {_CONCURRENT} requests at once through the Python API, {count} "
            f"instances of the first two stages. By hand, images/s by threads: {swept}."
        ],
    )
