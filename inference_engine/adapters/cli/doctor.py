"""The command `doctor`: whether this machine can run the engine, and what to do where it cannot."""

from __future__ import annotations

import platform
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
import msgspec

from inference_engine.adapters.cli.options import (
    Session,
    config_option,
    json_option,
    models_option,
    pass_session,
    server_runs,
    server_url,
)
from inference_engine.adapters.cli.output import print_json, size
from inference_engine.core.settings import Settings, SettingsError

if TYPE_CHECKING:
    from inference_engine.adapters.cli.client import Composition
    from inference_engine.domain.hardware import Hardware
    from inference_engine.domain.native import NativeStatus

_DISTRIBUTION = "inference-engine"
_OLDEST_PYTHON = (3, 11)
_LITTLE_MEMORY_BYTES = 1 << 30
_LITTLE_DISK_BYTES = 1 << 30
_MARKS = {"ok": ("ok  ", "green"), "warning": ("warn", "yellow"), "broken": ("FAIL", "red")}


class Check(msgspec.Struct, frozen=True):
    """One finding. `broken` makes the command fail; `remedy` says what to do."""

    name: str
    state: Literal["ok", "warning", "broken"]
    detail: str
    remedy: str = ""


@click.command()
@json_option
@config_option
@models_option
@pass_session
def doctor(session: Session, config: str | None, models: tuple[str, ...]) -> None:
    """Check this machine, the settings and the models. Fails when something is broken."""
    checks = list(_checks(session, {"config": config, "models": models}))
    broken = sum(check.state == "broken" for check in checks)
    if session.json:
        print_json({"ok": not broken, "checks": checks, "hardware": session.composition.hardware()})
    else:
        for check in checks:
            _print(check)
    if broken:
        click.get_current_context().exit(1)


def _print(check: Check) -> None:
    mark, colour = _MARKS[check.state]
    click.echo(f"{click.style(mark, fg=colour)}  {check.name.ljust(10)}  {check.detail}")
    if check.remedy and check.state != "ok":
        click.echo(f"{' ' * 18}-> {check.remedy}")


def _checks(session: Session, flags: dict[str, Any]) -> Iterator[Check]:
    composition = session.composition
    yield _python()
    yield from _packages()
    yield from _hardware(composition.hardware())
    try:
        settings, origins = session.settings(flags)
    except SettingsError as error:
        yield Check("settings", "broken", str(error), "correct it, then ask again: what follows depends on it")
        return
    yield Check("settings", "ok", f"read from {origins.file}" if origins.file else "no file; environment and defaults")
    yield _port(settings)
    yield _state_dir(settings.state_dir)
    yield from _runtimes_and_models(composition, settings)


def _python() -> Check:
    state: Literal["ok", "broken"] = "ok" if sys.version_info[:2] >= _OLDEST_PYTHON else "broken"
    return Check("python", state, f"{platform.python_version()} at {sys.executable}", "use Python 3.11 or newer")


