"""Everything that a decision is taken on beside the request. Plain data, built once by `edgellm.app.context`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from edgellm.history.corrections import Corrections, RunKey
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.rule_result import Rule
from edgellm.types.calibration import Calibration
from edgellm.types.gpu import Gpu
from edgellm.types.machine import Machine
from edgellm.types.model import ModelCard, ModelFile
from edgellm.types.plan import Candidate
from edgellm.types.reason import RulesUnasked
from edgellm.types.refusal import Absence


@dataclass(frozen=True, slots=True)
class SelectionContext:
    """A machine, what its backends can do, which models exist, and what was learned there."""

    machine: Machine
    backends: tuple[BackendFacts, ...] = field(repr=False)
    cards: tuple[ModelCard, ...] = field(repr=False)
    stored: frozenset[str] = field(default=frozenset(), repr=False)  # sha256 and sources of files that need no fetching
    corrections: Corrections = field(default=Corrections(), repr=False)  # what earlier runs made of predictions
    vetoes: Mapping[RunKey, str] = field(default_factory=dict, repr=False)  # what a quality check refused here, and why
    divergences: Mapping[RunKey, float] = field(default_factory=dict, repr=False)  # nats from the unquantized model
    rules: tuple[Rule, ...] = field(default=(), repr=False)  # of plugins, after the constraints of our own
    absent: Mapping[str, Absence] = field(default_factory=dict, repr=False)  # source of a file -> why it cannot be had
    unasked: tuple[RulesUnasked, ...] = ()  # of plugins that failed
    is_here: bool = True  # whether it is this machine
    gpus: tuple[Gpu | None, ...] = field(default=(), repr=False)  # of machine.accelerators, what is known of each
    load: float | None = None  # processes that want a processor, where they are more than processors; changes no choice
    load_lasts: bool = False  # and were more on average over five minutes
    reachable: tuple[str, ...] | None = None  # schemes of the sources that answer; None = all are taken to

    def chosen(self, choice: Candidate) -> tuple[ModelCard, ModelFile]:
        """The card and the file of a candidate of these."""
        card = next(card for card in self.cards if card.id == choice.model)
        return card, next(f for f in card.files if (f.source, f.quant) == (choice.source, choice.quant))

    @property
    def measured(self) -> dict[str, Calibration]:
        """Rates that were measured on the machine, by backend."""
        return {facts.name: facts.calibration for facts in self.backends if facts.calibration is not None}

    def narrowed(self, cards: Iterable[ModelCard]) -> SelectionContext:
        """The same circumstances with other candidates, for a face that chooses among fewer than all."""
        return replace(self, cards=tuple(cards))
