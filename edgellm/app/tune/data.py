"""Training data for one base: read, split, turned into the tokens of requests, packed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgellm.adaptation import split as splitting
from edgellm.adaptation.example import Example
from edgellm.adaptation.findings import Findings
from edgellm.adaptation.packed import Packed
from edgellm.adaptation.packing import one_each, pack
from edgellm.adaptation.reading import read_records
from edgellm.adaptation.rendering import Renderer
from edgellm.app.tune.served_base import ServedBase
from edgellm.errors import UsageError, option
from edgellm.explain import tuning as words
from edgellm.types.tuning_data import DataReport, TrainingRecord
from edgellm.types.tuning_options import TuneOptions

_OF_VALIDATION = 0.5  # of what is held out

TuneDataProgress = Callable[[int, int], None]  # examples turned into tokens, of how many


@dataclass(frozen=True)
class TuneData:
    """Examples that are learned, those that choose the best step, and the records that judge."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[TrainingRecord, ...]
    report: DataReport

    @property
    def n_held_out(self) -> int:
        return len(self.validation) + len(self.test)

    def rows(self, length: int) -> tuple[Packed, Packed | None]:
        """Packed to rows of so many tokens, each held-out example in one of its own; None = none is held out."""
        train, validation = (_cut(examples, length) for examples in (self.train, self.validation))
        return pack(train, length), one_each(validation) if validation else None


def _cut(examples: Sequence[Example], length: int) -> list[Example]:
    """Those of which something that is learned is left."""
    cut = [example.cut(length) for example in examples]
    return [example for example in cut if example.n_supervised]


def file_sha256(path: Path) -> str:
    """
    Raises:
        UsageError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="name a file of data", param="data") from None


def prepare(path: Path, base: ServedBase, options: TuneOptions, progress: TuneDataProgress) -> TuneData:
    """
    Raises:
        UsageError: nothing in it can be learned. Others: as `adaptation.reading.read_records`.
    """
    findings = Findings()
    records = read_records(path, findings)
    share = options.held_out if options.held_out < 1 else min(0.9, options.held_out / max(1, len(records)))
    validation, test = share * _OF_VALIDATION, share * (1 - _OF_VALIDATION)
    parts = splitting.split(records, validation=validation, test=test, seed=options.seed)
    length = options.length or base.info.n_ctx
    renderer = Renderer(base.info, base.encode, base.prompts(), length=length)
    n_all = len(parts.train) + len(parts.validation)

    def examples_of(records: Sequence[TrainingRecord], before: int) -> tuple[Example, ...]:
        examples: list[Example] = []
        for number, record in enumerate(records, start=1):
            examples += renderer.examples(record, findings)
            progress(before + number, n_all)
        return tuple(examples)

    train = examples_of(parts.train, 0)
    data = TuneData(train, examples_of(parts.validation, len(parts.train)), parts.test, findings.report)
    if not train:
        raise _nothing(path, data.report)
    return data


def _nothing(path: Path, report: DataReport) -> UsageError:
    refused = [one for one in report.problems if one.refuses]
    if not refused:
        what = f"{path} has no examples to learn from"
        return UsageError(what, hint=f"add some, or hold fewer out with {option('held_out', 0)}", param="data")
    first = f"line {refused[0].line}: {words.data_problem(refused[0])}"
    hint = "write a line of JSON for each example, as in docs/tuning.md"
    return UsageError(f"nothing in {path} can be learned; {first}", hint=hint, param="data")
