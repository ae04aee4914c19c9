"""Which records are learned from, which say when to stop, and which judge the result. The same for the same seed."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from edgellm.adaptation.near_duplicates import TextsProgress, near_duplicates
from edgellm.types.tuning_data import TrainingChat, TrainingPair, TrainingRecord

MAX_CLASSES = 256
MAX_CLASS_CHARS = 64
_ROWS_OF_CLASS = 4  # on average, from which on answers that repeat are classes


@dataclass(frozen=True)
class Split:
    """`validation` chooses the step, `test` judges: what chose may not judge."""

    train: tuple[TrainingRecord, ...]
    validation: tuple[TrainingRecord, ...]
    test: tuple[TrainingRecord, ...]
    removed: tuple[tuple[int, int], ...] = ()  # lines left out of `train`, and the held-out line that each resembles
    classes: dict[str, int] | None = None  # records of each answer, where answers are classes
    unlearned: tuple[str, ...] = ()  # classes that `train` lacks
    untested: tuple[str, ...] = ()  # classes that `test` lacks


def split(
    records: Sequence[TrainingRecord],
    *,
    validation: float,
    test: float,
    seed: int = 0,
    most_held_out: int = 2000,
    progress: TextsProgress = lambda _done, _of: None,
) -> Split:
    """
    Args:
        validation, test: shares of the records; of each class, where answers are classes.
        most_held_out: of each of the two parts: more would only take time.
        progress: of the search for near duplicates, as `near_duplicates` has it.
    """
    classes = count_classes(records)
    parts: tuple[list[TrainingRecord], ...] = [], [], []
    shares = tuple(min(share, most_held_out / max(1, len(records))) for share in (validation, test))
    n_before = 0
    for group in _strata(records, classes, seed):
        n_behind = n_before + sum(map(len, group))
        wanted = [round(share * n_behind) - round(share * n_before) for share in shares]  # whole, in sum too
        n_before = n_behind
        taken = [0, 0]
        for same in group:
            part = next((at for at in (0, 1) if taken[at] + len(same) <= wanted[at]), 2)
            if part < 2:
                taken[part] += len(same)
            parts[part].extend(same)
    held_out = sorted(parts[0], key=_line), sorted(parts[1], key=_line)
    both = [*held_out[0], *held_out[1]]
    train = sorted(parts[2], key=_line)
    texts, held_texts = ([text_of(record) for record in part] for part in (train, both))
    near = near_duplicates(texts, held_texts, progress=progress)
    kept = tuple(record for at, record in enumerate(train) if at not in near)
    learned, tested = ({answer_of(record) for record in part} for part in (kept, held_out[1]))
    return Split(
        train=kept,
        validation=tuple(held_out[0]),
        test=tuple(held_out[1]),
        removed=tuple((train[at].line, both[other].line) for at, other in near.items()),
        classes=classes,
        unlearned=tuple(label for label in classes or {} if label not in learned),
        untested=tuple(label for label in classes or {} if label not in tested),
    )


def count_classes(records: Sequence[TrainingRecord]) -> dict[str, int] | None:
    """Records of each answer, the most frequent first; None where answers are texts of their own."""
    counts = Counter(answer_of(record) for record in records)
    is_short = all(0 < len(label) <= MAX_CLASS_CHARS for label in counts)
    if not is_short or not 2 <= len(counts) <= min(MAX_CLASSES, len(records) / _ROWS_OF_CLASS):
        return None
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def answer_of(record: TrainingRecord) -> str:
    """The last of it, without white space around."""
    if isinstance(record, TrainingChat):
        said = [message.content for message in record.messages if message.role == "assistant"]
        return said[-1].strip() if said else ""
    return record.completion.strip() if isinstance(record, TrainingPair) else ""


def text_of(record: TrainingRecord) -> str:
    """All that is said in it."""
    if isinstance(record, TrainingChat):
        return "\n".join(
            text for message in record.messages for text in (message.content, *(c.arguments for c in message.calls))
        )
    return f"{record.prompt}\n{record.completion}" if isinstance(record, TrainingPair) else record.text


def _strata(
    records: Sequence[TrainingRecord], classes: dict[str, int] | None, seed: int
) -> list[list[list[TrainingRecord]]]:
    """For each class its records in an order of the seed, those with the same content together."""
    strata: defaultdict[str, defaultdict[bytes, list[TrainingRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        content = msgspec.json.encode(msgspec.structs.replace(record, line=0), order="deterministic")
        key = hashlib.sha256(f"{seed} ".encode() + content).digest()
        strata[answer_of(record) if classes else ""][key].append(record)
    return [[same for _, same in sorted(groups.items())] for _, groups in sorted(strata.items())]


def _line(record: TrainingRecord) -> int:
    return record.line
