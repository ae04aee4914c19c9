"""What ran on this machine: one JSON object a line, a file a machine, in the data folder.

Several processes may write: lines are added under a lock, and a file that grew too large is replaced atomically by its
newest lines. A line that cannot be read is skipped and counted.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edgellm import settings
from edgellm.files import at_once, make_private, read_regular, write_atomic
from edgellm.history import fingerprint
from edgellm.history.corrections import Corrections, Ratio, RunKey
from edgellm.history.corrections import corrections as from_ratios
from edgellm.types.gpu_place import GpuPlace
from edgellm.types.machine import Machine
from edgellm.types.plan import LaunchPlan
from edgellm.units import GIB

MAX_BYTES = 1024**2  # some thousand runs
LOCK_TIMEOUT_S = 5.0
MAX_LINE_BYTES = 64 * 1024
# Share of waiting. With up to 0.085 a model decoded here as fast as with 0.005; with 0.097 half as fast (SmolLM2-135M).
BUSY = 0.09
GPU_BUSY = 0.15  # more than a desktop that is drawn takes
OF_REQUESTS = 0.25  # of the memory of a model; predictions of what it takes itself are nearer
CALIBRATION = "calibration"  # the model of runs that `edgellm calibrate --device` makes
MAX_CHECKS = 256  # quality checks that outlive the lines around them
_COMPARED = ("decode", "prefill", "resident_bytes")

# What a line may hold, far beyond what machines reach: a line with another number is skipped, as one that is broken.
_Speed = Annotated[float, Meta(ge=1e-6, le=1e9)]  # tokens per second
_Bytes = Annotated[int, Meta(ge=0, le=1 << 60)]
_Count = Annotated[int, Meta(ge=0, le=1 << 40)]
_Amount = Annotated[float, Meta(ge=0, le=1e300)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Difference = Annotated[float, Meta(ge=-1, le=700)]  # nats: noise may be below 0, and more has no exponential


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """Predicted or measured; None = not known. Rates in tokens per second."""

    decode: _Speed | None = None  # one slot alone
    prefill: _Speed | None = None
    first_token_s: _Amount | None = None
    batched: _Speed | None = None  # all slots together, while several decoded
    resident_bytes: _Bytes | None = None  # of the worker, at its peak
    loaded_bytes: _Bytes | None = None  # of the worker, once loaded
    allocated_bytes: _Bytes | None = None  # as the library reports it


class _Line(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """What every line says. A later line with the same id takes the place of the earlier one."""

    id: str
    time: str  # UTC
    backend: str
    model: str
    quant: str


class Run(_Line, frozen=True, kw_only=True, tag="run"):
    """One load."""

    build: str  # of the backend: what its numbers can be compared with
    basis: str  # fingerprint of what the predictions were made of; others are not comparable
    threads: _Count
    ctx: _Count
    slots: _Count
    kv_type: str
    gpu_layers: Annotated[int, Meta(ge=-1, le=1 << 40)] = 0  # -1 = all
    experts_away: _Count = 0
    place: GpuPlace | None = None  # None = on the processor, or on GPUs whose speed was not predicted
    depth: _Count = 0  # tokens in the cache in the middle of what was decoded
    requests: _Count = 0
    restarts: _Count = 0  # of a worker that died; what was measured across one counts for nothing
    waited: _Share | None = None  # share of the time that others had the processors; None = not known
    gpu_busy: _Share | None = None  # of the time, its GPUs computed for others; None = not known
    whole_batch: bool = False  # a prompt filled a whole batch, so that the peak is the peak
    predicted: Numbers = Numbers()  # before corrections
    measured: Numbers = Numbers()

    @property
    def rated_by(self) -> str:
        return fingerprint.name(self.backend, self.place)


class BenchTest(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `edgellm bench`: the median of its repeats, with the least and the most."""

    name: str  # "pp512", "tg64", "tg64 @ 2048"
    threads: _Count
    median: _Amount
    low: _Amount
    high: _Amount
    repeats: _Count


class Bench(_Line, frozen=True, kw_only=True, tag="bench"):
    """One `edgellm bench`."""

    sha256: str
    build: str
    kv_type: str
    tests: tuple[BenchTest, ...]


