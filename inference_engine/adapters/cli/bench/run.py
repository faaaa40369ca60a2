"""One run of `bench`: chooses what is asked of the model, measures every level, and says what it came to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click
import msgspec
import psutil

from inference_engine.adapters.cli.bench.asked import Asked
from inference_engine.adapters.cli.bench.figures import Level, limits, recommended
from inference_engine.adapters.cli.bench.inputs import request_pool
from inference_engine.adapters.cli.bench.measuring import Load, Plan, Step, sweep
from inference_engine.adapters.cli.bench.posts import Prompts
from inference_engine.adapters.cli.bench.report import Outcome
from inference_engine.adapters.cli.bench.screen import watching
from inference_engine.adapters.cli.bench.targets import Target
from inference_engine.adapters.cli.client import ModelView
from inference_engine.adapters.cli.output import spinner
from inference_engine.domain.errors import EngineError
from inference_engine.domain.model import Signature
from inference_engine.domain.text_tensors import EMBEDDING, SCORE

Result = TypeVar("Result")
_LADDER = (1, 2, 4, 8, 16, 32, 64)
_CHAT_LADDER = (1, 2, 4, 8, 16)
_TEXT_TOKENS = 64
_UNITS = {"predict": "rows/s", "chat": "tokens/s", "complete": "tokens/s", "embed": "texts/s", "rerank": "documents/s"}
_CHAT_WORDS = {"chat", "text-generation", "image-text-to-text"}


class Work(msgspec.Struct, frozen=True):
    """What is asked of a model: its levels, and the load of each."""

    kind: str
    steps: tuple[Step, ...]
    load_of: Callable[[Step], Load]
    plan: Plan

    @property
    def unit(self) -> str:
        return _UNITS[self.kind]


async def measured(target: Target, asked: Asked, *, quiet: bool) -> Outcome:
    """Load the model and measure it. Ctrl-C ends it with what is there.

    Raises:
        EngineError: the model cannot be asked; click.UsageError: it must be said how.
    """
    try:
        with spinner(f"loading {asked.model}"):
            await target.open(asked.model)
            work = await work_for(target, asked)
        found: list[Level] = []
        messages: dict[str, str] = {}
        stopped, interrupted = "", False
        title = f"{target.view.target} at {target.where}"
        with watching(title, len(work.steps), quiet=quiet) as watcher:
            try:
                await sweep(
                    work.steps, work.load_of, target.snapshot, work.plan, asked.max_time_s, watcher, found, messages
                )
            except asyncio.CancelledError:
                interrupted = True
                if (task := asyncio.current_task()) is not None:
                    task.uncancel()
            except EngineError as error:
                if not found:
                    raise
                stopped = error.message
        return outcome_of(target, asked, work, found, messages, interrupted=interrupted, stopped=stopped)
    finally:
        await target.close()


def outcome_of(
    target: Target,
    asked: Asked,
    work: Work,
    levels: list[Level],
    messages: dict[str, str],
    *,
    interrupted: bool,
    stopped: str,
) -> Outcome:
    execution = target.manifest.execution
    advice = limits(levels, execution.max_batch_size, psutil.cpu_count() or 1)
    if len(levels) < len(work.steps) and not interrupted and not stopped:
        missing = len(work.steps) - len(levels)
        advice.append(f"{missing} of {len(work.steps)} levels were left out for want of time: give more --max-time")
    return Outcome(
        model=target.view.target,
        where=target.where,
        kind=work.kind,
        unit=work.unit,
        aim=asked.aim,
        max_p99_ms=asked.max_p99_ms,
        settings=msgspec.to_builtins(execution),
        levels=levels,
        recommended=recommended(levels, asked.aim, asked.max_p99_ms),
        advice=advice,
        messages=messages,
        interrupted=interrupted,
        stopped=stopped,
    )


def in_loop(work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run it in a loop of uvloop where there is one: the load generator gets a third more out of it."""
    try:
        from uvloop import new_event_loop
    except ImportError:  # not on Windows
        return asyncio.run(work())
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(work())


