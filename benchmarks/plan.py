"""How long and how often to measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Plan:
    """`seconds` is the length of one throughput measurement, `tokens` that of one generated answer.

    `folder` is a temporary one for models, logs and scripts. `quick`: look at few settings.
    """

    folder: Path
    rounds: int
    seconds: float
    tokens: int
    quick: bool = False