class Quality(_Line, frozen=True, kw_only=True, tag="quality"):
    """One quality check of `edgellm bench`. `veto`: why selection must not choose it; "" = it may."""

    sha256: str
    text_sha256: str
    tokens: _Count  # scored
    perplexity: _Amount
    reference: str = ""  # model and quantization that it was compared with
    reference_quant: str = ""
    reference_perplexity: _Amount | None = None
    mean_kl: _Difference | None = None  # nats per token, of the reference against it
    high_kl: _Difference | None = None  # 99th percentile
    top_agreement: _Share | None = None  # share of tokens with the same likeliest next one
    veto: str = ""


Row = Run | Bench | Quality
_decoder = msgspec.json.Decoder(Row)


@dataclass(frozen=True, slots=True)
class History:
    """Everything that is known of a machine, oldest first."""

    path: Path
    rows: tuple[Row, ...] = ()
    skipped: int = 0  # lines that could not be read
    problem: str = ""  # why the file itself could not be

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(row for row in self.rows if isinstance(row, Run))

    @property
    def benches(self) -> tuple[Bench, ...]:
        return tuple(row for row in self.rows if isinstance(row, Bench))

    @property
    def checks(self) -> tuple[Quality, ...]:
        return tuple(row for row in self.rows if isinstance(row, Quality))


def new_id() -> str:
    return uuid.uuid4().hex[:16]


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def about(plan: LaunchPlan, line_id: str = "") -> dict[str, Any]:
    """The head of a line: of which load it is. Without `line_id` it gets a new one."""
    file = plan.artifact
    head = {"backend": plan.backend, "model": file.model_id, "quant": file.quant}
    return {"id": line_id or new_id(), "time": now(), **head}


def machine_key(machine: Machine) -> str:
    """The same for the same hardware; knows no host name and no serial number."""
    cpu = machine.cpu
    facts = (cpu.arch, cpu.model, cpu.cores, cpu.threads, *cpu.isa, round(machine.memory.total_bytes / GIB, 1))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def path_of(machine: Machine) -> Path:
    return settings.current().data_dir / "history" / f"{machine_key(machine)}.jsonl"


def record(machine: Machine, row: Row) -> None:
    """Add a line; the oldest ones go where the file would grow beyond MAX_BYTES.

    Raises:
        OSError: the folder cannot be written, or another process holds the lock for long.
    """
    from filelock import FileLock  # 12 ms, which a decision does not need

    path = path_of(machine)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = msgspec.json.encode(row) + b"\n"
    make_private(path.with_suffix(".lock"))
    with FileLock(path.with_suffix(".lock"), timeout=LOCK_TIMEOUT_S):
        size = path.stat().st_size if path.exists() else 0
        if size + len(line) > MAX_BYTES:
            _shorten(path)
        with open(path, "ab", opener=at_once) as file:
            # A writer that was killed may have left half a line, which must not spoil this one.
            file.write(line if _ends_whole(path) else b"\n" + line)


def read(machine: Machine) -> History:
    """What is known of the machine. Never raises: a file that cannot be read is an empty history with a problem."""
    path = path_of(machine)
    try:
        raw = read_regular(path, 2 * MAX_BYTES)
    except FileNotFoundError:
        return History(path)
    except OSError as error:
        return History(path, problem=f"{path} cannot be read: {error.strerror}")
    rows: dict[tuple[type, str], Row] = {}
    skipped = 0
    for line in raw.splitlines():
        try:
            row = _decoder.decode(line[:MAX_LINE_BYTES])
        except (msgspec.MsgspecError, ValueError, RecursionError):
            skipped += bool(line.strip())
            continue
        # The latest line of a load counts, in the place where it stands.
        rows.pop((type(row), row.id), None)
        rows[type(row), row.id] = row
    return History(path, tuple(rows.values()), skipped)


def corrections(machine: Machine, bases: Mapping[str, str] | None = None, threads: int | None = None) -> Corrections:
    """Factors for predictions on this machine with so many threads; None = whatever ran.

    `bases`: by `fingerprint.name`, what predictions are made of now. Runs that were predicted from something
    else (another calibration, another build) are left out. None = every run counts.
    """
    return of_runs(read(machine).runs, bases, threads)


