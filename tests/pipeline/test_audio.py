"""The audio steps: what they compute against references, and every kind of file they must read or refuse."""

from __future__ import annotations

import contextlib
import io
import struct
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from inference_engine.domain.errors import InvalidManifest, InvalidTensor, RuntimeMissing
from inference_engine.domain.model import PipelineSpec, Signature, TensorSpec
from inference_engine.domain.pipeline import Pipeline
from tests.fixtures.tiny_sound import ALSO_READ, FORMATS, LOSSLESS, film, sound_file, tones, wav_header, with_cover
from tests.pipeline.conftest import CATALOG, NO_FOLDER, step

RATE = 16_000
TONE = tones((440, 1.0))
GOOD = {kind: sound_file(tones((440, 1.0), rate=48_000), kind, 48_000) for kind in FORMATS}


def batch(*files: object) -> dict[str, np.ndarray]:
    made = np.empty(len(files), dtype=object)
    made[:] = files
    return {"x": made}


def decoded(data: object, **options: Any) -> np.ndarray:
    found: np.ndarray = step("audio.decode", **{"rate": RATE, **options}).apply(batch(data))["x"][0]
    return found


def clips(*found: np.ndarray) -> dict[str, np.ndarray]:
    made = np.empty(len(found), dtype=object)
    for row, one in enumerate(found):
        made[row] = one
    return {"x": made}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_its_sound(kind: str) -> None:
    found = decoded(GOOD[kind])
    assert found.dtype == np.float32
    assert abs(len(found) - RATE) <= (0.06 if kind in ("aac", "m4a") else 0.01) * RATE
    middle = found[4000:12000]
    power = np.abs(np.fft.rfft(middle * np.hanning(8000)))
    assert abs(power.argmax() * RATE / 8000 - 440) <= 2
    assert np.sqrt((middle**2).mean()) == pytest.approx(0.5 / np.sqrt(2), abs=0.02)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_files_without_loss_give_their_samples(kind: str) -> None:
    noise = np.random.default_rng(0).uniform(-0.9, 0.9, (2, 5000)).astype(np.float32)
    found = decoded(sound_file(noise, kind), channels=2)
    step_ = {"wav8": 1 / 127, "float": 1e-7, "wav24": 1e-6}.get(kind, 1 / 32767)
    assert found.shape == (2, 5000)
    np.testing.assert_allclose(found, noise, atol=step_)


def test_channels_are_the_mean_or_repeated_and_never_guessed() -> None:
    left, right = tones((300, 0.2)), tones((700, 0.2))
    stereo = sound_file([left, right], "float")
    np.testing.assert_allclose(decoded(stereo), (left + right) / 2, atol=1e-6)
    np.testing.assert_allclose(decoded(sound_file(left, "float"), channels=2), [left, left], atol=1e-6)
    with pytest.raises(InvalidTensor, match=r"input 'x' row 0 holds a recording of 6 channels, the model hears 2"):
        decoded(sound_file([left] * 6, "float"), channels=2)


