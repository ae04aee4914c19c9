"""The programs that the tutorial and the how-to pages print run as they are printed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support import fake_plugins
from support.pages import DOCS, block

ROOT = Path(__file__).parents[2]
SHOUT = DOCS / "examples" / "edgellm-shout"


def run(home: Path, *arguments: str, path: Path) -> str:
    paths = os.pathsep.join(map(str, (home, path, ROOT)))
    env = os.environ | {"PYTHONPATH": paths, "EDGELLM_HOME": str(home / "home")}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=280, cwd=home, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_tutorial_shows_the_example_as_it_is() -> None:
    _, _, code = (DOCS / "examples" / "conversation.py").read_text("utf-8").partition('"""\n\n')

    assert block("tutorial.md", "input(") == code


@pytest.mark.slow(2)  # cli/test_plugins.py runs the same plugin
def test_the_tutorial_tries_a_backend(tmp_path: Path) -> None:
    fake_plugins.declare(tmp_path, "shout", "edgellm_shout.plugin", "edgellm-shout", "0.1.0")
    command, answer = '.venv/bin/edgellm run shout "hello from my backend"', "HELLO FROM MY BACKEND\n"

    assert f"$ {command}\n{answer}" in (DOCS / "tutorial.md").read_text("utf-8")
    assert run(tmp_path, "-m", "edgellm", *shlex.split(command)[1:], path=SHOUT) == answer


def test_a_rule_takes_part_in_the_choice(tmp_path: Path) -> None:
    fake_plugins.declare(tmp_path, "licences", "edgellm_licences", "edgellm-licences", "0.1.0")
    (tmp_path / "edgellm_licences.py").write_text(block("how-to/add-a-rule.md", "register_rules"), "utf-8")
    profile = ["--profile", "raspberry-pi-5-8gb", "--explain"]

    shown = run(tmp_path, "-m", "edgellm", "auto-select", *profile, path=tmp_path)

    assert "Apache-2.0 only: " in shown
    assert re.search(r"only_apache +\S+: has licence mit", shown)
