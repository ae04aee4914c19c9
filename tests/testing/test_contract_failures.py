"""Engines that break the contract, each in its own way: the test that finds it says what was expected and what came."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import fake_plugins

from edgellm.builtin.echo import EchoBackend
from edgellm.contract.engine import Engine
from edgellm.contract.manager import plugins
from edgellm.errors import BackendError
from edgellm.testing import backend as backend_suite
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.priors import KernelRate, Priors, Repacking

ECHO = LaunchPlan("echo", Artifact("echo", (), "echo"), Settings(n_ctx=256))
ROOT = Path(__file__).parents[2]
BROKEN = """
import os
import time
from dataclasses import replace

import numpy as np
from edgellm.builtin.echo import EchoBackend, EchoEngine
from edgellm.contract.hookspecs import hookimpl
from edgellm.contract.manager import plugins


class Sloppy(EchoEngine):
    # Rows of another type, backwards, and at the place of another entry; a fork takes all.
    def step(self, batch):
        return [rows[::-1].astype("float64") for rows in reversed(super().step(batch))]

    def fork(self, source, target, n_tokens):
        self._slots[target] = list(self._slots[source])
        return n_tokens


class KeepsOne(EchoEngine):
    def truncate(self, slot, n_tokens):
        return super().truncate(slot, max(1, n_tokens))


class Alike(EchoEngine):
    def _logits(self, tokens, n_logits):
        return np.tile(np.eye(1, 257, ord("a"), dtype=np.float32), (n_logits, 1))


class Recites(EchoEngine):
    # Sees three tokens, and knows the digits of a number: after a text it says one, and has forgotten the text.
    digits = b"3.14159265358979323846264338327950288419716939937510582097494459230781640628620899"

    def _logits(self, tokens, n_logits):
        ends = range(len(tokens) - n_logits + 1, len(tokens) + 1)
        rows = np.zeros((n_logits, 257), np.float32)
        rows[np.arange(n_logits), [self.next(tokens[:end][-3:]) for end in ends]] = 100.0
        rows.flags.writeable = False
        return rows

    def next(self, seen):
        ends = [bytes(seen[at:]) for at in range(len(seen)) if max(seen) < 256]
        for known in ends:  # the longest first
            if known in self.digits[:-1]:
                return self.digits[self.digits.index(known) + len(known)]
        return ord("0") + sum(seen) % 9


class Replaces(Recites):
    def fork(self, source, target, n_tokens):
        super().fork(source, target, n_tokens)
        self._slots[target][-1:] = [65]
        return n_tokens


class Shifts(Recites):
    def fork(self, source, target, n_tokens):
        self._slots[target] = self._slots[source][1 : n_tokens + 1]
        return n_tokens


class CutsOff(Recites):
    # The beginning.
    def truncate(self, slot, n_tokens):
        n_tokens = min(n_tokens, len(self._slots[slot]))
        del self._slots[slot][: len(self._slots[slot]) - n_tokens]
        return n_tokens


class Careless(EchoEngine):
    # A fork takes one token, and control tokens have no text.
    def __init__(self, settings):
        super().__init__(settings)
        self.tokenizer.text = lambda token: self.tokenizer.token_bytes(token).decode("utf-8", "replace")

    def fork(self, source, target, n_tokens):
        return super().fork(source, target, min(n_tokens, 1))


class NoFork(EchoEngine):
    def fork(self, source, target, n_tokens):
        return super().fork(source, target, 0)


class Deaf(EchoEngine):
    # Says that it has adapters, and computes as if there were none.
    def __init__(self, settings):
        super().__init__(settings)
        self.info = replace(self.info, capabilities=frozenset({"adapters"}), mixes_adapters=True)

    def load_adapter(self, name, path): ...
    def drop_adapter(self, name): ...


class Unable(EchoEngine):
    def __init__(self, settings):
        super().__init__(settings)
        self.info = replace(self.info, capabilities=frozenset({"save_slot"}))


class Aborts(EchoEngine):
    def step(self, batch):
        os.abort()


class Hangs(EchoEngine):
    def step(self, batch):
        if len(batch) == 3:
            time.sleep(600)
        return super().step(batch)


class Exits(EchoEngine):
    def __init__(self, settings):
        os._exit(3)


class Lost(EchoEngine):
    # Opens, and exits where its file is gone.
    pass


class Broken(EchoBackend):
    def __init__(self, engine):
        self.name, self._engine = engine.__name__.lower(), engine

    def open(self, plan):
        if self.name == "lost" and plan.artifact.path.endswith(".gone"):
            os._exit(3)
        return self._engine(plan.settings)


@hookimpl
def register_backends(register):
    for engine in (Sloppy, KeepsOne, Alike, Careless, NoFork, Deaf, Aborts, Hangs, Exits, Lost):
        register(Broken(engine))
    for engine in (Recites, Replaces, Shifts, CutsOff, Unable):
        register(Broken(engine))
"""
SUITE = """
from edgellm.testing import BackendContract
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings


