"""Videos on a real server with the built-in models: what is found is what was drawn, and nothing outlives a request."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from inference_engine import AsyncEngine
from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.video import VideoSampling
from tests.conftest import LiveServer
from tests.fixtures.tiny_gguf import Size, tiny_gguf
from tests.fixtures.tiny_vision import IMAGE_TOKENS, tiny_mmproj
from tests.fixtures.videos import Drawn, Pixels, brightening_onnx, counted, film, video

PATH = "/inference/video"
SECONDS, FPS = 4, 10


def scene_one() -> list[Pixels]:
    """A circle and a star on lines of their own that pass each other; the star is hidden for a moment."""
    circle = Drawn("circle", (200, 40, 40), 34, lambda t: (25 + 20 * t, 40))
    star = Drawn("star", (40, 60, 200), 40, lambda t: (105 - 20 * t, 85) if not 0.9 < t < 1.1 else None)
    return film([circle, star], SECONDS, FPS)


def scene_two() -> list[Pixels]:
    square = Drawn("square", (250, 200, 30), 40, lambda t: (64, 30 + 15 * t))
    return film([square], 3, FPS, ground=(40, 90, 60))


def posted(server: LiveServer, data: bytes, **fields: str) -> httpx.Response:
    return httpx.post(f"{server.url}{PATH}", files={"file": ("clip", data)}, data=fields, timeout=60)


@pytest.fixture(scope="module")
def clip() -> bytes:
    return video([*scene_one(), *scene_two()], fps=FPS)


def test_what_was_drawn_is_found(server: LiveServer, clip: bytes) -> None:
    answer = posted(server, clip, sample='{"every_s": 0.25}')
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["video"] == {
        "container": "mov", "codec": "h264", "width": 128, "height": 128, "fps": 10.0, "duration_s": 7.0, "frames": 70,
        "rotation": 0,
    }  # fmt: skip
    assert (found["sampled"], len(found["frames"])) == (28, 28)
    assert [(scene["start_s"], scene["end_s"]) for scene in found["scenes"]] == [
        (0.0, pytest.approx(4.0, abs=0.25)),
        (pytest.approx(4.0, abs=0.25), 7.0),
    ]
    tracks = {track["label"]: track for track in found["tracks"]}
    assert len(found["tracks"]) == 3
    assert set(tracks) == {"circle", "star", "square"}
    assert len(tracks["circle"]["boxes"]) == 16
    assert len(tracks["star"]["boxes"]) == 15  # hidden for one sample
    assert (tracks["circle"]["first_s"], tracks["circle"]["last_s"]) == (0.0, 3.7)
    for place in tracks["circle"]["boxes"]:
        assert (place["box"][0] + place["box"][2]) / 2 == pytest.approx(25 + 20 * place["time_s"], abs=4)
        assert (place["box"][1] + place["box"][3]) / 2 == pytest.approx(40, abs=4)
    assert [scene["objects"] for scene in found["summary"]["scenes"]] == [{"circle": 1, "star": 1}, {"square": 1}]
    assert {one["label"]: one["tracks"] for one in found["summary"]["objects"]} == {"circle": 1, "star": 1, "square": 1}
    assert {task: model["model"] for task, model in found["models"].items()} == {
        "classify": "shapes",
        "detect": "shapes-detector",
    }


def test_two_of_one_kind_that_cross_keep_their_ids(server: LiveServer) -> None:
    """Two circles meet and pass each other, close enough for their boxes to overlap."""
    first = Drawn("circle", (200, 40, 40), 30, lambda t: (20 + 22 * t, 46 + 4 * t))
    other = Drawn("circle", (40, 60, 200), 30, lambda t: (108 - 22 * t, 94 - 4 * t))
    data = video(film([first, other], 4, FPS), "libvpx-vp9", "webm", fps=FPS)
    found = posted(server, data, tasks="track", sample='{"every_s": 0.2}').json()
    long = [track for track in found["tracks"] if len(track["boxes"]) > 5]
    assert len(long) == 2, found["tracks"]
    ways = []
    for track in long:
        xs = [(place["box"][0] + place["box"][2]) / 2 for place in track["boxes"]]
        ways.append(1 if xs[-1] > xs[0] else -1)
        assert abs(xs[-1] - xs[0]) > 70  # all the way, not back again
    assert sorted(ways) == [-1, 1]


def test_boxes_are_in_the_upright_original_whatever_its_size(server: LiveServer) -> None:
    """A picture four times as large as what the models see, stored lying on its side."""
    square = Drawn("square", (200, 40, 40), 300, lambda t: (350, 250))
    pictures = [picture[:, ::-1].transpose(1, 0, 2) for picture in film([square], 1, FPS, size=1024)]
    found = posted(
        server, video(pictures, fps=FPS, rotation=90), tasks="detect", sample='{"count": 2, "max_side": 256}'
    ).json()
    assert found["video"]["rotation"] in (90, 270)
    (best, *_) = found["frames"][0]["objects"]
    assert best["label"] == "square"
    middle = ((best["box"][0] + best["box"][2]) / 2, (best["box"][1] + best["box"][3]) / 2)
    assert middle in (
        (pytest.approx(350, abs=40), pytest.approx(250, abs=40)),
        (pytest.approx(1024 - 350, abs=40), pytest.approx(1024 - 250, abs=40)),
    )


def events(server: LiveServer, data: bytes, **fields: Any) -> list[dict[str, Any]]:
    body = {"video": "data:video/mp4;base64," + base64.b64encode(data).decode(), "stream": True, **fields}
    with httpx.stream("POST", f"{server.url}{PATH}", json=body, timeout=60) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]


def test_a_stream_tells_of_each_picture_and_ends_with_the_result(server: LiveServer, clip: bytes) -> None:
    found = events(server, clip, tasks=["detect", "track", "scenes"], sample={"every_s": 0.5})
    assert [event["type"] for event in found] == ["video", *["frame"] * 14, "result"]
    assert found[0]["expected"] == 14
    assert [event["progress"] for event in found[1:-1]] == pytest.approx([n / 14 for n in range(1, 15)], abs=1e-3)
    assert {one["label"] for one in found[1]["objects"]} == {"circle", "star"}
    assert "frames" not in found[-1]
    assert len(found[-1]["scenes"]) == 2
    assert len(found[-1]["tracks"]) == 3


def decoders(server: LiveServer) -> list[psutil.Process]:
    """The decoder processes of a server."""
    found = []
    for process in psutil.Process(server.process.pid).children(recursive=True):
        try:
            if "inference_engine.infra.media.child" in process.cmdline():
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def test_a_client_that_leaves_ends_the_decoder(server: LiveServer) -> None:
    long = video(film([Drawn("circle", (200, 40, 40), 34, lambda t: (25 + t % 70, 40))], 60, 10), fps=10)
    body = {"video": base64.b64encode(long).decode(), "stream": True, "sample": {"every_s": 0.1, "max_frames": 600}}
    with httpx.stream("POST", f"{server.url}{PATH}", json=body, timeout=60) as answer:
        lines = answer.iter_lines()
        for _ in range(6):
            next(lines)
        assert decoders(server)
    until = time.monotonic() + 10
    while decoders(server) and time.monotonic() < until:
        time.sleep(0.05)
    assert not decoders(server)


def test_a_video_does_not_keep_others_waiting(server: LiveServer, clip: bytes) -> None:
    """Predictions go on while three videos are analysed."""
    long = video([*scene_one(), *scene_two()] * 3, fps=FPS)
    threads = [
        threading.Thread(target=posted, args=(server, long), kwargs={"sample": '{"every_s": 0.2}'}) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    worst = 0.0
    body = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}]}
    names = [spec["name"] for spec in httpx.get(f"{server.url}/v2/models/iris").json()["inputs"]]
    body["inputs"][0]["name"] = names[0]
    count = 0
    while any(thread.is_alive() for thread in threads):
        started = time.monotonic()
        assert httpx.post(f"{server.url}/v2/models/iris/infer", json=body, timeout=30).status_code == 200
        worst = max(worst, time.monotonic() - started)
        count += 1
    assert count > 3
    assert worst < 5


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"no video at all", "video holds no video that can be read"),
        (b"\0\0\0\x18ftypisom" + bytes(3000), "damaged or cut off"),
    ],
)
def test_what_is_no_video(server: LiveServer, data: bytes, text: str) -> None:
    answer = posted(server, data)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["field"]) == ("invalid_request", "video")
    assert text in error["message"]
    streamed = httpx.post(f"{server.url}{PATH}", json={"video": base64.b64encode(data).decode(), "stream": True})
    assert streamed.status_code == 400


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"video": "AAAA", "tasks": ["dance"]}, "tasks"),
        ({"video": "AAAA", "sample": {"every": 1}}, "sample.every"),
        ({"video": "AAAA", "sample": {"every_s": -1}}, "sample.every_s"),
        ({"video": "AAAA", "sample": {"count": 2, "keyframes": True}}, "sample"),
        ({"video": "AAAA", "model": "nobody"}, None),
        ({"video": "https://example.org/clip.mp4"}, "video"),
        ({"video": "%%%"}, "video"),
        ({}, "video"),
        ({"video": "AAAA", "loop": True}, "loop"),
    ],
)
def test_what_is_wrong_is_named(server: LiveServer, body: dict[str, Any], field: str | None) -> None:
    answer = httpx.post(f"{server.url}{PATH}", json=body)
    assert answer.status_code in (400, 404, 501), answer.text
    if field is not None:
        assert field in (answer.json()["error"]["field"] or ""), answer.text


ACTIONS = """
name: actions
version: "1"
runtime: onnx
artifact: model.onnx
task: video-classification
pipeline:
  preprocess:
    - {use: video.frames, count: 8, width: 32, height: 32}
    - {use: video.normalize, mean: 0.5, std: 0.25}
  postprocess:
    - {use: softmax}
    - {use: top_k, k: 2, labels: labels.txt}