@pytest.mark.parametrize(("source", "to"), [(44_100, 16_000), (8_000, 16_000), (48_000, 16_000), (16_000, 22_050)])
def test_resampling_keeps_tones_where_they_are(source: int, to: int) -> None:
    found = step("audio.resample", **{"from": source, "to": to}).apply(clips(tones((440, 1.0), rate=source)))["x"][0]
    assert abs(len(found) - to) <= 1
    inner = slice(to // 10, -to // 10)
    np.testing.assert_allclose(found[inner], tones((440, 1.0), rate=to)[: len(found)][inner], atol=2e-3)
    above = step("audio.resample", **{"from": 44_100, "to": 16_000}).apply(clips(tones((12_000, 1.0), rate=44_100)))
    assert np.abs(above["x"][0][1600:-1600]).max() < 1e-2  # what 16 kHz cannot hold does not come back as another tone


@given(parts=st.lists(st.integers(1, 5000), min_size=1, max_size=3))
@settings(max_examples=20, deadline=None)
def test_resampling_gives_the_length_that_fits(parts: list[int]) -> None:
    given_clips = clips(*(np.ones(size, np.float32) for size in parts))
    found = step("audio.resample", **{"from": 8000, "to": 16_000}).apply(given_clips)["x"]
    assert [len(one) for one in found] == [2 * size for size in parts]


@pytest.mark.parametrize("kind", ALSO_READ)
def test_other_codecs_of_these_formats_are_read(kind: str) -> None:
    assert abs(len(decoded(sound_file(TONE, kind))) - RATE) <= 16


def test_what_stands_beside_the_sound_is_not_looked_at() -> None:
    assert len(decoded(film(sound=True))) == pytest.approx(RATE, rel=0.1)
    cover = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(cover, "JPEG")
    mp3 = sound_file(TONE, "mp3")
    np.testing.assert_array_equal(decoded(with_cover(mp3, cover.getvalue())), decoded(mp3))
    data = GOOD["wav"]
    at = data.index(b"data") + 4
    for size in (b"\0\0\0\0", b"\xff\xff\xff\xff"):  # written by a program that could not go back
        assert len(decoded(data[:at] + size + data[at + 4 :])) == RATE
    assert len(decoded(data + b"LIST\x04\0\0\0INFO")) == RATE


# -- what is refused -------------------------------------------------------------------------------------------------

SILENCE = bytes(2 * 16_000)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("cut", [0.3, 0.7, 0.99])
def test_cut_files_are_refused(kind: str, cut: float) -> None:
    with pytest.raises(InvalidTensor, match=r"input 'x' row 0 holds (a recording that (is|cannot)|no sound)"):
        decoded(GOOD[kind][: int(len(GOOD[kind]) * cut)])


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        (b"", {}, "no sound that can be read: send WAV, FLAC, MP3"),
        (b"hello, this is text", {}, "no sound that can be read"),
        (b"#EXTM3U\nhttp://localhost/x.wav", {}, "no sound that can be read"),
        ("text", {}, "is text, send a sound file's bytes"),
        (b"RIFF\x10\0\0\0WAVEfmt ", {}, "cut off"),
        (film(sound=False), {}, "a file without sound"),
        (sound_file(TONE, "adpcm"), {}, "sound in adpcm_ms, which is not read: send another format"),
        (sound_file(TONE, "mp2"), {}, "sound in mp2|no sound that can be read"),
        (wav_header(16_000, 1, b""), {}, "without any sound|cannot be read"),
        (wav_header(16_000, 1, SILENCE, 10**9), {}, "cut off"),
        (wav_header(1, 1, SILENCE), {}, "1 samples a second, 1000 to 768000 are read"),
        (wav_header(4_000_000_000, 1, SILENCE), {}, "samples a second|cannot be read"),
        (wav_header(16_000, 0, SILENCE), {}, "cannot be read"),
        (GOOD["wav"], {"max_bytes": 100}, "bytes, a recording may have 100"),
        (GOOD["wav"], {"max_seconds": 0.5}, "more than 0.5 seconds: send it in parts"),
        (GOOD["opus"], {"max_seconds": 0.5}, "more than 0.5 seconds"),
        (GOOD["flac"], {"max_batch_samples": 1000}, "more than 1000 samples in all: send fewer"),
    ],
)
def test_what_is_no_good_sound_is_refused_by_name(data: object, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidTensor, match=words) as caught:
        decoded(data, **options)
    assert caught.value.param == "x"
    assert "input 'x'" in caught.value.message


def test_a_small_file_of_hours_is_refused_while_it_is_decoded() -> None:
    silence = sound_file(np.zeros(48_000 * 60, np.float32), "opus", 48_000)
    assert len(silence) < 60_000
    started = time.monotonic()
    with pytest.raises(InvalidTensor, match="more than 5 seconds"):
        decoded(silence, max_seconds=5)
    with pytest.raises(InvalidTensor, match="more than 50000 samples in all"):
        step("audio.decode", rate=RATE, max_batch_samples=50_000).apply(batch(GOOD["wav"], silence))
    assert time.monotonic() - started < 5


