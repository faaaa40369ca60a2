"""The machine, read from a made-up /proc and /sys, and this one for real."""

from __future__ import annotations

import os
from pathlib import Path

from inference_engine.domain.hardware import Gpu
from inference_engine.infra.hardware import detect

MEMINFO = "MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable: 4194304 kB\n"


def machine(root: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def cpuinfo(threads_per_core: int) -> str:
    blocks = [
        f"processor\t: {cpu}\nmodel name\t: Test CPU\nphysical id\t: 0\ncore id\t\t: {cpu // threads_per_core}\n"
        "flags\t\t: fpu avx2 avx512f avx512_vnni amx_int8 sse4_2\n"
        for cpu in sorted(os.sched_getaffinity(0))
    ]
    return "\n".join(blocks)


def test_this_machine_is_seen() -> None:
    found = detect()
    assert found.cpu.logical == len(os.sched_getaffinity(0))
    assert 1 <= found.cpu.threads <= found.cpu.logical
    assert 0 < found.memory.available_bytes <= found.memory.total_bytes


def test_features_and_cores_are_read(tmp_path: Path) -> None:
    cpu = detect(machine(tmp_path, {"proc/cpuinfo": cpuinfo(threads_per_core=1)})).cpu
    assert cpu.model == "Test CPU"
    assert cpu.features == ("sse4_2", "avx2", "avx512f", "avx512_vnni", "amx_int8")
    assert cpu.physical == cpu.logical


def test_two_threads_of_a_core_count_once(tmp_path: Path) -> None:
    cpu = detect(machine(tmp_path, {"proc/cpuinfo": cpuinfo(threads_per_core=1 << 20)})).cpu
    assert (cpu.physical, cpu.threads) == (1, 1)


def test_a_version_2_control_group_limits_processors_and_memory(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/pod/box\n",
            "sys/fs/cgroup/pod/cpu.max": "150000 100000",
            "sys/fs/cgroup/pod/box/cpu.max": "max 100000",
            "sys/fs/cgroup/pod/memory.max": str(2 << 30),
            "sys/fs/cgroup/pod/memory.current": str(1 << 30),
            "sys/fs/cgroup/pod/memory.stat": f"anon 1\ninactive_file {512 << 20}\n",
            "sys/fs/cgroup/pod/box/memory.max": "max",
        },
    )
    found = detect(root)
    assert (found.cpu.quota, found.cpu.threads) == (1.5, 1)
    assert found.memory.limit_bytes == found.memory.total_bytes == 2 << 30
    assert found.memory.available_bytes == (2 << 30) - (1 << 30) + (512 << 20)


def test_a_version_1_control_group_limits_too(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            # Inside a container the path is the host's, while the mount shows only the container's part.
            "proc/self/cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/docker/abc\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(1 << 30),
            "sys/fs/cgroup/memory/memory.usage_in_bytes": str(1 << 20),
        },
    )
    found = detect(root)
    assert found.cpu.quota == 4.0
    assert (found.memory.limit_bytes, found.memory.available_bytes) == (1 << 30, (1 << 30) - (1 << 20))


def test_without_limits_the_machine_is_what_it_is(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "1:memory:/\n2:cpu:/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
        },
    )
    found = detect(root)
    assert (found.cpu.quota, found.memory.limit_bytes) == (None, None)
    assert (found.memory.total_bytes, found.memory.available_bytes) == (8 << 30, 4 << 30)


def test_numa_nodes_are_read(tmp_path: Path) -> None:
    nodes = "sys/devices/system/node"
    root = machine(
        tmp_path,
        {
            f"{nodes}/node0/cpulist": "0-2,8",
            f"{nodes}/node0/meminfo": "Node 0 MemTotal:       1024 kB\n",
            f"{nodes}/node1/cpulist": "",
        },
    )
    first, second = detect(root).numa
    assert (first.index, first.cpus, first.memory_bytes) == (0, (0, 1, 2, 8), 1 << 20)
    assert (second.index, second.cpus, second.memory_bytes) == (1, (), 0)


def test_gpus_are_what_the_driver_reports_and_a_failing_driver_is_no_error(tmp_path: Path) -> None:
    program = tmp_path / "smi"
    program.write_text("#!/bin/sh\necho '0, NVIDIA H100, 81559, 80000, 550.54'\necho garbage\n")
    program.chmod(0o755)
    assert detect(nvidia_smi=str(program)).gpus == (Gpu(0, "NVIDIA H100", 81559 << 20, 80000 << 20, "550.54"),)
    program.write_text("#!/bin/sh\nexit 9\n")
    assert detect(nvidia_smi=str(program)).gpus == ()
    assert detect(nvidia_smi=str(tmp_path / "absent")).gpus == ()
