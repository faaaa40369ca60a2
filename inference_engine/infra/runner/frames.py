"""What the server and a runner process say to each other: length-prefixed msgpack frames over a unix socket.

Small tensors travel inside a frame, large ones in shared memory (`arena.py`), of which the frame holds the offset.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from inference_engine.domain.errors import EngineError, error_from_code
from inference_engine.domain.model import Manifest
from inference_engine.domain.ports import Loaded
from inference_engine.domain.requests import Generate
from inference_engine.domain.results import Delivered, Delta

_LENGTH = struct.Struct("<I")
MAX_FRAME_BYTES = 2**31


class WireError(msgspec.Struct, frozen=True, array_like=True):
    """An `EngineError` in transit."""

    code: str
    message: str
    param: str | None = None

    @classmethod
    def of(cls, error: EngineError) -> WireError:
        return cls(error.code, error.message, error.param)

    def restore(self) -> EngineError:
        return error_from_code(self.code, self.message, param=self.param)


class WireTensor(msgspec.Struct, frozen=True, array_like=True):
    """One tensor: inline `data`, `items` for strings, or `offset` in the sender's arena when it is not -1."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Any = b""
    offset: int = -1
    items: list[bytes] | None = None


# -- server to runner --------------------------------------------------------------------------------------------


class Load(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """First frame: what to load. `folder` is a path both sides can read."""

    manifest: Manifest
    folder: str


class Run(msgspec.Struct, frozen=True, array_like=True, tag=2):
    id: int
    tensors: list[WireTensor]


class Start(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Begin a generation, right after what was `delivered`."""

    id: int
    request: Generate
    delivered: Delivered


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Nobody wants the result of `id` any more. Answered by `Ended` if it was a generation or a `RunStream`."""

    id: int


class Release(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The block at `offset` of the runner's arena has been read."""

    offset: int


class Stop(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Cancel everything, close the runtime, exit."""


class Tokenize(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Tell the prompt of `request` as token ids. Answered by `Tokenized`."""

    id: int
    request: Generate


class RunStream(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """Compute a prediction with several responses. Answered by `Response` frames and one `Ended`."""

    id: int
    tensors: list[WireTensor]


class Taken(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """A response of `id` has been read: one more may be made."""

    id: int


ToRunner = Load | Run | Start | Cancel | Release | Stop | Tokenize | RunStream | Taken

# -- runner to server --------------------------------------------------------------------------------------------


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=11):
    loaded: Loaded


class LoadError(msgspec.Struct, frozen=True, array_like=True, tag=12):
    error: WireError


class Ran(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """Outputs of batch `id`; input blocks of that batch in the server's arena are free again."""

    id: int
    tensors: list[WireTensor]
    compute_s: float


class RunError(msgspec.Struct, frozen=True, array_like=True, tag=14):
    id: int
    error: WireError


class Deltas(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """The deltas of one decode step, of all generations that took part in it."""

    deltas: list[tuple[int, Delta]]


class Ended(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """Generation or streamed prediction `id` will send nothing more: it is done, cancelled, or failed with `error`."""

    id: int
    error: WireError | None = None


class Beat(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """Sent on a timer: the process is alive and its interpreter is not stuck. `gauges` is what the runtime measures."""

    gauges: dict[str, float] = {}


class Tokenized(msgspec.Struct, frozen=True, array_like=True, tag=18):
    id: int
    tokens: tuple[int, ...] = ()
    error: WireError | None = None


class Response(msgspec.Struct, frozen=True, array_like=True, tag=19):
    """The next response of a `RunStream`."""

    id: int
    tensors: list[WireTensor]


ToServer = Ready | LoadError | Ran | RunError | Deltas | Ended | Beat | Tokenized | Response

RESPONSES_AHEAD = 8
"""How many responses of a streamed prediction are made before the first of them must be read."""

_encoder = msgspec.msgpack.Encoder()
Frame = TypeVar("Frame")


def encode(frame: ToRunner | ToServer) -> bytearray:
    """One frame with its length prefix, ready to be written."""
    buffer = bytearray(4)
    _encoder.encode_into(frame, buffer, 4)
    _LENGTH.pack_into(buffer, 0, len(buffer) - 4)
    return buffer


class FrameReader:
    """Collects bytes as they come and gives back whole frames."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[Any]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[Any]:
        """Frames completed by `data`. Must be read to the end before the next `feed`."""
        if not self._buffer and len(data) > _LENGTH.size and _LENGTH.unpack_from(data)[0] == len(data) - _LENGTH.size:
            with memoryview(data) as whole:  # the usual case: exactly one frame
                yield self._decoder.decode(whole[_LENGTH.size :])
            return
        self._buffer += data
        start, end = 0, len(self._buffer)
        while end - start >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._buffer, start)
            if end - start - _LENGTH.size < size:
                break
            start += _LENGTH.size
            with memoryview(self._buffer) as view:
                frame = self._decoder.decode(view[start : start + size])
            start += size
            yield frame
        del self._buffer[:start]


def server_reader() -> FrameReader:
    """Reads what a runner sends."""
    return FrameReader(msgspec.msgpack.Decoder(ToServer))


def runner_reader() -> FrameReader:
    """Reads what the server sends."""
    return FrameReader(msgspec.msgpack.Decoder(ToRunner))
