"""What selection knows of an installed backend: plain data, asked of it once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgellm import settings
from edgellm.contract import answers
from edgellm.contract.answers import Fault, answer
from edgellm.contract.backend import (
    Accelerated,
    Backend,
    CacheQuantizer,
    Calibrator,
    Loader,
    Offload,
    Offloader,
    Provable,
    Repacker,
    priors_of,
)
from edgellm.contract.failure import told
from edgellm.errors import EdgeLLMError
from edgellm.estimate import quants
from edgellm.estimate.tensor_types import TYPES
from edgellm.history import calibrations, occasions
from edgellm.selection.named_devices import only_named, require_seen
from edgellm.selection.offload import assumed, live
from edgellm.types import refusal
from edgellm.types.calibration import Calibration
from edgellm.types.machine import Machine
from edgellm.types.model import ModelFile, Shape
from edgellm.types.priors import NO_PRIORS, NO_REPACKING, Priors, Repacking
from edgellm.types.request import KV_TYPES

# Formats whose quantizations are llama.cpp's; those of others follow the rule of a backend (`ExportRule`).
GGML_FORMATS = frozenset({"gguf", "safetensors"})
KV_BLOCK = 32  # elements of a block of q8_0 and q4_0: a head must be a multiple of it


@dataclass(frozen=True, slots=True)
class BackendFacts:
    """What selection knows of an installed backend."""

    name: str
    formats: frozenset[str]
    quants: frozenset[str] | None = None  # names it computes with; None = all, of GGUF those of stock llama.cpp
    problems: tuple[str, ...] = ()  # why it cannot run on this machine; empty = it can
    archs: frozenset[str] | None = None  # GGUF architectures it loads; None = not known, all assumed
    offload: Offload | None = None  # GPUs it can put layers on; None = it puts none anywhere
    kv_types: frozenset[str] = frozenset({"f16"})  # what it can hold a cache in
    types: frozenset[str] | None = None  # of the tensors it opens; None = not known, all assumed
    repacking: Repacking = NO_REPACKING  # what it copies into another layout while it loads
    priors: Priors = NO_PRIORS  # of its own kernels and files
    unproven: str = ""  # why nothing shows that its library is the right one; "" = something does
    calibration: Calibration | None = None  # rates measured on that machine; None = priors of its kind of processor
    set_aside: Calibration | None = None  # what was measured there beside other programs instead, which does not count

    def refuses(self, file: ModelFile, arch: str) -> refusal.BackendRefusal | None:
        """Why it cannot open such a file, None = it can."""
        if file.format not in self.formats:
            return refusal.FormatNotOpened(self.name, tuple(sorted(self.formats)), file.format)
        quant, mix = file.quant, quants.QUANTS[file.quant]
        # A hand-made mix is made of the types of the mix it is like.
        needed = mix.like[0] if mix.kind == "dynamic" else quant
        if self.quants is not None and needed not in self.quants:
            return refusal.NoKernels(self.name, quant)
        if self.quants is None and not mix.mainline and file.format in GGML_FORMATS:
            return refusal.NotStockType(self.name, quant)
        if self.archs is not None and arch not in self.archs:
            return refusal.ArchNotLoaded(self.name, arch)
        if self.types is not None and mix.base not in self.types:
            return refusal.TensorTypeNotOpened(self.name, mix.base)
        return None

    @property
    def usual_cache(self) -> str:
        """The type of cache where none is asked for."""
        return "f16" if "f16" in self.kv_types else min(self.kv_types, key=KV_TYPES.index)

    def refuses_cache(self, kv_type: str, shape: Shape | None) -> refusal.BackendRefusal | None:
        """Why it cannot hold the cache of such a model in `kv_type`, None = it can (or the shape is not known)."""
        if kv_type not in self.kv_types:
            held = tuple(kind for kind in KV_TYPES if kind in self.kv_types)
            return refusal.CacheTypeNotHeld(self.name, held, kv_type)
        if kv_type not in ("f32", "f16") and shape is not None and shape.head_dim % KV_BLOCK:
            return refusal.CacheHeadSize(kv_type, KV_BLOCK, shape.head_dim)
        return None


def backend_facts(backends: Iterable[Backend], machine: Machine) -> tuple[BackendFacts, ...]:
    """Facts of installed backends, by name; asks each whether it runs on `machine`.

    Raises:
        As `named_devices`, of GPUs that were named.
    """
    seen = [_seen(backend, machine) for backend in backends]
    offloads = [facts.offload for facts in seen]
    named = [replace(facts, offload=_only_named(facts.offload, offloads)) for facts in seen]
    return _by_name(named, settings.current().devices)


def facts_of(backend: Backend, machine: Machine, every: Iterable[Backend]) -> BackendFacts:
    """Facts of one of the installed backends, as `backend_facts` of `every` has them."""
    facts = _seen(backend, machine)
    return replace(facts, offload=_only_named(facts.offload, (_offload_of(other, machine) for other in every)))


def _only_named(offload: Offload | None, every: Iterable[Offload | None]) -> Offload | None:
    """Where GPUs are named, those of `offload` that are. `every`: what all backends see, asked for there."""
    names = settings.current().devices
    if offload is None or not names:
        return offload
    return only_named(offload, names, [device.name for other in every if other for device in other.devices])


def _seen(backend: Backend, machine: Machine) -> BackendFacts:
    """Facts with all of its devices."""
    return _guarded(backend, lambda: _facts(backend, machine))


def _facts(backend: Backend, machine: Machine) -> BackendFacts:
    loads = isinstance(backend, Loader)
    facts = replace(
        _stated(backend, machine, is_here=True),
        problems=tuple(answers.check(backend, machine)),
        archs=answer(backend, "architectures", machine) if loads else None,
        offload=_devices(backend, machine),
        types=answer(backend, "tensor_types", machine) if loads else None,
        unproven=answer(backend, "unproven", machine) if isinstance(backend, Provable) else "",
    )
    return _with_rates(facts, calibration_of(backend, machine), machine)


def _with_rates(facts: BackendFacts, measured: Calibration | None, machine: Machine) -> BackendFacts:
    """The facts with what was measured, which counts or is set aside."""
    counts = None if measured is None else occasions.quiet(measured, machine.compute_threads)
    return replace(facts, calibration=counts, set_aside=measured if counts is None else None)


def calibration_of(backend: Backend, machine: Machine) -> Calibration | None:
    """What was measured here with the build that is installed."""
    if not isinstance(backend, Calibrator):
        return None
    return calibrations.load(machine, backend.name, answer(backend, "build"))


def _guarded(backend: Backend, state: Callable[[], BackendFacts]) -> BackendFacts:
    """A backend that does not answer as it must cannot run: that is its problem, and the others go on."""
    try:
        return state()
    except EdgeLLMError as error:
        problem = answers.fault_in(error)
    except Exception as error:  # of what it says, which no check foresaw
        problem = f"what it says of itself cannot be used: {told(error)}"
        answers.blamed(backend.name, Fault(problem))
    return BackendFacts(backend.name, backend.formats, backend.quants, problems=(problem,))


def offload_facts(backend: Backend, machine: Machine, every: Sequence[Backend] = ()) -> Offload | None:
    """Where the backend can put layers here, with the memory that is free now; None = it puts none anywhere.

    Args:
        every: backends whose devices may be named, too.

    Raises:
        As `named_devices.only_named`. BackendError: it does not answer as it must.
    """
    return _only_named(_devices(backend, machine), (_offload_of(other, machine) for other in every))


def _offload_of(backend: Backend, machine: Machine) -> Offload | None:
    """As `_devices`; one that does not answer as it must has none."""
    try:
        return _devices(backend, machine)
    except EdgeLLMError:
        return None


def _devices(backend: Backend, machine: Machine) -> Offload | None:
    if isinstance(backend, Offloader):
        return live(answer(backend, "offload", machine), machine)
    given: Offload | None = answer(backend, "accelerators", machine) if isinstance(backend, Accelerated) else None
    return None if given is None else live(given, machine)


def assumed_facts(
    backends: Iterable[Backend], machine: Machine, measured: Mapping[str, Calibration] | None = None
) -> tuple[BackendFacts, ...]:
    """Facts for another machine: installed backends are assumed to run there, built for its GPUs.

    `measured`: by backend, rates of that machine.

    EDGELLM_DEVICE is about this machine, and about no other; a flag is about the one that is asked of.

    Raises:
        As `named_devices`, of GPUs that were named.
    """
    names = settings.flag("devices") or ()
    offload = only_named(assumed(machine), names)

    def facts(backend: Backend) -> BackendFacts:
        stated = _stated(backend, machine, is_here=False)
        stated = replace(stated, offload=offload if isinstance(backend, Offloader) else None)
        return _with_rates(stated, (measured or {}).get(backend.name), machine)

    return _by_name((_guarded(b, lambda b=b: facts(b)) for b in backends), names)  # type: ignore[misc]


def _stated(backend: Backend, machine: Machine, *, is_here: bool) -> BackendFacts:
    """What a backend says of itself on any machine."""
    held = answer(backend, "kv_types") if isinstance(backend, CacheQuantizer) else ("f16",)
    repacks = isinstance(backend, Repacker)
    return BackendFacts(
        backend.name,
        frozenset(backend.formats),
        None if backend.quants is None else frozenset(backend.quants),
        kv_types=frozenset(kind for kind in KV_TYPES if kind in held),
        repacking=answer(backend, "repacking", machine, is_here=is_here) if repacks else NO_REPACKING,
        priors=_usable(backend, priors_of(backend)),
    )


def _usable(backend: Backend, priors: Priors) -> Priors:
    """
    Raises:
        BackendError: its files have weights of types that there are not.
    """
    tables = {} if priors.export is None else priors.export.table_types
    if unknown := next((kind for kind in (*tables, *tables.values()) if kind not in TYPES), ""):
        fault = Fault(f"priors() gives export.table_types with {unknown!r}, names of tensor types are expected")
        raise answers.blamed(backend.name, fault) from fault
    return priors


def _by_name(facts: Iterable[BackendFacts], devices: Sequence[str]) -> tuple[BackendFacts, ...]:
    by_name = tuple(sorted(facts, key=lambda backend: backend.name))
    require_seen(devices, {facts.name: facts.offload for facts in by_name if not facts.problems})
    return by_name
