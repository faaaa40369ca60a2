"""Builds xllamacpp from its sources for this machine's processor, into a folder of our own, and says which is used.

The published wheel uses no instructions beyond AVX2. A build lies in `<state_dir>/native/xllamacpp-VERSION`; runners
put that folder first on their path as long as its stamp names the installed version and this processor. It is put
there in one move, after its answers were compared with the wheel's, so a failed build changes nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import Any

import msgspec

from inference_engine.domain.errors import ModelError, RuntimeMissing
from inference_engine.domain.native import NativeStatus

PACKAGE = "xllamacpp"
# builds nothing that would be downloaded or that a runner has no use for
CMAKE_FLAGS = (
    *("-DGGML_NATIVE=ON", "-DLLAMA_LLGUIDANCE=OFF", "-DLLAMA_BUILD_BORINGSSL=OFF", "-DLLAMA_OPENSSL=OFF"),
    *("-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF"),
)
BEYOND_WHEEL = (
    *("avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"),
    *("asimddp", "asimdhp", "i8mm", "sve", "sve2"),
)
_TIE = 0.05  # natural log: two tokens so close may change places between instruction sets
_SAME = 0.15
_END_S = 10.0
_END: list[Any] = ["the end", 0.0, 1.0]
_DISK_BYTES = 2 << 30
_STEP = re.compile(r"^\s*\[\s*(\d+)(?:/(\d+)|%)\]")

Progress = Callable[[str, float], None]
"""Told what is being done and how much of it is done, 0 to 1."""


class _Stamp(msgspec.Struct):
    """What a finished build is and for which machine."""

    version: str
    machine: str


class NativeBuild:
    """The build for this machine below `state_dir`. Blocking; `build` takes minutes."""

    def __init__(self, state_dir: Path, check_model: Path, processor_features: Callable[[], tuple[str, ...]]) -> None:
        """`check_model` is the GGUF file whose answers are compared."""
        self._root = state_dir / "native"
        self._check_model = check_model
        self._processor_features = processor_features

    @property
    def folder(self) -> Path:
        return self._root / f"{PACKAGE}-{_installed()}"

    def active_folder(self) -> Path | None:
        """Where runners find the build, or None: then they use the wheel."""
        return self.folder if self._problem(self._stamp()) == "" else None

    def status(self) -> NativeStatus:
        stamp = self._stamp()
        features = tuple(name for name in self._processor_features() if name in BEYOND_WHEEL)
        if stamp is None:
            return NativeStatus("absent", str(self.folder), features=features)
        problem = self._problem(stamp)
        return NativeStatus(
            "stale" if problem else "active",
            str(self.folder),
            stamp.version,
            problem,
            features,
        )

    def remove(self) -> bool:
        """Delete every build; False when there was none. Running runners keep what they have loaded."""
        found = self._root.exists()
        shutil.rmtree(self._root, ignore_errors=True)
        return found

    def build(self, progress: Progress, *, source: str | None = None, jobs: int | None = None) -> NativeStatus:
        """Build, compare, and put in place. `source` is an sdist or its unpacked folder; else pip fetches it.

        Raises:
            RuntimeMissing: a tool that is needed is not installed, or the compiler failed; the message says what to do.
            ModelError: the build's answers differ from the wheel's, or another build is running.
        """
        _require_tools()
        with self._alone():
            free = shutil.disk_usage(self._root).free
            if free < _DISK_BYTES:
                raise ModelError(f"{self._root} has {free >> 20} MB free, a build needs {_DISK_BYTES >> 20}: free some")
            making, scratch = self._root / "making", self._root / "scratch"
            for folder in (making, scratch):
                shutil.rmtree(folder, ignore_errors=True)
            scratch.mkdir()
            try:
                self._compile(making, scratch, source, jobs or os.cpu_count() or 1, progress)
                stamp = self._compared(making, progress)
                (making / "stamp.json").write_bytes(msgspec.json.encode(stamp))
                shutil.rmtree(self.folder, ignore_errors=True)
                making.rename(self.folder)
            finally:
                for folder in (making, scratch):
                    shutil.rmtree(folder, ignore_errors=True)
        return self.status()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self._root.mkdir(parents=True, exist_ok=True)
        with (self._root / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ModelError(f"another build is running in {self._root}: wait for it") from None
            yield

    def _compile(self, target: Path, scratch: Path, source: str | None, jobs: int, progress: Progress) -> None:
        log = self._root / "build.log"
        command = [sys.executable, "-m", "pip", "install", "--verbose", "--no-cache-dir", "--no-deps"]
        command += ["--disable-pip-version-check", "--target", str(target), "--no-binary", PACKAGE]
        if all(find_spec(name) for name in ("setuptools", "Cython", "versioneer")):
            command.append("--no-build-isolation")
        command.append(source or f"{PACKAGE}=={_installed()}")
        flags = " ".join(CMAKE_FLAGS)
        environment = os.environ | {"CMAKE_ARGS": flags, "NPROC": str(jobs), "PYTHONUNBUFFERED": "1"}
        environment["TMPDIR"] = str(scratch)  # pip leaves its own folder behind when it is ended
        if shutil.which("ninja"):
            environment["CMAKE_GENERATOR"] = "Ninja"
        progress("fetching the sources", 0.0)
        tail: deque[str] = deque(maxlen=30)
        with log.open("w", buffering=1) as written, _running(command, environment) as process:
            assert process.stdout is not None
            for line in process.stdout:
                written.write(line)
                tail.append(line.strip())
                if step := _STEP.match(line):
                    progress("compiling", int(step[1]) / int(step[2] or 100))
            status = process.wait()
        if status != 0:
            cause = next((line for line in reversed(tail) if "error" in line.lower()), tail[-1] if tail else "")
            raise RuntimeMissing(f"llama.cpp could not be built: {cause[:300]}. The whole output is in {log}")

    def _compared(self, built: Path, progress: Progress) -> _Stamp:
        progress("comparing its answers with the wheel's", 1.0)
        ours, theirs = self._checked(built), self._checked(None)
        if not Path(ours["library"]).is_relative_to(built):
            raise ModelError(f"the build in {built} was not used, {ours['library']} was: report this")
        difference = _difference(theirs["answers"], ours["answers"])
        if difference:
            raise ModelError(f"the build is not used, its answers differ from the wheel's: {difference}")
        return _Stamp(ours["version"], machine())

    def _checked(self, first: Path | None) -> dict[str, Any]:
        command = [sys.executable, "-m", "inference_engine.infra.native_check"]
        command += [str(self._check_model.parent), self._check_model.name]
        environment = os.environ | {"GGML_NO_BACKTRACE": "1", "GOMP_SPINCOUNT": "5000"}
        if first is not None:
            environment["PYTHONPATH"] = path_with(first)
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
        if ended.returncode != 0:
            which = "the build" if first else "the wheel"
            raise ModelError(f"{which} does not run (exit {ended.returncode}): {ended.stderr.strip()[-300:]}")
        found: dict[str, Any] = json.loads(ended.stdout)
        return found

    def _stamp(self) -> _Stamp | None:
        try:
            return msgspec.json.decode((self.folder / "stamp.json").read_bytes(), type=_Stamp)
        except (OSError, msgspec.MsgspecError):
            return None

    @staticmethod
    def _problem(stamp: _Stamp | None) -> str:
        """Why a build is not used; empty when it is."""
        if stamp is None:
            return "there is none"
        if stamp.version != _installed():
            return f"it is of version {stamp.version}, installed is {_installed()}"
        return "" if stamp.machine == machine() else "it was built for another processor"


def path_with(folder: Path) -> str:
    """A PYTHONPATH with `folder` first."""
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


@functools.cache
def machine() -> str:
    """This processor's model and instruction sets: code built for it may not run on another."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    lines = dict(re.findall(r"^(model name|CPU part|flags|Features)\s*:\s*(.*)$", text, re.MULTILINE))
    flags = " ".join(sorted((lines.get("flags") or lines.get("Features") or "").split()))
    return f"{platform.machine()} {lines.get('model name') or lines.get('CPU part')} {flags}"