"""
SEER = """
name: seer
version: "1"
runtime: llama_cpp
artifact: model.gguf
task: image-text-to-text
options: {parallel: 1, mmproj: mmproj.gguf}
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with a model that takes clips and one that sees."""
    folder = tmp_path_factory.mktemp("videos")
    models = folder / "models"
    for name, text in (("actions", ACTIONS), ("seer", SEER)):
        (models / name / "1").mkdir(parents=True)
        (models / name / "1" / "model.yaml").write_text(text)
    brightening_onnx(models / "actions" / "1" / "model.onnx")
    (models / "actions" / "1" / "labels.txt").write_text("darker\nbrighter\n")
    tiny_gguf(models / "seer" / "1" / "model.gguf", Size(context=2048))
    tiny_mmproj(models / "seer" / "1" / "mmproj.gguf", Size(context=2048))
    live = LiveServer(folder, "--models", str(models))
    live.start()
    yield live
    assert live.stop() == 0


def test_a_model_that_takes_clips(own: LiveServer) -> None:
    up, down = video(counted(40)), video(counted(40)[::-1], "libvpx-vp9", "webm")
    for data, label in ((up, "brighter"), (down, "darker")):
        found = posted(own, data, model="actions", top_k="1").json()
        assert [one["label"] for one in found["labels"]] == [label]
        assert found["models"]["classify"]["model"] == "actions"
        assert "frames" not in found
    client = triton.InferenceServerClient(own.url.removeprefix("http://"))
    given = triton.InferInput("clip", [2], "BYTES")
    given.set_data_from_numpy(np.array([up, down], object), binary_data=True)
    assert client.infer("actions", [given]).as_numpy("labels")[:, 0].tolist() == [b"brighter", b"darker"]
    given.set_data_from_numpy(np.array([up, b"nothing"], object), binary_data=True)
    with pytest.raises(InferenceServerException, match="row 1 holds no video"):
        client.infer("actions", [given])
    assert posted(own, b"nothing", model="actions").json()["error"]["field"] == "video"


def test_a_model_that_sees_describes_it(own: LiveServer, clip: bytes) -> None:
    found = posted(own, clip, tasks="describe", max_tokens="8", prompt="What happens?").json()
    assert found["description"]
    report = found["models"]["describe"]
    assert report["model"] == "seer"
    assert report["usage"]["prompt_tokens"] > 4 * IMAGE_TOKENS
    assert report["usage"]["completion_tokens"] <= 8
    summarized = posted(own, clip, tasks="summarize", max_tokens="8").json()
    assert summarized["description"]  # it is loaded by now
    assert summarized["summary"]["scenes"]


async def test_from_python(tmp_path: Path, clip: bytes) -> None:
    (tmp_path / "clip.mp4").write_bytes(clip)
    async with AsyncEngine(state_dir=tmp_path / "state") as engine:
        found = await engine.analyze_video(
            tmp_path / "clip.mp4", tasks="track", model={"detect": "shapes-detector"}, sampling={"every_s": 0.5}
        )
        assert {track.label for track in found.tracks or ()} == {"circle", "star", "square"}
        events = [type(event).__name__ async for event in engine.video_events(clip, sampling=VideoSampling(count=3))]
        assert events == ["VideoOpened", *["VideoProgress"] * 3, "VideoAnalysis"]
        for options, text in (
            ({"sampling": {"every": 1}}, "'sampling.every' is not an argument"),
            ({"loop": 1}, "'loop' is not an argument"),
            ({"tasks": "dance"}, "arguments are wrong"),
        ):
            with pytest.raises(InvalidRequest, match=text):
                await engine.analyze_video(clip, **options)
        with pytest.raises(InvalidRequest, match="cannot be read"):
            await engine.analyze_video(tmp_path / "none.mp4")
