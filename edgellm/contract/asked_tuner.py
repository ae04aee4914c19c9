"""A tuner as the core asks it: what it does against the contract is a typed error with its name, and in its row."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

import msgspec

from edgellm.contract import manager
from edgellm.contract.answers import Fault, asked, hint_for, threads_noted
from edgellm.contract.backend import Advice
from edgellm.contract.registration import unlike
from edgellm.contract.slow import told_where_slow
from edgellm.contract.tuner import GpuTuner, Trainer, Tuner
from edgellm.errors import BackendError
from edgellm.types.tuning import METHODS, Method, TuneFootprint, TuneSettings, TuneSize

if TYPE_CHECKING:
    from edgellm.types.gpu import Gpu
    from edgellm.types.machine import Machine
    from edgellm.types.model import Artifact

T = TypeVar("T")
log = logging.getLogger("edgellm.contract.asked_tuner")
_A_FEW = TuneSize(n_rows=8, n_tokens=2048, n_supervised=1024, most_supervised=256, longest=512)


class AskedTuner:
    """As `Tuner`. Every method raises BackendError where the tuner's own fails or gives something else."""

    def __init__(self, tuner: Tuner) -> None:
        self._tuner = tuner

    @property
    def name(self) -> str:
        return self._tuner.name

    @property
    def methods(self) -> frozenset[Method]:
        return self._tuner.methods

    def missing(self) -> Advice | None:
        return self._ask(
            "missing",
            lambda: self._tuner.missing(),  # noqa: PLW0108 - looking at it may raise, too
            _is_advice,
            "an Advice or None",
        )

    def supports(self, base: Artifact) -> list[str]:
        return list(self._ask("supports", lambda: self._tuner.supports(base), _are_texts, "a list of texts"))

    def footprint(self, base: Artifact, settings: TuneSettings, size: TuneSize) -> TuneFootprint:
        expected = "a TuneFootprint of bytes"
        return self._ask("footprint", lambda: self._tuner.footprint(base, settings, size), _is_footprint, expected)

    def rate(self, base: Artifact, settings: TuneSettings, machine: Machine) -> float:
        return self._ask("rate", lambda: self._tuner.rate(base, settings, machine), _is_rate, "a rate above 0")

    def open(self, base: Artifact, settings: TuneSettings) -> Trainer:
        """In a worker, and it takes as long as it takes."""
        return self._checked(
            "open", lambda: self._tuner.open(base, settings), lambda made: not unlike(Trainer, made), "a Trainer"
        )

    def _ask(self, member: str, ask: Callable[[], T], fits: Callable[[T], bool], expected: str) -> T:
        with told_where_slow(f"tuner {self.name}: {member}()"):
            return self._checked(member, ask, fits, expected)

    def _checked(self, member: str, ask: Callable[[], T], fits: Callable[[T], bool], expected: str) -> T:
        try:
            with threads_noted(self.name, "register_tuners"):
                return asked(f"{member}()", ask, fits, expected)
        except Fault as fault:
            manager.plugins().blame(self.name, str(fault), "register_tuners")
            raise BackendError(f"tuner {self.name}: {fault}", hint=hint_for(self.name, "register_tuners")) from fault


class AskedGpuTuner(AskedTuner):
    """As `GpuTuner`, too."""

    def __init__(self, tuner: Tuner, gpu_tuner: GpuTuner) -> None:
        super().__init__(tuner)
        self._gpu_tuner = gpu_tuner

    def lacks(self, kind: str) -> Advice | None:
        return self._ask("lacks", lambda: self._gpu_tuner.lacks(kind), _is_advice, "an Advice or None")

    def rate_on(self, base: Artifact, settings: TuneSettings, gpu: Gpu | None) -> float:
        return self._ask("rate_on", lambda: self._gpu_tuner.rate_on(base, settings, gpu), _is_rate, "a rate above 0")


def asked_tuner(tuner: Tuner) -> AskedTuner:
    return AskedGpuTuner(tuner, tuner) if isinstance(tuner, GpuTuner) else AskedTuner(tuner)


def able() -> list[tuple[AskedTuner, Advice | None]]:
    """The tuners that are installed, with what each lacks: those that can run first, then by name. One that fails to
    say it is left out.

    Raises:
        BackendError: each of them does.
    """
    tuners = map(asked_tuner, manager.plugins().tuners().values())
    return sorted(_without_faults(tuners, AskedTuner.missing), key=lambda pair: pair[1] is not None)


def first_sound(tuners: Iterable[AskedTuner], base: Artifact, machine: Machine) -> AskedTuner:
    """The first that answers what every tuning of `base` asks it; the others before it are left out.

    Raises:
        BackendError: none does.
    """
    return next(iter(_without_faults(tuners, lambda tuner: _try(tuner, base, machine))))[0]


def _try(tuner: AskedTuner, base: Artifact, machine: Machine) -> None:
    method = next((method for method in METHODS if method in tuner.methods), None)
    if not tuner.supports(base) and method is not None:
        tuner.footprint(base, TuneSettings(method=method), _A_FEW)
        tuner.rate(base, TuneSettings(method=method), machine)


def _without_faults(tuners: Iterable[AskedTuner], ask: Callable[[AskedTuner], T]) -> list[tuple[AskedTuner, T]]:
    """Each tuner with its answer. One of several that fails is left out, and told; that all do is the first's error."""
    answered, failed = [], []
    for tuner in tuners:
        try:
            answered.append((tuner, ask(tuner)))
        except BackendError as error:
            failed.append(error)
    if failed and not answered:
        raise failed[0]
    for fault in failed:
        log.warning("%s; it is left out, see `edgellm plugins`", fault.message)
    return answered


def _is_advice(given: object) -> bool:
    return given is None or isinstance(given, Advice)


def _are_texts(given: object) -> bool:
    return isinstance(given, (list, tuple)) and all(isinstance(text, str) for text in given)


def _is_footprint(given: object) -> bool:
    return isinstance(given, TuneFootprint) and min(map(int, msgspec.structs.astuple(given))) >= 0


def _is_rate(given: object) -> bool:
    return isinstance(given, (int, float)) and 0 < given < math.inf
