"""What must raise: a test of it says what came instead."""

from __future__ import annotations

from collections.abc import Callable


def assert_refused(expected: type[Exception], call: Callable[[], object], what: str, words: str = "") -> None:
    """Fails unless `call` raises an error of that class, with these words in it. `what` it does, in words."""
    __tracebackhide__ = True
    came, cause = "raises nothing", None
    try:
        call()
    except Exception as error:
        if isinstance(error, expected) and words in str(error):
            return
        came, cause = f"raises {type(error).__name__}: {error}", error
    also = f" that names {words!r}" if words else ""
    raise AssertionError(f"{what} {came}; {expected.__name__}{also} is expected") from cause
