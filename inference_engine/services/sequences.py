"""The waiting line of models that keep something between the requests of a sequence.

A sequence stays with one instance from its first request to its last, and its requests are computed in their order,
one at a time; requests of different sequences are merged. Knows who owns a sequence, not what the model remembers.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from functools import partial

import msgspec

from inference_engine.core.logging import get_logger
from inference_engine.domain.errors import DeadlineExceeded, EngineError, InferenceFailed, InvalidRequest, QueueFull
from inference_engine.domain.model import Manifest, Sequences, Signature
from inference_engine.domain.ports import BatchResult, Executor, Instanced, Restarting, Telemetry
from inference_engine.domain.requests import Principal, SequenceStep
from inference_engine.domain.sequences import SequenceTensors
from inference_engine.domain.statistics import ModelStatistics
from inference_engine.domain.tensors import Array, Tensors

Clock = Callable[[], float]
Answer = tuple[dict[str, Array], float, float]
"""Outputs, seconds in line, seconds computing."""
Key = tuple[Principal, int | str]
"""A sequence is known by whose it is and the client's id for it."""
_SWEEP_S = 0.02
_IDLE_SWEEP_S = 0.5
_REMEMBERED = 1024
_ATTEMPTS = 3
_LAST_NAME = 2**31 - 1  # fits every datatype that an id may have
_log = get_logger(__name__)


class _Waiting(msgspec.Struct, eq=False):
    """One request of a sequence, not answered yet.

    `attempts` counts how often it began a sequence whose instance died; `alone` is set after its batch has failed.
    """

    inputs: Tensors
    step: SequenceStep
    future: asyncio.Future[Answer]
    queued_at: float
    deadline_s: float
    attempts: int = 0
    alone: bool = False


class _Sequence(msgspec.Struct, eq=False):
    """A sequence from its first request on.

    `name` is the id that the model is told: the client's own, unless another owner's open sequence has it.
    `place` and `slot` say where it is computed, None while all places are taken. `life` is the count of restarts of the
    instance that knows it, None before its first answer. `states` are kept by the server. `closing` once its last
    request is in line.
    """

    key: Key
    name: int | str
    priority: int
    line: deque[_Waiting]
    used_s: float
    place: _Place | None = None
    slot: int = -1
    life: int | None = None
    states: dict[str, Array] = {}
    closing: bool = False
    computing: bool = False


class _Row(msgspec.Struct, eq=False):
    """A request in a batch, with its sequence."""

    item: _Waiting
    sequence: _Sequence


class _Batch(msgspec.Struct, eq=False):
    """What one instance computes. `rows` has None where a slot has no request. `life` is that of the instance."""

    rows: list[_Row | None]
    started: float
    life: int
    work: asyncio.Future[BatchResult]

    def abandon_if_unwanted(self) -> None:
        if all(row.item.future.done() for row in self.rows if row is not None):
            self.work.cancel()


class _Place:
    """One instance: the sequences it holds by slot, and the batch it computes."""

    def __init__(self, executor: Executor, slots: int) -> None:
        self.executor = executor
        self.slots: list[_Sequence | None] = [None] * slots
        self.batch: _Batch | None = None
        self._restarting = executor if isinstance(executor, Restarting) else None

    @property
    def life(self) -> int:
        """How often what the instance knew was lost."""
        return self._restarting.restarts if self._restarting is not None else 0

    @property
    def held(self) -> list[_Sequence]:
        return [sequence for sequence in self.slots if sequence is not None]

    def order(self) -> tuple[bool, int]:
        """Where a new sequence goes first: to an instance that is up, then to one with little."""
        down = self._restarting is not None and self._restarting.state != "ready"
        return down, len(self.held)


