"""How often Python looks for garbage in cycles: seldom while a command decides, as usual once a model is held."""

from __future__ import annotations

import gc

USUAL = gc.get_threshold()
# Allocations before the youngest objects are looked through (CPython: 700 or 2,000). A command makes many objects and
# few cycles: with CPython's own numbers, `auto-select` spent 4 % of its time on looking (Zen 4, 20 pairs).
SELDOM = (50_000, 20, 50)


def look_seldom() -> None:
    gc.set_threshold(*SELDOM)


def look_as_usual() -> None:
    """What lives for days must not hold on to cycles."""
    gc.set_threshold(*USUAL)
