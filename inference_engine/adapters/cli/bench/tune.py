"""`bench --tune`: tries execution settings, each on a fresh server of its own, and recommends some.

No running server is touched, and no model folder is changed unless --write says so.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from inference_engine.adapters.cli.bench.figures import Level, recommended
from inference_engine.adapters.cli.bench.measuring import Plan, Step, sweep
from inference_engine.adapters.cli.bench.own_server import lay_out, own_server
from inference_engine.adapters.cli.bench.report import number, write_file
from inference_engine.adapters.cli.bench.run import in_loop, work_for
from inference_engine.adapters.cli.bench.screen import Lines
from inference_engine.adapters.cli.bench.search import MIN_GAIN, Settings, Trial, axes, best_of, climb, score
from inference_engine.adapters.cli.bench.targets import ServerTarget
from inference_engine.adapters.cli.output import note, print_json, print_table
from inference_engine.core.yaml_edit import with_values
from inference_engine.core.yaml_source import YamlError, suggestion
from inference_engine.domain.errors import EngineError, ModelNotFound

if TYPE_CHECKING:
    from inference_engine.adapters.cli.bench.asked import Asked
    from inference_engine.adapters.cli.options import Session
    from inference_engine.core.settings import Settings as EngineSettings
    from inference_engine.domain.ports import StoredModel

_LEVELS = {"throughput": (16, 64), "latency": (1,)}
_CHAT_LEVELS = {"throughput": (4, 16), "latency": (1,)}
_PAIRS = 2
_MANIFEST = "model.yaml"


class Tuned(msgspec.Struct, frozen=True, kw_only=True):
    """What the search came to.

    `gain` is the part by which `best` beat the settings in force when both were measured again, in the worse of two
    repetitions; `changes` are empty where that is nothing.
    """

    model: str
    aim: str
    unit: str
    trials: list[Trial]
    best: Trial
    gain: float
    changes: Settings
    yaml: str
    written: str = ""
    complete: bool = False
    interrupted: bool = False


class Search:
    """One search: measures what `climb` wants until the time is used up."""

    def __init__(self, session: Session, settings: EngineSettings, model: StoredModel, asked: Asked) -> None:
        self._session = session
        self._settings = settings
        self._model = model
        self._asked = asked
        self._end = time.monotonic() + asked.max_time_s
        self._trial_s = 0.0
        self.complete = False
        self.unit = "rows/s"
        self.generates = False
        self.trials: list[Trial] = []

    def run(self, progress: Progress) -> None:
        """Fill `trials`, the settings in force first."""
        execution = self._model.manifest.execution
        start: Settings = {name: getattr(execution, name) for name in _SEARCHED}
        first = self.measure(start, progress)
        if first.failed:
            raise click.ClickException(f"{self._model.manifest.ref} cannot be measured as it is: {first.failed}")
        self.trials.append(first)
        wanted = axes(execution, _cores(), generates=self.generates, executor="executor" in self._asked.tries)
        chosen = {name: values for name, values in wanted.items() if not self._asked.tries or name in self._asked.tries}
        search = climb(chosen, start)
        next(search)
        found = first.score
        while len(self.trials) < 2 or self._left() > (1 + 2 * _PAIRS) * self._trial_s:
            try:
                candidate = search.send(found)
            except StopIteration:
                self.complete = True
                return
            trial = self.measure(candidate, progress)
            self.trials.append(trial)
            found = trial.score

    def gain(self, best: Trial, progress: Progress) -> float:
        """The part by which `best` beats the settings in force, measured anew in turns: the smaller of two pairs."""
        pairs = []
        for _ in range(_PAIRS):
            before = self.measure(self.trials[0].settings, progress).score
            after = self.measure(best.settings, progress).score
            pairs.append(after / before - 1 if before else float(bool(after)))
            if pairs[-1] <= MIN_GAIN:
                break
        return min(pairs)

    def measure(self, settings: Settings, progress: Progress) -> Trial:
        began = time.monotonic()
        name = self._named(settings)
        progress.begins(name, 1 - self._left() / self._asked.max_time_s)
        levels: list[Level] = []
        failed = ""
        try:
            with self._server(settings) as target:
                in_loop(lambda: self._levels(target, levels))
        except EngineError as error:
            failed = error.message
        spent_s = time.monotonic() - began
        self._trial_s = (self._trial_s + spent_s) / 2 if self._trial_s else spent_s
        usable = () if failed else tuple(levels)
        trial = Trial(settings, usable, score(usable, self._asked.aim, self._asked.max_p99_ms), failed)
        progress.ended(name, trial, self.unit)
        return trial

    def _named(self, settings: Settings) -> str:
        """What is other than in the settings in force."""
        start = self.trials[0].settings if self.trials else None
        again = "again: " if any(settings == trial.settings for trial in self.trials) else ""
        if start in (None, settings):
            return f"{again}in force ({worded(settings)})"
        return again + worded({name: value for name, value in settings.items() if start and value != start[name]})

    @contextmanager
    def _server(self, settings: Settings) -> Iterator[ServerTarget]:
        manifest = self._model.manifest
        changed = msgspec.structs.replace(manifest, execution=msgspec.structs.replace(manifest.execution, **settings))
        with tempfile.TemporaryDirectory(prefix="inference-engine-tune-") as name:
            root = Path(name)
            lay_out(root, self._model, self._session.composition.manifest_yaml(changed), changed)
            with own_server(self._settings, self._asked.config, grpc=False, first=(root,)) as place:
                yield ServerTarget(place, "http", self._asked.timeout_s)

    async def _levels(self, target: ServerTarget, levels: list[Level]) -> None:
        try:
            await target.open(str(self._model.manifest.ref))
            work = await work_for(target, self._asked)
            self.unit, self.generates = work.unit, work.kind in ("chat", "complete")
            ladder = self._asked.concurrency or (_CHAT_LEVELS if self.generates else _LEVELS)[self._asked.aim]
            steps = [Step(concurrency, rows) for rows in self._asked.batch for concurrency in ladder]
            plan = Plan(
                self._asked.window_s or (2.0 if self.generates else 0.5),
                min(6, self._asked.windows),
                self._asked.tolerance,
                0.5,
            )
            time_s = max(self._left(), plan.longest_s())
            await sweep(steps, work.load_of, target.snapshot, plan, time_s, Lines(0, quiet=True), levels, {})
        finally:
            await target.close()

    def _left(self) -> float:
        return max(0.0, self._end - time.monotonic())


_SEARCHED = ("executor", "threads", "instances", "max_batch_size", "max_delay_ms")


def tune(session: Session, settings: EngineSettings, asked: Asked) -> None:
    """Search, tell, and write where that is wanted."""
    model = _stored(session, settings, asked.model)
    if asked.write:
        _check_writable(model, settings)
    search = Search(session, settings, model, asked)
    interrupted = False
    with _progress(session, asked) as progress:
        gain = 0.0
        try:
            search.run(progress)
            best = best_of(search.trials)
            if best is not search.trials[0]:
                gain = search.gain(best, progress)
        except KeyboardInterrupt:
            interrupted = True
    if not search.trials:
        raise KeyboardInterrupt
    best = best_of(search.trials)
    start = search.trials[0].settings
    changes = {name: value for name, value in best.settings.items() if value != start[name]} if gain > MIN_GAIN else {}
    tuned = Tuned(
        model=str(model.manifest.ref),
        aim=asked.aim,
        unit=search.unit,
        trials=search.trials,
        best=best if changes else search.trials[0],
        gain=gain,
        changes=changes,
        yaml=_yaml(changes),
        complete=search.complete,
        interrupted=interrupted,
        written=str(_write(session, model, changes)) if asked.write and changes and not interrupted else "",
    )
    _tell(session, tuned, asked)
    if interrupted:
        click.get_current_context().exit(130)


def _stored(session: Session, settings: EngineSettings, target: str) -> StoredModel:
    """The model; of a bare name the highest version. Raises `ModelNotFound`."""
    models, _ = session.composition.repository(settings).scan()
    found = [model for model in models if target in (model.manifest.name, str(model.manifest.ref))]
    if not found:
        known = {name for model in models for name in (model.manifest.name, str(model.manifest.ref))}
        raise ModelNotFound(f"there is no model {target!r} in the folders of this machine: {suggestion(target, known)}")
    return found[-1]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _yaml(changes: Settings) -> str:
    lines = [f"  {name}: {msgspec.json.encode(value).decode()}" for name, value in changes.items()]
    return "\n".join(["execution:", *lines]).replace('"', "") + "\n" if lines else ""


# -- writing -------------------------------------------------------------------------------------------------------


def _check_writable(model: StoredModel, settings: EngineSettings) -> None:
    """Raises `click.UsageError`: the model is in no folder of the user's own, or not described by a model.yaml."""
    own = [root.resolve() for root in (*settings.models, settings.pulled_models)]
    folder = model.folder.resolve()
    if not any(folder.is_relative_to(root) for root in own):
        raise click.UsageError(
            f"--write: {model.manifest.ref} comes with the engine; copy its folder into one of your own (--models)"
        )
    if (folder / "config.pbtxt").exists() or (folder.parent / "config.pbtxt").exists():
        raise click.UsageError(f"--write: {model.manifest.ref} is described by a config.pbtxt: put the settings there")
    if model.assumed and (folder.parent.name, folder.name) != (model.manifest.name, model.manifest.version):
        raise click.UsageError(
            f"--write: {model.manifest.ref} has no folder of its own to put a model.yaml into: move it into "
            f"{model.manifest.name}/{model.manifest.version}/"
        )


