"""Looks at this machine: processors, instruction sets, memory, NUMA nodes, GPUs, and a container's limits on them.

On Linux the files under /proc and /sys are read, elsewhere psutil is asked. Nothing here fails: what cannot be found
out is left empty.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from inference_engine.domain.hardware import Cpu, Gpu, Hardware, Memory, NumaNode

_FEATURES = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni"),
    *("avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2"),
)
_GPU_QUERY = ("--query-gpu=index,name,memory.total,memory.free,driver_version", "--format=csv,noheader,nounits")
_GPU_TIMEOUT_S = 5.0
_UNLIMITED_BYTES = 1 << 60  # cgroup v1 writes "no limit" as a number near 2**63


def detect(root: Path = Path("/"), *, nvidia_smi: str = "nvidia-smi") -> Hardware:
    """Read the machine once. `root` is where `proc` and `sys` are found. Blocking: milliseconds, more with GPUs."""
    files = _Files(root)
    return Hardware(cpu=_cpu(files), memory=_memory(files), numa=_numa(files), gpus=_gpus(nvidia_smi))


class _Files:
    """The small text files of /proc and /sys; a missing one reads as empty."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def text(self, path: str) -> str:
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""

    def cgroup(self, controller: str, v2: str, v1: str) -> list[tuple[Path, str]]:
        """What `v2` (or `v1` under `controller`) says in this process's control group and in every one above it."""
        for line in self.text("proc/self/cgroup").splitlines():
            hierarchy, _, rest = line.partition(":")
            names, _, inner = rest.partition(":")
            if hierarchy == "0" and not names:
                found = self._upwards(Path("sys/fs/cgroup"), inner, v2)
            elif controller in names.split(","):
                found = self._upwards(Path("sys/fs/cgroup") / controller, inner, v1)
            else:
                continue
            if found:
                return found
        return []

    def _upwards(self, mount: Path, inner: str, name: str) -> list[tuple[Path, str]]:
        # Inside a container the path is often the host's while the mount shows only our part: then the top counts.
        folder = mount / inner.strip("/")
        folders = [folder, *folder.parents] if ".." not in folder.parts else [mount]
        within = [path for path in folders if path.is_relative_to(mount)]
        return [(path, text) for path in within if (text := self.text(str(path / name)))]


def _cpu(files: _Files) -> Cpu:
    allowed = _allowed()
    blocks = [_fields(block) for block in files.text("proc/cpuinfo").split("\n\n") if block]
    usable = [block for block in blocks if block.get("processor", "").isdigit() and int(block["processor"]) in allowed]
    first = (usable or blocks or [{}])[0]
    flags = set((first.get("flags") or first.get("Features") or "").split())
    cores = {(block.get("physical id", ""), block.get("core id", block["processor"])) for block in usable}
    return Cpu(
        model=first.get("model name") or platform.processor() or platform.machine(),
        architecture=platform.machine(),
        logical=len(allowed),
        physical=len(cores) or _physical(len(allowed)),
        quota=_quota(files),
        features=tuple(name for name in _FEATURES if name in flags),
    )


def _fields(block: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in block.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _allowed() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _physical(logical: int) -> int:
    import psutil

    return min(logical, psutil.cpu_count(logical=False) or logical)


def _quota(files: _Files) -> float | None:
    """The tightest CPU limit on the way up, in processors."""
    limits = []
    for folder, text in files.cgroup("cpu", "cpu.max", "cpu.cfs_quota_us"):
        quota, _, period = text.partition(" ")
        period = period or files.text(str(folder / "cpu.cfs_period_us"))
        if quota.isdigit() and period.isdigit() and int(period):
            limits.append(int(quota) / int(period))
    return min(limits, default=None)


def _memory(files: _Files) -> Memory:
    total, available = _meminfo(files)
    limit: int | None = None
    free = available
    for folder, text in files.cgroup("memory", "memory.max", "memory.limit_in_bytes"):
        if text.isdigit() and int(text) < min(total, _UNLIMITED_BYTES):
            limit = int(text) if limit is None else min(int(text), limit)
            free = min(free, max(0, int(text) - _used(files, folder)))
    return Memory(total_bytes=limit or total, available_bytes=free, limit_bytes=limit)


def _used(files: _Files, folder: Path) -> int:
    """What a control group holds; file pages that the kernel gives back on demand do not count."""
    used = files.text(str(folder / "memory.current")) or files.text(str(folder / "memory.usage_in_bytes"))
    cached = re.search(r"^(?:total_)?inactive_file (\d+)", files.text(str(folder / "memory.stat")), re.MULTILINE)
    return max(0, int(used) - (int(cached[1]) if cached else 0)) if used.isdigit() else 0


def _meminfo(files: _Files) -> tuple[int, int]:
    values: dict[str, str] = dict(re.findall(r"^(\w+):\s+(\d+) kB", files.text("proc/meminfo"), re.MULTILINE))
    if "MemTotal" in values:
        return int(values["MemTotal"]) * 1024, int(values.get("MemAvailable", values.get("MemFree", 0))) * 1024
    import psutil

    memory = psutil.virtual_memory()
    return memory.total, memory.available


def _numa(files: _Files) -> tuple[NumaNode, ...]:
    nodes = []
    for folder in (files.root / "sys/devices/system/node").glob("node[0-9]*"):
        total = re.search(r"MemTotal:\s+(\d+) kB", files.text(str(folder.relative_to(files.root) / "meminfo")))
        cpus = _cpu_list(files.text(str(folder.relative_to(files.root) / "cpulist")))
        nodes.append(NumaNode(int(folder.name[4:]), cpus, int(total[1]) * 1024 if total else 0))
    return tuple(sorted(nodes, key=lambda node: node.index))


def _cpu_list(text: str) -> tuple[int, ...]:
    """The kernel's `0-3,8` as numbers."""
    found: list[int] = []
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        found.extend(range(int(first), int(last or first) + 1))
    return tuple(found)


def _gpus(nvidia_smi: str) -> tuple[Gpu, ...]:
    program = shutil.which(nvidia_smi)
    if program is None:
        return ()
    try:
        answer = subprocess.run(
            [program, *_GPU_QUERY], capture_output=True, text=True, timeout=_GPU_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(gpu for line in answer.stdout.splitlines() if (gpu := _gpu(line)) is not None)


def _gpu(line: str) -> Gpu | None:
    parts = [part.strip() for part in line.split(",")]
    if len(parts) != 5 or not parts[0].isdigit():
        return None
    total, free = (int(part) << 20 if part.isdigit() else 0 for part in parts[2:4])
    return Gpu(int(parts[0]), parts[1], total, free, parts[4])
