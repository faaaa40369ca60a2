"""What the server and its runners take of this machine, where the server runs here."""

from __future__ import annotations

import os

import psutil


class Processes:
    """A server's process and those below it, which are its runners."""

    def __init__(self, pid: int) -> None:
        self._server = psutil.Process(pid)

    @staticmethod
    def of_this_process() -> Processes:
        return Processes(os.getpid())

    def read(self) -> tuple[float, float, int, int] | None:
        """CPU seconds of the server and of its runners, and their memory in bytes. None when it has ended."""
        try:
            runners = self._server.children(recursive=True)
            own_cpu, own_bytes = _used(self._server)
        except psutil.Error:
            return None
        cpu_s, memory_bytes = 0.0, 0
        for runner in runners:
            try:
                one_cpu, one_bytes = _used(runner)
            except psutil.Error:  # it was replaced in the meantime
                continue
            cpu_s += one_cpu
            memory_bytes += one_bytes
        return own_cpu, cpu_s, own_bytes, memory_bytes


def busy_cpu_s() -> float:
    """CPU seconds that this machine has spent on anything since it was started."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # they are in `user` and `nice` too
    return float(sum(times) - idle - guests)


def _used(process: psutil.Process) -> tuple[float, int]:
    times = process.cpu_times()
    return times.user + times.system, process.memory_info().rss


def server_at(port: int, runner_pid: int | None) -> Processes | None:
    """The process that listens on a port of this machine. None when it cannot be known, or is a proxy of something.

    `runner_pid` is what the server says of itself: the process found must be it, or its parent.
    """
    try:
        listening = [
            one.pid
            for one in psutil.net_connections("tcp")
            if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port and one.pid
        ]
        for pid in listening:
            process = psutil.Process(pid)
            below = {child.pid for child in process.children(recursive=True)} | {pid}
            ours = runner_pid in below if runner_pid else "inference" in " ".join(process.cmdline())
            if ours:
                return Processes(pid)
    except (psutil.Error, OSError):
        return None
    return None