class Kit(BackendContract):
    leak_requests = 10
    paths = ()

    def plan(self):
        name = type(self).__name__.removeprefix("Test").lower()
        return LaunchPlan(name, Artifact("echo", self.paths, "echo"), Settings(n_ctx=256, n_slots=3, n_batch=64))


class TestSloppy(Kit): ...
class TestKeepsOne(Kit): ...
class TestAlike(Kit): ...
class TestRecites(Kit): ...
class TestReplaces(Kit): ...
class TestShifts(Kit): ...
class TestCutsOff(Kit): ...
class TestCareless(Kit): ...
class TestNoFork(Kit): ...
class TestDeaf(Kit):
    def adapters(self):
        return ("one", "other")
class TestUnable(Kit): ...
class TestAborts(Kit): ...
class TestHangs(Kit):
    limit_s = 15
class TestExits(Kit):
    paths = (__file__,)
class TestLost(Kit):
    paths = (__file__,)
"""


def failures(folder: Path, *arguments: str) -> dict[str, str]:
    """Class and test -> what its failure says, as pytest's summary has it."""
    fake_plugins.install(folder, "broken", BROKEN)
    (folder / "test_broken.py").write_text(SUITE)
    env = os.environ | {
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
        "EDGELLM_HOME": str(folder),
        "EDGELLM_PLUGINS": "broken",
    }
    # Without a folder of its own it would end by removing what earlier runs left, which may take minutes.
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(folder)]
    command += ["--basetemp", str(folder / "own")]
    command += ["-o", "faulthandler_timeout=100"]  # a test that hangs tells where
    try:
        ended = subprocess.run(
            [*command, "-q", "-rfE", "--assert=plain", "--tb=no", *arguments, str(folder / "test_broken.py")],
            env=env | {"COLUMNS": "1000"}, capture_output=True, text=True, cwd=folder, check=False, timeout=240,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        pytest.fail(f"it has said until now: {late.stdout!r} {late.stderr!r}")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    summary = re.findall(r"^(?:FAILED|ERROR) \S+?::Test(\w+)::(\w+)(?: - (.*))?$", ended.stdout, re.MULTILINE)
    return {f"{kind} {test.removeprefix('test_')}": words for kind, test, words in summary}


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Without the values that pytest adds: the kit's own words must do."""
    return failures(tmp_path_factory.mktemp("broken"), "-k", "not TestHangs")


@pytest.mark.parametrize(
    ("test", "words"),
    [
        ("Sloppy logits_are_read_only_float32_rows", "logits are float64, float32 is expected"),
        ("Sloppy batched_equals_isolated", "differ by 100, allowed is 0: the prompt of slot 0 alone and in a batch"),
        ("Sloppy many_rows_equal_single_steps", "differ by 100, allowed is 0: row 0 of 4 in one step, and that"),
        ("Sloppy fork_gives_the_prefix_and_nothing_else", "slot 1 holds 20 tokens, not 6"),
        ("KeepsOne batched_equals_isolated", r"truncate\(0, 0\) says that 1 tokens are left, 0 must be"),
        ("Alike batched_equals_isolated", "logits are the same .* so the order of rows cannot be proved"),
        ("Alike many_rows_equal_single_steps", "logits are the same .* so the order of rows cannot be proved"),
        ("Alike fork_gives_the_prefix_and_nothing_else", "after 6 tokens and after .*, so a prefix that is wrong by a"),
        ("Alike truncate_leaves_nothing_behind", "after 6 tokens and after .*, so a prefix that is wrong by a token"),
        ("Replaces fork_gives_the_prefix_and_nothing_else", "differ by 100, .* one that was forked at 6 tokens"),
        ("Shifts fork_gives_the_prefix_and_nothing_else", "differ by 100, .* one that was forked at 6 tokens"),
        ("CutsOff truncate_leaves_nothing_behind", "differ by 100, .* one that was cut to 6 tokens"),
        ("Careless pieces_spell_the_tokens", r"pieces and text differ for tokens \[256\]"),
        ("Careless answers_share_the_prompt", "tokens were computed: the prompt has 72, four answers"),
        ("Deaf adapters_change_what_they_should_and_nothing_else", "the base and one have the same logits"),
        (
            "Deaf what_is_no_adapter_is_a_typed_error",
            r"load_adapter\(\) of a file that is no adapter raises nothing; ArtifactE",
        ),
        ("Unable info_agrees_with_the_plan", "has 'save_slot', and Unable cannot do it: it lacks save_slot, load_slot"),
        ("Aborts batched_equals_isolated", r"a worker that .* dies: killed by SIGABRT"),
        ("Exits a_missing_file_is_a_typed_error", "a worker that opens the plan .* dies: left with status 3"),
        ("Exits batched_equals_isolated", "a worker that opens the plan .* dies: left with status 3"),
        ("Lost a_missing_file_is_a_typed_error", "a worker that opens a missing file dies: left with status 3"),
    ],
)
def test_a_failure_says_what_was_expected_and_what_came(failed: dict[str, str], test: str, words: str) -> None:
    assert re.search(words, failed[test])


@pytest.mark.parametrize("engine", ["NoFork", "Recites"])
def test_an_engine_that_cannot_fork_or_that_forgets_passes(failed: dict[str, str], engine: str) -> None:
    assert not [test for test in failed if test.startswith(engine)]


def test_one_that_exits_without_its_file_fails_nothing_else(failed: dict[str, str]) -> None:
    assert [test for test in failed if test.startswith("Lost")] == ["Lost a_missing_file_is_a_typed_error"]


@pytest.mark.slow(16)
def test_an_engine_that_hangs_fails_one_test_by_time_and_the_others_at_once(tmp_path: Path) -> None:
    failed = failures(tmp_path, "-k", "TestHangs")

    assert "has not come back after" in failed.pop("Hangs answers_share_the_prompt")
    assert failed
    assert {*failed.values()} == {"Failed: the engine has not come back from test_answers_share_the_prompt"}


class Bare(EchoBackend):
    """Does not look at its file, or lets Python's own error out."""

    def __init__(self, looks: bool) -> None:
        self._looks = looks

    def open(self, plan: LaunchPlan) -> Engine:
        if self._looks:
            Path(plan.artifact.path).read_bytes()
        return super().open(plan)


@pytest.mark.parametrize(("looks", "came"), [(True, "FileNotFoundError: "), (False, "open\\(\\) raises nothing")])
def test_a_missing_file_that_is_no_error_of_ours_is_told(tmp_path: Path, looks: bool, came: str) -> None:
    plan = LaunchPlan("bare", Artifact("bare", (str(tmp_path / "x"),), "bare"), Settings(n_ctx=256))

    with pytest.raises(pytest.fail.Exception) as caught:
        backend_suite.BackendContract().test_a_missing_file_is_a_typed_error(Bare(looks), plan)

    assert re.search(f"of a missing file .*{came}.*; BadArtifact is expected", str(caught.value))


def test_a_backend_that_nobody_registers_is_told_with_the_plugin_that_failed(tmp_path: Path) -> None:
    fake_plugins.install(tmp_path, "mute", "def register_backends(register): ...")
    (tmp_path / "test_mute.py").write_text(SUITE.partition("class TestSloppy")[0] + "class TestMute(Kit): ...")
    env = os.environ | {
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
        "EDGELLM_HOME": str(tmp_path),
        "EDGELLM_PLUGINS": "mute",
    }
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, "--basetemp", "own"]
    command += ["-q", "-x", "test_mute.py"]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, cwd=tmp_path, check=False)

    told = "no plugin registers backend 'mute'. plugin mute: TypeError: register_backends has no @hookimpl"
    assert told in ended.stdout


