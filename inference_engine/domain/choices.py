"""Which runtime `runtime: auto` has chosen for a model on this machine, and by which figures."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, Protocol

import msgspec

Aim = Literal["latency", "throughput"]


class Candidate(msgspec.Struct, frozen=True):
    """One runtime as it was measured. `refused` says why it could not be chosen, however quick.

    `tokens_per_s` of all streams together, `first_token_s` the median over the streams. `difference` is the mean over
    tokens of the absolute difference of natural-log probabilities to the reference, on the reference's greedy answers;
    `alike` the share of these tokens that it would have chosen too. The reference itself has neither.
    """

    runtime: str
    version: str = ""
    tokens_per_s: float = 0.0
    first_token_s: float = 0.0
    difference: float | None = None
    alike: float | None = None
    refused: str = ""


class RuntimeChoice(msgspec.Struct, frozen=True):
    """The outcome for one model, aim and set of options. `key` stands for all that would make it void when changed.

    `busy`: other work ran on the machine, so that it is measured again when there is none.
    """

    key: str
    model: str
    aim: Aim
    streams: int
    chosen: str
    candidates: tuple[Candidate, ...]
    measured_at: datetime
    busy: bool = False

    @property
    def why(self) -> str:
        """The reason in a few words: `2.1x llama_cpp at 16 streams`."""
        speeds = {candidate.runtime: candidate.tokens_per_s for candidate in self.candidates if not candidate.refused}
        others = {name: speed for name, speed in speeds.items() if name != self.chosen and speed > 0}
        if not others:
            return "no other runtime can run it here"
        best = max(others, key=others.__getitem__)
        streams = "1 stream" if self.streams == 1 else f"{self.streams} streams"
        return f"{speeds.get(self.chosen, 0.0) / others[best]:.2g}x {best} at {streams}"


class ChoiceStore(Protocol):
    """Keeps choices over restarts. Blocking, small."""

    def all(self) -> Sequence[RuntimeChoice]:
        """Every kept choice, by model."""

    def find(self, key: str) -> RuntimeChoice | None: ...

    def keep(self, choice: RuntimeChoice) -> None:
        """Keep it in place of an earlier one with the same key."""

    def forget(self, model: str | None = None) -> int:
        """Drop the choices for `model` (`name:version`), or all; the number that was dropped."""
