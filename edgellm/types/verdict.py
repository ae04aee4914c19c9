"""Whether a model fits a machine, and runs there fast enough, as data. See `edgellm.types.reason`."""

from __future__ import annotations

from edgellm.types.basis import Fact
from edgellm.types.refusal import Refusal


class Fits(Fact, frozen=True):
    """It fits and is fast enough."""

    free_bytes: int


class FitsSlowly(Fact, frozen=True):
    """It fits, and stays below the floor of its task."""

    free_bytes: int
    tok_s: float
    floor_tps: float


class DoesNotFit(Fact, frozen=True):
    """It needs more memory than may be used; `problems` are what else speaks against it."""

    needed_bytes: int
    missing_bytes: int
    problems: tuple[Refusal, ...] = ()


class CannotRun(Fact, frozen=True):
    """Memory would do, and something else speaks against it."""

    problems: tuple[Refusal, ...]


Verdict = Fits | FitsSlowly | DoesNotFit | CannotRun