def _write(session: Session, model: StoredModel, changes: Mapping[str, Any]) -> Path:
    """Put the settings into the model.yaml, which keeps its comments; make one where the manifest was assumed."""
    file = model.folder / _MANIFEST
    try:
        if file.exists():
            text = with_values(file.read_text(encoding="utf-8"), "execution", changes)
        else:
            execution = msgspec.structs.replace(model.manifest.execution, **changes)
            manifest = msgspec.structs.replace(model.manifest, execution=execution)
            text = session.composition.manifest_yaml(manifest)
        fresh = file.with_name(f".{_MANIFEST}.new")
        fresh.write_text(text, encoding="utf-8")
        if file.exists():
            fresh.chmod(file.stat().st_mode & 0o777)
        fresh.replace(file)
    except YamlError as error:
        raise click.ClickException(
            f"{file}:{error.line}: {error.problem}; nothing was written: set {dict(changes)}"
        ) from None
    except OSError as error:
        raise click.ClickException(f"{file} cannot be written: {error.strerror}") from None
    return file


# -- telling -------------------------------------------------------------------------------------------------------


class Progress:
    """Tells how the search goes on, on stderr: a bar of the time in a terminal, and a line for each trial."""

    def __init__(self, aim: str, bar: Any = None, *, quiet: bool) -> None:
        self._aim = aim
        self._bar = bar
        self._task = bar.add_task("", total=1.0) if bar is not None else None
        self._quiet = quiet

    def begins(self, name: str, share: float) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=share, description=name)

    def ended(self, name: str, trial: Trial, unit: str) -> None:
        if self._quiet:
            return
        line = f"{name}: {trial.failed or _figure(trial, self._aim, unit)}"
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            note(line)


