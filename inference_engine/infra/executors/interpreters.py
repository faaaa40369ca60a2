"""Gives a model's runner its Python: the server's own, or one with the packages that the model asks for.

A `requirements.txt` beside a Python model is installed once for its content, into `STATE_DIR/environments/HASH`. That
environment also sees everything the server has; what is installed in it comes first.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import shutil
import site
import sys
import sysconfig
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from secrets import token_hex

from inference_engine.core.logging import get_logger
from inference_engine.domain.errors import ModelLoadFailed
from inference_engine.domain.ports import StoredModel
from inference_engine.infra.executors.process import environment_without_secrets
from inference_engine.infra.executors.requirements import check_requirements

REQUIREMENTS = "requirements.txt"
_FILE = re.compile(r"\.(whl|tar\.gz|zip|txt)$")
_LIMIT_S = 1800.0
_LOG_LINES = 60
_LINE_BYTES = 1 << 20
_log = get_logger(__name__)


class ModelInterpreters:
    """Makes environments and remembers them on disk. Used by one event loop; several servers may share the folder."""

    def __init__(self, state_dir: Path, *, install: bool, limit_s: float = _LIMIT_S) -> None:
        """`install` is the operator's word that packages may be installed; `limit_s` is the longest time for it."""
        self._folder = state_dir / "environments"
        self._install = install
        self._limit_s = limit_s
        self._making: dict[str, asyncio.Lock] = {}

    async def __call__(self, model: StoredModel) -> str:
        """The path of the Python for `model`; may take minutes the first time.

        Raises:
            ModelLoadFailed: installing is not allowed, or failed; the message names the requirement.
        """
        file = model.folder / REQUIREMENTS
        if model.manifest.runtime != "python" or not file.is_file():
            return sys.executable
        if not self._install:
            raise ModelLoadFailed(
                f"{file} asks for packages of the model's own: set install_requirements to let the engine install "
                "them, or install them for the server and remove the file",
                param=REQUIREMENTS,
            )
        try:
            await asyncio.to_thread(check_requirements, file)
            return str(_python(await self._made(file, str(model.manifest.ref))))
        except OSError as error:
            raise ModelLoadFailed(f"{file}: its packages cannot be installed: {error}", param=REQUIREMENTS) from error

    async def _made(self, file: Path, ref: str) -> Path:
        """The environment for `file`, made if it is not there."""
        key = await asyncio.to_thread(_key, file)
        home = self._folder / key
        async with self._making.setdefault(key, asyncio.Lock()):
            if not await asyncio.to_thread(home.is_dir):
                await self._make(home, file, ref)
        return home

    async def _make(self, home: Path, file: Path, ref: str) -> None:
        """Built beside its place and then moved, so that a folder of the final name is always whole."""
        draft = self._folder / f".{home.name}-{token_hex(4)}"
        _log.info("installing requirements", model=ref, file=str(file))
        try:
            await asyncio.to_thread(_empty_environment, draft)
            await self._pip(draft, file, ref)
            with contextlib.suppress(OSError):  # another server was quicker: its environment is as good
                draft.rename(home)
        finally:
            await asyncio.to_thread(shutil.rmtree, draft, ignore_errors=True)
        if not await asyncio.to_thread(home.is_dir):
            raise ModelLoadFailed(f"{home} could not be made: is the state folder writable?", param=REQUIREMENTS)
        _log.info("requirements installed", model=ref, folder=str(home))

    async def _pip(self, home: Path, file: Path, ref: str) -> None:
        options = ("--no-input", "--disable-pip-version-check", "--no-warn-script-location", "--progress-bar", "off")
        process = await asyncio.create_subprocess_exec(
            *(str(_python(home)), "-m", "pip", "install", *options, "--requirement", file.name),
            cwd=file.parent,
            env=environment_without_secrets(),  # what is installed may run code of its own
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LINE_BYTES,
        )
        assert process.stdout is not None
        said: deque[str] = deque(maxlen=_LOG_LINES)
        try:
            async with asyncio.timeout(self._limit_s):
                async for line in process.stdout:
                    said.append(line.decode(errors="replace").rstrip())
                    _log.info("pip", model=ref, line=said[-1])
                status = await process.wait()
        except TimeoutError:
            raise ModelLoadFailed(f"{file}: not installed after {self._limit_s:g} s", param=REQUIREMENTS) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if status:
            raise ModelLoadFailed(f"{file}: {_reason(said)}", param=REQUIREMENTS)


def _key(file: Path) -> str:
    """What an environment holds for: these requirements and the files they name, for this Python and these paths."""
    whole = hashlib.sha256(file.read_bytes())
    whole.update("\0".join((sys.version, sysconfig.get_platform(), *_server_packages())).encode())
    for beside in sorted(path for path in file.parent.iterdir() if _FILE.search(path.name) and path != file):
        whole.update(hashlib.sha256(beside.read_bytes()).digest())
    return whole.hexdigest()[:32]


def _server_packages() -> list[str]:
    """The folders that the server's own packages come from."""
    found = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    return [str(Path(path).resolve()) for path in found if Path(path).is_dir()]


def _empty_environment(home: Path) -> None:
    import venv

    home.parent.mkdir(parents=True, exist_ok=True)
    venv.EnvBuilder(symlinks=True, with_pip=False).create(home)
    lines = [f"import site; site.addsitedir({path!r})" for path in _server_packages()]  # reads their .pth files too
    (_packages(home) / "server_packages.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _python(home: Path) -> Path:
    return home / "bin" / "python"


def _packages(home: Path) -> Path:
    return Path(sysconfig.get_path("purelib", "venv", {"base": str(home), "platbase": str(home)}))


def _reason(said: Sequence[str]) -> str:
    """The lines in which pip says what failed: they name the requirement."""
    if any("No module named pip" in line for line in said):
        return "pip is not installed for the server: install it, or install the packages yourself"
    errors = [line.removeprefix("ERROR: ").strip() for line in said if line.startswith("ERROR:")]
    return "pip could not install it: " + " ".join(errors or list(said)[-5:])
