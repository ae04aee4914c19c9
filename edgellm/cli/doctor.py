"""`edgellm doctor`: what is used here, what is not, why, and one line that fixes each.

Examines first, then prints. Nothing is fatal here: a probe or a backend that raises is a finding like any other.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm import __version__, settings
from edgellm.cli import dump
from edgellm.cli.doctor_grammar import examine_grammar
from edgellm.cli.doctor_store import examine_rows, examine_store
from edgellm.cli.page import examples, say_json, say_lines
from edgellm.cli.report import LIBRARIES, Report, render
from edgellm.files import read_json_record
from edgellm.units import MIB, counted, show_memory

if TYPE_CHECKING:
    from edgellm.contract.backend import Advice, Backend, Device, Offload
    from edgellm.selection.backend_facts import BackendFacts
    from edgellm.types.machine import Machine

SETUP_BACKENDS = {"bitnet": "ternary models", "gguf": "most models (GGUF files)", "onnx": "ONNX models"}
SETUP_RECORD = "edgellm-setup.json"  # written by plugins/install.py into the environment it makes


@click.command(epilog=examples("edgellm doctor", "edgellm doctor --json > machine.json"))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/cli.md).")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Say what is used, what is not, why, and how to mend it."""
    report = examine(ctx)
    if as_json:
        say_json(dump.anonymous(asdict(report)))
    else:
        say_lines(render(report))


def examine(ctx: click.Context) -> Report:
    report = Report(versions=versions())
    home = report.attempt("the environment", lambda: settings.current().data_dir)
    if home is None:
        # The machine and its backends can be told all the same, as for somebody who keeps nothing yet.
        empty = ctx.with_resource(tempfile.TemporaryDirectory())
        ctx.with_resource(settings.override(home=Path(empty)))
    machine = report.attempt("the hardware probe", _probe)
    if machine is not None:
        report.machine = asdict(machine) | {"memory_budget_bytes": machine.memory_budget_bytes}
        examine_machine(report, machine)
        examine_backends(report, machine)
        if home is not None:
            examine_history(report, machine)
    examine_plugins(report, ctx)
    failed = examine_setup(report, Path(sys.prefix) / SETUP_RECORD)
    examine_missing(report, failed)
    report.settings = dump.settings_in_use()
    if home is not None:
        examine_store(report)
    else:
        report.settings |= {"data": "", "cache": ""}
    examine_rows(report)
    examine_grammar(report)
    examine_variables(report)
    if settings.current().offline:
        report.note("EDGELLM_OFFLINE is set: only models that need no network are chosen", "unset EDGELLM_OFFLINE")
    return report