# -- what is asked -------------------------------------------------------------------------------------------------


async def work_for(target: Target, asked: Asked) -> Work:
    """Raises `click.UsageError` with the option that says what is missing."""
    kind = asked.kind or kind_of(target.view, asked)
    chat = kind in ("chat", "complete")
    plan = Plan(asked.window_s or (3.0 if chat else 1.0), asked.windows, asked.tolerance, 1.0 if chat else 0.5)
    if chat and asked.batch != (1,):
        raise click.UsageError("--batch is for tensors and texts: a conversation is asked one at a time")
    ladder = asked.concurrency or (_CHAT_LADDER if chat else _LADDER)
    steps = tuple(Step(concurrency, rows) for rows in asked.batch for concurrency in ladder)
    if kind == "predict":
        load_of = _predictions(target, asked)
    else:
        load_of = await (_generations(target, asked, kind) if chat else _texts(target, asked, kind))
    return Work(kind, steps, load_of, plan)


def kind_of(view: ModelView, asked: Asked) -> str:
    """What a model of this kind is asked.

    Raises:
        click.UsageError: nothing tells.
    """
    wanted = asked.wanted
    if wanted.data or wanted.shapes or wanted.images or wanted.ranges:
        return "predict"
    names = {spec["name"] for spec in (view.signature or {}).get("outputs", ())}
    if EMBEDDING in names and "tokens" in names:
        return "embed"
    if SCORE in names and "tokens" in names:
        return "rerank"
    if view.signature is not None:
        return "predict"
    if "completion" in view.capabilities and "chat" not in view.capabilities:
        return "complete"
    if view.context_length is not None or _CHAT_WORDS & {view.task, *view.capabilities}:
        return "chat"
    raise click.UsageError(
        f"{view.target} says nothing of its inputs: give them with --data FILE, or say what it does with "
        "--kind chat, complete, embed or rerank"
    )


def _predictions(target: Target, asked: Asked) -> Callable[[Step], Load]:
    described = target.view.signature
    signature = msgspec.convert(described, Signature) if described is not None else None
    pools = {rows: request_pool(target.manifest, signature, rows, asked.wanted) for rows in asked.batch}
    loads = {rows: target.predictions(pool) for rows, pool in pools.items()}
    return lambda step: loads[step.rows]


async def _generations(target: Target, asked: Asked, kind: str) -> Callable[[Step], Load]:
    answer, prompt = asked.max_tokens or _TEXT_TOKENS, asked.prompt_tokens or _TEXT_TOKENS
    context = target.view.context_length
    if context is not None and prompt + answer > context:
        raise click.UsageError(
            f"--prompt-tokens {prompt} and --max-tokens {answer} are more than the {context} tokens that "
            f"{target.view.target} has room for"
        )
    prompts = Prompts(await _words(target, prompt, chat=kind == "chat"))
    load = target.generations(prompts, answer, chat=kind == "chat")
    return lambda _: load


async def _texts(target: Target, asked: Asked, kind: str) -> Callable[[Step], Load]:
    prompts = Prompts(await _words(target, asked.prompt_tokens or _TEXT_TOKENS, chat=False))
    if kind == "embed":
        return lambda step: target.embeddings(prompts, step.rows)
    return lambda step: target.reranks(prompts, step.rows)


async def _words(target: Target, tokens: int, *, chat: bool) -> int:
    """How many words make a prompt of so many tokens; one a token where the model does not tell."""
    few, many = 4, 104
    low = await target.prompt_tokens(next(Prompts(few)), chat=chat)
    high = await target.prompt_tokens(next(Prompts(many)), chat=chat)
    if low is None or high is None or high <= low:
        return tokens
    each = (high - low) / (many - few)
    return max(1, round(few + (tokens - low) / each))
