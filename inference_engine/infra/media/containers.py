"""Tells a video file by its first bytes, so that no demuxer is tried that could open other files or addresses."""

from __future__ import annotations

READABLE = "MP4, MOV, WebM, Matroska, AVI, MPEG, FLV, Ogg, WMV or GIF"
CODECS = (
    "h264,hevc,libdav1d,av1,vp8,vp9,libvpx,libvpx-vp9,mpeg4,mpeg2video,mpeg1video,mjpeg,theora,gif,prores,dvvideo,h263,"
    "h263i,flv,msmpeg4,msmpeg4v2,msmpeg4v1,wmv1,wmv2,wmv3,vc1,ffv1,rawvideo,png"
)
"""The decoders that may be used, by FFmpeg's names: what cameras, browsers and editors write, and nothing exotic."""

_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")
_TS_PACKET = 188
_ASF = bytes.fromhex("3026b2758e66cf11")
_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"BM")


class VideoRefused(ValueError):
    """It is no video, damaged, or beyond a limit; the text goes on after "holds"."""


def container_format(head: bytes) -> str:
    """FFmpeg's name of the demuxer for a file that begins with `head` (at least 600 bytes where there are so many).

    Raises:
        VideoRefused: it is no video that is read here.
    """
    if head[4:8] in _BOXES:
        return "mov"
    for magic, name in (
        (b"\x1aE\xdf\xa3", "matroska"),
        (b"FLV\x01", "flv"),
        (b"OggS", "ogg"),
        (b"GIF87a", "gif"),
        (b"GIF89a", "gif"),
        (b"\x00\x00\x01\xba", "mpeg"),
        (b"\x00\x00\x01\xb3", "mpegvideo"),
        (_ASF, "asf"),
    ):
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if len(head) > 2 * _TS_PACKET and all(head[at] == 0x47 for at in (0, _TS_PACKET, 2 * _TS_PACKET)):
        return "mpegts"
    if head.startswith(_IMAGES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        raise VideoRefused("an image, not a video: send it as an image")
    if not head:
        raise VideoRefused("an empty file: send a video")
    raise VideoRefused(f"no video that can be read: send {READABLE}")
