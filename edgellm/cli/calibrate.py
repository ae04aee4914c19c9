"""`edgellm calibrate`: how fast this processor consumes the weights of each type, measured once and remembered."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli.page import Column, examples, say, say_json, table
from edgellm.cli.words import BACKEND, WholeNumber
from edgellm.errors import BackendUnavailable, UsageError
from edgellm.units import counted

if TYPE_CHECKING:
    from edgellm.types.calibration import Calibration

SCHEMA = 1


@click.command(epilog=examples("edgellm calibrate", "edgellm calibrate --backend gguf --threads 4"))
@click.option("--backend", type=BACKEND, help="Measure this backend only. Default: every one that can.")
@click.option("--threads", type=WholeNumber(1, 1024), help="Measure this many beside one. Default: as selection uses.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/cli.md).")
def command(*, backend: str | None, threads: int | None, as_json: bool) -> None:
    """Measure how fast this CPU runs each quantization."""
    from edgellm.hardware.probe import probe
    from edgellm.history import calibrations, calibrator

    machine = probe(measure=False)
    count = threads or machine.compute_threads
    rows = []
    for name in _chosen(backend):
        if not as_json:
            say(f"Measuring {name} at {' and '.join(map(str, sorted({1, count})))} threads ...", err=True)
        start = time.monotonic()
        calibration, slow = calibrator.believable(calibrator.measure(name, count))
        seconds = time.monotonic() - start
        try:
            calibrations.save(machine, name, calibration)
        except OSError as error:
            raise UsageError(
                f"the calibration cannot be stored: {error}", hint="set EDGELLM_HOME to a folder that can be written"
            ) from error
        rows.append(_row(name, calibration, seconds) | {"not_kept_threads": list(slow)})
        if not as_json:
            _show(name, calibration, seconds)
        if slow:
            say(
                f"Not kept: {slow[0]} threads were slower than one, so another program has a processor; "
                "run it again when the machine has nothing else to do.",
                err=True,
            )
    if as_json:
        say_json({"schema": SCHEMA, "cpu": machine.cpu.model, "calibrations": rows})
    else:
        say("Selection counts with these rates from now on; `edgellm quants` shows them.")


def _chosen(backend: str | None) -> list[str]:
    """Names of the backends to measure."""
    from edgellm.contract.backend import Calibrator
    from edgellm.contract.manager import plugins

    if backend is not None:
        plugins().backend(backend)
        return [backend]
    names = [name for name, one in plugins().backends().items() if isinstance(one, Calibrator)]
    if not names:
        raise BackendUnavailable("no installed backend measures itself", hint="see `edgellm plugins`")
    return names


def _row(name: str, calibration: Calibration, seconds: float) -> dict[str, Any]:
    kinds = [(kind, threads) for kind, threads in calibration.decode if (kind, threads) in calibration.prefill]
    return {
        "backend": name,
        "build": calibration.build,
        "date": calibration.date,
        "seconds": round(seconds, 1),
        "scatter": calibration.scatter,
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
