"""`edgellm calibrate`: how fast this processor or a GPU consumes the weights of each type, measured and remembered."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli import _options
from edgellm.cli.page import Column, examples, say, say_json, table
from edgellm.cli.words import BACKEND, WholeNumber
from edgellm.errors import BackendUnavailable, EdgeLLMError, StoreUnwritable, UsageError
from edgellm.units import counted

if TYPE_CHECKING:
    from edgellm.history.run_log import Run
    from edgellm.types.calibration import Calibration, Occasion
    from edgellm.types.machine import Machine

SCHEMA = 1


@click.command(
    epilog=examples(
        "edgellm calibrate", "edgellm calibrate --backend gguf --threads 4", "edgellm calibrate --device CUDA0"
    )
)
@click.option("--backend", type=BACKEND, help="Measure this backend only. Default: every one that can.")
@click.option("--threads", type=WholeNumber(1, 1024), help="Measure this many beside one. Default: as selection uses.")
@_options.device
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/cli.md).")
@click.pass_context
def command(ctx: click.Context, *, backend: str | None, threads: int | None, as_json: bool) -> None:
    """Measure how fast this CPU, or with --device a GPU, runs each quantization."""
    from edgellm import settings
    from edgellm.hardware.probe import probe
    from edgellm.history import calibrations, calibrator

    machine, unmeasured = probe(measure=False), _Unmeasured(is_named=backend is not None)
    if devices := settings.flag("devices"):
        if threads is not None:
            raise UsageError("--threads is of the processor, --device of a GPU", hint="leave one out", param="threads")
        _measure_devices(_names(backend), devices, machine, unmeasured, as_json=as_json)
        ctx.exit(unmeasured.status)
    _require_kept(settings.current().cache_dir / calibrations.FOLDER)
    count = threads or machine.compute_threads
    rows: list[dict[str, Any]] = []
    counting = []
    for name in unmeasured.able(_chosen(backend), machine):
        if not as_json:
            say(f"Measuring {name} at {' and '.join(map(str, sorted({1, count})))} threads ...", err=True)
        start = time.monotonic()
        try:
            calibration = calibrator.believable(calibrator.measure(name, count))
        except EdgeLLMError as error:
            unmeasured.add(name, error)
            continue
        seconds = time.monotonic() - start
        try:
            kept = calibrations.save(machine, name, calibration)
        except OSError as error:
            raise _not_stored(error) from error
        rows.append(_row(name, calibration, seconds))
        if not as_json:
            _show(name, calibration, seconds)
        if _counts(name, calibration, kept, machine.compute_threads):
            counting.append(name)
    if as_json:
        say_json({"schema": SCHEMA, "cpu": machine.cpu.model, "calibrations": rows} | unmeasured.rows)
    elif counting:
        rates = "these rates" if len(counting) == len(rows) else f"the rates of {' and '.join(counting)}"
        say(f"Selection counts with {rates} from now on; `edgellm quants` shows them.")
    ctx.exit(unmeasured.status)


@dataclass
class _Unmeasured:
    """Backends that are not measured, each told of in a line, and the others are. Of one that was named it is the
    command's error."""

    is_named: bool
    unable: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    status: int = 0  # of the first that failed

    @property
    def rows(self) -> dict[str, list[dict[str, Any]]]:
        return {"unable": self.unable, "failed": self.failed}

    def able(self, names: Sequence[str], machine: Machine) -> list[str]:
        """Those that can run here.

        Raises:
            BackendUnavailable: none can.
        """
        able = [name for name in names if self._can_run(name, machine)]
        if not able and not self.failed:
            raise BackendUnavailable("no backend that could be measured can run here", hint="see `edgellm doctor`")
        return able

    def add(self, name: str, error: EdgeLLMError) -> None:
        """One that failed."""
        if self.is_named:
            raise error
        say(" ".join(f"Error: {error}".split()), err=True)
        self.failed.append({"backend": name, "code": error.code, "message": error.message, "hint": error.hint})
        self.status = self.status or error.exit_code

    def _can_run(self, name: str, machine: Machine) -> bool:
        from edgellm.contract.answers import answer
        from edgellm.contract.manager import plugins

        try:
            reasons = list(answer(plugins().backend(name), "check", machine))
        except EdgeLLMError as error:
            self.add(name, error)
            return False
        if reasons:
            told = f"backend {name} cannot run here: {'; '.join(reasons)}"
            if self.is_named:
                raise BackendUnavailable(told, hint="`edgellm doctor` says what mends it")
            say(f"Not measured: {' '.join(told.split())}", err=True)
            self.unable.append({"backend": name, "reasons": reasons})
        return not reasons


def _counts(name: str, measured: Calibration, kept: Calibration, threads: int) -> bool:
    """Whether plans go by what was measured now; says why not, or what was left out."""
    from edgellm import explain
    from edgellm.history import occasions
    from edgellm.types.backend_reason import RatesSetAside

    count, when = _last(measured)
    if occasions.contended(when):
        reached = explain.measured_beside(RatesSetAside(name, count, when.date, when.taken, when.waited, when.of_one))
        if kept.occasions.get(count) != when:
            say(f"Not kept: {reached}. The earlier rates stay: they were measured at a quieter time.", err=True)
            return False
        others = "speeds are predicted" if occasions.quiet(kept, threads) is None else "those of other threads count"
        say(f"Kept, but does not count: {reached}. Run it again {explain.WHEN_QUIET}; until then {others}.", err=True)
        return False
    if when.of_one is not None:
        say(f"{counted(count, 'thread')} are left out: they reached {when.of_one:.0%} of what one does.", err=True)
    return True


