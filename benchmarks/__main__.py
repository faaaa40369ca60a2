"""`python -m benchmarks [NAME ...] [--quick] [--rounds N]`: measures, prints tables, writes RESULTS.md."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from benchmarks import echo, ensemble, grpc_echo, latency, llm, loads, mlp, report, serving, start, tensors
from benchmarks.compare import Result
from benchmarks.plan import Plan
from benchmarks.processes import BenchmarkError

_BENCHMARKS: dict[str, Callable[[Plan], Result]] = {
    "start": start.measure,
    "echo": echo.measure,
    "grpc": grpc_echo.measure,
    "latency": latency.measure,
    "loads": loads.measure,
    "mlp": mlp.measure,
    "ensemble": ensemble.measure,
    "llm": llm.measure,
    "serving": serving.measure,
    "tensors": tensors.measure,
}
_LIMIT_S = 2400
_QUICK_LIMIT_S = 400


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, _ended)
    signal.signal(signal.SIGALRM, _ended)
    signal.alarm(_QUICK_LIMIT_S if options.quick else _LIMIT_S)
    rounds = options.rounds or (2 if options.quick else 5)
    run = report.Run.begin(" ".join(["python -m benchmarks", *sys.argv[1:]]), rounds)
    print(run, flush=True)
    failed = False
    for name in options.names or _BENCHMARKS:
        started = time.monotonic()
        try:
            with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
                result = _BENCHMARKS[name](_plan(Path(folder), rounds, options.quick))
        except BenchmarkError as error:
            failed = True
            print(f"\n{name}: could not be measured: {error}", flush=True)
            continue
        print(f"\n{name} ({time.monotonic() - started:.0f} s)\n{report.text_table(result.rows)}")
        print("\n".join(result.notes), flush=True)
        if not options.quick:
            report.write(name, result, run)
    return int(failed)


def _plan(folder: Path, rounds: int, quick: bool) -> Plan:
    return (
        Plan(folder, rounds, seconds=1, tokens=16, quick=True) if quick else Plan(folder, rounds, seconds=3, tokens=64)
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the server against its peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which to run: {', '.join(_BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="short and rough; RESULTS.md is not written")
    parser.add_argument("--rounds", type=int, help="how often each side is measured in turn")
    options = parser.parse_args()
    for name in options.names:
        if name not in _BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}: choose from {', '.join(_BENCHMARKS)}")
    return options


def _ended(number: int, _: FrameType | None) -> None:
    """Leave through every `with`, so that all processes end."""
    reason = "the time limit was reached" if number == signal.SIGALRM else "terminated"
    sys.exit(f"benchmarks: {reason}")


if __name__ == "__main__":
    sys.exit(main())
