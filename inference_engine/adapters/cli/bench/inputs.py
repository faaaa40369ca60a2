"""The tensors that a benchmark sends: made up from a model's signature, or taken from files."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
import msgspec
import numpy as np

from inference_engine.adapters.python_arguments import as_arrays
from inference_engine.domain.datatypes import DATATYPES, objects
from inference_engine.domain.errors import InvalidTensor
from inference_engine.domain.model import Manifest, Signature, TensorSpec
from inference_engine.domain.tensors import Array

POOL = 8
"""So many different requests are made and sent in turn."""
_POOL_BYTES = 64 << 20
_IMAGE_SIDE = 256
_WORDS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu")


class Wanted(msgspec.Struct, frozen=True):
    """What the person said of the inputs."""

    shapes: Mapping[str, tuple[int, ...]] = {}
    ranges: Mapping[str, tuple[float, float]] = {}
    data: Path | None = None
    images: tuple[Path, ...] = ()


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`x=3,224,224`, as often as there are inputs. Raises `click.BadParameter`."""
    try:
        return {name: tuple(int(size) for size in rest.split(",") if size) for name, rest in _named(texts, "--shape")}
    except ValueError:
        raise click.BadParameter("sizes are whole numbers, as in x=3,224,224", param_hint="--shape") from None


def parse_ranges(texts: Sequence[str]) -> dict[str, tuple[float, float]]:
    """`ids=0,30000`: the least value and the first above. Raises `click.BadParameter`."""
    found = {}
    for name, rest in _named(texts, "--range"):
        try:
            low, high = (float(value) for value in rest.split(","))
        except ValueError:
            raise click.BadParameter(f"{rest!r} is not LOW,HIGH, as in ids=0,30000", param_hint="--range") from None
        if not low < high:
            raise click.BadParameter(f"{rest!r}: the second must be more than the first", param_hint="--range")
        found[name] = (low, high)
    return found


def _named(texts: Sequence[str], option: str) -> Iterator[tuple[str, str]]:
    for text in texts:
        name, equals, rest = text.rpartition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r} does not name the input, as in {option} x=...", param_hint=option)
        yield name, rest