def versions() -> dict[str, str]:
    numbers = {"edgellm": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for name in LIBRARIES:
        try:
            numbers[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            numbers[name] = "not installed"
    return numbers


def _probe() -> Machine:
    from edgellm.hardware.probe import probe

    return probe(measure=False)


def examine_machine(report: Report, machine: Machine) -> None:
    from edgellm import explain
    from edgellm.hardware.host_checks import hindrances

    limit, total = machine.limits.memory_bytes, machine.memory.total_bytes
    if limit is not None and limit < total:
        report.note(
            f"memory: {show_memory(limit)} of {show_memory(total)} ({machine.limits.source})",
            "a larger limit of the container allows a larger model",
        )
    if machine.limits.cpus is not None and machine.limits.cpus < machine.cpu.cores:
        report.note(
            f"processor: a quota of {machine.limits.cpus:g} of {machine.cpu.cores} cores gives "
            + counted(machine.compute_threads, "thread"),
            "a larger quota makes answers faster",
        )
    for hindrance in report.attempt("the look at system settings", lambda: hindrances(machine)) or []:
        report.note(hindrance.text, hindrance.fix)
    for text in machine.notes:
        report.note(text)
    for problem in machine.gpu_problems:
        report.note(explain.gpu_problem(problem), explain.gpu_remedy(problem))


def examine_history(report: Report, machine: Machine) -> None:
    """What was calibrated, what ran here, and where it differed from its prediction."""
    from edgellm.contract.backend import Calibrator
    from edgellm.contract.manager import plugins
    from edgellm.selection.backend_facts import backend_facts

    able = [plugins().backend(row["name"]) for row in report.backends if row["can_run"] and row["name"] != "echo"]
    facts = {f.name: f for f in report.attempt("the backends' facts", lambda: backend_facts(able, machine)) or ()}
    report.calibrations = dump.calibrations(facts)
    examine_calibrations(
        report, machine, [facts[b.name] for b in able if isinstance(b, Calibrator) and b.name in facts]
    )
    read = report.attempt("the history of runs", lambda: dump.history_of(machine, facts))
    if read is None:
        return
    log, report.history = read
    if log.problem:
        report.problem(log.problem, f"move {log.path} away: what was learned is forgotten")
    if log.skipped and not log.rows:
        report.problem(
            f"none of the {counted(log.skipped, 'line')} of {log.path} can be read",
            "move it away: what was learned is lost",
        )
    elif log.skipped:
        report.note(f"{counted(log.skipped, 'line')} of {log.path} cannot be read: left out")
    for row in report.history["drift"]:
        report.note(f"drift: {row['text']}", row["fix"])
    for row in report.history["vetoes"]:
        again = (
            f"`edgellm bench {row['model']}:{row['quant']} --repeat 0 --perplexity TEXT --against MODEL` checks again"
        )
        report.note(f"{row['model']} {row['quant']} is not chosen on {row['backend']}: {row['reason']}", again)


def examine_calibrations(report: Report, machine: Machine, facts: Sequence[BackendFacts]) -> None:
    """Which speeds are predicted although they could be measured. `facts` are of backends that measure themselves."""
    from edgellm import explain
    from edgellm.selection.reasons import set_aside

    aside = [reason for one in facts for reason in set_aside(one, machine.compute_threads)]
    report.set_aside = [reason.backend for reason in aside]
    unknown = [one.name for one in facts if one.calibration is None and one.set_aside is None]
    texts = [f"not measured: {', '.join(unknown)}"] if unknown else []
    dated = ((row, f" on {row.date}" if row.date else "") for row in aside)
    texts += [f"{row.backend} was measured{on}, but {explain.measured_beside(row)}" for row, on in dated]
    if texts:
        report.note(
            f"speeds are predicted from processors of this kind: {'; '.join(texts)}",
            f"`edgellm calibrate` {explain.WHEN_QUIET}; each backend takes up to a minute",
        )


def examine_backends(report: Report, machine: Machine) -> None:
    from edgellm.contract import answers
    from edgellm.contract.backend import Offloader
    from edgellm.contract.manager import plugins
    from edgellm.selection.backend_facts import offload_facts

    offloads: list[Offload] = []
    every = tuple(plugins().backends().values())
    for name, backend in plugins().backends().items():
        reasons = answers.check(backend, machine)
        about = answers.describe(backend)  # which may hold what the check has found out
        offload = report.attempt("GPUs", lambda backend=backend: offload_facts(backend, machine, every))  # type: ignore[misc]
        if offload is not None:
            about |= {"GPU": "; ".join(map(_device, offload.devices)) or f"none: {offload.missing}"}
        if offload is not None and isinstance(backend, Offloader):
            offloads.append(offload)
        devices = [asdict(device) for device in offload.devices] if offload else []
        for problem in offload.problems if offload else ():
            report.note(f"backend {name}: {problem}", "install what it names; until then plans go without it")
        row = {"name": name, "can_run": reasons == [], "reasons": reasons, "about": about, "devices": devices}
        report.backends.append(row)
        advice = report.attempt("advice", lambda backend=backend: advise(backend, machine)) or []  # type: ignore[misc]
        fixes = {row.text: row.fix for row in advice}
        faults = "; ".join(row.error for row in plugins().rows())  # told as the plugins'
        for reason in (reason for reason in reasons if f"backend {name}: {reason}" not in faults):
            report.problem(f"backend {name} cannot run here: {reason}", fixes.pop(reason, "") or again(name))
        for text, fix in fixes.items():
            report.note(f"backend {name}: {text}", fix)
    able = [row["name"] for row in report.backends if row["can_run"] and row["name"] != "echo"]
    if able:
        report.used = f"{', '.join(able)} on {counted(machine.compute_threads, 'thread')}, "
        report.used += f"with {show_memory(machine.memory_budget_bytes)} for models"
    else:
        report.used = "no backend that runs a model (echo only repeats what it is told)"
        report.problem("no backend can run a model here", "`make setup`, or pip install edgellm-gguf")
    examine_accelerators(report, machine, offloads)


def advise(backend: Backend, machine: Machine) -> list[Advice]:
    from edgellm.contract.answers import answer
    from edgellm.contract.backend import Adviser

    advice: list[Advice] = answer(backend, "advise", machine) if isinstance(backend, Adviser) else []
    return advice


def again(name: str) -> str:
    """How to install a backend again: set-up leaves a record in the environments that it makes."""
    if name not in SETUP_BACKENDS:
        return f"what the author of {name} says of it (`edgellm plugins` names its distribution)"
    if (Path(sys.prefix) / SETUP_RECORD).exists():
        return "`make setup` builds it again for this machine"
    return f"pip install --force-reinstall the distribution of {name} (`edgellm plugins` names it), or `make setup`"


def examine_accelerators(report: Report, machine: Machine, offloads: list[Offload]) -> None:
    """A GPU is used only by a backend whose build sees one."""
    if any(offload.devices for offload in offloads):
        return
    for accelerator in machine.accelerators:
        if not accelerator.usable:
            continue  # for a reason that no build mends, told with its remedy
        why = "; ".join(offload.missing for offload in offloads) or "no installed backend puts layers on a GPU"
        cure = next((offload.remedy for offload in offloads if offload.remedy), "")
        report.note(f"{accelerator.name} is not used: {why}", cure)


def _device(device: Device) -> str:
    shared = "of the machine's memory" if device.unified else "of its own"
    return f"{device.name}, {device.description}, {show_memory(device.total_bytes)} {shared}"


def examine_plugins(report: Report, ctx: click.Context) -> None:
    from edgellm.cli.plugins import collect

    report.plugins = report.attempt("the list of plugins", lambda: collect(ctx)) or []
    for row in report.plugins:
        if row["status"] == "error":
            fix = f"pip install --upgrade or uninstall {row['distribution'].split(' ')[0]}"
            report.problem(f"plugin {row['name']}: {row['error']}", fix)
        elif row["status"] == "off":
            report.note(f"plugin {row['name']} is off: {row['error']}", "add its name to EDGELLM_PLUGINS, or unset it")


def examine_variables(report: Report) -> None:
    """Variables of EdgeLLM's that it does not know, or with values that mean nothing."""
    from edgellm.contract.manager import plugins

    backends = [row["name"] for row in report.backends]
    others = {name: value for name, value in os.environ.items() if name != "EDGELLM_HOME"}  # which is told already
    report.attempt("the environment", lambda: settings.check(others))
    report.attempt("the environment", lambda: plugins().check_names())
    for name, near in settings.strangers(os.environ, backends).items():
        fix = f"`{near}` may be meant; " if near else ""
        report.note(f"{name} is set and has no meaning", f"{fix}docs/cli.md lists the variables")


def examine_missing(report: Report, failed: Collection[str]) -> None:
    """The plugins of EdgeLLM's own that are not here, as while `make setup` is at work; `failed` are told already."""
    installed = {row["name"] for row in report.plugins}
    for name, runs in SETUP_BACKENDS.items():
        if name not in installed and (distribution := f"edgellm-{name}") not in failed:
            report.note(
                f"{distribution}, which runs {runs}, is not installed", f"`make setup`, or pip install {distribution}"
            )


def examine_setup(report: Report, record: Path) -> set[str]:
    """What `make setup` could not install; there is no record where pip alone was used."""
    try:
        rows = read_json_record(record, dict[str, Any], MIB)
        failed = [(name, row["note"], row["hint"]) for name, row in rows.items() if row["status"] == "failed"]
    except FileNotFoundError:
        return set()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        report.note(f"{record} cannot be read: {error}", "`make setup` writes it again")
        return set()
    for name, note, hint in failed:
        report.problem(f"set-up could not install {name}: {note}", hint)
    return {name for name, _, _ in failed}
