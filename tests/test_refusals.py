"""`support.refusals` fails where it should: another class, other attributes, other words, words missing or stale."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import refusals
from support.refusals import GOLDEN, Record, check_refusal, refuses

from edgellm.errors import ArtifactError, BadArtifact, ContextOverflow, UsageError

TEST = "tests/x/test_y.py::test_z[a b]"
HERE = Path(__file__).parent


def record(path: Path, *, test: str = TEST, update: bool = False) -> Record:
    return Record(test, path / "base", path / "messages.txt", update)


@pytest.fixture
def on_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    """The record of a test, whose golden file has "no" for its only refusal."""
    (tmp_path / "messages.txt").write_text("x/test_y.py::test_z[a b]\n  no\n")
    monkeypatch.setattr(refusals, "_current", record(tmp_path))
    return refusals._current


def refuse(error: Exception, kind: type[Exception] = UsageError, **expected: object) -> None:
    with refuses(kind, **expected):
        raise error


def test_the_same_class_attributes_and_words_are_accepted(on_record: Record) -> None:
    with refuses(ContextOverflow, n_prompt=3, n_ctx=2) as caught:
        raise ContextOverflow("no", n_prompt=3, n_ctx=2)
    on_record.finish()

    assert caught.value.param == "prompt"


def test_another_class_fails_be_it_a_subclass(on_record: Record) -> None:
    with pytest.raises(AssertionError, match=r"ArtifactError is expected, this is BadArtifact\('no'\)"):
        refuse(BadArtifact("no"), ArtifactError)
    with pytest.raises(BadArtifact):
        refuse(BadArtifact("no"), UsageError)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"), refuses(UsageError):
        pass
    with pytest.raises(AssertionError, match="UsageError is expected, nothing was refused"):
        check_refusal(None, UsageError)


def test_other_attributes_fail(on_record: Record) -> None:
    with pytest.raises(AssertionError, match="ctx"):
        refuse(UsageError("no", param="kv"), param="ctx")


def test_other_words_fail_and_say_how_to_accept_them(on_record: Record) -> None:
    with pytest.raises(pytest.fail.Exception) as failed:
        refuse(UsageError("never", hint="ask again"))

    assert "on record:\n  no\n\nnow:\n  never\n  hint: ask again" in str(failed.value)
    assert f"EDGELLM_UPDATE_GOLDEN=1 .venv/bin/pytest '{TEST}'" in str(failed.value)


def test_words_that_are_not_on_record_fail_and_say_how_to_add_them(on_record: Record) -> None:
    refuse(UsageError("no"))

    with pytest.raises(pytest.fail.Exception, match=r"has no words for .* \(2\)") as failed:
        refuse(UsageError("no"))
    assert f"EDGELLM_UPDATE_GOLDEN=1 .venv/bin/pytest '{TEST}'" in str(failed.value)


def test_words_that_nothing_says_any_more_fail(on_record: Record) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"refuses 0 times, messages\.txt has x/test_y.py::test_z"):
        on_record.finish()


def test_what_varies_is_no_part_of_the_record(tmp_path: Path) -> None:
    said = record(tmp_path, update=True)
    text = said.normalized(
        f"{tmp_path}/base/homes/12/m.gguf and {tmp_path}/base/test_x0/a/b, {HERE.parent}/tests, {os.getpid()} threads, "
        "127.0.0.1:80, pid 7\x1b\ud800\nb",
        r"\d+ threads",
    )

    assert text == "$HOME/m.gguf and $TMP/a/b, $REPO/tests, …, 127.0.0.1:N, pid N\\x1b\\ud800\nb"


def test_what_python_says_of_json_is_replaced_by_its_class(on_record: Record) -> None:
    on_record.update = True
    with refuses(UsageError):
        try:
            json.loads("{")
        except ValueError as error:
            raise UsageError(f"m.json: {error}", hint="fetch it again") from error

    assert on_record.texts == ["m.json: <JSONDecodeError>\nhint: fetch it again"]


def test_an_update_replaces_the_words_of_the_tests_that_run(tmp_path: Path) -> None:
    golden = tmp_path / "messages.txt"
    golden.write_text("a.py::test\n  kept\nx/test_y.py::test_z[a b]\n  old\nx/test_y.py::test_z[a b] (2)\n  stale\n")
    said = record(tmp_path, update=True)
    said.compare("new\n\nin three lines")
    said.finish()
    other = record(tmp_path, test="tests/b.py::test", update=True)
    other.compare("one")
    other.compare("two")
    other.finish()

    assert golden.read_text() == (
        "a.py::test\n  kept\nb.py::test\n  one\nb.py::test (2)\n  two\n"
        "x/test_y.py::test_z[a b]\n  new\n  \n  in three lines\n"
    )
    assert refusals.read(golden, again=True)["x/test_y.py::test_z[a b]", 1] == "new\n\nin three lines"


@pytest.mark.slow(3)
def test_several_workers_update_one_file(tmp_path: Path) -> None:
    """A run of pytest with a golden file of its own: it fails without words, two workers write them, and it passes."""
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {HERE}\n")
    (tmp_path / "conftest.py").write_text(
        "from pathlib import Path\nfrom support import refusals\npytest_plugins = ['support.refusals']\n"
        "refusals.GOLDEN = Path(__file__).parent / 'messages.txt'\n"
    )
    (tmp_path / "test_it.py").write_text(
        "import os\nimport pytest\nfrom support.refusals import refuses\n"
        "@pytest.mark.parametrize('n', range(20))\n"
        "def test_it(n, tmp_path):\n"
        "    with refuses(OSError, varies=r'of \\d+'):\n"
        "        raise OSError(f'{tmp_path}/{n} of {os.getpid()}')\n"
    )

    assert "20 failed" in run(tmp_path, "0")
    assert "20 passed" in run(tmp_path, "2", EDGELLM_UPDATE_GOLDEN="1")
    assert "20 passed" in run(tmp_path, "0")
    assert len((tmp_path / "messages.txt").read_text().splitlines()) == 40
    assert "test_it.py::test_it[7]\n  $TMP/7 …\n" in (tmp_path / "messages.txt").read_text()


def run(folder: Path, workers: str, **environment: str) -> str:
    return pytest_in(folder, "--basetemp", str(folder / "own"), "-n", workers, **environment)[-1]


def pytest_in(folder: Path, *arguments: str, **environment: str) -> list[str]:
    """The lines that a pytest of its own prints, in `folder`."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "EDGELLM_"))}
    done = subprocess.run(command, cwd=folder, env=env | environment, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def test_every_entry_is_of_a_test_that_exists() -> None:
    drop({key for key in refusals.read(GOLDEN) if not exists(key[0].partition("[")[0])})

    assert not exists("test_refusals.py::test_gone")
    assert not exists("test_gone.py::test_it")


@pytest.mark.slow(5)
def test_every_entry_is_of_a_case_that_exists() -> None:
    listed = pytest_in(HERE.parent, "--collect-only", "-n", "0", "-m", "slow or not slow", "tests")
    cases = {line.removeprefix("tests/") for line in listed if "::" in line}
    functions = {case.partition("[")[0] for case in cases}  # of a file that needs what is not here, there are none

    assert len(cases) > 1000, listed[-9:]
    drop({key for key in refusals.read(GOLDEN) if key[0].partition("[")[0] in functions and key[0] not in cases})


def drop(stale: set[tuple[str, int]]) -> None:
    """An update removes the entries, any other run fails."""
    if stale and os.environ.get(refusals.UPDATE):
        refusals.replace(GOLDEN, stale, {})
        return
    assert not stale, (
        "EDGELLM_UPDATE_GOLDEN=1 .venv/bin/pytest -m 'slow or not slow' tests/test_refusals.py removes them"
    )


# Words of llama.cpp; words of this very helper.
MAY_MATCH = {"gguf/test_recipe_oracle.py", "test_refusals.py"}


def test_no_other_test_pins_the_words_of_an_error() -> None:
    pinning = {path.relative_to(HERE).as_posix() for path in HERE.rglob("*.py") if pins_words(path.read_text("utf-8"))}

    assert pinning == MAY_MATCH, "write `with support.refusals.refuses(KIND, ATTRIBUTE=VALUE)` instead"


def pins_words(source: str) -> bool:
    """Whether it has a call as `pytest.raises(ValueError, match="...")`."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)) if "match=" in source else ()
    return any(
        ast.unparse(call.func).endswith("raises") and any(keyword.arg == "match" for keyword in call.keywords)
        for call in calls
    )


def exists(test: str) -> bool:
    file, *_, function = test.split("::")
    path = HERE / file
    if path not in _functions:
        tree = ast.parse(path.read_text("utf-8")) if path.exists() else ast.Module([], [])
        _functions[path] = {
            node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
    return function in _functions[path]


_functions: dict[Path, set[str]] = {}