class SequenceQueue:
    """Keeps each sequence with its instance. At most `max_sequences` are held by an instance; others wait to begin.

    Raises:
        InvalidManifest: controls or states do not fit the model's `signature`, which is the model's own.
    """

    def __init__(
        self,
        manifest: Manifest,
        sequences: Sequences,
        executor: Executor,
        signature: Signature | None,
        telemetry: Telemetry,
        clock: Clock,
        statistics: ModelStatistics | None = None,
    ) -> None:
        self._ref = manifest.ref
        self._tensors = SequenceTensors(manifest, sequences, signature)
        batched = signature is not None and signature.batched
        self._max_rows = manifest.execution.max_batch_size if batched else 1
        direct = sequences.strategy == "direct"
        self._by_slot = direct and manifest.runtime != "python"  # a class is told of each row whose it is
        slots = self._max_rows if direct else sequences.max_sequences
        executors = executor.instances if isinstance(executor, Instanced) else (executor,)
        self._places = [_Place(one, slots) for one in executors]
        self._max_idle_s = sequences.max_idle_s
        self._limit = manifest.execution.queue_limit
        self._telemetry = telemetry
        self._statistics = statistics or ModelStatistics()
        self._clock = clock
        self._sequences: dict[Key, _Sequence] = {}
        self._names: set[str] = set()
        self._beginning: list[_Sequence] = []
        self._ended: OrderedDict[Key, str] = OrderedDict()
        self._sweep_due: asyncio.TimerHandle | None = None
        self._sweep_is_soon = False
        self._open = 0

    @property
    def waiting(self) -> int:
        """Requests in line."""
        batches = [place.batch for place in self._places if place.batch is not None]
        return self._open - sum(1 for batch in batches for row in batch.rows if row is not None)

    @property
    def active(self) -> int:
        """Sequences that have begun and not ended."""
        return len(self._sequences)

    async def submit(
        self, inputs: Tensors, step: SequenceStep, owner: Principal, deadline_s: float, priority: int = 0
    ) -> Answer:
        """Wait for the requests of the sequence that came before, then be computed. `deadline_s` is of the clock.

        `priority` orders sequences that wait to begin.

        Raises:
            InvalidRequest: the sequence is not known: it did not begin, has ended, was idle too long, or was lost with
                its instance; the message says which. QueueFull; DeadlineExceeded. EngineError: what the runtime raised.
        """
        if self.waiting >= self._limit:
            raise QueueFull(
                f"{self._limit} requests are waiting for {self._ref}: try again later, or raise execution.queue_limit"
            )
        loop = asyncio.get_running_loop()
        now = self._clock()
        sequence = self._found(owner, step, priority, now)
        sequence.closing = step.end
        item = _Waiting(inputs, step, loop.create_future(), now, deadline_s)
        sequence.line.append(item)
        self._schedule_sweep(soon=True)
        if sequence.place is not None:
            loop.call_soon(self._pump, sequence.place)
        else:
            self._place_next()
        self._open += 1
        try:
            return await item.future
        except (asyncio.CancelledError, DeadlineExceeded):
            if sequence.place is not None and sequence.place.batch is not None:
                sequence.place.batch.abandon_if_unwanted()
            raise
        finally:
            self._open -= 1

    def _found(self, owner: Principal, step: SequenceStep, priority: int, now: float) -> _Sequence:
        key = (owner, step.id)
        sequence = self._sequences.get(key)
        if sequence is None and step.start:
            sequence = self._sequences[key] = _Sequence(key, self._named(step.id), priority, deque(), now)
            self._ended.pop(key, None)
            self._beginning.append(sequence)
        if sequence is None or (sequence.closing and not step.start):
            raise self._unknown(key)
        return sequence

    def _named(self, id: int | str) -> int | str:
        """An id that no other open sequence has: a model that goes by ids must not mix what clients tell it."""
        name, last = id, _LAST_NAME
        while str(name) in self._names:
            name = last if isinstance(id, int) else f"{id}~{last}"
            last -= 1
        self._names.add(str(name))
        return name

    def _unknown(self, key: Key) -> InvalidRequest:
        reason = self._ended.get(key, "it has not begun, or ended long ago")
        return InvalidRequest(
            f"{self._ref} has no sequence {key[1]!r}: {reason}: begin it with sequence_start", param="sequence_id"
        )

    # -- who is computed where -----------------------------------------------------------------------------------

    def _place_next(self) -> None:
        """Give free slots to the sequences that wait to begin."""
        while self._beginning:
            places = [place for place in self._places if None in place.slots]
            if not places:
                return
            place, sequence = min(places, key=_Place.order), self._next_beginning()
            self._beginning.remove(sequence)
            sequence.place, sequence.slot = place, place.slots.index(None)
            place.slots[sequence.slot] = sequence
            asyncio.get_running_loop().call_soon(self._pump, place)

    def _next_beginning(self) -> _Sequence:
        """The most urgent; among equals one of the owner that holds the fewest places, then the first that came."""
        if len(self._beginning) == 1:
            return self._beginning[0]
        held = Counter(sequence.key[0] for place in self._places for sequence in place.held)
        return min(self._beginning, key=lambda sequence: (sequence.priority, held[sequence.key[0]]))

    def _end(self, sequence: _Sequence, reason: str) -> None:
        """Forget a sequence; the requests it still has in line are refused for that reason."""
        if self._sequences.get(sequence.key) is not sequence:
            return
        del self._sequences[sequence.key]
        self._names.discard(str(sequence.name))
        if sequence.place is not None:
            sequence.place.slots[sequence.slot] = None
        else:
            self._beginning.remove(sequence)
        self._ended[sequence.key] = reason
        while len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)
        for item in sequence.line:
            if not item.future.done():
                item.future.set_exception(self._unknown(sequence.key))
        sequence.line.clear()
        self._place_next()

    def _pump(self, place: _Place) -> None:
        """Send the next batch of an instance that computes nothing."""
        if place.batch is not None:
            return
        rows = self._next_rows(place)
        if not any(rows):
            return
        now = self._clock()
        parts = list(self._parts(rows))
        batch = _Batch(rows, now, place.life, self._work(place, parts))
        place.batch = batch
        batch.work.add_done_callback(partial(self._finished, place, batch))

    def _next_rows(self, place: _Place) -> list[_Row | None]:
        """The oldest waiting request and what can go with it, one of each sequence; by slot where that counts."""
        heads = [row for sequence in place.held if (row := self._head(place, sequence)) is not None]
        heads.sort(key=lambda row: row.item.queued_at)
        chosen: list[_Row] = []
        for row in heads:
            if not chosen or (len(chosen) < self._max_rows and self._fit(chosen[0], row)):
                chosen.append(row)
        for row in chosen:
            row.sequence.line.popleft()
            row.sequence.computing = True
        if not self._by_slot or not chosen:
            return list(chosen)
        rows: list[_Row | None] = [None] * (max(row.sequence.slot for row in chosen) + 1)
        for row in chosen:
            rows[row.sequence.slot] = row
        return rows

    def _head(self, place: _Place, sequence: _Sequence) -> _Row | None:
        """The next request of a sequence that can be computed; what nobody waits for is dropped."""
        if sequence.computing:
            return None
        while sequence.line and sequence.line[0].future.done():
            sequence.line.popleft()
        if not sequence.line:
            if sequence.closing or sequence.life is None:
                self._end(sequence, "it has ended")
            return None
        item = sequence.line[0]
        if item.step.start:
            try:
                list(self._tensors.controls(item.step, sequence.name))
            except InvalidRequest as error:
                item.future.set_exception(error)
                self._end(sequence, "it could not begin")
                return None
            sequence.states = self._tensors.initial_states()
        elif sequence.life is None:
            self._end(sequence, "its first request was not computed")
            return None
        elif self._is_lost(place.life, sequence):
            self._end(sequence, "the instance that knew it died, and its state with it")
            return None
        return _Row(item, sequence)

    def _is_lost(self, life: int, sequence: _Sequence) -> bool:
        return sequence.life != life and not self._tensors.keeps_states

    def _fit(self, first: _Row, row: _Row) -> bool:
        """Whether two requests can share a batch."""
        return not (first.item.alone or row.item.alone) and self._shape(first) == self._shape(row)

    @staticmethod
    def _shape(row: _Row) -> list[tuple[int, ...]]:
        tensors = (*row.item.inputs.values(), *row.sequence.states.values())
        return [array.shape[1:] for array in tensors]

    def _parts(self, rows: list[_Row | None]) -> Iterator[dict[str, Array]]:
        first = next(row for row in rows if row is not None)
        for row in rows:
            if row is not None:
                controls = dict(self._tensors.controls(row.item.step, row.sequence.name))
                yield {**row.item.inputs, **row.sequence.states, **controls}
            else:
                nothing = {**first.item.inputs, **first.sequence.states}
                empty = {
                    name: array[:1] * 0 if array.dtype.kind != "O" else array[:1] for name, array in nothing.items()
                }
                yield {**empty, **dict(self._tensors.controls(SequenceStep(0), 0, ready=False))}

    @staticmethod
    def _work(place: _Place, parts: list[dict[str, Array]]) -> asyncio.Future[BatchResult]:
        try:
            return asyncio.ensure_future(place.executor.run(parts, [1] * len(parts)))
        except Exception as error:
            failed: asyncio.Future[BatchResult] = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            return failed

    # -- what comes of it ------------------------------------------------------------------------------------------

    def _finished(self, place: _Place, batch: _Batch, _: object) -> None:
        place.batch = None
        now = self._clock()
        rows = [row for row in batch.rows if row is not None]
        for row in rows:
            row.sequence.computing = False
            row.sequence.used_s = now
        error = None if batch.work.cancelled() else batch.work.exception()
        if batch.work.cancelled():
            self._abandoned(rows)
        elif place.life != batch.life and not self._tensors.keeps_states:
            self._lost(rows)
        elif error is not None:
            self._failed(rows, error)
        else:
            self._answered(batch, now)
        for row in rows:
            if row.sequence.closing and not row.sequence.line:
                self._end(row.sequence, "it has ended")
        self._pump(place)

    def _abandoned(self, rows: list[_Row]) -> None:
        """Nobody wanted the batch any more. What the server keeps is as before it; a model's own state may differ."""
        for row in rows:
            row.item.future.cancel()
            if not self._tensors.keeps_states:
                self._end(row.sequence, "a request of it was cancelled while it was computed")

    def _failed(self, rows: list[_Row], error: BaseException) -> None:
        """With states kept here each request is tried alone; else what a model knows that failed on several is open."""
        if not isinstance(error, EngineError):
            _log.error("executor failed unexpectedly", model=str(self._ref), exc_info=error)
            error = InferenceFailed(f"{type(error).__name__}: {error}")
        again = len(rows) > 1 and self._tensors.keeps_states and self._max_rows > 1
        if again and isinstance(error, InferenceFailed | InvalidRequest):
            for row in rows:
                row.item.alone = True
                row.sequence.line.appendleft(row.item)
            return
        for row in rows:
            if not row.item.future.done():
                row.item.future.set_exception(error)
            if len(rows) > 1 and not self._tensors.keeps_states:
                self._end(row.sequence, f"a batch that it was in failed ({error.message[:200]})")
            elif row.item.step.start and row.sequence.life is None:
                self._end(row.sequence, "its first request failed")

    def _answered(self, batch: _Batch, now: float) -> None:
        result = batch.work.result()
        rows = [row for row in batch.rows if row is not None]
        queued_s = sum(batch.started - row.item.queued_at for row in rows)
        self._telemetry.batch(self._ref, len(rows), batch.started - rows[0].item.queued_at, result.compute_s)
        self._statistics.batch(
            len(rows), len(rows), queued_s, now - batch.started, result.compute_s, result.output_s, now
        )
        for row, outputs in zip(batch.rows, result.outputs, strict=True):
            if row is None:
                continue
            row.sequence.states = self._tensors.take_states(outputs)
            row.sequence.life = batch.life
            if not row.item.future.done():
                row.item.future.set_result((outputs, batch.started - row.item.queued_at, result.compute_s))

    def _lost(self, rows: list[_Row]) -> None:
        """The instance died, and another computed the batch without what it knew. A beginning is done again."""
        for row in rows:
            row.item.attempts += 1
            row.sequence.line.appendleft(row.item)
            if not row.item.step.start or row.item.attempts >= _ATTEMPTS:
                self._end(row.sequence, "the instance that knew it died, and its state with it")

    # -- time ------------------------------------------------------------------------------------------------------

    def _schedule_sweep(self, *, soon: bool) -> None:
        if self._sweep_due is not None:
            if self._sweep_is_soon or not soon:
                return
            self._sweep_due.cancel()
        self._sweep_is_soon = soon
        wait_s = _SWEEP_S if soon else _IDLE_SWEEP_S
        self._sweep_due = asyncio.get_running_loop().call_later(wait_s, self.sweep)

    def sweep(self) -> None:
        """End the wait of requests whose deadline has passed, and sequences that were idle too long."""
        self._sweep_due = None
        now = self._clock()
        busy = False
        for item in self._unanswered():
            busy = True
            if item.deadline_s <= now and not item.future.done():
                item.future.set_exception(
                    DeadlineExceeded(f"{self._ref} did not answer within the deadline of this request")
                )
        for sequence in list(self._sequences.values()):
            while sequence.line and sequence.line[0].future.done():
                sequence.line.popleft()
            if sequence.line or sequence.computing:
                continue
            if sequence.life is None or now - sequence.used_s >= self._max_idle_s:
                idle = f"it was idle for more than {self._max_idle_s:g} s"
                self._end(sequence, "its first request was not computed" if sequence.life is None else idle)
        if self._sequences:
            self._schedule_sweep(soon=busy)

    def _unanswered(self) -> Iterator[_Waiting]:
        for sequence in self._sequences.values():
            yield from sequence.line
        for place in self._places:
            if place.batch is not None:
                yield from (row.item for row in place.batch.rows if row is not None)

    async def close(self) -> None:
        """Cancel what is running and waiting; called when the executor ends."""
        for sequence in self._sequences.values():
            for item in sequence.line:
                item.future.cancel()
            sequence.line.clear()
        self._sequences.clear()
        self._names.clear()
        self._beginning.clear()
        for place in self._places:
            place.slots = [None] * len(place.slots)
        if self._sweep_due is not None:
            self._sweep_due.cancel()
            self._sweep_due = None
        works = [place.batch.work for place in self._places if place.batch is not None]
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)
