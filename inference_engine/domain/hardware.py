"""What this machine offers: the figures that runtimes, threads and placement are chosen by. Detects nothing itself."""

from __future__ import annotations

import msgspec


class Cpu(msgspec.Struct, frozen=True):
    """Processors this process may use. `quota` is the container's limit in processors, None without one.

    `features` names the instruction sets that matter to inference (`avx2`, `avx512f`, `amx_int8`, ...).
    """

    model: str
    architecture: str
    logical: int
    physical: int
    quota: float | None = None
    features: tuple[str, ...] = ()

    @property
    def threads(self) -> int:
        """How many threads can compute at full speed at once: physical cores, within the quota."""
        cores = min(self.physical, self.logical)
        return max(1, cores if self.quota is None else min(cores, int(self.quota)))


class Memory(msgspec.Struct, frozen=True):
    """Main memory this process may use, in bytes; `limit_bytes` is the container's, None without one."""

    total_bytes: int
    available_bytes: int
    limit_bytes: int | None = None


class NumaNode(msgspec.Struct, frozen=True):
    """One memory node with the processors next to it."""

    index: int
    cpus: tuple[int, ...]
    memory_bytes: int


class Gpu(msgspec.Struct, frozen=True):
    """One accelerator as its driver reports it."""

    index: int
    name: str
    memory_bytes: int
    free_bytes: int
    driver: str = ""


class Hardware(msgspec.Struct, frozen=True):
    cpu: Cpu
    memory: Memory
    numa: tuple[NumaNode, ...] = ()
    gpus: tuple[Gpu, ...] = ()