def of_runs(runs: Sequence[Run], bases: Mapping[str, str] | None = None, threads: int | None = None) -> Corrections:
    """See `corrections`. A file that ran with `threads` threads is corrected by those runs only."""
    steady = [run for run in runs if not run.restarts and (run.place is not None or not run.gpu_layers)]
    comparable = [run for run in steady if bases is None or bases.get(run.rated_by) == run.basis]
    # Threads compute nothing where GPUs do all of it.
    alike = {id(run) for run in comparable if run.threads == threads or (run.place and run.place.split == "whole")}
    files = {(_key(run), run.place) for run in comparable if id(run) in alike}
    return from_ratios(ratio(run) for run in comparable if id(run) in alike or (_key(run), run.place) not in files)


def _key(row: Row) -> RunKey:
    return row.backend, row.model, row.quant


def ratio(run: Run) -> Ratio:
    """Measured over predicted, as far as the next plan may learn from it.

    Rates are left out where other programs used the processors, and memory below the prediction is left out unless a
    prompt filled a batch.
    """
    ratios = quotients(run)
    rates = (None, None) if is_busy(run) else (ratios["decode"], ratios["prefill"])
    resident = ratios["resident_bytes"]
    if resident is not None and resident < 1 and not run.whole_batch:
        resident = None
    held = (run.gpu_layers, run.experts_away)
    return Ratio(run.backend, run.model, run.quant, *rates, resident, run.kv_type, run.place, held)


def is_busy(run: Run) -> bool:
    """Whether other programs used the processors or GPUs for so long that the rates are theirs as well."""
    return (run.waited or 0) > BUSY or is_gpu_busy(run)


def is_gpu_busy(run: Run) -> bool:
    return (run.gpu_busy or 0) > GPU_BUSY


def quotients(run: Run) -> dict[str, float | None]:
    """Measured over predicted, by the names of `Numbers`; None where one of the two is not known, or says nothing."""
    if run.restarts:
        return dict.fromkeys(_COMPARED)
    ratios = {name: _quotient(getattr(run.measured, name), getattr(run.predicted, name)) for name in _COMPARED}
    return ratios | {"resident_bytes": None} if _is_of_requests(run) else ratios


def _is_of_requests(run: Run) -> bool:
    """Whether much of the worker's memory held what clients had sent: more than the library says that it allocated."""
    measured, predicted = run.measured, run.predicted
    if not (measured.resident_bytes and predicted.resident_bytes):
        return False
    if measured.allocated_bytes is None or predicted.allocated_bytes is None:
        return False
    of_model = predicted.resident_bytes + max(0, measured.allocated_bytes - predicted.allocated_bytes)
    return measured.resident_bytes > of_model * (1 + OF_REQUESTS)


def _quotient(measured: float | None, predicted: float | None) -> float | None:
    return measured / predicted if measured and predicted and measured > 0 and predicted > 0 else None


def vetoes(machine: Machine) -> dict[RunKey, str]:
    """Why it must not be chosen, by the last quality check of each."""
    last = {_key(check): check.veto for check in read(machine).checks}
    return {key: why for key, why in last.items() if why}


def _ends_whole(path: Path) -> bool:
    with open(path, "rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _shorten(path: Path) -> None:
    """Keep the newest half, and quality checks, whose vetoes must not be forgotten. Unreadable lines are dropped."""
    lines: list[bytes] = []
    room, checks = MAX_BYTES // 2, MAX_CHECKS
    keys = set()
    for line in reversed(read_regular(path, 2 * MAX_BYTES).splitlines()):
        try:
            row = _decoder.decode(line)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue
        is_check = isinstance(row, Quality)
        key = (type(row), _key(row) if is_check else row.id)
        if key in keys or (room < len(line) and not (is_check and checks)):
            continue
        keys.add(key)
        room -= len(line) + 1
        checks -= is_check
        lines.append(line + b"\n")
    write_atomic(path, b"".join(reversed(lines)))
