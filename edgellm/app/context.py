"""What is known here: built once, and passed whole to everything that chooses, predicts or plans.

here()                        this machine
of("raspberry-pi-5-8gb")      the one of a profile: nothing that belongs to this machine enters
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from edgellm import settings
from edgellm.app.gpus import gpus_of
from edgellm.catalog import lookup
from edgellm.catalog.recognize import joined
from edgellm.contract.manager import plugins
from edgellm.contract.source import scheme_of
from edgellm.estimate import quants
from edgellm.history import calibrations, fingerprint, run_log
from edgellm.history.corrections import Corrections, RunKey
from edgellm.selection.backend_facts import BackendFacts, assumed_facts, backend_facts
from edgellm.selection.context import SelectionContext
from edgellm.selection.rule_result import PluginRule, Rule
from edgellm.store import local
from edgellm.store.library import MADE, Library
from edgellm.store.sources.local_file import LocalFile
from edgellm.store.sources.registry import sources
from edgellm.types.calibration import Calibration
from edgellm.types.machine import Machine
from edgellm.types.model import ModelCard, ModelFile
from edgellm.types.options import SelectionOptions
from edgellm.types.reason import RulesUnasked
from edgellm.types.refusal import Absence, FileGone, SchemeUnknown
from edgellm.types.request import SelectionRequest, Task

UNQUANTIZED = ("F32", "BF16", "F16", "Q8_0")  # references of a quality check that show the loss of quantization


def here(models_file: Path | None = None) -> SelectionContext:
    """This machine as it is now, with everything that was stored and learned on it.

    `models_file` adds catalog rows.

    Raises:
        UsageError: a models file or a row is malformed, or EDGELLM_PLUGINS names what is not installed.
    """
    from edgellm.hardware.host_checks import busy_load
    from edgellm.hardware.probe import probe

    plugins().check_names()
    machine = probe()
    backends = backend_facts(plugins().backends().values(), machine)
    every = tuple(cards(models_file))
    return SelectionContext(
        machine=machine,
        backends=backends,
        cards=every,
        stored=Library().local_keys(),
        absent=absences(every),
        corrections=corrections(machine, backends),
        vetoes=run_log.vetoes(machine),
        divergences=divergences(machine),
        rules=rules(),
        unasked=rules_unasked(),
        gpus=gpus_of(machine),
        load=busy_load(machine),
        load_lasts=busy_load(machine, minutes=5) is not None,
    )


def of_machine(
    machine: Machine, cards: Iterable[ModelCard], measured: Mapping[str, Calibration] | None = None
) -> SelectionContext:
    """Another machine, which a profile describes: installed backends are assumed to run there, built for its GPUs, and
    nothing is stored. `measured`: rates of its backends that the profile states."""
    backends = assumed_facts(plugins().backends().values(), machine, measured)
    every = tuple(cards)
    return SelectionContext(
        machine=machine,
        backends=backends,
        cards=every,
        absent=absences(every, here=False),
        rules=rules(),
        unasked=rules_unasked(),
        gpus=gpus_of(machine),
        is_here=False,
    )


def of(profile: str | None, *, models_file: Path | None = None) -> SelectionContext:
    """This machine, or the one that a profile describes.

    Raises:
        UnknownProfile. UsageError: the profile, a models file or a row is malformed.
    """
    if profile is None:
        return here(models_file)
    machine, measured = described(profile)
    return of_machine(machine, cards(models_file, here=False), measured)


def described(profile: str) -> tuple[Machine, dict[str, Calibration]]:
    """The machine that a profile describes, and what was measured there.

    Raises:
        UnknownProfile. UsageError: it is malformed.
    """
    from edgellm.hardware import profiles

    whole = profiles.load_whole(profile)
    return whole.machine, calibrations.read(whole.calibrations, profile)


def request_for(context: SelectionContext, options: SelectionOptions, *, usual_task: Task = "chat") -> SelectionRequest:
    """The request that the options mean. EDGELLM_OFFLINE is about this machine, and about no other.

    Raises:
        UsageError: a value is out of range or cannot be understood.
    """
    request = options.request(usual_task=usual_task)
    return replace(request, offline=request.offline or (context.is_here and settings.current().offline))


def cards(models_file: Path | None = None, *, here: bool = True) -> list[ModelCard]:
    """The catalog, with the rows and quantizations of plugins, of the user's own file and of `models_file`, and what
    lies on this disk (`store.local`, and what is stored).

    `here=False` leaves out the user's own file and disk, which belong to this machine.

    Raises:
        UsageError: a file or a row is malformed.
    """
    published = rows(models_file, here=here).values()
    if not here:
        return list(published)
    on_disk = [card for card in local.cards(but=Library().requantized_paths) if not lookup.check(card)]
    return with_stored(joined(published, on_disk))


def rows(models_file: Path | None = None, *, here: bool = True) -> dict[str, ModelCard]:
    """Id -> row of the catalog, with the rows (and quantizations) of plugins, of the user's own file (`here`) and
    of `models_file`.

    Raises:
        UsageError: a file or a row is malformed.
    """
    added: list[ModelCard] = []

    def register(card: ModelCard) -> None:
        unknown = {file.quant for file in card.files} - quants.QUANTS.keys()
        problems = [*lookup.check(card), *(f"no quantization named {quant!r}" for quant in sorted(unknown))]
        if problems:
            raise ValueError(f"catalog row {lookup.shown(card)}: {'; '.join(problems)}")
        added.append(card)

    plugins().call("register_quants", register=quants.register)
    plugins().call("register_models", register=register)
    for path in (settings.current().models_file if here else None, models_file):
        added += lookup.load_file(path) if path is not None else []
    return lookup.catalog(added)


def absences(cards: Iterable[ModelCard], *, here: bool = True) -> dict[str, Absence]:
    """By the source of a file, why it cannot be had: a file that is not there (`here`), a scheme that nobody brings."""
    every = {file.source for card in cards for file in card.files if not file.source.startswith(MADE)}
    return {source: why for source in every if (why := absence(source, here=here)) is not None}


def absence(source: str, *, here: bool = True) -> Absence | None:
    """Why a file of a row cannot be had, without asking its source; None = it may be."""
    scheme = scheme_of(source)
    if scheme not in sources():
        return SchemeUnknown(scheme, tuple(sorted(sources())))
    if here and scheme == "file" and not os.path.isfile(path := LocalFile.path_of(source)):
        return FileGone(str(path))
    return None


def with_stored(cards: Iterable[ModelCard], *, requantized: bool = False) -> list[ModelCard]:
    """Cards with the files that are stored under their names and published nowhere: made here, or fetched by address.

    `requantized` includes files that were quantized twice. They are worse than their type suggests, so selection never
    offers them.
    """
    stored = Library().files(twice=requantized)
    return [_with_files(card, stored.get(card.id, ())) for card in cards]


def _with_files(card: ModelCard, stored: Iterable[ModelFile]) -> ModelCard:
    keys = {key for file in card.files for key in (file.source, file.sha256) if key is not None}
    fresh = tuple(file for file in stored if file.source not in keys and file.sha256 not in keys)
    return replace(card, files=(*fresh, *card.files)) if fresh else card


def rules() -> tuple[Rule, ...]:
    """The selection rules that plugins add."""
    return tuple(PluginRule(rule, row.name, row.distribution) for row, rule in plugins().rules())


def rules_unasked() -> tuple[RulesUnasked, ...]:
    """Of each plugin that failed before `rules` had all of its rules, why: a plan without them must say so."""
    return tuple(RulesUnasked(row.name, row.distribution, row.error) for row in plugins().unheard("register_rules"))


def corrections(machine: Machine, backends: Iterable[BackendFacts]) -> Corrections:
    """What earlier runs on this machine made of predictions like those that are made now."""
    log = run_log.read(machine)
    # A backend that never ran is not asked for its build: that may start a process.
    ran = {run.backend for run in log.runs}
    bases: dict[str, str] = {}
    for facts in backends:
        if facts.name in ran:
            bases |= fingerprint.bases(plugins().backend(facts.name), facts.calibration)
    return run_log.of_runs(log.runs, bases, machine.compute_threads)


def divergences(machine: Machine) -> Mapping[RunKey, float]:
    """KL divergence to the unquantized model, in nats, as last checked here."""
    return {
        (check.backend, check.model, check.quant): check.mean_kl
        for check in run_log.read(machine).checks
        if check.mean_kl is not None and check.reference_quant in UNQUANTIZED
    }
