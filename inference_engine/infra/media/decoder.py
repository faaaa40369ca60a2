"""The server's side of a decoder process: start it, read its pictures, end it. Blocking; knows no event loop."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import msgspec
import numpy as np

from inference_engine.domain.errors import RuntimeMissing
from inference_engine.domain.video import FrameSize, VideoFrame, VideoInfo, VideoLimits, VideoSampling
from inference_engine.infra.executors.process import environment_without_secrets
from inference_engine.infra.media.containers import VideoRefused
from inference_engine.infra.media.messages import (
    HEADER,
    MAX_MESSAGE,
    Finished,
    Job,
    Message,
    Opened,
    Picture,
    Refused,
    decode,
)
from inference_engine.infra.runner.arena import create_file

_SILENCE_S = 60.0
"""How long a decoder may say nothing beyond its processor time: the machine may be busy."""
_NONSENSE = "a video that the decoder could make nothing of: it is damaged, or made to do harm"


def require_av() -> None:
    """Raises `RuntimeMissing` where PyAV is not installed; does not import it."""
    if importlib.util.find_spec("av") is None:
        raise RuntimeMissing("videos need PyAV, which is not installed: pip install 'inference-engine[video]'")


class Decoder:
    """One video in a process of its own. One thread reads; any thread may `kill`. Whoever makes it closes it."""

    def __init__(self, data: bytes, sampling: VideoSampling, size: FrameSize, limits: VideoLimits) -> None:
        """Starts the process, which begins at once.

        Raises:
            VideoRefused: it has too many bytes. RuntimeMissing: PyAV is not installed.
        """
        require_av()
        if len(data) > limits.max_bytes:
            raise VideoRefused(f"a video of {len(data)} bytes, at most {limits.max_bytes} are taken: make it smaller")
        self.damaged = 0
        self._limits = limits
        ours, theirs = socket.socketpair()
        file_fd = create_file(len(data))
        try:
            with os.fdopen(os.dup(file_fd), "wb") as file:
                file.write(data)
            os.lseek(file_fd, 0, os.SEEK_SET)
            job = msgspec.json.encode(Job(sampling, size, limits)).decode()
            fds = (file_fd, theirs.fileno())
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "inference_engine.infra.media.child", *map(str, fds), job],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment_without_secrets() | {"OPENBLAS_NUM_THREADS": "1"},
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(file_fd)
        ours.settimeout(limits.decode_s + _SILENCE_S)
        self._socket = ours
        self._reading = threading.Lock()

    def begin(self) -> tuple[VideoInfo, int]:
        """Waits until the process has looked the file through: what it holds, and how many pictures will come.

        Raises:
            VideoRefused: it is no video, damaged, or beyond the limits.
        """
        message, _ = self._next()
        if not isinstance(message, Opened):
            raise VideoRefused(_NONSENSE)
        return message.info, message.expected

    def frames(self) -> Iterator[VideoFrame]:
        """The pictures, in order of time.

        Raises:
            VideoRefused: the file is damaged or beyond the limits, or the decoder died of it.
        """
        while True:
            message, size = self._next()
            if isinstance(message, Finished):
                self.damaged = message.damaged
                return
            if not isinstance(message, Picture) or size != message.width * message.height * 3:
                raise VideoRefused(_NONSENSE)
            if size > self._limits.max_pixels * 3:
                raise VideoRefused("a video whose pictures are larger than allowed")
            pixels = np.empty((message.height, message.width, 3), np.uint8)
            self._fill(pixels.data.cast("B"))
            yield VideoFrame(message.index, message.time_s, pixels)

    def kill(self) -> None:
        """End the process at once; whoever reads gets `VideoRefused`."""
        self._popen.kill()

    def close(self) -> None:
        """End the process and wait for its end, which is short."""
        self._popen.kill()
        self._popen.wait()
        with self._reading:  # whoever reads finds the end of the stream first
            self._socket.close()

    def _next(self) -> tuple[Message, int]:
        body_bytes, pixel_bytes = HEADER.unpack(self._read(HEADER.size))
        if body_bytes > MAX_MESSAGE:
            raise VideoRefused(_NONSENSE)
        try:
            message = decode(self._read(body_bytes))
        except msgspec.MsgspecError:
            raise VideoRefused(_NONSENSE) from None
        if isinstance(message, Refused):
            raise VideoRefused(message.text)
        return message, pixel_bytes

    def _read(self, size: int) -> bytes:
        data = bytearray(size)
        self._fill(memoryview(data))
        return bytes(data)

    def _fill(self, view: memoryview) -> None:
        while view:
            try:
                with self._reading:
                    count = self._socket.recv_into(view)
            except OSError:  # it was silent for too long, or is closed
                count = 0
            if not count:
                raise VideoRefused(self._death())
            view = view[count:]

    def _death(self) -> str:
        """Why the process says nothing any more."""
        self._popen.kill()
        code = self._popen.wait()
        if code == -signal.SIGXCPU:
            return f"a video that takes more than {self._limits.decode_s:g} seconds to decode: cut it"
        return f"a video that the decoder broke off at (exit status {code}): it is damaged, or made to do harm"
