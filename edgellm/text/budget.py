"""How much a chat template may do: steps, characters, seconds. Of Jinja it knows only two value types.

A render runs inside `spending(Budget())`; whatever the template makes the core do is charged to that budget first.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextvars import ContextVar
from typing import Any

MAX_STEPS = 3_000_000  # loop turns, calls, and values walked over
MAX_TEXT = 8 * 1024**2  # characters of any one text, and of the prompt
MAX_MADE = 128 * 1024**2  # bytes of text made in one render, kept or not
MAX_VALUES = 100_000  # values inside one list or dict, counted as often as they appear in it
MAX_SECONDS = 1.0  # of this thread's processor time
_READ = 64  # characters that are looked through while a loop turns once
_STALLED = 10  # times MAX_SECONDS on the clock end a render in any case


class OverBudget(Exception):
    """The template asked for too much; the text says of what. Not caught by anything inside a template."""


class Budget:
    """What is left of one render's allowance."""

    __slots__ = ("_last", "_look_again", "_made", "_seconds", "_started", "_steps")

    def __init__(self, seconds: float = MAX_SECONDS) -> None:
        self._seconds = seconds
        self._steps = MAX_STEPS
        self._made = MAX_MADE
        self._started = time.thread_time()
        self._last = time.monotonic() + _STALLED * seconds
        self._look_again = time.monotonic() + seconds

    def tick(self, steps: int = 1) -> None:
        """
        Raises:
            OverBudget: too many steps, or too late.
        """
        self._steps -= steps
        if self._steps < 0:
            raise OverBudget(f"it takes more than {MAX_STEPS} steps")
        if time.monotonic() > self._look_again:
            self._check_time()

    def read(self, value: Any) -> None:
        """Call before a value is compared, or looked through. Python does that in one go, however long it takes.

        Raises:
            OverBudget
        """
        if isinstance(value, str):
            self.tick(1 + len(value) // _READ)
        else:
            self.tick(1 + len(value) if isinstance(value, list | tuple | dict) else 1)

    def _check_time(self) -> None:
        """Processor time counts: a machine that stands still for a second is not the template's fault."""
        remaining_s = self._seconds - (time.thread_time() - self._started)
        if remaining_s <= 0 or time.monotonic() > self._last:
            raise OverBudget(f"it takes more than {self._seconds:g} s")
        self._look_again = time.monotonic() + max(remaining_s, 0.01)

    def allow(self, length: int) -> None:
        """
        Raises:
            OverBudget: no single text may have that many characters.
        """
        if length > MAX_TEXT:
            raise OverBudget(f"it makes a text of {length} characters, {MAX_TEXT} are allowed")

    def make(self, length: int) -> None:
        """Call before a text of `length` characters is made.

        Raises:
            OverBudget: it is too long, or too much was made.
        """
        self.allow(length)
        self._made -= length
        if self._made < 0:
            raise OverBudget(f"it makes more than {MAX_MADE} bytes of text")

    def keep(self, text: str) -> str:
        """Charge a text that was made; one with characters beyond ASCII is held in up to four bytes each."""
        self.make(len(text))
        if not text.isascii():
            self._made -= 3 * len(text)
        return text

    def copy(self, text: str) -> None:
        """Call before a text is taken apart into others, which together are as long.

        Raises:
            OverBudget: too much was made.
        """
        self.keep(text)

    def measure(self, value: Any) -> int:
        """Characters that `value` has as text, about; a step for each value in it.

        Values are counted as often as they appear: a list that holds one list twice, which holds one list twice, and
        so on, is small in memory and endless when printed, compared or hashed.

        Raises:
            OverBudget: it holds too much.
        """
        pending, n_values, length = [value], 0, 0
        while pending:
            item = pending.pop()
            if isinstance(item, str):
                length += len(item)
            elif isinstance(item, Mapping):
                n_values += 2 * len(item)
                self._weigh(n_values, 2 * len(item))
                pending.extend(item.keys())
                pending.extend(item.values())
            elif isinstance(item, list | tuple | AbstractSet):
                n_values += len(item)
                self._weigh(n_values, len(item))
                pending.extend(item)
            elif isinstance(item, int):
                length += item.bit_length() // 3 + 1
            elif (attributes := _namespace(item)) is not None:
                pending.append(attributes)
                self._weigh(n_values, 1)
            else:
                length += 32
        self.allow(length)
        return length

    def _weigh(self, n_values: int, new: int) -> None:
        self.tick(new)
        if n_values > MAX_VALUES:
            raise OverBudget(f"it makes a list or dict of more than {MAX_VALUES} values")

    def text(self, value: Any) -> str:
        """`str(value)`, charged."""
        if isinstance(value, str):
            return value
        self.make(self.measure(value))
        return self.keep(str(value))


class Each:
    """An iterable that ticks the budget once a turn. It has a length where the wrapped one has."""

    def __init__(self, wrapped: Iterable[Any]) -> None:
        self._wrapped = wrapped

    def __iter__(self) -> Iterator[Any]:
        tick = current().tick
        for item in self._wrapped:
            tick()
            yield item

    def __len__(self) -> int:
        return len(self._wrapped)  # type: ignore[arg-type]  # TypeError is what Jinja's loop expects of a generator


_budget: ContextVar[Budget] = ContextVar("budget")


def current() -> Budget:
    """The budget of this render. Outside of one nothing may run: a template compiles without being executed."""
    try:
        return _budget.get()
    except LookupError:
        raise OverBudget("it computes while it is being compiled") from None


@contextlib.contextmanager
def spending(budget: Budget) -> Iterator[None]:
    token = _budget.set(budget)
    try:
        yield
    finally:
        _budget.reset(token)


def _namespace(value: Any) -> dict[str, Any] | None:
    """What a template's `namespace()` object holds; printing one prints all of it."""
    from jinja2.utils import Namespace

    if type(value) is not Namespace:
        return None
    attributes: dict[str, Any] = object.__getattribute__(value, "_Namespace__attrs")
    return attributes