def _packages() -> Iterator[Check]:
    """Whether everything that the installed distribution requires is there."""
    import importlib.metadata  # 20 ms that no other command has to wait for

    try:
        required = importlib.metadata.requires(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        yield Check("packages", "warning", "not installed as a package", "pip install -e . in the project's folder")
        return
    found = {}
    for requirement in required:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        if name is None or ";" in requirement:
            continue  # extras, and what only some platforms need
        try:
            found[name[0]] = importlib.metadata.version(name[0])
        except importlib.metadata.PackageNotFoundError:
            yield Check("packages", "broken", f"{name[0]} is missing", f"pip install '{requirement}'")
    yield Check("packages", "ok", ", ".join(f"{name} {version}" for name, version in found.items()))


def _hardware(found: Hardware) -> Iterator[Check]:
    cpu = found.cpu
    quota = f", limited to {cpu.quota:g}" if cpu.quota else ""
    features = " ".join(cpu.features)
    weak = cpu.architecture in ("x86_64", "AMD64") and "avx2" not in cpu.features
    yield Check(
        "processor",
        "warning" if weak else "ok",
        f"{cpu.model}, {cpu.physical} cores, {cpu.logical} threads{quota}; {features}",
        "without AVX2 language models are slow, or their library does not start",
    )
    for node in found.numa if len(found.numa) > 1 else ():
        yield Check("numa", "ok", f"node {node.index}: {len(node.cpus)} processors, {size(node.memory_bytes)}")
    memory = found.memory
    yield Check(
        "memory",
        "warning" if memory.available_bytes < _LITTLE_MEMORY_BYTES else "ok",
        f"{size(memory.available_bytes)} of {size(memory.total_bytes)} available",
        "end other programs, or use smaller models",
    )
    for gpu in found.gpus:
        detail = f"{gpu.name}, {size(gpu.free_bytes)} of {size(gpu.memory_bytes)} free, driver {gpu.driver}"
        yield Check(f"gpu {gpu.index}", "ok", detail)


def _port(settings: Settings) -> Check:
    place = f"{settings.host}:{settings.port}"
    if server_runs(server_url(settings)):
        return Check("port", "ok", f"{place} is served by inference-engine")
    host = settings.host.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            probe.bind(address)
    except OSError as error:
        return Check("port", "broken", f"{place}: {error.strerror}", "end the other program, or choose another --port")
    return Check("port", "ok", f"{place} is free")


def _state_dir(folder: Path) -> Check:
    import tempfile

    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
        free = shutil.disk_usage(nearest).free
    except OSError as error:
        return Check("state_dir", "broken", f"{folder}: {error.strerror}", "make it writable, or set state_dir")
    state: Literal["ok", "warning"] = "warning" if free < _LITTLE_DISK_BYTES else "ok"
    return Check("state_dir", state, f"{folder} is writable, {size(free)} free", "free some disk space")


def _native(status: NativeStatus) -> Check:
    """Which llama.cpp language models use, and what another would bring."""
    if status.state == "active":
        used = f", with {', '.join(status.features)}" if status.features else ""
        return Check("llama.cpp", "ok", f"{status.version} built for this processor is in use{used}")
    unused = ", ".join(status.features)
    if status.state == "stale":
        detail = f"the published build is in use; the one in {status.folder} is not: {status.reason}"
        return Check("llama.cpp", "warning", detail, "inference-engine build-llama, or build-llama --remove")
    if not unused:
        return Check("llama.cpp", "ok", "the published build is in use; this processor offers nothing beyond it")
    detail = f"the published build is in use; `inference-engine build-llama` makes one that also uses {unused}"
    return Check("llama.cpp", "ok", detail)


def _runtimes_and_models(composition: Composition, settings: Settings) -> Iterator[Check]:
    models, broken = composition.repository(settings).scan()
    needed = {model.manifest.runtime for model in models}
    known = {runtime.name: runtime for runtime in composition.runtimes()}
    for runtime in known.values():
        missing: Literal["warning", "broken"] = "broken" if runtime.name in needed else "warning"
        detail = (
            f"{runtime.name} {runtime.version}".rstrip() if runtime.available else f"{runtime.name} is not installed"
        )
        yield Check("runtime", "ok" if runtime.available else missing, detail, runtime.remedy)
    if "llama_cpp" in known and known["llama_cpp"].available:
        yield _native(composition.native_build(settings).status())
    for model in models:
        if model.manifest.runtime not in (*known, "auto"):
            names = ", ".join(sorted(known)) or "none; install the project as a package"
            remedy = f"known are {names}. If that is right, correct `runtime` in {model.folder / 'model.yaml'}"
            detail = f"{model.manifest.ref} needs the runtime {model.manifest.runtime!r}, which nothing provides"
            yield Check("model", "broken", detail, remedy)
            continue
        assumed = ", adopted without a manifest" if model.assumed else ""
        yield Check("model", "ok", f"{model.manifest.ref}, {size(model.size_bytes)}{assumed}")
    for choice in composition.choices(settings).all():
        refused = "".join([f"; {one.runtime}: {one.refused}" for one in choice.candidates if one.refused])
        yield Check("auto", "ok", f"{choice.model} runs on {choice.chosen} for {choice.aim}: {choice.why}{refused}")
    for item in broken:
        yield Check("model", "broken", item.message, "mend it or move the folder away")
    if not models and not broken:
        yield Check("model", "warning", "no models found", "name a folder with --models; see docs/models.md")
