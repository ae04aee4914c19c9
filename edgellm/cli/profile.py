"""`edgellm profile`: what is known of this machine, or of one described in a profile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli._options import profile
from edgellm.cli.page import entry, examples, say, say_json, say_whole
from edgellm.errors import UsageError
from edgellm.files import write_atomic
from edgellm.units import counted, show_memory

if TYPE_CHECKING:
    from edgellm.types.machine import Machine


@click.command(
    name="profile",
    epilog=examples(
        "edgellm profile",
        "edgellm profile --list",
        "edgellm profile --profile raspberry-pi-5-8gb",
        "edgellm profile --out this-machine.toml",
    ),
)
@click.argument("word", required=False, type=click.Choice(["list"]), metavar="[list]")
@profile("Show another machine")
@click.option("--out", metavar="FILE", help="Write the profile as TOML; - is standard output.")
@click.option("--force", is_flag=True, help="Let --out replace a file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--list", "listing", is_flag=True, help="List the profiles that come with EdgeLLM.")
@click.option("--no-measure", is_flag=True, help="Do not measure the memory bandwidth; use an earlier measurement.")
def command(
    *,
    word: str | None,
    profile: str | None,
    out: str | None,
    force: bool,
    as_json: bool,
    listing: bool,
    no_measure: bool,
) -> None:
    """Show or write what EdgeLLM knows of this machine."""
    from edgellm.hardware import profiles

    if listing or word == "list":
        _list(as_json)
        return
    if as_json and out == "-":
        raise UsageError("--json and --out - both want standard output", hint="give one of them, or --out FILE")
    if profile is not None:
        whole = profiles.load_whole(profile)
        machine, measured = whole.machine, whole.calibrations
    else:
        from edgellm.hardware.probe import probe

        machine = probe(measure=not no_measure, refine=not no_measure)
        measured = _measured(machine) if out is not None else {}
    if out is not None:
        _write(profiles.dump(machine, measured), out, force)
    if as_json:
        say_json(_as_json(machine))
    elif out is None:
        _show(machine)


def _measured(machine: Machine) -> dict[str, Any]:
    """What `edgellm calibrate` measured here, by backend."""
    from edgellm.contract.manager import plugins
    from edgellm.history import calibrations
    from edgellm.selection.backend_facts import calibration_of

    rates = {backend.name: calibration_of(backend, machine) for backend in plugins().backends().values()}
    return {name: calibrations.stated(one) for name, one in rates.items() if one is not None}


def _list(as_json: bool) -> None:
    from edgellm.hardware import profiles

    names = profiles.names()
    if as_json:
        say_whole(json.dumps(names) + "\n")
        return
    for name in names:
        say(profiles.load(name).name, lead=f"{name:32} ")


def _write(text: str, out: str, force: bool) -> None:
    """Writes the whole file or nothing, and replaces a file only with `force`."""
    if out == "-":
        say_whole(text)
        return
    path = Path(out)
    if path.exists() and not force:
        raise UsageError(f"{path} exists already", hint="choose another name, or add --force to replace it")
    try:
        write_atomic(path, text.encode())
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", hint="choose another folder") from None
    click.echo(f"Wrote {path}", err=True)


def _as_json(machine: Machine) -> dict[str, object]:
    import msgspec

    from edgellm.hardware import gpu_table

    ram_bytes = machine.memory.total_bytes
    return {
        "schema": 1,
        "machine": msgspec.to_builtins(machine),
        "gpus": [msgspec.to_builtins(gpu_table.find(gpu, ram_bytes)) for gpu in machine.accelerators],
        "memory_budget_bytes": machine.memory_budget_bytes,
        "compute_threads": machine.compute_threads,
        "source_trust": machine.source_trust,
    }


def _show(machine: Machine) -> None:
    say(machine.name, bold=True)
    for label, text in _rows(machine):
        entry(label, text)


def _rows(machine: Machine) -> list[tuple[str, str]]:
    from edgellm import explain
    from edgellm.hardware import gpu_table

    cpu, ram = machine.cpu, machine.memory
    available = "not stated" if ram.available_bytes is None else show_memory(ram.available_bytes)
    bandwidth = "unknown" if ram.bandwidth_gb_s is None else f"{ram.bandwidth_gb_s:g} GB/s ({ram.bandwidth_basis})"
    rows = [
        ("id", machine.id),
        ("processor", f"{cpu.model} ({cpu.arch}, {machine.os})"),
        ("cores", f"{cpu.cores} physical, {cpu.threads} logical"),
        *(("", _cluster(cluster.cores, cluster.kind, cluster.max_mhz)) for cluster in cpu.clusters),
        ("instructions", " ".join(cpu.isa) or "unknown"),
        ("caches", _caches(machine)),
        ("memory", f"{show_memory(ram.total_bytes)}, available {available}, swap {show_memory(ram.swap_bytes)}"),
        ("bandwidth", bandwidth),
    ]
    for gpu in machine.accelerators:
        facts = gpu_table.find(gpu, ram.total_bytes)
        rows += [("accelerator", explain.accelerator(gpu)), ("", explain.gpu_facts(facts))]
    rows.append(("limits", _limits(machine)))
    if machine.disk is not None:
        rows.append(("disk", f"{show_memory(machine.disk.free_bytes)} free at {machine.disk.path}"))
    if machine.provenance is not None:
        origin = machine.provenance
        rows.append(("source", ", ".join(filter(None, (origin.kind, origin.source, origin.date)))))
    if machine.source_trust == "unverified":
        rows.append(("trust", "unverified: written from memory, not looked up"))
    threads = counted(machine.compute_threads, "thread")
    rows.append(("for a model", f"{show_memory(machine.memory_budget_bytes)}, {threads}"))
    rows.extend(("note", note) for note in machine.notes)
    for problem in machine.gpu_problems:
        rows.append(("note", explain.gpu_problem(problem)))
        if remedy := explain.gpu_remedy(problem):
            rows.append(("", f"fix: {remedy}"))
    return rows


def _cluster(cores: int, kind: str, max_mhz: int | None) -> str:
    return f"{cores} {kind}" + (f", up to {max_mhz} MHz" if max_mhz else "")


def _caches(machine: Machine) -> str:
    cpu = machine.cpu
    sizes = (("L1d", cpu.l1d_bytes, " per core"), ("L2", cpu.l2_bytes, " per core"), ("L3", cpu.l3_bytes, ""))
    return ", ".join(f"{name} {show_memory(size, exact=True)}{per}" for name, size, per in sizes if size) or "unknown"


def _limits(machine: Machine) -> str:
    limits = machine.limits
    parts = []
    if limits.memory_bytes is not None:
        parts.append(f"{show_memory(limits.memory_bytes)} memory, {show_memory(limits.memory_used_bytes or 0)} used")
    if limits.cpus is not None:
        parts.append(f"{limits.cpus:g} CPUs")
    if limits.cpuset is not None:
        cores = "" if limits.cpuset_cores is None else f" on {limits.cpuset_cores} cores"
        parts.append(f"{limits.cpuset} processors{cores}")
    return ", ".join(parts) + (f" ({limits.source})" if parts and limits.source else "") if parts else "none"