def _installed() -> str:
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        raise RuntimeMissing(f"{PACKAGE} is not installed: pip install {PACKAGE}") from None


def _require_tools() -> None:
    """Raises `RuntimeMissing` naming the first tool that is not there."""
    import sysconfig

    missing = [
        ("cmake", shutil.which("cmake"), "apt install cmake, or pip install cmake"),
        ("a C++ compiler", _compiler(), "apt install g++"),
        ("make or ninja", shutil.which("ninja") or shutil.which("make"), "apt install ninja-build"),
        ("Python.h", Path(sysconfig.get_path("include"), "Python.h").exists(), "apt install python3-dev"),
        ("pip", find_spec("pip"), "python -m ensurepip"),
    ]
    for name, found, remedy in missing:
        if not found:
            raise RuntimeMissing(f"{name} is needed to build llama.cpp and is not installed: {remedy}")


def _compiler() -> str | None:
    return next(
        (path for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name and (path := shutil.which(name))),
        None,
    )


@contextlib.contextmanager
def _running(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process of low priority with its children in a group of their own, which ends with the block."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        process_group=0,
    )
    try:
        os.setpriority(os.PRIO_PGRP, process.pid, max(10, os.getpriority(os.PRIO_PROCESS, 0)))
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)  # which ninja hands on: its compilers are in groups of their own
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _difference(wheel: list[list[list[Any]]], built: list[list[list[Any]]]) -> str:
    """Where the answers part, or an empty text. A near tie between two tokens may fall either way."""
    for number, (one, other) in enumerate(zip(wheel, built, strict=True)):
        found = _parting(one, other)
        if found:
            return f"answer {number + 1}, {found}"
    return ""


def _parting(one: list[list[Any]], other: list[list[Any]]) -> str:
    for position, (mine, yours) in enumerate(zip_longest(one, other, fillvalue=_END)):
        if mine[0] != yours[0]:
            tie = min(mine[2], yours[2]) < _TIE
            return "" if tie else f"token {position + 1}: {mine[0]!r} against {yours[0]!r}"
        if abs(mine[1] - yours[1]) > _SAME:
            return f"token {position + 1}: logprob {mine[1]:.3f} against {yours[1]:.3f}"
    return ""
