"""What no machine has, in rates that a plugin or a file states: they are divided by, and summed, far from here.

The one check of them: what was just measured passes it before it is kept, and what was kept whenever it is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import structs

from edgellm.contract.answers import kind_of
from edgellm.types.calibration import Calibration
from edgellm.types.device_trial import DeviceTrial
from edgellm.units import counted

# What no machine reaches and yet divides without harm: 1e9 a second, seconds (what takes none has 0), a key's counts.
RATES, SECONDS, MOST_COUNT = (1e-6, 1e6), (1e-30, 1e3), 1 << 16
TOKEN_RATES, MOST_BYTES = (1e-6, 1e9), 2**60


def problem_in(calibration: Calibration) -> str:
    """The first thing that no machine has, or that leaves nothing to predict from: `"decode['Q4_K', 1] is 0.0, more
    than 0 is expected"`; "" = none."""
    return next(_problems(calibration), "")


def problem_in_trials(trials: Sequence[object]) -> str:
    """The same of what was measured of a GPU, which is not known to be trials."""
    return next(_of_trials(trials), "")


def _problems(calibration: Calibration) -> Iterator[str]:
    for field in dataclasses.fields(calibration):
        table = getattr(calibration, field.name)
        if isinstance(table, Mapping) and field.name != "occasions":
            yield from _of_table(field.name, table)
    for threads, occasion in calibration.occasions.items():
        yield from _of_counts("occasions", threads)
        shares = {name: getattr(occasion, name) for name in ("taken", "waited", "of_one")}
        for name, share in shares.items():
            if share is not None and not 0 <= share <= 1:
                yield f"occasions[{threads}].{name} is {kind_of(share)}, 0 to 1 is expected"
    if not 0 <= calibration.scatter < 1:
        yield f"scatter is {kind_of(calibration.scatter)}, 0 to 1 is expected"
    yield from _of_use(calibration)


def _of_use(calibration: Calibration) -> Iterator[str]:
    """What selection cannot predict without."""
    counts = {threads for _, threads in calibration.decode}
    if not counts:
        yield "decode is empty, rates of one token at a time are expected"
    for threads in sorted(counts - {threads for _, threads in calibration.prefill}):
        yield f"prefill has no rates with {counted(threads, 'thread')}, as decode has them"


def _of_table(name: str, table: Mapping[Any, float]) -> Iterator[str]:
    takes_seconds = name.endswith("_s")
    for key, number in table.items():
        yield from _of_counts(name, key)
        if not (takes_seconds and number == 0):
            yield from _of_number(f"{name}[{_shown(key)}]", number, *(SECONDS if takes_seconds else RATES))


def _of_counts(name: str, key: Any) -> Iterator[str]:
    """Threads, and sizes of heads."""
    if not all(1 <= count <= MOST_COUNT for count in (key[1:] if isinstance(key, tuple) else (key,))):
        yield f"{name}[{_shown(key)}] has a number in its key that no machine has, 1 to {MOST_COUNT} is expected"


def _of_number(place: str, number: float, low: float, high: float) -> Iterator[str]:
    if not number > 0:  # nor is it where it is no number
        yield f"{place} is {kind_of(number)}, more than 0 is expected"
    elif not low <= number <= high:
        yield f"{place} is {kind_of(number)}, {low:g} to {high:g} is expected"


def _of_trials(trials: Sequence[object]) -> Iterator[str]:
    if not trials:
        yield "there is nothing, one DeviceTrial or more is expected"
    for at, trial in enumerate(trials):
        if not isinstance(trial, DeviceTrial):
            yield f"[{at}] is {kind_of(trial)}, a DeviceTrial is expected"
            return
        for name, number in structs.asdict(trial).items():
            if name != "type":
                bounds = TOKEN_RATES if name.endswith("_tok_s") else (1, MOST_BYTES)
                yield from _of_number(f"[{at}].{name}", number, *bounds)


def _shown(key: Any) -> str:
    return ", ".join(map(kind_of, key if isinstance(key, tuple) else (key,)))
