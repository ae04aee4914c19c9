"""When silence counts as a hang; the watchdog is looked at tick by tick, without a clock."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from edgellm.runtime import watchdog
from edgellm.runtime.silence import Silence, Teller
from edgellm.runtime.watchdog import SilenceLimits, Watchdog, limits
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings

LOAD_S = 30.0
PLAN = LaunchPlan("gguf", Artifact("gguf", (), "m"), Settings(n_ctx=256), step_s=1.0)


class Told(Teller):
    """Keeps what it is to tell."""

    def __init__(self, told: list[Silence]) -> None:
        super().__init__(PLAN)
        self.after_s = 2.0
        self._told = told

    def tell(self, silence: Silence) -> None:
        self._told.append(silence)


@dataclass
class Asker:
    waits: bool = True
    computed_s: float = 0.0  # by the worker
    told: list[Silence] = field(default_factory=list)

    def watchdog(self, first_s: float = 8.0, usual_s: float = 4.0) -> Watchdog:
        return Watchdog(
            SilenceLimits(LOAD_S, first_s, usual_s),
            lambda: self.waits,
            lambda: self.computed_s,
            lambda silent_s: None,
            Told(self.told),
        )


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


def test_silence_is_told_ever_more_seldom_with_its_limit_and_starts_anew() -> None:
    asker = Asker()
    dog = asker.watchdog(first_s=20.0, usual_s=5.0)
    assert not any(dog.hangs_after(1.0) for _ in range(9))
    dog.heard = True
    assert not any(dog.hangs_after(1.0) for _ in range(3))
    told = [(2.0, 20.0, "first step"), (4.0, 20.0, "first step"), (8.0, 20.0, "first step"), (2.0, 5.0, "step")]
    assert [(one.seconds, one.limit_s, one.waits_for) for one in asker.told] == told


def test_one_that_computes_is_told_when_it_really_ends() -> None:
    asker = Asker()
    dog = asker.watchdog(first_s=4.0)
    for _ in range(2):
        asker.computed_s += 0.5
        dog.hangs_after(1.0)
    for _ in range(2):
        dog.hangs_after(1.0)  # it waits now: a tenth of a second was counted before
    assert [(one.seconds, one.computes) for one in asker.told] == [(2.0, True), (4.0, False)]
    assert [one.limit_s for one in asker.told] == [pytest.approx(80.0), pytest.approx(5.9)]
    assert [dog.hangs_after(1.0) for _ in range(2)] == [False, True]


def test_silence_that_has_no_limit_is_told_and_never_a_hang() -> None:
    asker = Asker()
    dog = asker.watchdog(0.0, 0.0)
    assert not any(dog.hangs_after(1.0) for _ in range(5))
    assert [one.limit_s for one in asker.told] == [0.0, 0.0]


def test_a_load_that_neither_computes_nor_ends_is_a_hang_after_long() -> None:
    dog = Asker(waits=False).watchdog()
    dog.begin()
    assert [dog.hangs_after(10.0) for _ in range(3)] == [False, False, True]
    dog = Asker().watchdog()
    dog.begin()
    dog.loaded()
    assert [dog.hangs_after(4.0) for _ in range(2)] == [False, True]


def test_where_the_limit_is_long_computing_makes_it_no_longer() -> None:
    asker = Asker()
    dog = asker.watchdog(usual_s=2 * watchdog.MOST_COMPUTING_S)
    dog.heard = True
    assert not dog.hangs_after(1.0)
    asker.computed_s += 1000.0
    assert dog.hangs_after(2 * watchdog.MOST_COMPUTING_S)


@pytest.mark.parametrize(
    ("silence", "end"),
    [
        (Silence(15.0, 600.0, "load"), "it is ended after 600 s of silence"),
        (Silence(15.0, 20.0, "step"), "it is ended after 20 s of silence (EDGELLM_HUNG_AFTER)"),
        (
            Silence(15.0, 240.0, "step", computes=True),
            "while it computes, it is ended after 240 s of silence at the latest (EDGELLM_HUNG_AFTER)",
        ),
        (Silence(15.0, 0.0, "load"), "nothing ends it (EDGELLM_HUNG_AFTER=0)"),
    ],
)
def test_a_variable_is_named_where_it_counts(silence: Silence, end: str, caplog: pytest.LogCaptureFixture) -> None:
    Teller(PLAN).tell(silence)

    assert caplog.messages[0].endswith(f"; {end}")


@pytest.mark.parametrize(("step_s", "told_s"), [(None, 10.0), (1.0, 10.0), (30.0, 60.0)])
def test_a_slow_board_is_silent_for_longer_before_it_is_told(step_s: float | None, told_s: float) -> None:
    assert Teller(replace(PLAN, step_s=step_s)).after_s == told_s


@pytest.mark.parametrize(
    ("plan", "hung_after_s", "expected"),
    [
        (PLAN, None, (600.0, 30.0, 30.0)),
        (replace(PLAN, step_s=7.0), None, (600.0, 70.0, 70.0)),
        (replace(PLAN, step_s=None), None, (600.0, watchdog.UNPREDICTED_LIMIT_S, watchdog.UNPREDICTED_LIMIT_S)),
        (replace(PLAN, artifact=replace(PLAN.artifact, bytes=10**9)), None, (1600.0, 130.0, 30.0)),
        (replace(PLAN, artifact=replace(PLAN.artifact, bytes=10**9)), 2.0, (1600.0, 2.0, 2.0)),
        (PLAN, 0.0, (0.0, 0.0, 0.0)),
    ],
    ids=["least", "ten steps", "not predicted", "from a slow disk first", "asked for", "never"],
)
def test_the_limit_follows_from_the_plan(
    plan: LaunchPlan, hung_after_s: float | None, expected: tuple[float, float, float]
) -> None:
    assert limits(plan, hung_after_s) == expected
