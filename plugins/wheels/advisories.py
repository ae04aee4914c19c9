"""Lists that name faults of llama.cpp, and who read them when, from advisories.toml: no network is asked here."""

from __future__ import annotations

import datetime
import tomllib
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).resolve().parent / "advisories.toml"


@dataclass(frozen=True, slots=True)
class Advisories:
    """A list of faults, and the day on which a person read it for the pinned release; None = nobody has."""

    name: str
    address: str
    looked: datetime.date | None = None

    def __str__(self) -> str:
        when = f"read on {self.looked}" if self.looked else "not read by anybody"
        return f"  {when}: {self.name}, {self.address}"


def advisories(text: str) -> list[Advisories]:
    return [Advisories(**row) for row in tomllib.loads(text)["list"]]


def told() -> str:
    lines = map(str, advisories(FILE.read_text("utf-8")))
    return "\n".join(("Lists that name faults of llama.cpp (none is asked from here):", *lines))
