"""Which of llama.cpp's server tests count here: groups.toml, read."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

COUNTED = ("portable", "native")
DATA = Path(__file__).with_name("groups.toml")
ENDS = ("", ":", "[", "-")  # what follows the name of a file, a function, and the beginning of a case


@dataclass(frozen=True)
class Groups:
    """`rows`: the group of a file, a function or one of its cases, or the reason why it is in none."""

    rows: dict[str, str]
    differences: dict[str, str]  # why EdgeLLM fails what counts, in the same way

    @classmethod
    def read(cls) -> Groups:
        read = tomllib.loads(DATA.read_text())
        return cls(read["groups"], read["differences"])

    def of(self, test: str) -> str:
        """What the row says that names the test (`test_x.py::test_y[case]`) most exactly.

        Raises:
            ValueError: none does.
        """
        return _named(self.rows, test)

    def difference(self, test: str) -> str:
        try:
            return _named(self.differences, test)
        except ValueError:
            return "not known yet"

    def counts(self, test: str) -> bool:
        return bool(os.environ.get("LLAMA_TESTS_EVERY")) or self.of(test) in COUNTED


def _named(rows: dict[str, str], test: str) -> str:
    return rows[max((row for row in rows if test.startswith(row) and test[len(row) :][:1] in ENDS), key=len)]
