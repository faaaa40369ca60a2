"""A server of the command's own: started for a measurement, on a free port of this machine, and ended after it."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from inference_engine.adapters.cli.options import server_runs
from inference_engine.domain.errors import Unavailable

if TYPE_CHECKING:
    from inference_engine.core.settings import Settings
    from inference_engine.domain.model import Manifest
    from inference_engine.domain.ports import StoredModel

_START_LIMIT_S = 60.0
_END_LIMIT_S = 15.0
_COPIED_BYTES = 1 << 20
_PROGRAM = """
import ctypes, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG, SIGTERM: whoever kills the benchmark ends its server too
from inference_engine.__main__ import main
main()
"""
_OF_TENANTS = {"jobs", "files", "responses"}
"""Folders of the state that stay with the real server: ours must not take up its batches."""


class Place(msgspec.Struct, frozen=True):
    """Where a server answers. `pid` is its process, where it is one of this machine that is known."""

    url: str
    api_key: str | None = None
    grpc: str | None = None
    pid: int | None = None


@contextmanager
def own_server(settings: Settings, config: str | None, *, grpc: bool, first: Sequence[Path] = ()) -> Iterator[Place]:
    """`serve` with the settings in force, without the cache, alone on 127.0.0.1. Models in `first` win over the others.

    Raises:
        Unavailable: it does not start; the message has the end of its log.
    """
    with tempfile.TemporaryDirectory(prefix="inference-engine-bench-") as name:
        folder = Path(name)
        _share_state(settings.state_dir, folder / "state")
        port, grpc_port = _free_port(), _free_port() if grpc else 0
        roots = (*first, *(settings.models or (settings.pulled_models,)))
        command = [sys.executable, "-c", _PROGRAM, "serve", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--grpc-port", str(grpc_port), "--no-cache", "--log-level", "error", "--log-format", "json"]
        command += ["--state-dir", str(folder / "state")]
        command += [word for root in roots if root.is_dir() for word in ("--models", str(root))]
        command += ["--config", config] if config else []
        log = folder / "log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, process, log)
            yield Place(url, next(iter(settings.api_keys), None), f"127.0.0.1:{grpc_port}", process.pid)
        finally:
            _end(process)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < give_up and process.poll() is None:
        if server_runs(url):
            return
        time.sleep(0.05)
    raise Unavailable(
        f"the server for the measurement did not start: {log.read_text(errors='replace')[-2000:].strip()}"
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(_END_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _share_state(state: Path, own: Path) -> None:
    """What was built and chosen for this machine, without what belongs to clients."""
    own.mkdir()
    with contextlib.suppress(FileNotFoundError):
        for child in state.iterdir():
            if child.name not in _OF_TENANTS:
                (own / child.name).symlink_to(child)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def lay_out(root: Path, model: StoredModel, manifest_yaml: str, manifest: Manifest) -> None:
    """The model's files below `root` with another manifest, without copying their bytes where that can be avoided."""
    folder = root / manifest.name / manifest.version
    shutil.copytree(
        model.folder, folder, copy_function=_link, ignore=shutil.ignore_patterns("model.yaml", "config.pbtxt")
    )
    (folder / "model.yaml").write_text(manifest_yaml, encoding="utf-8")


def _link(source: str, destination: str) -> None:
    """A copy of a small file, which a model may write to; of a large one a hard link, which no loader can tell from the
    file, or a symbolic one across file systems.
    """
    if Path(source).stat().st_size <= _COPIED_BYTES:
        shutil.copy(source, destination)
        return
    try:
        Path(destination).hardlink_to(Path(source).resolve())
    except OSError:
        Path(destination).symlink_to(Path(source).resolve())
