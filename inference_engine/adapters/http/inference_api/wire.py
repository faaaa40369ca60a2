"""The JSON of what every route here answers with: which model, how long, how many tokens."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from inference_engine.domain.analysis import TaskReport
from inference_engine.domain.results import Served, Usage


class TokenUsage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Report(msgspec.Struct, omit_defaults=True):
    """The exact model that answered, and the milliseconds it took.

    `queue_ms` was spent waiting for other requests, `compute_ms` computing; `usage` counts tokens, where there are any.
    """

    model: str
    version: str
    latency_ms: float
    queue_ms: float | UnsetType = UNSET
    compute_ms: float | UnsetType = UNSET
    usage: TokenUsage | UnsetType = UNSET


def report(served: Served, latency_s: float, usage: Usage | None = None) -> Report:
    """What is said of the model that answered."""
    return Report(served.ref.name, served.ref.version, ms(latency_s), usage=token_usage(usage) if usage else UNSET)


def task_report(report: TaskReport) -> Report:
    """The same for one task of an analysis, with how long it waited and computed."""
    ref = report.served.ref
    return Report(
        ref.name,
        ref.version,
        ms(report.latency_s),
        ms(report.queue_s),
        ms(report.compute_s),
        token_usage(report.usage) if report.usage else UNSET,
    )


def token_usage(usage: Usage) -> TokenUsage:
    return TokenUsage(usage.prompt_tokens, usage.completion_tokens, usage.prompt_tokens + usage.completion_tokens)


def ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
