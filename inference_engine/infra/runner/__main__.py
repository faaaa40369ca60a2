"""Entry of a runner process: `python -m inference_engine.infra.runner SOCKET_FD IN_FD OUT_FD ARENA_BYTES`."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import socket
import sys

from inference_engine.infra.pipeline.runtime import create_runtime
from inference_engine.infra.runner.arena import Arena
from inference_engine.infra.runner.host import Host, leave

_PR_SET_PDEATHSIG = 1


def _die_with_server() -> None:
    """Ask the kernel to kill this process when the server dies, even in the middle of a computation."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    socket_fd, in_fd, out_fd, arena_bytes = map(int, sys.argv[1:])
    _die_with_server()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group: the server decides when to stop
    connection = socket.socket(fileno=socket_fd)
    inbox, outbox = Arena(in_fd, arena_bytes), Arena(out_fd, arena_bytes)
    leave(Host(connection, inbox, outbox, create_runtime).serve())


if __name__ == "__main__":
    main()
