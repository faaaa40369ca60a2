"""Reading videos: what they hold, which pictures are taken, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import re
import resource
import sys
import time
import zipfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from fractions import Fraction

import av
import numpy as np
import psutil
import pytest

from inference_engine.domain.errors import InvalidRequest, QueueFull, RuntimeMissing
from inference_engine.domain.video import FrameSize, VideoFrame, VideoInfo, VideoLimits, VideoSampling
from inference_engine.infra.media.containers import VideoRefused
from inference_engine.infra.media.decoder import Decoder
from inference_engine.infra.media.reader import ProcessVideoReader
from inference_engine.infra.media.video import Reading
from tests.fixtures.videos import counted, sound, video

EVERY = VideoSampling(every_s=0.1)
AS_IT_IS = FrameSize()


def read(
    data: bytes, sampling: VideoSampling = EVERY, size: FrameSize = AS_IT_IS, limits: VideoLimits | None = None
) -> tuple[VideoInfo, list[VideoFrame]]:
    """In this process, where a mistake shows its trace."""
    reading = Reading(io.BytesIO(data), sampling, size, limits or VideoLimits())
    frames = list(reading.frames())
    assert len(frames) == reading.expected
    return reading.info, frames


def refusal(data: bytes, limits: VideoLimits | None = None) -> str:
    """What a decoder process says against it."""
    limits = limits or VideoLimits()
    with pytest.raises(VideoRefused) as caught:
        decoder = Decoder(data, EVERY, AS_IT_IS, limits)
        try:
            decoder.begin()
            list(decoder.frames())
        finally:
            decoder.close()
    return str(caught.value)


def numbers(frames: list[VideoFrame]) -> list[int]:
    """Which pictures of `counted` these are."""
    return [round(float(frame.pixels.mean()) / 4) for frame in frames]


@pytest.mark.parametrize(
    ("codec", "container", "name"),
    [
        ("libx264", "mp4", "h264"),
        ("mpeg4", "mp4", "mpeg4"),
        ("libvpx-vp9", "webm", "vp9"),
        ("libvpx", "webm", "vp8"),
        ("libsvtav1", "mp4", "av1"),
        ("libx265", "matroska", "hevc"),
        ("mpeg4", "avi", "mpeg4"),
        ("mjpeg", "avi", "mjpeg"),
        ("libx264", "mpegts", "h264"),
        ("flv", "flv", "flv1"),
        ("gif", "gif", "gif"),
    ],
)
def test_containers_and_codecs(codec: str, container: str, name: str) -> None:
    info, frames = read(video(counted(30), codec, container))
    assert (info.codec, info.width, info.height, info.frames) == (name, 64, 48, 30)
    assert info.duration_s == pytest.approx(3.0, abs=0.02)
    assert info.fps == pytest.approx(10, abs=0.1)
    assert [frame.time_s for frame in frames] == pytest.approx([index / 10 for index in range(30)], abs=0.02)
    assert all(abs(there - wanted) <= 1 for wanted, there in enumerate(numbers(frames)))


def test_mpeg_program_stream() -> None:
    info, frames = read(video(counted(50), "mpeg2video", "mpeg", fps=25), VideoSampling(every_s=0.2))
    assert (info.container, info.codec, info.frames) == ("mpeg", "mpeg2video", 50)
    assert numbers(frames)[:10] == pytest.approx(range(0, 50, 5), abs=1)


SAMPLINGS = [
    (VideoSampling(every_s=1.0), [0, 10, 20, 30, 40, 50]),
    (VideoSampling(), [0, 10, 20, 30, 40, 50]),
    (VideoSampling(count=3), [10, 30, 50]),
    (VideoSampling(count=1), [30]),
    (VideoSampling(every_s=0.5, max_frames=4), [0, 15, 30, 45]),
    (VideoSampling(every_s=100), [0]),
]


@pytest.mark.parametrize(("sampling", "wanted"), SAMPLINGS)
@pytest.mark.parametrize(("codec", "container"), [("libx264", "mp4"), ("libx264", "matroska"), ("mpeg4", "avi")])
def test_samples(sampling: VideoSampling, wanted: list[int], codec: str, container: str) -> None:
    data = video(counted(60), codec, container, options={"g": "12", "sc_threshold": "0"})
    _, frames = read(data, sampling)
    assert numbers(frames) == pytest.approx(wanted, abs=1)
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert [frame.time_s for frame in frames] == pytest.approx([number / 10 for number in wanted], abs=0.06)


@pytest.mark.parametrize(("most", "wanted"), [(300, [0, 12, 24, 36, 48]), (2, [0, 24])])
@pytest.mark.parametrize("container", ["mp4", "mpegts"])
def test_key_frames(container: str, most: int, wanted: list[int]) -> None:
    data = video(counted(60), container=container, options={"g": "12", "sc_threshold": "0"})
    reading = Reading(io.BytesIO(data), VideoSampling(keyframes=True, max_frames=most), AS_IT_IS, VideoLimits())
    assert numbers(list(reading.frames())) == pytest.approx(wanted, abs=1)
    assert reading._decoded <= 6


def test_leaping_to_key_frames_saves_decoding() -> None:
    data = video(counted(60) * 10, options={"g": "12", "sc_threshold": "0"})
    reading = Reading(io.BytesIO(data), VideoSampling(count=3), AS_IT_IS, VideoLimits())
    assert len(list(reading.frames())) == 3
    assert reading._decoded < 60


def test_rotation_is_done() -> None:
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24, :32] = 255  # upper left
    corners = {90: (1, 0), 180: (1, 1), -90: (0, 1)}
    for degrees, (down, across) in corners.items():
        info, frames = read(video([pixels] * 5, rotation=degrees))
        assert info.rotation == degrees % 360
        assert (info.width, info.height) == ((64, 48) if degrees == 180 else (48, 64))
        shown = frames[0].pixels
        assert shown.shape == (info.height, info.width, 3)
        quarters = shown.reshape(2, info.height // 2, 2, info.width // 2, 3).mean(axis=(1, 3, 4))
        assert np.unravel_index(quarters.argmax(), (2, 2)) == (down, across)


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        (FrameSize(max_side=32), (24, 32)),
        (FrameSize(max_side=1000), (48, 64)),
        (FrameSize(width=20, height=20, fit="stretch"), (20, 20)),
        (FrameSize(width=20, height=30, fit="cover"), (30, 20)),
        (FrameSize(width=20, height=30, fit="contain"), (30, 20)),
    ],
)
def test_sizes(size: FrameSize, shape: tuple[int, int]) -> None:
    white = [np.full((48, 64, 3), 255, np.uint8)] * 3
    _, frames = read(video(white), size=size)
    pixels = frames[0].pixels
    assert pixels.shape == (*shape, 3)
    assert pixels.dtype == np.uint8
    black = (pixels.max(axis=2) < 16).mean()
    assert black == pytest.approx(0.5 if size.fit == "contain" else 0.0, abs=0.02)


def test_the_process_gives_the_same_pictures() -> None:
    data = video(counted(20))
    decoder = Decoder(data, EVERY, AS_IT_IS, VideoLimits())
    info, expected = decoder.begin()
    frames = list(decoder.frames())
    decoder.close()
    direct_info, direct = read(data)
    assert (info, expected) == (direct_info, 20)
    assert all((one.pixels == other.pixels).all() for one, other in zip(frames, direct, strict=True))


def test_killing_ends_a_reader() -> None:
    decoder = Decoder(video(counted(60, 640, 480), fps=10), EVERY, AS_IT_IS, VideoLimits())
    decoder.begin()
    decoder.kill()
    with pytest.raises(VideoRefused, match="broke off"):
        list(decoder.frames())
    decoder.close()


def zipped() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("video.mp4", b"x" * 5000)
    return made.getvalue()


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://127.0.0.1:1/secret.ts\n"
GARBAGE = np.random.default_rng(0).integers(0, 256, 20_000, np.uint8).tobytes()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "an empty file"),
        (GARBAGE, "no video that can be read"),
        (zipped(), "no video that can be read"),
        (PLAYLIST, "no video that can be read"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "no video that can be read"),
        (b"\x89PNG\r\n\x1a\n" + GARBAGE, "an image, not a video"),
        (b"\0\0\0\x18ftypisom" + GARBAGE, "damaged or cut off"),
        (b"\x1aE\xdf\xa3" + GARBAGE, "damaged or cut off|no moving pictures|without any picture"),
        (b"RIFF\0\0\0\0AVI " + GARBAGE, "damaged or cut off|no moving pictures"),
        (b"OggS" + GARBAGE, "damaged or cut off|no moving pictures"),
    ],
)
def test_what_is_no_video(data: bytes, text: str) -> None:
    found = refusal(data)
    assert re.search(text, found), found


def test_sound_alone() -> None:
    assert "sound without pictures" in refusal(sound())


def test_no_pictures_in_the_file() -> None:
    """A header that promises pictures of which none ever comes."""
    whole = video(counted(10), "libvpx", "webm")
    found = refusal(whole[: whole.index(b"\x1fC\xb6u")])
    assert re.search("without any picture|damaged or cut off", found), found


@pytest.mark.parametrize(
    ("codec", "container", "options"),
    [
        ("libx264", "mp4", {}),
        ("libx264", "mp4", {"movflags": "faststart"}),
        ("libvpx", "webm", {}),
        ("mpeg4", "avi", {}),
    ],
)
def test_cut_files(codec: str, container: str, options: dict[str, str]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (40, 48, 64, 3), np.uint8)
    whole = video(list(noise), codec, container, muxing=options)
    assert "cut off" in refusal(whole[: len(whole) // 2])


def test_damage_in_the_middle_leaves_the_rest() -> None:
    """One picture that cannot be decoded is left out and counted, as players do."""
    data = bytearray(video(counted(40), "mjpeg", "avi"))
    starts = [at for at in range(len(data) - 2) if data[at : at + 3] == b"\xff\xd8\xff"]
    data[starts[20] + 2 : starts[21] - 8] = bytes(starts[21] - 8 - starts[20] - 2)
    decoder = Decoder(bytes(data), EVERY, AS_IT_IS, VideoLimits())
    decoder.begin()
    frames = list(decoder.frames())
    decoder.close()
    assert len(frames) >= 38
    assert decoder.damaged >= 1


def test_damage_everywhere() -> None:
    data = bytearray(video(counted(40), "mjpeg", "avi"))
    starts = [at for at in range(len(data) - 2) if data[at : at + 3] == b"\xff\xd8\xff"]
    for start, end in itertools.pairwise([*starts, data.index(b"idx1") + 8]):
        data[start : end - 8] = bytes(end - 8 - start)
    assert "damaged" in refusal(bytes(data))


def claiming(width: int, height: int) -> bytes:
    """JPEG pictures whose own headers claim another size than they have."""
    data = video(counted(5), "mjpeg", "avi")
    real, claimed = (48).to_bytes(2) + (64).to_bytes(2), height.to_bytes(2) + width.to_bytes(2)
    made = re.sub(rb"(\xff\xc0..\x08)" + re.escape(real), lambda found: found[1] + claimed, data, flags=re.DOTALL)
    assert made != data
    return made


def test_pictures_that_claim_to_be_huge() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    found = refusal(claiming(20_000, 20_000))
    assert re.search("20000 x 20000|no picture can be decoded|damaged", found), found
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss <= max(before, 400 << 10)


def test_too_many_pixels() -> None:
    found = refusal(video(counted(3, 256, 256)), VideoLimits(max_pixels=60_000))
    assert "256 x 256 pixels, a picture may have 60000" in found


def test_ten_hours_claimed_by_times() -> None:
    """Two pictures that lie ten hours apart."""
    made = io.BytesIO()
    with av.open(made, "w", format="matroska") as file:
        stream = file.add_stream("libvpx", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for at, pixels in enumerate(counted(2)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = at * 360_000, Fraction(1, 10)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    found = refusal(made.getvalue())
    assert "seconds, it may have 3600: cut it" in found


def test_ten_hours_claimed_by_the_header_are_not_believed() -> None:
    data = video(counted(20))
    made = data
    for box, at in ((b"mvhd", 20), (b"mdhd", 20)):  # after version, flags, two times and the scale
        place = made.index(box) + at
        scale = int.from_bytes(made[place - 4 : place])
        made = made[:place] + (36_000 * scale).to_bytes(4) + made[place + 4 :]
    assert read(made)[0].duration_s == pytest.approx(2.0)


def test_no_rate_at_all() -> None:
    """An AVI file of which the header says 0 pictures a second."""
    data = video(counted(10), "mpeg4", "avi")
    place = data.index(b"strh") + 8 + 20
    broken = data[:place] + (1).to_bytes(4, "little") + (0).to_bytes(4, "little") + data[place + 8 :]
    info, frames = read(broken)
    assert info.fps > 0
    assert frames


def test_all_pictures_at_one_time() -> None:
    made = io.BytesIO()
    with av.open(made, "w", format="matroska") as file:
        stream = file.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for pixels in counted(5):
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                packet.pts = packet.dts = 0
                file.mux(packet)
    _, frames = read(made.getvalue())
    assert len(frames) == 1


def test_too_many_bytes_too_long_too_slow() -> None:
    data = video(counted(60, 320, 240))
    assert "bytes, at most 100 are taken" in refusal(data, VideoLimits(max_bytes=100))
    assert "of 6 seconds, it may have 2" in refusal(data, VideoLimits(max_s=2.0))
    assert "takes more than 0.0001 seconds to decode" in refusal(data, VideoLimits(decode_s=0.0001))


def test_damaged_files_of_all_kinds_are_read_or_refused() -> None:
    """Bytes changed, cut out and cut off at random: never another error than a refusal, and never a long wait."""
    random = np.random.default_rng(7)
    noise = random.integers(0, 256, (12, 48, 64, 3)).astype(np.uint8)
    kinds = [("libx264", "mp4"), ("libvpx-vp9", "webm"), ("mpeg4", "avi"), ("mjpeg", "avi"), ("libx264", "mpegts")]
    for codec, container in [*kinds, ("flv", "flv"), ("gif", "gif"), ("mpeg2video", "mpeg")]:
        whole = video(list(noise), codec, container)
        for _ in range(30):
            data = bytearray(whole)
            for _ in range(int(random.integers(1, 30))):
                data[random.integers(len(data))] = random.integers(256)
            start = int(random.integers(len(data)))
            del data[start : start + int(random.integers(600))]
            with contextlib.suppress(VideoRefused):
                reading = Reading(io.BytesIO(bytes(data)), EVERY, AS_IT_IS, VideoLimits(decode_s=20))
                assert list(reading.frames())


async def test_without_the_library_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(RuntimeMissing, match=r"inference-engine\[video\]"):
        async with ProcessVideoReader(VideoLimits(), 1).open(b"", EVERY, AS_IT_IS, "video"):
            pass


async def test_a_bounded_number_is_decoded_and_waits() -> None:
    """One place: a second video waits for it, and beyond eight that wait there is no room."""
    reader = ProcessVideoReader(VideoLimits(), 1)
    data = video(counted(10))
    async with AsyncExitStack() as first:
        opened = await first.enter_async_context(reader.open(data, EVERY, AS_IT_IS, "video"))
        assert opened.info.frames == 10

        async def count() -> int:
            async with reader.open(data, EVERY, AS_IT_IS, "video") as other:
                return len([frame async for frame in other.frames()])

        waiting = [asyncio.create_task(count()) for _ in range(8)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await count()
        assert not any(task.done() for task in waiting)
        for task in waiting[1:]:
            task.cancel()
        await asyncio.gather(*waiting[1:], return_exceptions=True)
    assert await waiting[0] == 10


async def test_leaving_in_the_middle_ends_the_process() -> None:
    reader = ProcessVideoReader(VideoLimits(), 1)
    data = video(counted(60, 640, 480))
    before = set(psutil.Process().children())
    async with reader.open(data, EVERY, AS_IT_IS, "video") as opened, aclosing(opened.frames()) as frames:
        assert (await anext(frames)).index == 0
        (process,) = set(psutil.Process().children()) - before
    process.wait(5)
    begun = asyncio.create_task(anext(aiter_of(reader, data)))
    await asyncio.sleep(0.02)  # while the process starts
    begun.cancel()
    with pytest.raises(asyncio.CancelledError):
        await begun
    until = time.monotonic() + 5
    while set(psutil.Process().children()) - before and time.monotonic() < until:
        await asyncio.sleep(0.02)
    assert not set(psutil.Process().children()) - before


async def aiter_of(reader: ProcessVideoReader, data: bytes) -> AsyncGenerator[VideoFrame]:
    async with reader.open(data, EVERY, AS_IT_IS, "video") as opened:
        async for frame in opened.frames():
            yield frame


async def test_errors_name_the_field() -> None:
    reader = ProcessVideoReader(VideoLimits(max_frames=5), 1)
    for data, sampling, param in (
        (b"nothing", VideoSampling(), "clip"),
        (video(counted(4)), VideoSampling(count=9), "sample.count"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            async with reader.open(data, sampling, AS_IT_IS, "clip"):
                pass
        assert caught.value.param == param