@contextmanager
def _progress(session: Session, asked: Asked) -> Iterator[Progress]:
    if session.quiet or not sys.stderr.isatty():
        yield Progress(asked.aim, quiet=session.quiet)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        BarColumn(24),
        TimeElapsedColumn(),
        TextColumn(f"of {asked.max_time_s:g} s"),
        TextColumn("{task.description}"),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Progress(asked.aim, bar, quiet=False)


def worded(settings: Settings) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in settings.items())


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _figure(trial: Trial, aim: str, unit: str) -> str:
    best = recommended(trial.levels, aim, None)
    if best is None:
        errors = {code for level in trial.levels for code in level.errors}
        return f"errors ({', '.join(sorted(errors)) or 'no answers'})"
    first = "first token " if best.tokens_per_s is not None else ""
    return f"{number(best.throughput)} {unit}, {first}p50 {number(best.middle_ms)} ms, p99 {number(best.tail_ms)} ms"


def _tell(session: Session, tuned: Tuned, asked: Asked) -> None:
    if session.json:
        print_json(tuned)
    else:
        print_table(*_table(tuned, asked))
        click.echo(f"\n{_verdict(tuned, asked)}")
        if tuned.changes:
            click.echo(f"\n{tuned.yaml}", nl=False)
    if not session.quiet:
        if tuned.changes.get("executor") == "thread":
            note("note: with `executor: thread` a crash of the model is a crash of the server")
        if not tuned.complete and not tuned.interrupted:
            note("note: the time was up before everything was tried: give more --max-time, or name settings with --try")
        if tuned.written:
            note(f"written to {tuned.written}; a server takes it up at its next start")
    for file in asked.saves:
        content = msgspec.json.encode(tuned) if file.suffix.lower() == ".json" else _as_csv(tuned).encode()
        write_file(file, content)


