"""What a decision is told beside the machine: models, rules of plugins, and what was learned here before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgellm import settings
from edgellm.catalog import lookup
from edgellm.catalog.recognize import joined
from edgellm.contract.manager import plugins
from edgellm.estimate import quants
from edgellm.history import fingerprint, run_log
from edgellm.history.corrections import Corrections
from edgellm.selection.rule_result import Rule
from edgellm.selection.scenario import BackendFacts
from edgellm.store import local
from edgellm.store.library import Library
from edgellm.types.machine import Machine
from edgellm.types.model import ModelCard, ModelFile

UNQUANTIZED = ("F32", "BF16", "F16", "Q8_0")  # what a quality check may be against to tell of the loss


def cards(models_file: Path | None = None, *, here: bool = True, twice: bool = False) -> list[ModelCard]:
    """The catalog, with the rows and quantizations of plugins, of the user's own file and of `models_file`, and what
    lies on this disk (`store.local`, and what is stored).

    `here` False leaves the user's own file and disk out: they belong to this machine, and another is asked about.
    `twice` True takes in what was quantized twice here, which is for who names it: it is worse than it is called.

    Raises:
        UsageError: a file or a row is malformed.
    """
    plugins().call("register_quants", register=quants.register)
    added: list[ModelCard] = []
    plugins().call("register_models", register=added.append)
    for path in (settings.models_file() if here else None, models_file):
        added += lookup.load_file(path) if path is not None else []
    rows = lookup.catalog(added).values()
    if not here:
        return list(rows)
    stored = Library().files(twice=twice)
    found = [card for card in local.cards() if not lookup.check(card)]
    return [_with(row, stored.get(row.id, ())) for row in joined(rows, found)]


def _with(row: ModelCard, stored: Iterable[ModelFile]) -> ModelCard:
    """The row with what is stored under its name and published nowhere: made here, or named by its address."""
    known = {key for file in row.files for key in (file.source, file.sha256)}
    fresh = tuple(file for file in stored if file.source not in known and file.sha256 not in (known - {None}))
    return replace(row, files=(*fresh, *row.files)) if fresh else row


def rules() -> list[Rule]:
    """The selection rules that plugins add."""
    added: list[Rule] = []
    plugins().call("register_rules", register=added.append)
    return added


def corrections(machine: Machine, facts: Iterable[BackendFacts]) -> Corrections:
    """What earlier runs on this machine made of predictions like those that are made now."""
    known = run_log.read(machine)
    # A backend that never ran is not asked for its build: that may start a process.
    ran = {run.backend for run in known.runs}
    bases = {f.name: fingerprint.basis(plugins().backend(f.name), f.calibration) for f in facts if f.name in ran}
    return run_log.of_runs(known.runs, bases, machine.compute_threads)


def divergences(machine: Machine) -> dict[tuple[str, str, str], float]:
    """(backend, model id, quantization) -> KL divergence to the unquantized file, nats, as last checked here."""
    checks = run_log.read(machine).checks
    return {
        (check.backend, check.model, check.quant): check.mean_kl
        for check in checks
        if check.mean_kl is not None and check.reference in UNQUANTIZED
    }


def known_here(machine: Machine, facts: Sequence[BackendFacts], *, is_here: bool) -> dict[str, Any]:
    """Arguments of `decide`, by name: what is stored and what was measured here; none where the machine is another."""
    if not is_here:
        return {}
    return {
        "local": Library().local_keys(),
        "corrections": corrections(machine, facts),
        "vetoes": run_log.vetoes(machine),
        "divergences": divergences(machine),
    }
