"""The example plugin passes the contract that it shows, in a process where only its entry point is known."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support import fake_plugins

from edgellm.testing import BackendContract
from edgellm.types.plan import Settings

ROOT = Path(__file__).parents[2]
SHOUT = ROOT / "docs" / "examples" / "edgellm-shout"
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text("utf-8")


def test_it_passes_the_contract(tmp_path: Path) -> None:
    fake_plugins.declare(tmp_path, "shout", "edgellm_shout.plugin", "edgellm-shout", "0.1.0")
    path = os.pathsep.join([str(tmp_path), str(SHOUT), str(ROOT)])
    env = os.environ | {"PYTHONPATH": path, "EDGELLM_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
    command += ["--basetemp", str(tmp_path / "own")]
    done = subprocess.run(
        [*command, "-c", os.devnull, "--rootdir", str(SHOUT), str(SHOUT / "tests")],
        env=env, capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout
    counted = re.search(r"(\d+) passed, (\d+) skipped", done.stdout)
    assert counted is not None, done.stdout
    n_passed, n_skipped = map(int, counted.groups())
    assert f"\n{n_passed} passed, {n_skipped} skipped in " in TUTORIAL
    assert f"\n1 failed, {n_passed - 1} passed, {n_skipped} skipped in " in TUTORIAL


def test_a_fork_that_shares_its_list_is_met_as_the_tutorial_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SHOUT)
    engines = importlib.import_module("edgellm_shout.engine")

    class Sharing(engines.ShoutEngine):
        def fork(self, source: int, target: int, n_tokens: int) -> int:
            self.slots[target] = self.slots[source]
            return len(self.slots[target])

    engine = Sharing(Settings(n_ctx=512, n_slots=4, n_batch=64))
    with pytest.raises(AssertionError) as met:
        BackendContract().test_fork_gives_the_prefix_and_nothing_else(engine)
    assert str(met.value).splitlines()[0] in " ".join(TUTORIAL.split())


@pytest.mark.parametrize("wrong", [lambda tokens, n: [*tokens[: n - 1], 65], lambda tokens, n: tokens[1 : n + 1]])
def test_a_fork_that_is_wrong_by_a_token_is_met(
    monkeypatch: pytest.MonkeyPatch, wrong: Callable[[list[int], int], list[int]]
) -> None:
    monkeypatch.syspath_prepend(SHOUT)
    engines = importlib.import_module("edgellm_shout.engine")

    class Wrong(engines.ShoutEngine):
        def fork(self, source: int, target: int, n_tokens: int) -> int:
            self.slots[target] = wrong(self.slots[source], n_tokens)
            return n_tokens

    engine = Wrong(Settings(n_ctx=512, n_slots=4, n_batch=64))
    with pytest.raises(AssertionError) as met:
        BackendContract().test_fork_gives_the_prefix_and_nothing_else(engine)
    assert "one that was forked at 6 tokens" in str(met.value)


def test_a_copy_can_have_another_name(tmp_path: Path) -> None:
    """As the tutorial says: the folder, and the name wherever it stands."""
    mine = tmp_path / "edgellm-mine"
    shutil.copytree(SHOUT, mine, ignore=shutil.ignore_patterns("__pycache__"))
    (mine / "edgellm_shout").rename(mine / "edgellm_mine")
    for file in (path for path in mine.rglob("*") if path.suffix in (".py", ".toml", ".md")):
        text = file.read_text("utf-8")
        file.write_text(text.replace("edgellm_shout", "edgellm_mine").replace("edgellm-shout", "edgellm-mine"), "utf-8")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel"], cwd=mine, check=True)
    wheel = zipfile.ZipFile(*(mine / "dist").glob("edgellm_mine-*.whl"))

    assert {"edgellm_mine/plugin.py", "edgellm_mine/engine.py"} <= {*wheel.namelist()}
    assert b"edgellm_mine.plugin" in wheel.read("edgellm_mine-0.1.0.dist-info/entry_points.txt")


def test_it_is_small_enough_to_copy() -> None:
    lines = [line for path in (SHOUT / "edgellm_shout").glob("*.py") for line in path.read_text().splitlines()]
    assert len([line for line in lines if line.strip()]) < 130