def _verdict(tuned: Tuned, asked: Asked) -> str:
    limit = f" and a p99 of at most {asked.max_p99_ms:g} ms" if asked.max_p99_ms is not None else ""
    if tuned.interrupted:
        return f"interrupted after {len(tuned.trials)} trials; the best so far was not measured again"
    if not tuned.changes:
        return f"for {tuned.aim}{limit} nothing beats the settings in force by more than {MIN_GAIN:.0%}: keep them"
    first = tuned.trials[0]
    if not any(level.within(asked.max_p99_ms) for level in first.levels):
        return f"for {tuned.aim}{limit}; the settings in force are slower than that:"
    return (
        f"for {tuned.aim}{limit}, at least {tuned.gain:+.0%} against the settings in force in each of two repetitions:"
    )


def _table(tuned: Tuned, asked: Asked) -> tuple[list[str], list[list[str]]]:
    trials = tuned.trials
    changed = [name for name in _SEARCHED if len({trial.settings[name] for trial in trials}) > 1]
    chat = any(level.tokens_per_s is not None for trial in trials for level in trial.levels)
    times = [f"{'FIRST ' if chat else ''}{share} MS" for share in ("P50", "P99")]
    head = [*[name.upper() for name in changed], "AT ONCE", tuned.unit.upper(), *times, ""]
    best, word = best_of(trials), "best" if tuned.changes or tuned.interrupted else "not confirmed"
    rows = []
    for trial in trials:
        level = recommended(trial.levels, asked.aim, asked.max_p99_ms) or recommended(trial.levels, asked.aim, None)
        cells = [_value(trial.settings[name]) for name in changed]
        figures = ["-"] * 4
        if level is not None:
            times = [number(level.middle_ms), number(level.tail_ms)]
            figures = [str(level.concurrency), number(level.throughput), *times]
        over = level is not None and not level.within(asked.max_p99_ms)
        mark = trial.failed[:60] or (word if trial is best is not trials[0] else "too slow" if over else "")
        rows.append([*cells, *figures, "in force" if trial is trials[0] and not mark else mark])
    return head, rows


def _as_csv(tuned: Tuned) -> str:
    lines = [",".join((*_SEARCHED, "score"))]
    lines += [",".join(str(value) for value in (*trial.settings.values(), trial.score)) for trial in tuned.trials]
    return "\n".join(lines) + "\n"
