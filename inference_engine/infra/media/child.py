"""Entry of a decoder process: `python -m inference_engine.infra.media.child FILE_FD OUT_FD JOB`.

Reads one video, writes its pictures to a socket, and ends. It gets no secrets, can write no file and start no program
with more rights, and the kernel ends it when it takes too much memory or processor time, or when the server is gone.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
import socket
import sys

import msgspec
import numpy as np

from inference_engine.domain.tensors import Array
from inference_engine.infra.media.containers import VideoRefused
from inference_engine.infra.media.messages import HEADER, Finished, Job, Message, Opened, Picture, Refused, encode
from inference_engine.infra.media.video import Reading

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_NICE = 5
"""Decoding gives way to serving."""
_SPARE_S = 10
_SPARE_BYTES = 1 << 30
_BYTES_PER_PIXEL = 128
"""A decoder keeps up to 16 reference pictures and some in work, of up to 6 bytes a pixel."""


def main() -> None:
    file_fd, out_fd = int(sys.argv[1]), int(sys.argv[2])
    job = msgspec.json.decode(sys.argv[3], type=Job)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group: the server decides when to stop
    out = socket.socket(fileno=out_fd)
    _confine(job)
    try:
        with os.fdopen(file_fd, "rb") as file:
            _decode(file, job, out)
    except VideoRefused as error:
        _say(out, Refused(str(error)))
    except MemoryError:
        _say(out, Refused("a video that needs too much memory to decode: make it smaller"))


def _decode(file: object, job: Job, out: socket.socket) -> None:
    reading = Reading(file, job.sampling, job.size, job.limits)  # type: ignore[arg-type]  # fdopen gives a binary file
    _say(out, Opened(reading.info, reading.expected))
    for frame in reading.frames():
        height, width, _ = frame.pixels.shape
        _say(out, Picture(frame.index, frame.time_s, width, height), frame.pixels)
    _say(out, Finished(reading.damaged))


def _say(out: socket.socket, message: Message, pixels: Array | None = None) -> None:
    body = encode(message)
    out.sendall(HEADER.pack(len(body), 0 if pixels is None else pixels.nbytes) + body)
    if pixels is not None:
        out.sendall(np.ascontiguousarray(pixels).data)


def _confine(job: Job) -> None:
    """Bounds what this process may take, so that a hostile file harms nobody else."""
    os.nice(_NICE)
    if sys.platform == "linux":
        kernel = ctypes.CDLL(None)
        kernel.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        kernel.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    memory = _SPARE_BYTES + job.limits.max_pixels * _BYTES_PER_PIXEL + job.limits.max_bytes
    seconds = math.ceil(job.limits.decode_s) + _SPARE_S
    for kind, limit in (
        (resource.RLIMIT_CPU, seconds),
        *(((resource.RLIMIT_AS, memory),) if sys.platform == "linux" else ()),  # macOS refuses it
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


if __name__ == "__main__":
    main()
