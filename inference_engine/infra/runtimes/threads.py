"""How many threads a runtime should use when the manifest leaves it to the machine. Knows nothing of models."""

from __future__ import annotations

import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_CORES = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def thread_count(wanted: int) -> int:
    """`wanted`, or for 0 the physical cores this process may use, by affinity and container quota."""
    if wanted > 0:
        return wanted
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = len({_siblings(cpu) for cpu in cpus})
    return max(1, min(cores, _quota() or cores))


def _siblings(cpu: int) -> str:
    try:
        return Path(_CORES.format(cpu)).read_text().strip()
    except OSError:  # not Linux, or a sandbox without sysfs: count every logical processor
        return str(cpu)


def _quota() -> int | None:
    try:
        quota, period = _QUOTA.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, int(quota) // int(period))