@pytest.mark.parametrize(
    ("member", "said", "words"),
    [
        ("describe", lambda: "a build", "describe() gives 'a build'"),
        ("check", lambda machine: [7], "check() gives [7]"),
        ("kv_types", frozenset(), "kv_types gives frozenset()"),
        ("kv_types", frozenset({"f16", "q2_9"}), "kv_types has ['q2_9'], which nobody asks for"),
        ("footprint", lambda artifact, settings: 7, "footprint() gives 7"),
        ("repacking", lambda machine, *, is_here: Repacking(frozenset(), 0), "row_multiple is 0"),
        ("priors", lambda: Priors(rates={"F16": KernelRate(0, 1)}), "rates['F16'].decode_gw_s is 0"),
        ("worker_environment", {"A=B": "x"}, "worker_environment gives {'A=B'"),
    ],
)
def test_what_a_backend_says_of_itself_is_checked_as_choices_do(
    monkeypatch: pytest.MonkeyPatch, member: str, said: object, words: str
) -> None:
    monkeypatch.setattr(plugins(), "_rows", dict(plugins()._rows))  # echo is blamed for it
    body = {member: staticmethod(said) if callable(said) else said}
    backend = type("SaysBadly", (EchoBackend,), body)()

    with pytest.raises((BackendError, AssertionError)) as caught:
        backend_suite.BackendContract().test_says_what_it_is(backend, ECHO)

    assert words in str(caught.value)


def test_what_a_sound_backend_says_of_itself_passes() -> None:
    backend_suite.BackendContract().test_says_what_it_is(EchoBackend(), ECHO)


class Recognizes(EchoBackend):
    def __init__(self, path: str, text: str) -> None:
        self._path, self._text = path, text

    def recognizes(self, path: str, begin: bytes) -> str:
        return self._text if path == "notes.txt" else self._path


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [("", "", "'' of the plan's own file, not 'bare'"), ("bare", "bare", "'bare' of a text, '' is expected")],
)
def test_a_backend_that_recognizes_other_files_than_its_own_is_told(
    tmp_path: Path, path: str, text: str, words: str
) -> None:
    (tmp_path / "x").touch()
    plan = LaunchPlan("bare", Artifact("bare", (str(tmp_path / "x"),), "bare"), Settings(n_ctx=256))

    with pytest.raises(AssertionError) as caught:
        backend_suite.BackendContract().test_recognizes_its_own_files_and_no_others(Recognizes(path, text), plan)

    assert f"recognizes() says {words}" in str(caught.value)
