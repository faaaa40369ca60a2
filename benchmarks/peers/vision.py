"""Images to labels in this process: `python -m benchmarks.peers.vision hand|engine FOLDER`.

`FOLDER` holds what `benchmarks.models.add_vision` writes. By hand is Pillow, numpy and ONNX Runtime in as many threads
as a question says; `engine` is the Python API with the ensemble. Answers `{"seconds": S, "concurrent": N}` on stdin
with `{"images_per_s": R, "processor_ms": P}`, P for each image and with all child processes, and `{"label": ""}` with
the best label and score of the image.
"""

from __future__ import annotations

import asyncio
import io
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import psutil
import uvloop
from PIL import Image

from benchmarks.models import VISION_MEAN, VISION_SIZE, VISION_STD
from inference_engine import AsyncEngine

Answer = tuple[str, float]


class Hand:
    """What one would write for this model alone."""

    def __init__(self, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        file = folder / "models" / "cnn" / "1" / "model.onnx"
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self._labels = (folder / "models" / "labels" / "1" / "labels.txt").read_text().splitlines()
        self._mean, self._std = np.array(VISION_MEAN, np.float32), np.array(VISION_STD, np.float32)
        self._file = (folder / "image.jpg").read_bytes()

    def answer(self) -> Answer:
        image = Image.open(io.BytesIO(self._file)).convert("RGB")
        image = image.resize((VISION_SIZE, VISION_SIZE), Image.Resampling.BILINEAR)
        pixels = np.asarray(image, np.float32) / 255
        pixels = (pixels - self._mean) / self._std
        (logits,) = self._session.run(None, {"pixels": np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])})
        powers = np.exp(logits[0] - logits[0].max())
        scores = powers / powers.sum()
        best = [(self._labels[index], float(scores[index])) for index in np.argsort(-scores)[:5]]
        return best[0]

    def images_per_s(self, seconds: float, concurrent: int) -> float:
        counts = [0] * concurrent
        give_up = time.perf_counter() + seconds

        def work(index: int) -> None:
            while time.perf_counter() < give_up:
                self.answer()
                counts[index] += 1

        started = time.perf_counter()
        threads = [threading.Thread(target=work, args=(index,)) for index in range(concurrent)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) / (time.perf_counter() - started)


class Served:
    """The ensemble `eye`, asked through the Python API."""

    def __init__(self, engine: AsyncEngine, folder: Path) -> None:
        self._engine = engine
        self._image = np.array([(folder / "image.jpg").read_bytes()], object)

    async def answer(self) -> Answer:
        outputs = (await self._engine.predict("eye", {"image": self._image})).outputs
        return outputs["labels"][0, 0].decode(), float(outputs["scores"][0, 0])

    async def images_per_s(self, seconds: float, concurrent: int) -> float:
        await self.answer()
        started = time.perf_counter()

        async def ask() -> int:
            count = 0
            while time.perf_counter() - started < seconds:
                await self.answer()
                count += 1
            return count

        counts = await asyncio.gather(*(ask() for _ in range(concurrent)))
        return sum(counts) / (time.perf_counter() - started)


def processor_s() -> float:
    """What this process and its children have used."""
    process = psutil.Process()
    spent = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(times.user + times.system for times in spent)


def _found(images_per_s: float, before_s: float, started: float) -> dict[str, Any]:
    images = images_per_s * (time.perf_counter() - started)
    return {"images_per_s": images_per_s, "processor_ms": 1000 * (processor_s() - before_s) / images}


def _answer_questions(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


def _by_hand(folder: Path) -> None:
    hand = Hand(folder)

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        if "label" in question:
            return {"label": hand.answer()}
        before_s, started = processor_s(), time.perf_counter()
        return _found(hand.images_per_s(question["seconds"], question["concurrent"]), before_s, started)

    _answer_questions(answer)


async def _by_engine(folder: Path) -> None:
    async with AsyncEngine(models=folder / "models", state_dir=folder / "state", cache=False) as engine:
        served = Served(engine, folder)
        loop = asyncio.get_running_loop()

        async def answer(question: dict[str, Any]) -> dict[str, Any]:
            if "label" in question:
                return {"label": await served.answer()}
            before_s, started = processor_s(), time.perf_counter()
            return _found(await served.images_per_s(question["seconds"], question["concurrent"]), before_s, started)

        await asyncio.to_thread(
            _answer_questions,
            lambda question: asyncio.run_coroutine_threadsafe(answer(question), loop).result(),
        )


def main() -> None:
    folder = Path(sys.argv[2])
    if sys.argv[1] == "hand":
        _by_hand(folder)
    else:
        uvloop.run(_by_engine(folder))  # the loop of the server


if __name__ == "__main__":
    main()
