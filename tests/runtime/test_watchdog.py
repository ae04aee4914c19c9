"""When silence counts as a hang; the watchdog is looked at tick by tick, without a clock."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from edgellm.runtime import watchdog
from edgellm.runtime.watchdog import Watchdog, limits
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings

PLAN = LaunchPlan("gguf", Artifact("gguf", (), "m"), Settings(n_ctx=256), step_s=1.0)


@dataclass
class Asker:
    waits: bool = True
    computed_s: float = 0.0  # by the worker

    def watchdog(self, first_s: float = 8.0, usual_s: float = 4.0) -> Watchdog:
        return Watchdog((first_s, usual_s), lambda: self.waits, lambda: self.computed_s, lambda silent_s: None)


def test_silence_while_somebody_waits_is_a_hang() -> None:
    dog = Asker().watchdog()
    dog.heard = True  # the first step is done
    assert [dog.hangs_after(1.0) for _ in range(5)] == [False, False, False, False, True]


def test_each_sign_of_life_starts_anew() -> None:
    dog = Asker().watchdog()
    for _ in range(10):
        dog.heard = True
        assert [dog.hangs_after(1.0) for _ in range(4)] == [False] * 4


def test_silence_while_nobody_waits_is_none() -> None:
    asker = Asker(waits=False)
    dog = asker.watchdog()
    dog.heard = True
    assert not any(dog.hangs_after(1.0) for _ in range(100))
    asker.waits = True
    assert [dog.hangs_after(1.0) for _ in range(4)] == [False, False, False, True]


def test_the_first_step_may_take_longer() -> None:
    dog = Asker().watchdog()
    assert [dog.hangs_after(1.0) for _ in range(8)] == [False] * 7 + [True]


def test_one_that_computes_has_twenty_times_as_long() -> None:
    """Other programs may leave it a tenth of a processor. A loop without end is noticed, too, only later."""
    asker = Asker()
    dog = asker.watchdog()
    dog.heard = True
    assert not dog.hangs_after(1.0)
    looks = 0
    hangs = False
    while not hangs:
        asker.computed_s += 0.1
        hangs = dog.hangs_after(1.0)
        looks += 1
    assert 80 <= looks <= 81  # a sum of floats


@pytest.mark.parametrize(
    ("plan", "hung_after_s", "expected"),
    [
        (PLAN, None, (30.0, 30.0)),
        (replace(PLAN, step_s=7.0), None, (70.0, 70.0)),
        (replace(PLAN, step_s=None), None, (watchdog.UNPREDICTED_LIMIT_S, watchdog.UNPREDICTED_LIMIT_S)),
        (replace(PLAN, artifact=replace(PLAN.artifact, bytes=10**9)), None, (130.0, 30.0)),
        (replace(PLAN, artifact=replace(PLAN.artifact, bytes=10**9)), 2.0, (2.0, 2.0)),
        (PLAN, 0.0, (0.0, 0.0)),
    ],
    ids=["least", "ten steps", "not predicted", "from a slow disk first", "asked for", "never"],
)
def test_the_limit_follows_from_the_plan(
    plan: LaunchPlan, hung_after_s: float | None, expected: tuple[float, float]
) -> None:
    assert limits(plan, hung_after_s) == expected
