"""What a decoder process is told and what it says: a header of two lengths, a msgpack message, and pixels as they
are."""

from __future__ import annotations

import struct

import msgspec

from inference_engine.domain.video import FrameSize, VideoInfo, VideoLimits, VideoSampling

HEADER = struct.Struct("<II")
"""Bytes of the message, bytes of the pixels after it."""
MAX_MESSAGE = 1 << 16


class Job(msgspec.Struct, frozen=True):
    """What is wanted of the file; given to the process as JSON in its arguments."""

    sampling: VideoSampling
    size: FrameSize
    limits: VideoLimits


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    info: VideoInfo
    expected: int


class Picture(msgspec.Struct, frozen=True, tag="picture"):
    """Followed by height * width * 3 bytes."""

    index: int
    time_s: float
    width: int
    height: int


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Why there is no more; the text goes on after "holds"."""

    text: str


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    damaged: int


Message = Opened | Picture | Refused | Finished
encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Message).decode
