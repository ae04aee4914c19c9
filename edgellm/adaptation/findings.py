"""Gathers what is wrong with training data, line by line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from edgellm.types.tuning_data import MAX_PROBLEMS, DataProblem, DataReport, Noted, Refused

_MAX_VALUE = 120
_MAX_IGNORED = 50


class Findings:
    def __init__(self) -> None:
        self._problems: list[DataProblem] = []
        self._counts: Counter[str] = Counter()
        self._n_refused = self._last_refused = 0
        self._ignored: dict[str, None] = {}
        self.n_lines = 0
        self.n_examples = self.n_tokens = self.n_supervised = self.longest = 0

    def add(self, line: int, kind: Refused | Noted, *, field: str = "", value: object = "") -> None:
        problem = DataProblem(line, kind, field[:_MAX_VALUE], str(value)[:_MAX_VALUE])
        self._counts[kind] += 1
        if problem.refuses and line != self._last_refused:
            self._n_refused += 1
            self._last_refused = line  # lines come in their order
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(problem)

    def add_all(self, of_line: Findings) -> None:
        """Those of one line, behind these."""
        self._counts += of_line._counts
        if of_line._n_refused and of_line._last_refused != self._last_refused:
            self._n_refused += 1
            self._last_refused = of_line._last_refused
        self._problems += of_line._problems[: MAX_PROBLEMS - len(self._problems)]
        self.ignore(of_line._ignored)
        self.n_lines += of_line.n_lines
        self.n_examples += of_line.n_examples
        self.n_tokens += of_line.n_tokens
        self.n_supervised += of_line.n_supervised
        self.longest = max(self.longest, of_line.longest)

    def ignore(self, fields: Iterable[str]) -> None:
        for field in fields:
            if len(self._ignored) < _MAX_IGNORED:
                self._ignored[str(field)[:_MAX_VALUE]] = None

    @property
    def report(self) -> DataReport:
        return DataReport(
            n_lines=self.n_lines,
            n_refused=self._n_refused,
            problems=tuple(sorted(self._problems, key=lambda problem: problem.line)),
            counts=dict(sorted(self._counts.items())),
            ignored=tuple(self._ignored),
            n_examples=self.n_examples,
            n_tokens=self.n_tokens,
            n_supervised=self.n_supervised,
            longest=self.longest,
        )
