"""`refuses(BadArtifact, param="kv")`: what a test expects to be refused, with the words in one golden file.

A test names the class and the attributes of an error. What the error says is in tests/golden/messages.txt, under the
test's id, so that a message is reworded without changing a test:

    EDGELLM_UPDATE_GOLDEN=1 .venv/bin/pytest tests/formats/test_gguf.py     writes the words of these tests again
    git diff tests/golden                                                   is what to read before you commit

An entry is a line with the id, "(2)" behind it for the second refusal of a test, then the words, indented. What differs
from run to run or from machine to machine is replaced: folders by $TMP, $HOME and $REPO, process ids and ports by N,
what the Python in use says of JSON or TOML by the name of its error, and what a test calls `varies` by an ellipsis.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import tomllib
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import filelock
import pytest

from edgellm.files import write_atomic

ErrorT = TypeVar("ErrorT", bound=Exception)

GOLDEN = Path(__file__).parents[1] / "golden" / "messages.txt"
REPO = Path(__file__).parents[2]
UPDATE = "EDGELLM_UPDATE_GOLDEN"
# What these say differs from one Python to the next.
OF_PYTHON = (json.JSONDecodeError, tomllib.TOMLDecodeError, RecursionError)
HOW = f"To accept it, run `{UPDATE}=1 .venv/bin/pytest '{{test}}'`, and read `git diff tests/golden`."


@contextmanager
def refuses(kind: type[ErrorT], *, varies: str = "", **attributes: object) -> Iterator[pytest.ExceptionInfo[ErrorT]]:
    """`pytest.raises(kind)` for exactly this class, with these attributes and the words on record.

    `varies` is a regular expression; what it matches differs from run to run, and is no part of the record.
    """
    __tracebackhide__ = True
    with pytest.raises(kind) as caught:
        yield caught
    check_refusal(caught.value, kind, varies=varies, **attributes)


def check_refusal(
    error: BaseException | None, kind: type[Exception], *, varies: str = "", **attributes: object
) -> None:
    """The same for an error that was not raised here but handed over: by a command, a callback or a future."""
    __tracebackhide__ = True
    assert error is not None, f"{kind.__name__} is expected, nothing was refused"
    assert type(error) is kind, f"{kind.__name__} is expected, this is {error!r}"
    assert {name: getattr(error, name) for name in attributes} == attributes
    if _current is None:
        raise RuntimeError("refuses() needs pytest_plugins = ['support.refusals'], and a test that runs")
    _current.compare(_current.normalized(words(error), varies))


def words(error: BaseException) -> str:
    """What a face prints of an error: its message, and its hint in a line of its own."""
    hint = getattr(error, "hint", "")
    text = f"{error.message}\nhint: {hint}" if hint and hasattr(error, "message") else str(error)
    cause = error.__cause__ or error.__context__
    return text.replace(str(cause), f"<{type(cause).__name__}>") if isinstance(cause, OF_PYTHON) else text


@dataclass
class Record:
    """What one test refused so far, beside what the golden file has of it."""

    test: str  # its id
    temporary: Path  # below it are the folders of tests
    golden: Path
    update: bool
    texts: list[str] = field(default_factory=list)

    def compare(self, text: str) -> None:
        __tracebackhide__ = True
        self.texts.append(text)
        key = (_short(self.test), len(self.texts))
        recorded = read(self.golden).get(key)
        if self.update or recorded == text:
            return
        how = HOW.format(test=self.test)
        if recorded is None:
            pytest.fail(f"{self.golden.name} has no words for {_title(key)}. {how}\n\n{_indented(text)}")
        pytest.fail(
            f"{_title(key)} says other words than {self.golden.name}. {how}\n\n"
            f"on record:\n{_indented(recorded)}\n\nnow:\n{_indented(text)}"
        )

    def finish(self) -> None:
        """The test has passed: writes its words, or fails where more are on record than it said."""
        __tracebackhide__ = True
        test = _short(self.test)
        if self.update:
            self._write(test)
            return
        key = (test, len(self.texts) + 1)  # looked up: every test ends here
        if key in read(self.golden):
            pytest.fail(
                f"{test} refuses {len(self.texts)} times, {self.golden.name} has {_title(key)}. "
                + HOW.format(test=self.test)
            )

    def _write(self, test: str) -> None:
        said = {(test, number): text for number, text in enumerate(self.texts, 1)}
        before = {key: text for key, text in read(self.golden).items() if key[0] == test}
        if before != said:
            replace(self.golden, before.keys(), said)

    def normalized(self, text: str, varies: str) -> str:
        for pattern, instead in (
            (rf"{re.escape(str(self.temporary))}/homes/\d+", "$HOME"),
            (rf"{re.escape(str(self.temporary))}/[^/\s:;,'\"]+", "$TMP"),
            (re.escape(str(REPO)), "$REPO"),
            (re.escape(sys.prefix), "$PREFIX"),
            (re.escape(tempfile.gettempdir()) + r"(?=/)", "$TMP"),
            (rf"(?<![\w:/]){re.escape(str(Path.home()))}(?=/\w)", "~"),  # which may be / itself
            (r"\bpid \d+", "pid N"),
            (r"\b(127\.0\.0\.1|localhost):\d+", r"\1:N"),
            (varies or r"(?!)", "…"),
        ):
            text = re.sub(pattern, instead, text)
        # What is no text (a control character, half a surrogate) is escaped.
        return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


_current: Record | None = None
_read: dict[Path, dict[tuple[str, int], str]] = {}


def read(path: Path, *, again: bool = False) -> dict[tuple[str, int], str]:
    """(test, n-th refusal) -> words. A file is read once, and again where another process may have written it."""
    if again or path not in _read:
        text = path.read_text("utf-8") if path.exists() else ""
        blocks = (block.split("\n") for block in re.split(r"\n(?! )", text) if block)
        _read[path] = {_key(title): "\n".join(line[2:] for line in lines) for title, *lines in blocks}
    return _read[path]


def replace(path: Path, old: Iterable[tuple[str, int]], new: dict[tuple[str, int], str]) -> None:
    """Several workers write at a time: each reads what the others wrote, and replaces its own entries only."""
    with filelock.FileLock(f"{path}.lock"):
        entries = read(path, again=True)
        for key in old:
            entries.pop(key, None)
        entries.update(new)
        text = "".join(f"{_title(key)}\n{_indented(said)}\n" for key, said in sorted(entries.items()))
        write_atomic(path, text.encode())


def _short(test: str) -> str:
    return test.removeprefix("tests/")


def _key(title: str) -> tuple[str, int]:
    numbered = re.fullmatch(r"(.+) \((\d+)\)", title)
    return (numbered[1], int(numbered[2])) if numbered else (title, 1)


def _title(key: tuple[str, int]) -> str:
    return key[0] if key[1] == 1 else f"{key[0]} ({key[1]})"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.split("\n"))


_RECORD = pytest.StashKey[Record]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    global _current
    temporary = item.config._tmp_path_factory.getbasetemp()
    _current = item.stash[_RECORD] = Record(item.nodeid, temporary, GOLDEN, bool(os.environ.get(UPDATE)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    yield
    item.stash[_RECORD].finish()