def test_a_flac_header_that_lies_about_its_length_is_refused() -> None:
    lying = bytearray(GOOD["flac"])
    lying[21:26] = bytes([lying[21] & 0xF0 | 0x0F, 0xFF, 0xFF, 0xFF, 0xFF])  # total samples, 36 bits
    with pytest.raises(InvalidTensor, match="more than 600 seconds"):
        decoded(bytes(lying))
    lying[21:26] = bytes([lying[21] & 0xF0, *struct.pack(">I", 96_000)])
    with pytest.raises(InvalidTensor, match=r"it says it has 2.00 seconds and has 1.00"):
        decoded(bytes(lying))


def test_a_container_may_not_lead_elsewhere(tmp_path: Path) -> None:
    """A file that only names another one: FFmpeg follows such files unless it is told what to open."""
    (tmp_path / "secret.wav").write_bytes(GOOD["wav"])
    listed = f"ffconcat version 1.0\nfile '{tmp_path}/secret.wav'\n".encode()
    with pytest.raises(InvalidTensor, match="no sound that can be read"):
        decoded(listed)
    with pytest.raises(InvalidTensor, match=r"cut off|cannot be read|without sound"):
        decoded(b"RIFF" + struct.pack("<I", 4 + len(listed)) + b"WAVE" + listed)


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "opus", "m4a", "webm"])
@given(flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), min_size=1, max_size=4), cut=st.floats(0, 1))
@settings(max_examples=15, deadline=None)
def test_a_damaged_file_gives_sound_or_a_clear_error(kind: str, flips: list[tuple[float, int]], cut: float) -> None:
    damaged = bytearray(GOOD[kind])
    for place, change in flips:
        damaged[int(place * len(damaged))] ^= change
    for data in (bytes(damaged), bytes(damaged[: int(cut * len(damaged))])):
        with contextlib.suppress(InvalidTensor):  # and nothing else
            assert decoded(data).ndim == 1


# -- one length ------------------------------------------------------------------------------------------------------


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4), length=st.integers(1, 30) | st.none())
@settings(deadline=None)
def test_pad_or_trim_keeps_the_beginning_and_says_how_much(sizes: list[int], length: int | None) -> None:
    found = step("audio.pad_or_trim", length=length, value=7, mask="m", lengths="n").apply(
        clips(*(np.arange(size, dtype=np.float32) for size in sizes))
    )
    whole = length or max(sizes)
    assert found["x"].shape == (len(sizes), whole)
    for row, size in enumerate(sizes):
        kept = min(size, whole)
        assert found["x"][row].tolist() == [*range(kept), *([7.0] * (whole - kept))]
        assert found["m"][row].tolist() == [1] * kept + [0] * (whole - kept)
        assert (found["n"][row], found["@x:lengths"][row].tolist()) == (kept, [kept, whole])


def test_pad_or_trim_knows_where_time_is() -> None:
    first = step("audio.pad_or_trim", time="first").apply(clips(np.ones((2, 3), np.float32), np.ones((4, 3), "f4")))
    assert first["x"].shape == (2, 4, 3)
    assert first["x"][0, :, 0].tolist() == [1, 1, 0, 0]
    last = step("audio.pad_or_trim", length=3).apply(clips(np.ones((2, 5), np.float32), np.ones((2, 1), "f4")))
    assert last["x"].shape == (2, 2, 3)


@given(clip=hnp.arrays("float32", st.integers(1, 50), elements=st.floats(-1, 1, width=32)))
@settings(deadline=None)
def test_normalize_is_the_formula(clip: np.ndarray) -> None:
    found = step("audio.normalize").apply(clips(clip))["x"][0]
    wide = clip.astype(np.float64)
    np.testing.assert_allclose(found, (wide - wide.mean()) / np.sqrt(wide.var() + 1e-7), rtol=1e-5, atol=1e-6)


