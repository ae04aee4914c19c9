"""Training data for one base: read, split, turned into the tokens of requests, packed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from edgellm.adaptation import controls
from edgellm.adaptation import split as splitting
from edgellm.adaptation.example import Example
from edgellm.adaptation.findings import Findings
from edgellm.adaptation.packed import Packed
from edgellm.adaptation.packing import one_each, pack
from edgellm.adaptation.reading import data_file, read_records
from edgellm.adaptation.rendering import Renderer
from edgellm.adaptation.samples import question_of
from edgellm.adaptation.split import Split
from edgellm.app.tune.served_base import ServedBase
from edgellm.errors import UsageError, option
from edgellm.explain import tuning as words
from edgellm.types.tuning_data import DataReport, TrainingChat, TrainingRecord
from edgellm.types.tuning_options import TuneOptions

_OF_VALIDATION = 0.5  # of what is held out
# One waits for the process of the template while another waits for the worker. More at once only take turns.
_TURNING = 3
_PIECE = 1024**2
_AT_ONCE = 256  # records that are begun before one that fails, or Ctrl-C, ends it

TuneDataProgress = Callable[[int, int | None, str], None]  # how much is done, of how much (None = unknown), and what


@dataclass(frozen=True)
class TuneExamples:
    """Those that are learned, and those that choose the best step."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]

    def rows(self, length: int) -> tuple[Packed, Packed | None]:
        """Packed to rows of so many tokens, each held-out example in one of its own; None = none is held out."""
        train, validation = (_cut(examples, length) for examples in (self.train, self.validation))
        return pack(train, length), one_each(validation) if validation else None


@dataclass(frozen=True)
class TuneData:
    """Examples in tokens, and the records that judge.

    `control`: the same with answers that were dealt out anew, None = not wanted; `dealt`: what judges, with those.
    `shots`: for the prompt of the base.
    """

    examples: TuneExamples
    control: TuneExamples | None
    validation: tuple[TrainingRecord, ...]
    test: tuple[TrainingRecord, ...]
    dealt: tuple[TrainingRecord, ...]
    shots: tuple[TrainingChat, ...]
    report: DataReport
    split: Split

    @property
    def n_held_out(self) -> int:
        return len(self.examples.validation) + len(self.test)

    def asked(self, length: int) -> tuple[str, ...]:
        """The end of the question in each row of what chooses the step."""
        by_line = {record.line: question_of(record) for record in self.validation}
        pieces = Counter(example.line for example in self.examples.validation)
        rows = _cut(self.examples.validation, length)
        return tuple(by_line[row.line] if pieces[row.line] == 1 else "" for row in rows)


def _cut(examples: Sequence[Example], length: int) -> list[Example]:
    """Those of which something that is learned is left."""
    cut = [example.cut(length) for example in examples]
    return [example for example in cut if example.n_supervised]


def file_sha256(path: Path) -> str:
    """
    Raises:
        UsageError: as `adaptation.reading.data_file`.
    """
    sha256 = hashlib.sha256()
    with data_file(path) as file:
        # `file_digest` reads for ever where nothing is there yet, as in /proc/kmsg.
        while piece := file.read(_PIECE):
            sha256.update(piece)
    return sha256.hexdigest()