def request_pool(
    manifest: Manifest, signature: Signature | None, rows: int, wanted: Wanted, seed: int = 0
) -> list[dict[str, Array]]:
    """Up to eight different requests of `rows` rows each, of at most 64 MB together.

    Raises:
        click.UsageError: a size is open or wrong, a file does not fit, or the model says nothing of its inputs. The
            message names the option that helps.
    """
    if signature is not None:
        _check_names(signature, wanted)
    if wanted.data is not None:
        return _from_file(wanted.data, signature, rows)
    if signature is None or not signature.inputs:
        raise click.UsageError(
            f"{manifest.ref} says nothing of its inputs: give them with --data FILE, or put a signature into its "
            "model.yaml"
        )
    if rows > 1 and not signature.batched:
        raise click.UsageError(f"{manifest.ref} takes one batch of a fixed size: leave --batch out")
    first = _made_up(manifest, signature, rows, wanted, np.random.default_rng(seed))
    size = sum(array.nbytes for array in first.values())
    count = max(1, min(POOL, _POOL_BYTES // max(1, size)))
    others = [
        _made_up(manifest, signature, rows, wanted, np.random.default_rng(seed + index)) for index in range(1, count)
    ]
    return [first, *others]


def _check_names(signature: Signature, wanted: Wanted) -> None:
    known = [spec.name for spec in signature.inputs]
    for option, given in (("--shape", wanted.shapes), ("--range", wanted.ranges)):
        for name in given:
            if name not in known:
                raise click.UsageError(f"{option} {name}: the model's inputs are {', '.join(known)}")


# -- made up -------------------------------------------------------------------------------------------------------


def _made_up(
    manifest: Manifest, signature: Signature, rows: int, wanted: Wanted, random: np.random.Generator
) -> dict[str, Array]:
    pictures = [spec for spec in signature.inputs if spec.dtype == "bytes" and (wanted.images or _decodes(manifest))]
    if wanted.images and len(pictures) != 1:
        named = ", ".join(spec.name for spec in pictures) or "none"
        raise click.UsageError(f"--image is for a model with one input of bytes, {manifest.ref} has {named}")
    arrays = {}
    for spec in signature.inputs:
        shape = sizes(spec, rows, wanted.shapes.get(spec.name))
        count = int(np.prod(shape, dtype=np.int64))
        if spec in pictures:
            arrays[spec.name] = objects(_pictures(count, wanted.images, random), shape)
        elif spec.dtype == "bytes":
            texts = [" ".join(random.choice(_WORDS, 8)).encode() for _ in range(count)]
            arrays[spec.name] = objects(texts, shape)
        else:
            arrays[spec.name] = _numbers(spec.dtype, shape, wanted.ranges.get(spec.name), random)
    return arrays


def sizes(spec: TensorSpec, rows: int, given: tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape of an input with `rows` rows; `given` are its sizes without the rows.

    Raises:
        click.UsageError: a size is open and not given, or what is given does not fit.
    """
    batched = bool(spec.shape) and spec.shape[0] == -1
    declared = spec.shape[1:] if batched else spec.shape
    if given is None and -1 in declared:
        example = ",".join(str(size if size >= 0 else 128) for size in declared)
        raise click.UsageError(
            f"input {spec.name!r} has the shape {list(spec.shape)}, whose sizes are open: say which with "
            f"--shape {spec.name}={example}"
        )
    chosen = declared if given is None else given
    fits = len(chosen) == len(declared) and all(
        want in (-1, size) and size >= 0 for want, size in zip(declared, chosen, strict=True)
    )
    if not fits:
        raise click.UsageError(
            f"--shape {spec.name}={','.join(map(str, chosen))} does not fit: the model declares {list(declared)}"
            + (" without the rows, which --batch sets" if batched else "")
        )
    return (rows, *chosen) if batched else chosen


def _numbers(
    dtype: str, shape: tuple[int, ...], limits: tuple[float, float] | None, random: np.random.Generator
) -> Array:
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return random.integers(0, 2, shape).astype(kind)
    if kind.kind == "f":
        values = random.uniform(*limits, shape) if limits else random.standard_normal(shape)
        return values.astype(kind)
    low, high = limits or ((0, 256) if kind == np.uint8 else (0, 10))
    return random.integers(int(low), int(high), shape).astype(kind)


def _decodes(manifest: Manifest) -> bool:
    return any(step.get("use") == "image.decode" for step in manifest.pipeline.preprocess)


def _pictures(count: int, files: Sequence[Path], random: np.random.Generator) -> list[bytes]:
    if not files:
        picture = noise_png(_IMAGE_SIDE, random)
        return [picture] * count
    try:
        contents = [file.read_bytes() for file in files]
    except OSError as error:
        raise click.BadParameter(f"cannot be read: {error}", param_hint="--image") from None
    start = int(random.integers(len(contents)))
    return [contents[(start + index) % len(contents)] for index in range(count)]


def noise_png(side: int, random: np.random.Generator) -> bytes:
    """A PNG of coarse coloured squares: about as hard to decode as a drawing."""
    coarse = random.integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8)
    pixels = coarse.repeat(16, axis=0).repeat(16, axis=1)
    lines = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", len(pixels), len(pixels), 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines, 6)), (b"IEND", b""))
    chunks = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


# -- from a file ---------------------------------------------------------------------------------------------------


def _from_file(file: Path, signature: Signature | None, rows: int) -> list[dict[str, Array]]:
    arrays = _read(file, signature)
    counts = {len(array) for array in arrays.values() if array.ndim}
    if len(counts) != 1 or any(not array.ndim for array in arrays.values()) or 0 in counts:
        raise click.UsageError(f"--data {file}: every input needs the same number of rows, and at least one")
    if signature is not None:
        for spec in signature.inputs:
            if spec.name not in arrays:
                raise click.UsageError(f"--data {file}: the input {spec.name!r} is missing")
    (count,) = counts
    chunks = min(POOL, max(1, count // rows))
    return [
        {
            name: np.ascontiguousarray(array[[(index * rows + row) % count for row in range(rows)]])
            for name, array in arrays.items()
        }
        for index in range(chunks)
    ]


def _read(file: Path, signature: Signature | None) -> dict[str, Array]:
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as found:
                return {name: found[name] for name in found.files}
        values = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or not values:
            raise ValueError('must hold every input by name, as in {"input": [[5.1, 3.5, 1.4, 0.2]]}')
        arrays = as_arrays(values, signature)
    except (OSError, ValueError, zlib.error) as error:
        raise click.BadParameter(f"{file} cannot be used: {error}", param_hint="--data") from None
    except InvalidTensor as error:
        raise click.BadParameter(f"{file}: {error.message}", param_hint="--data") from None
    declared = {spec.name for spec in signature.inputs} if signature else set()
    return {name: _known(name, array, file, guessed=name not in declared) for name, array in arrays.items()}


def _known(name: str, array: Array, file: Path, *, guessed: bool) -> Array:
    """An array of a datatype of the protocol; fractions whose dtype nobody declared become float32."""
    if array.dtype.kind in "US":
        return objects([str(item).encode() for item in array.ravel()], array.shape)
    if array.dtype == object or array.dtype.name in DATATYPES:
        return array.astype(np.float32) if guessed and array.dtype == np.float64 else array
    raise click.BadParameter(f"{file}: input {name!r} is {array.dtype}, which cannot be sent", param_hint="--data")
