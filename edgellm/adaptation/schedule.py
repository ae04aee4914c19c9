"""Which rows a step of the optimizer reads, and at what rate it learns: the same for the same settings, for ever."""

from __future__ import annotations

import functools
import hashlib
import math

from edgellm.types.tuning import TuneSettings

SAVED_EVERY_S = 60.0  # by the clock: between two checkpoints


def count_steps(settings: TuneSettings, n_rows: int) -> int:
    """Of the optimizer, in all epochs. The last step of an epoch has the rows that are left."""
    n_steps = settings.epochs * steps_of_epoch(settings, n_rows)
    return min(n_steps, settings.max_steps) if settings.max_steps else n_steps


def steps_of_epoch(settings: TuneSettings, n_rows: int) -> int:
    return math.ceil(n_rows / (settings.batch * settings.accumulate))


def batches_of_step(settings: TuneSettings, n_rows: int, step: int) -> list[tuple[int, ...]]:
    """Numbers of the rows of each batch of a step, which is counted from 0 on."""
    epoch, place = divmod(step, steps_of_epoch(settings, n_rows))
    rows = order(n_rows, settings.seed, epoch)
    begin = place * settings.batch * settings.accumulate
    end = min(begin + settings.batch * settings.accumulate, n_rows)
    return [rows[at : min(at + settings.batch, end)] for at in range(begin, end, settings.batch)]


@functools.lru_cache(maxsize=2)
def order(n_rows: int, seed: int, epoch: int) -> tuple[int, ...]:
    """All rows, shuffled. By a hash, because no library promises the same order in its next version."""
    return tuple(sorted(range(n_rows), key=lambda row: hashlib.sha256(f"{seed} {epoch} {row}".encode()).digest()))


def learning_rate(settings: TuneSettings, step: int, n_steps: int) -> float:
    """Of a step, counted from 0 on. It rises in equal parts, and falls as `TuneSettings.schedule` says.

    As Hugging Face's `get_scheduler`, but the first step of a warm-up learns, too.
    """
    n_warmup = round(settings.warmup_share * n_steps)
    if step < n_warmup:
        return settings.learning_rate * (step + 1) / (n_warmup + 1)
    share = (step - n_warmup) / max(1, n_steps - n_warmup)
    falls = {"constant": 1.0, "linear": 1.0 - share, "cosine": 0.5 * (1.0 + math.cos(math.pi * share))}
    return settings.learning_rate * falls[settings.schedule]