def _measure_devices(
    names: list[str], devices: Sequence[str], machine: Machine, unmeasured: _Unmeasured, *, as_json: bool
) -> None:
    from edgellm import explain
    from edgellm.app import calibrate_device
    from edgellm.contract.manager import plugins
    from edgellm.history import run_log
    from edgellm.selection.backend_facts import backend_facts

    _require_kept(run_log.path_of(machine).parent)
    rows = []
    able = unmeasured.able(calibrate_device.able(names), machine)
    for facts in backend_facts([plugins().backend(name) for name in able], machine):
        # Names in capitals, too: those are as the backend has them.
        for device in facts.offload.devices if facts.offload else ():
            if not as_json:
                say(f"Measuring {device.description} ({device.name}) with {facts.name} ...", err=True)
            try:
                runs = calibrate_device.measured(facts, machine, device.name)
            except OSError as error:
                raise _not_stored(error) from error
            except EdgeLLMError as error:
                unmeasured.add(facts.name, error)
                continue
            rows += [explain.plain(run) for run in runs]
            if not as_json:
                _show_device(device.description, runs)
    if as_json:
        say_json({"schema": SCHEMA, "devices": list(devices), "runs": rows} | unmeasured.rows)
    elif rows:
        say("Plans for it count with these rates from now on; `edgellm doctor --json` has them under history.")


def _show_device(description: str, runs: Sequence[Run]) -> None:
    say(f"{description}: tokens per second of small models, beside what was predicted")
    rows = [
        (
            run.quant,
            *(_against(getattr(run.measured, name), getattr(run.predicted, name)) for name in ("decode", "prefill")),
        )
        for run in runs
    ]
    table((Column("type"), Column("answers", right=True), Column("prompts", right=True)), rows)


def _against(measured: float | None, predicted: float | None) -> str:
    return f"{measured or 0:,.1f}" + (f" / {predicted:,.1f}" if predicted else "")


def _require_kept(folder: Path) -> None:
    """
    Raises:
        StoreUnwritable: nothing can be kept there, which is told before a minute of measuring.
    """
    from edgellm.files import try_to_write

    try:
        try_to_write(folder)
    except OSError as error:
        raise _not_stored(error) from error


def _not_stored(error: OSError) -> StoreUnwritable:
    where = f"{error.filename} cannot be written: " if error.filename else ""
    message = f"the calibration cannot be stored: {where}{error.strerror or error}"
    return StoreUnwritable(message, hint="set EDGELLM_HOME to a folder that can be written")


def _names(backend: str | None) -> list[str]:
    """Of the backend that is named, or of all."""
    from edgellm.contract.manager import plugins

    if backend is not None:
        plugins().backend(backend)
        return [backend]
    return list(plugins().backends())


def _chosen(backend: str | None) -> list[str]:
    """Names of the backends to measure."""
    from edgellm.contract.backend import Calibrator
    from edgellm.contract.manager import plugins

    if backend is not None:
        return _names(backend)
    names = [name for name, one in plugins().backends().items() if isinstance(one, Calibrator)]
    if not names:
        raise BackendUnavailable("no installed backend measures itself", hint="see `edgellm plugins`")
    return names


def _last(calibration: Calibration) -> tuple[int, Occasion]:
    """The most threads of a measurement, and what they had beside them, as all of it had."""
    from edgellm.types.calibration import Occasion

    count = max(calibration.counts, default=0)
    return count, calibration.occasions.get(count, Occasion())


def _row(name: str, calibration: Calibration, seconds: float) -> dict[str, Any]:
    from edgellm.history import occasions

    _, when = _last(calibration)
    kinds = [(kind, threads) for kind, threads in calibration.decode if (kind, threads) in calibration.prefill]
    return {
        "backend": name,
        "build": calibration.build,
        "date": calibration.date,
        "seconds": round(seconds, 1),
        "scatter": calibration.scatter,
        "counts": not occasions.contended(when),
        "taken": when.taken,
        "waited": when.waited,
        "not_kept_threads": [count for count, one in calibration.occasions.items() if one.of_one is not None],
        "rates": [
            {
                "type": kind,
                "threads": threads,
                "decode_gw_s": calibration.decode[kind, threads],
                "prefill_gw_s": calibration.prefill[kind, threads],
            }
            for kind, threads in kinds
        ],
    }


def _show(name: str, calibration: Calibration, seconds: float) -> None:
    repeats = f", rates repeated within {calibration.scatter:.0%}" if calibration.scatter else ""
    say(f"{name}: {calibration.build}, {seconds:.1f} s{repeats}")
    say("1e9 weights per second, one token at a time / in prompts of 512")
    counts = sorted({count for _, count in calibration.decode})
    kinds = dict.fromkeys(kind for kind, _ in calibration.decode)
    rows = []
    for kind in sorted(kinds, key=lambda kind: -calibration.decode.get((kind, counts[0]), 0)):
        rates = ((calibration.decode.get((kind, n), 0), calibration.prefill.get((kind, n), 0)) for n in counts)
        rows.append((kind, *(f"{decode:.1f} /{prefill:7.1f}" for decode, prefill in rates)))
    table((Column("type"), *(Column(counted(count, "thread"), right=True) for count in counts)), rows)
