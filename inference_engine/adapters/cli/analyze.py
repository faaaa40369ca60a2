"""The command `analyze`: image and video files in, what is in them out."""

from __future__ import annotations

import mimetypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from inference_engine.adapters.cli.client import Client, Seen, SeenImage, SeenVideo
from inference_engine.adapters.cli.options import Session, client_options, pass_session
from inference_engine.adapters.cli.output import note, print_json, print_table, printable, spinner

_IMAGE_TASKS = ("classify", "detect", "describe", "embed")
_VIDEO_TASKS = ("classify", "detect", "scenes", "track", "describe", "summarize")
_USUAL_VIDEO_TASKS = ("scenes", "track")
_TASKS = tuple(dict.fromkeys((*_IMAGE_TASKS, *_VIDEO_TASKS)))
_NOTHING = Seen([], {})


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--task", "tasks", multiple=True, type=click.Choice(_TASKS), help="What to do; may be given several times."
)
@click.option("--model", metavar="NAME", help="The model to do it. Without it one is chosen by the task.")
@click.option("--top-k", type=click.IntRange(min=1), help="The most labels and objects of an image.")
@click.option("--threshold", type=float, help="Only what scores as much or more.")
@click.option("--prompt", metavar="TEXT", help="What is asked for a description.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="The longest description.")
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    metavar="SECONDS",
    show_default=True,
    help="How often a video is looked at.",
)
@client_options
@pass_session
def analyze(
    session: Session,
    /,
    files: tuple[Path, ...],
    tasks: tuple[str, ...],
    connect: Callable[[], Client],
    every_s: float,
    **options: Any,
) -> None:
    """Classify, search, describe or embed images; find scenes and follow objects in videos.

    Without --task, images are classified and searched, and videos looked through for scenes and moving objects.
    """
    content = {path: _read(path) for path in files}
    videos = [path for path in content if _is_video(path)]
    images = [path for path in content if path not in videos]
    for task in tasks:
        if (images and task not in _IMAGE_TASKS) or (videos and task not in _VIDEO_TASKS):
            raise click.BadParameter(f"{task} is not for {'images' if images else 'videos'}", param_hint="--task")
    given = {name: value for name, value in options.items() if value is not None}
    with connect() as client, spinner("looking"):
        seen = client.analyze_images([content[path] for path in images], tasks, **given) if images else _NOTHING
        watched = {
            path: client.analyze_video(content[path], tasks or _USUAL_VIDEO_TASKS, every_s=every_s, **given)
            for path in videos
        }
    models = seen.models | {task: by for one in watched.values() for task, by in one.models.items()}
    if session.json:
        found: list[tuple[Path, SeenImage | SeenVideo]] = [*zip(images, seen.results, strict=True), *watched.items()]
        print_json({"results": [{"file": str(path), **_plain(one)} for path, one in found], "models": models})
        return
    if images:
        rows = [(str(path), *row) for path, one in zip(images, seen.results, strict=True) for row in _rows(one)]
        print_table(("FILE", "TASK", "FOUND", "SCORE", "BOX"), rows)
    if videos:
        rows = [(str(path), *row) for path, one in watched.items() for row in _video_rows(one)]
        print_table(("FILE", "TASK", "FOUND", "FROM", "TO"), rows)
    if not session.quiet:
        note(", ".join(f"{task} by {model.model}:{model.version}" for task, model in models.items()))


def _is_video(path: Path) -> bool:
    """By its name; what the file really holds is seen when it is read."""
    return (mimetypes.guess_type(path.name)[0] or "").startswith("video/")


def _plain(found: SeenImage | SeenVideo) -> dict[str, Any]:
    made: dict[str, Any] = msgspec.to_builtins(found)
    made.pop("models", None)
    return made


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise click.BadParameter(f"{path} cannot be read: {error.strerror}", param_hint="FILE") from None


def _rows(found: SeenImage) -> Iterator[tuple[str, str, str, str]]:
    for label in found.labels or ():
        yield "classify", printable(label.label), f"{label.score:.3f}", ""
    for one in found.objects or ():
        yield "detect", printable(one.label), f"{one.score:.3f}", " ".join([f"{side:.0f}" for side in one.box])
    if found.objects == []:
        yield "detect", "nothing", "", ""
    if found.description is not None:
        yield "describe", " ".join(printable(found.description).split()), "", ""
    if found.embedding is not None:
        yield "embed", f"{len(found.embedding)} values", "", ""


def _video_rows(found: SeenVideo) -> Iterator[tuple[str, str, str, str]]:
    for label in found.labels or ():
        yield "classify", f"{printable(label.label)} {label.score:.3f}", "", ""
    for index, scene in enumerate(found.scenes or (), 1):
        yield "scenes", f"scene {index}", f"{scene.start_s:.2f} s", f"{scene.end_s:.2f} s"
    for track in found.tracks or ():
        yield "track", f"{printable(track.label)} {track.id}", f"{track.first_s:.2f} s", f"{track.last_s:.2f} s"
    if found.tracks == []:
        yield "track", "nothing", "", ""
    if found.description is not None:
        yield "describe", " ".join(printable(found.description).split()), "", ""