def prepare(path: Path, base: ServedBase, options: TuneOptions, progress: TuneDataProgress) -> TuneData:
    """
    Raises:
        UsageError: nothing in it can be learned. Others: as `adaptation.reading.read_records`.
    """
    findings = Findings()
    progress(0, None, "reading the examples")
    records = read_records(path, findings)
    share = options.held_out if options.held_out < 1 else min(0.9, options.held_out / max(1, len(records)))
    validation, test = share * _OF_VALIDATION, share * (1 - _OF_VALIDATION)

    def looking(n_done: int, n_all: int) -> None:
        progress(n_done, n_all, "looking for examples that are almost the same")

    parts = splitting.split(records, validation=validation, test=test, seed=options.seed, progress=looking)
    length = options.length or base.info.n_ctx
    prompts = base.prompts()
    renderer = Renderer(base.info, base.encode, prompts, length=length)
    wanted: list[Sequence[TrainingRecord]] = [parts.train, parts.validation]
    dealt: tuple[TrainingRecord, ...] = ()
    if options.control:
        learned, judged = len(parts.train), len(parts.train) + len(parts.validation)
        shuffled = controls.shuffled([*parts.train, *parts.validation, *parts.test], options.seed)
        wanted += [shuffled[:learned], shuffled[learned:judged]]
        dealt = tuple(shuffled[judged:])
    n_all, n_done = sum(map(len, wanted)), 0
    rendered: list[tuple[Example, ...]] = []
    for records_of_part in wanted:
        into = findings if len(rendered) < 2 else Findings()  # of the same lines, which are told once
        examples: list[Example] = []
        for of_record, its_findings in _turned(renderer, records_of_part):
            examples += of_record
            into.add_all(its_findings)
            n_done += 1
            progress(n_done, n_all, "turning the examples into tokens")
        rendered.append(tuple(examples))
    data = TuneData(
        TuneExamples(*rendered[:2]),
        TuneExamples(*rendered[2:]) if options.control else None,
        parts.validation,
        parts.test,
        dealt,
        tuple(_shots(parts, options)) if prompts else (),
        findings.report,
        parts,
    )
    if not data.examples.train:
        raise _nothing(path, data.report)
    _check_classes(path, parts)
    _check_control(data, parts, options)
    return data


def _turned(renderer: Renderer, records: Sequence[TrainingRecord]) -> Iterator[tuple[list[Example], Findings]]:
    """The examples of each record, in their order."""

    def of_one(record: TrainingRecord) -> tuple[list[Example], Findings]:
        findings = Findings()
        return renderer.examples(record, findings), findings

    with ThreadPoolExecutor(_TURNING, "edgellm-examples") as pool:
        for start in range(0, len(records), _AT_ONCE):
            yield from pool.map(of_one, records[start : start + _AT_ONCE])


def _shots(parts: Split, options: TuneOptions) -> list[TrainingChat]:
    n = controls.usual_shots(parts.classes) if options.shots is None else options.shots
    return controls.shots(parts.train, n, options.seed) if n and parts.test else []


def _check_control(data: TuneData, parts: Split, options: TuneOptions) -> None:
    """
    Raises:
        UsageError: a control was asked for that could not tell anything.
    """
    if data.control is None:
        return
    answers = {splitting.answer_of(record) for record in parts.train} - {""}
    if len(answers) < 2 or not parts.test or not data.control.train:
        what = f"shuffled answers show nothing of these data: {len(answers)} answers, {len(parts.test)} that judge"
        hint = f"leave {option('control')} out, or hold more out with {option('held_out', 0.1)}"
        raise UsageError(what, hint=hint, param="control")


def _check_classes(path: Path, parts: Split) -> None:
    """
    Raises:
        UsageError: of a class nothing is left that is learned: it would never be answered.
    """
    if not parts.unlearned:
        return
    of = ", ".join(repr(label) for label in parts.unlearned[:3])
    what = f"nothing is left in {path} that teaches {of}: what there is, is held out or resembles what is"
    hint = f"add examples of that, or hold fewer out with {option('held_out', 0)}"
    raise UsageError(what, hint=hint, param="data")


def _nothing(path: Path, report: DataReport) -> UsageError:
    refused = [one for one in report.problems if one.refuses]
    if not refused:
        what = f"{path} has no examples to learn from"
        return UsageError(what, hint=f"add some, or hold fewer out with {option('held_out', 0)}", param="data")
    first = f"line {refused[0].line}: {words.data_problem(refused[0])}"
    by_line = path.suffix.lower() in (".jsonl", ".ndjson")
    hint = "write a line of JSON for each example" if by_line else "name columns or fields: prompt and completion"
    hint += ", as in docs/tuning.md"
    return UsageError(f"nothing in {path} can be learned; {first}", hint=hint, param="data")