def test_normalize_is_what_transformers_computes_for_wav2vec2() -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    from transformers import Wav2Vec2FeatureExtractor

    sound = tones((300, 0.1), (0, 0.05))
    expected = Wav2Vec2FeatureExtractor(do_normalize=True)(sound, sampling_rate=16_000, return_tensors="np")
    found = step("audio.normalize").apply(clips(sound))["x"]
    np.testing.assert_allclose(found, expected["input_values"], atol=1e-5)


def test_mono_is_the_mean() -> None:
    found = step("audio.mono", channels=2).apply(clips(np.array([[1, 2], [3, 6]], "f4")))["x"]
    assert found.tolist() == [[2, 4]]


# -- log-mel ---------------------------------------------------------------------------------------------------------

WHISPER = {"rate": 16_000, "drop_last": True, "dynamic_range": 8, "mean": -4, "std": 4}


@pytest.mark.parametrize(
    ("n_fft", "hop", "length", "kind"), [(400, 160, 400, "hann"), (512, 128, 512, "hann"), (512, 160, 400, "hamming")]
)
@pytest.mark.parametrize("edges", ["reflect", "zeros"])
def test_the_spectrum_is_scipy_s(n_fft: int, hop: int, length: int, kind: str, edges: str) -> None:
    """The energies that the bands are made of."""
    from scipy import signal

    noise = np.random.default_rng(2).standard_normal(6000).astype(np.float32)
    left = (n_fft - length) // 2
    window = np.pad(signal.get_window(kind, length), (left, n_fft - length - left))
    padded = np.pad(noise.astype(np.float64), n_fft // 2, mode="reflect" if edges == "reflect" else "constant")
    _, _, found = signal.stft(padded, window=window, nperseg=n_fft, noverlap=n_fft - hop, boundary=None, padded=False)
    power = np.abs(found * window.sum()) ** 2
    made = step(
        "audio.log_mel", rate=16_000, n_fft=n_fft, hop=hop, window=kind, window_length=length, n_mels=20, edges=edges
    )
    bank = made._tools[1]  # type: ignore[attr-defined]
    expected = np.log10(np.maximum(power.T @ bank, 1e-10)).T
    np.testing.assert_allclose(made.apply(clips(noise))["x"][0], expected, atol=1e-5)


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_the_bands_lie_evenly_on_the_scale(scale: str) -> None:
    bank = step("audio.log_mel", rate=16_000, n_fft=4096, n_mels=8, low=100, high=7000, scale=scale)._tools[1]  # type: ignore[attr-defined]
    tops = bank.argmax(axis=0) * 16_000 / 4096
    if scale == "htk":
        mels = 2595 * np.log10(1 + tops / 700)
    else:
        mels = np.where(tops < 1000, tops * 3 / 200, 15 + 27 * np.log(np.maximum(tops, 1) / 1000) / np.log(6.4))
    np.testing.assert_allclose(np.diff(mels), np.diff(mels).mean(), rtol=0.02)
    np.testing.assert_allclose(bank.sum(axis=0) * 16_000 / 4096, 1, rtol=0.02)  # each band has the area 1


KNOWN = {  # by band and frame, from WhisperFeatureExtractor of transformers 5.23
    (0, 0): 1.06909,
    (6, 10): 1.34565,
    (6, 45): -0.58721,
    (40, 39): -0.32956,
    (57, 119): 0.01843,
    (57, 120): 0.53054,
    (79, 50): 0.16323,
}


def test_log_mel_is_what_transformers_computes_for_whisper() -> None:
    sound = tones((300, 0.4), (0, 0.1), (2500, 0.7))
    padded = step("audio.pad_or_trim", length=480_000).apply(clips(sound))
    found = step("audio.log_mel", **WHISPER).apply(padded)
    for (band, frame), value in KNOWN.items():
        assert found["x"][0, band, frame] == pytest.approx(value, abs=1e-4)
    pytest.importorskip("transformers", reason="transformers is not installed: only known values were compared")
    from transformers import WhisperFeatureExtractor

    expected = WhisperFeatureExtractor()(sound, sampling_rate=16_000, return_tensors="np")["input_features"]
    assert found["x"].shape == expected.shape == (1, 80, 3000)
    np.testing.assert_allclose(found["x"], expected, atol=1e-4)
    assert found["@x:lengths"].tolist() == [[120, 3000]]


@pytest.mark.parametrize("options", [{"scale": "htk", "norm": "none", "log": "ln", "power": 1}, {"log": "db"}])
def test_other_log_mels_are_what_transformers_computes(options: dict[str, Any]) -> None:
    audio_utils = pytest.importorskip("transformers.audio_utils", reason="transformers is not installed")
    noise = np.random.default_rng(3).standard_normal(5000)
    scale, norm = options.get("scale", "slaney"), options.get("norm", "slaney")
    bank = audio_utils.mel_filter_bank(
        257, 40, 50.0, 7600.0, 16_000, norm=None if norm == "none" else norm, mel_scale=scale
    )
    log = {"ln": "log", "db": "dB"}[options["log"]]
    power = float(options.get("power", 2))
    expected = audio_utils.spectrogram(
        noise, audio_utils.window_function(512, "hann"), 512, 256, power=power, mel_filters=bank, log_mel=log
    )
    made = step("audio.log_mel", rate=16_000, n_fft=512, hop=256, n_mels=40, low=50, high=7600, **options)
    np.testing.assert_allclose(made.apply(clips(noise.astype("f4")))["x"][0], expected, atol=2e-4)


FBANK = {  # by frame and band, from the functions of transformers 5.23, as below
    (0, 0): -0.11171,
    (10, 18): 0.63702,
    (45, 60): -0.17456,
    (80, 90): 0.15621,
    (117, 127): 0.29232,
}


@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values")
def test_fbank_is_what_transformers_computes_for_the_audio_spectrogram_transformer() -> None:
    sound = tones((300, 0.4), (0, 0.1), (2500, 0.7)) + 0.01 * np.random.default_rng(6).standard_normal(19_200)
    made = step("audio.fbank", rate=16_000, n_mels=128, mean=-4.2677393, std=9.1379948).apply(clips(sound.astype("f4")))
    found = step("audio.pad_or_trim", length=1024, time="first", value=0.46703607).apply(made)["x"]
    for (frame, band), value in FBANK.items():
        assert found[0, frame, band] == pytest.approx(value, abs=1e-4)
    pytest.importorskip("transformers", reason="transformers is not installed: only known values were compared")
    expected = np.full((1024, 128), 4.2677393 / 9.1379948)
    expected[:118] = (_kaldi(sound.astype("f4"), 128) + 4.2677393) / 9.1379948
    np.testing.assert_allclose(found[0], expected, atol=1e-4)


def _kaldi(sound: np.ndarray, mels: int) -> np.ndarray:
    """Filter banks as ASTFeatureExtractor computes them where torchaudio is missing."""
    from transformers import audio_utils

    bank = audio_utils.mel_filter_bank(
        257, mels, 20, 8000, 16_000, norm=None, mel_scale="kaldi", triangularize_in_mel_space=True
    )
    window = audio_utils.window_function(400, "povey", periodic=False)
    found: np.ndarray = audio_utils.spectrogram(
        sound, window, 400, 160, 512, 2.0, center=False, preemphasis=0.97, mel_filters=bank, log_mel="log",
        mel_floor=1.192092955078125e-07, remove_dc_offset=True,
    ).T  # fmt: skip
    return found


def test_fbank_counts_whole_frames_and_says_what_does_not_fit() -> None:
    fbank = {"use": "audio.fbank", "rate": 16_000, "n_mels": 40}
    made = pipeline(DECODE, PAD | {"length": 16_000}, fbank)
    assert made.preview(model(-1, -1, 40)).inputs == (TensorSpec("x", "bytes", (-1,)),)
    found = made.before(batch(GOOD["wav"], sound_file(tones((300, 0.25)), "flac")))
    assert found["x"].shape == (2, 98, 40)
    assert found["@x:lengths"].tolist() == [[98, 98], [23, 98]]
    fbank_first = step("audio.fbank", rate=16_000, n_mels=40).apply(clips(TONE))
    last = step("audio.fbank", rate=16_000, n_mels=40, time="last").apply(clips(TONE))["x"][0]
    assert last.shape == (40, 98)
    np.testing.assert_allclose(last, fbank_first["x"][0].T)
    assert step("audio.fbank", rate=16_000).apply(clips(TONE[:3]))["x"].shape == (1, 1, 80)
    for entry, words in [
        (fbank | {"n_mels": 80}, r"gives \[-1, frames, mels\] with 80 mels"),
        (fbank | {"high": 9000}, "high at most rate / 2"),
        (fbank | {"hop_ms": 0.01}, "less than a sample"),
        (fbank | {"std": 0}, "std not zero"),
    ]:
        with pytest.raises(InvalidManifest, match=words):
            pipeline(DECODE, entry, PAD | {"time": "first"}).preview(model(-1, -1, 40))


@given(sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=4), center=st.booleans(), drop=st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_clip_does_not_hear_its_neighbours(sizes: list[int], center: bool, drop: bool) -> None:
    random = np.random.default_rng(4)
    given_clips = [random.standard_normal(size).astype(np.float32) for size in sizes]
    made = step("audio.log_mel", rate=16_000, center=center, drop_last=drop, time="first", n_mels=10)
    pad = step("audio.pad_or_trim", time="first")
    together = pad.apply(made.apply(clips(*given_clips)))
    for row, clip in enumerate(given_clips):
        alone = made.apply(clips(clip))["x"][0]
        count = together["@x:lengths"][row, 0]
        assert count == len(alone) == made._frames_of(np.array(len(clip)))  # type: ignore[attr-defined]
        np.testing.assert_array_equal(together["x"][row, :count], alone)


# -- at load ---------------------------------------------------------------------------------------------------------


def pipeline(*entries: dict[str, Any]) -> Pipeline:
    return CATALOG.build(PipelineSpec(preprocess=entries), NO_FOLDER)


def model(*shape: int, **others: tuple[str, tuple[int, ...]]) -> Signature:
    beside = tuple(TensorSpec(name, dtype, given) for name, (dtype, given) in others.items())
    return Signature((TensorSpec("x", "float32", shape), *beside), (TensorSpec("y", "float32", (-1, 4)),))


DECODE = {"use": "audio.decode", "rate": 16_000}
PAD = {"use": "audio.pad_or_trim"}
MEL = {"use": "audio.log_mel", "rate": 16_000}


@pytest.mark.parametrize(
    ("entries", "takes", "gives"),
    [
        ([DECODE, PAD], model(-1, -1), (2, 16_000)),
        ([DECODE, {"use": "audio.normalize"}, PAD | {"length": 800}], model(-1, 800), (2, 800)),
        ([DECODE | {"channels": 2}, PAD], model(-1, 2, -1), (2, 2, 16_000)),
        ([DECODE, MEL, PAD], model(-1, 80, -1), (2, 80, 101)),
        ([DECODE, PAD | {"length": 16_000}, MEL], model(-1, 80, 101), (2, 80, 101)),
        ([DECODE, MEL | {"time": "first"}, PAD | {"time": "first", "length": 50}], model(-1, 50, 80), (2, 50, 80)),
        (
            [DECODE, PAD | {"length": 160_00}, MEL | WHISPER, {"use": "inputs.expand"}],
            model(-1, 1, 80, 100),
            (2, 1, 80, 100),
        ),
        (
            [DECODE | {"rate": 8000}, {"use": "audio.resample", "from": 8000, "to": 16_000}, MEL, PAD],
            model(-1, 80, -1),
            (2, 80, 101),
        ),
    ],
)
def test_the_client_sends_files_of_any_length(
    entries: list[dict[str, Any]], takes: Signature, gives: tuple[int, ...]
) -> None:
    made = pipeline(*entries)
    assert made.preview(takes).inputs == (TensorSpec("x", "bytes", (-1,)),)
    found = made.before(batch(GOOD["wav"], sound_file(tones((300, 0.25)), "flac")))
    assert found["x"].shape == gives
    assert found["x"].dtype == np.float32


def test_the_client_sends_samples() -> None:
    made = pipeline(
        {"use": "audio.samples", "rate": 44_100},
        {"use": "audio.mono", "channels": 2},
        {"use": "audio.resample", "from": 44_100, "to": 16_000},
        PAD | {"mask": "m", "length": 500},
    )
    takes = model(-1, 500, m=("int64", (-1, 500)))
    assert made.preview(takes).inputs == (TensorSpec("x", "float32", (-1, 2, -1)),)
    found = made.before({"x": np.ones((3, 2, 441), np.float32)})
    assert found["x"].shape == found["m"].shape == (3, 500)
    assert found["m"].sum() == 3 * 160
    with pytest.raises(InvalidTensor, match="not finite"):
        made.before({"x": np.full((3, 2, 441), np.nan, np.float32)})


@pytest.mark.parametrize(
    ("entries", "takes", "words"),
    [
        ([DECODE], model(-1, 80), "recordings have different lengths: put audio.pad_or_trim"),
        ([DECODE, MEL], model(-1, 80, -1), "put audio.pad_or_trim"),
        ([PAD], model(-1, -1), "the clips input 'x' comes from nowhere: put use: audio.decode or audio.samples"),
        ([MEL], model(-1, 80, -1), "the sound input 'x' comes from nowhere"),
        ([DECODE | {"rate": 8000}, MEL, PAD], model(-1, 80, -1), "takes 16000 samples a second after .* gives 8000"),
        ([DECODE, PAD | {"length": 9}], model(-1, 80), "give length: 80"),
        ([DECODE, PAD], model(-1, 80), "give length: 80"),
        ([DECODE, PAD, PAD], model(-1, -1), "needs no second audio.pad_or_trim"),
        ([DECODE, MEL, PAD], model(-1, 64, -1), r"shape \[-1, 64, -1\], audio.log_mel gives .* with 80 mels"),
        ([DECODE, PAD | {"length": 1000}, MEL], model(-1, 80, 101), "give length: 16000"),
        ([DECODE, PAD], model(-1, 2, -1), r"audio.decode with channels 1 gives \[-1\]"),
        ([DECODE, MEL | {"low": 9000}, PAD], model(-1, 80, -1), "low must be below high, and high at most rate / 2"),
        ([DECODE, MEL | {"std": 0}, PAD], model(-1, 80, -1), "std not zero"),
        ([DECODE, PAD | {"mask": "m"}], model(-1, -1), "there is no tensor 'm' here"),
        ([DECODE, PAD | {"mask": "m"}], model(-1, -1, m=("float32", (-1, -1))), "'m' is float32, it must be int64"),
        (
            [DECODE, PAD | {"length": 80}, {"use": "audio.resample", "from": 8000, "to": 16_000}],
            model(-1, 80),
            "put audio.pad_or_trim after it",
        ),
        ([DECODE, PAD], Signature((TensorSpec("x", "int64", (-1, -1)),), ()), "'x' is int64, it must be float32"),
    ],
)
def test_steps_that_do_not_fit_are_errors_of_the_load(
    entries: list[dict[str, Any]], takes: Signature, words: str
) -> None:
    with pytest.raises(InvalidManifest, match=words):
        pipeline(*entries).preview(takes)


def test_without_pyav_the_load_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(RuntimeMissing, match=r"pip install 'inference-engine\[audio\]'"):
        pipeline(DECODE, PAD).preview(model(-1, -1))
