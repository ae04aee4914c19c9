"""What an answer is drawn by where its request does not say: values, and which row each of them is from.

By rank: the request, the operator's setting, what the file of the model says, the catalog's row, and the usual values.
Each parameter is taken from the first row that has it. A file that says one is the last row that is asked: what it
lacks is neutral, because whoever wrote it chose the whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

from edgellm.types.basis import Fact
from edgellm.types.sampling import Sampling

Origin = Literal["request", "operator", "file", "catalog", "usual"]


class SamplingPart(msgspec.Struct, frozen=True, omit_defaults=True, repr_omit_defaults=True):
    """Parameters whose values come from the same row."""

    origin: Origin
    values: Sampling
    source: str = ""  # of "file" what in it says so, of "catalog" where the row is from
    thinking: bool | None = None  # of "catalog": for answers that think first, or that do not; None = for both
    unverified: bool = False  # of "catalog": nobody compared the row with its source


class UnusedKey(msgspec.Struct, frozen=True):
    """A key of a file that changes no answer."""

    key: str
    value: str  # as JSON, cut where it is long
    allowed: str = ""  # out of range: what is allowed, in words; "" = what it asks for is not implemented


class FileSampling(msgspec.Struct, frozen=True):
    """What a model's file says of sampling."""

    values: Sampling = Sampling()
    unused: tuple[UnusedKey, ...] = ()


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """What is recommended for a model; None = nothing is said of the parameter."""

    source: str
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    thinking: bool | None = None  # for answers that think first, or that do not; None = for both
    unverified: bool = False  # nobody compared it with its source

    @property
    def part(self) -> SamplingPart:
        """
        Raises:
            UsageError: a value is out of range.
        """
        values = Sampling(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
        )
        return SamplingPart("catalog", values, self.source, self.thinking, self.unverified)


USUAL = SamplingPart("usual", Sampling(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05))


class SamplingDefaults(Fact, frozen=True):
    """What answers are drawn by where requests do not say, and from which row each value is."""

    parts: tuple[SamplingPart, ...] = (USUAL,)  # each parameter in one of them
    unused: tuple[UnusedKey, ...] = ()  # of the file

    @property
    def values(self) -> Sampling:
        """All of them together; a parameter without a value is neutral."""
        values = Sampling()
        for part in self.parts:
            values = values.over(part.values)
        return values

    def under(self, request: Sampling) -> tuple[SamplingPart, ...]:
        """What a request that says this much is drawn by. Its biases, which may be a thousand, are left out."""
        return by_rank([SamplingPart("request", msgspec.structs.replace(request, logit_bias=())), *self.parts])


NOTHING_SAID = FileSampling()
UNASKED = SamplingDefaults()
NEUTRAL = SamplingDefaults(())


def by_rank(rows: Iterable[SamplingPart]) -> tuple[SamplingPart, ...]:
    """Each row with what the rows before it leave open; rows of which nothing is left are not in it."""
    said: set[str] = set()
    parts = []
    for row in rows:
        part = msgspec.structs.replace(row, values=row.values.without(said & row.values.said.keys()))
        said |= row.values.said.keys()
        if part.values != Sampling():
            parts.append(part)
    return tuple(parts)
