"""One thread that steps the pipeline for all generations together. Knows OpenVINO GenAI's pipeline, not requests.

GenAI's `generate` cannot be called by two threads at once, and `add_request` must not meet a running `step`: so both
happen here, and callers wait for their own generation. `step` holds the interpreter's lock while it computes; between
two steps the thread lets go of it for a moment, so that what a step has brought is sent before the next one begins.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from inference_engine.core.logging import get_logger
from inference_engine.domain.errors import InferenceFailed
from inference_engine.domain.ports import Sink
from inference_engine.infra.runtimes.openvino.stream import Stream

_PAUSE_S = 0.0002
_log = get_logger(__name__)


@dataclass
class _Job:
    ids: list[int]
    values: dict[str, Any]
    stream: Stream
    sink: Sink
    handle: Any = None
    error: BaseException | None = None
    taken: list[int] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)


class Stepper:
    """Owns the pipeline that `build` makes. When a step fails, the pipeline is made anew: what had begun to answer goes
    on from its tokens, the rest fails."""

    def __init__(self, build: Callable[[], Any], endings: frozenset[int], pipeline: Any) -> None:
        """`pipeline` is what `build` has made; `endings` are the token ids that end an answer."""
        self._build = build
        self._endings = endings
        self._pipeline = pipeline
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._arrived: list[_Job] = []
        self._running: list[_Job] = []
        self._closing = False
        self._fault = "the model has been closed"
        self._cache_usage = 0.0
        self._thread = threading.Thread(target=self._work, name="openvino", daemon=True)
        self._thread.start()

    def generate(self, ids: list[int], values: dict[str, Any], stream: Stream, sink: Sink) -> None:
        """Generate until done or `sink.cancelled`. `values` are fields of GenAI's generation config. Blocking.

        Raises:
            InferenceFailed: the pipeline failed. Whatever the sink raised.
        """
        job = _Job(ids, values, stream, sink)
        with self._changed:
            if self._closing:
                raise InferenceFailed(self._fault)
            self._arrived.append(job)
            self._changed.notify()
        job.ended.wait()
        if job.error is not None:
            raise job.error

    @property
    def running(self) -> int:
        return len(self._running) + len(self._arrived)

    @property
    def cache_usage(self) -> float:
        """The share of the KV cache that running and remembered sequences take, 0 to 1, at the latest step."""
        return self._cache_usage

    def close(self) -> None:
        """End the thread and free the pipeline."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        self._pipeline = None

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while self._wait():
            try:
                self._admit()
                self._pipeline.step()
                self._cache_usage = self._pipeline.get_metrics().cache_usage / 100
            except Exception as error:
                self._recover(error)
                continue
            self._running = [job for job in self._running if self._serve(job)]
            time.sleep(_PAUSE_S)
        for job in [*self._running, *self._arrived]:
            self._end(job, InferenceFailed(self._fault))

    def _wait(self) -> bool:
        """Until there is something to compute; False to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._arrived or self._running or self._unfinished())
            return not self._closing

    def _unfinished(self) -> bool:
        """What was cancelled still holds its cache until the next step."""
        return bool(self._pipeline.has_non_finished_requests())

    def _admit(self) -> None:
        import numpy as np
        import openvino
        import openvino_genai

        with self._changed:
            arrived, self._arrived = self._arrived, []
        for job in arrived:
            if job.sink.cancelled:
                self._end(job)
                continue
            try:
                config = openvino_genai.GenerationConfig(**job.values)
                config.stop_token_ids = set(self._endings)
                ids = openvino.Tensor(np.array([job.ids], dtype=np.int64))
                job.handle = self._pipeline.add_request(next(self._numbers), ids, config)
            except (RuntimeError, ValueError, TypeError) as error:
                self._end(job, InferenceFailed(f"OpenVINO does not take the request: {str(error).strip()[-500:]}"))
            else:
                self._running.append(job)

    def _serve(self, job: _Job) -> bool:
        """Hand on what the step has brought for one generation; False when it is over."""
        if job.sink.cancelled:
            job.handle.cancel()
            return self._end(job)
        try:
            return self._read(job)
        except BaseException as error:
            job.handle.cancel()
            return self._end(job, error)

    def _read(self, job: _Job) -> bool:
        while job.handle.can_read():
            for output in job.handle.read().values():
                reason = output.finish_reason.name
                tokens = output.generated_ids
                ended = reason == "STOP" and bool(tokens) and tokens[-1] in self._endings
                job.taken += tokens
                if job.stream.take(tokens, output.generated_log_probs, ended=ended):
                    job.handle.stop()
                    return self._end(job)
                if reason != "NONE":
                    job.stream.finish("stop" if reason == "STOP" else "length")
                    return self._end(job)
        if job.handle.get_status().name == "IGNORED":
            raise InferenceFailed(
                "the request does not fit into the KV cache: raise options.kv_cache_mib in model.yaml"
            )
        return True

    @staticmethod
    def _end(job: _Job, error: BaseException | None = None) -> bool:
        job.error = error
        job.ended.set()
        return False

    def _recover(self, error: Exception) -> None:
        _log.warning("the OpenVINO pipeline failed and is built anew", error=str(error))
        failed, self._running = self._running, []
        kept = [job for job in failed if _outlives(job)]
        for job in failed:
            if job not in kept:
                self._end(job, InferenceFailed(f"OpenVINO failed: {str(error).strip()[-500:]}"))
        for job in kept:
            job.ids, job.values = (
                job.ids + job.taken,
                job.values | {"max_new_tokens": job.values["max_new_tokens"] - len(job.taken)},
            )
            job.taken = []
        self._pipeline = None
        try:
            self._pipeline = self._build()
        except Exception as fatal:
            _log.exception("the OpenVINO pipeline could not be built anew")
            with self._changed:
                self._fault = f"the pipeline failed and could not be built anew: {fatal}"
                self._closing = True
        with self._changed:
            self._arrived = [*kept, *self._arrived]


def _outlives(job: _Job) -> bool:
    """Whether a generation can go on after a failed step: it has got on since the last one, and no grammar binds it,
    which would have to be advanced over its tokens."""
    return bool(job.taken) and "structured_output_config" not in job.values
