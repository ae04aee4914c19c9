"""What was decided: the settings to run with, the memory they cost, and the whole reason."""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec import Struct

from edgellm.types.adapter import AdapterFile, AdapterSet
from edgellm.types.basis import RateBasis
from edgellm.types.model import Artifact
from edgellm.types.reason import Lost, Reason
from edgellm.types.refusal import Refusal
from edgellm.types.sampling_defaults import UNASKED, SamplingDefaults


@dataclass(frozen=True, slots=True)
class Settings:
    """How a model is run. Complete: a backend adds nothing of its own."""

    n_ctx: int  # cache cells per slot, in tokens
    n_slots: int = 1
    n_threads: int = 1  # decode
    n_threads_batch: int = 1  # prefill
    kv_type: str = "f16"  # "f16", "q8_0", "q4_0"
    # On a GPU, counted from the end: the output table is the first, then the last block. -1 = all.
    gpu_layers: int = 0
    n_batch: int = 512  # most tokens in one step
    mmap: bool = True
    experts_away: int = 0  # of so many of the first blocks, routed experts stay in RAM whatever `gpu_layers` says
    devices: tuple[str, ...] = ()  # names as the library calls them, in the order they are filled; empty = all it sees
    # Of each of `devices`, how many layers, the output table counted as one; empty = as the library splits them.
    device_layers: tuple[int, ...] = ()
    options: tuple[tuple[str, str], ...] = ()  # (name, value) that the backend defines, and refuses where it does not


@dataclass(frozen=True, slots=True)
class Term:
    """One part of the RAM that a plan takes. Allocated is what is reserved, resident what is really touched."""

    name: str  # "weights", "cache", ...: shown to people unchanged
    allocated_bytes: int
    resident_bytes: int


class Footprint(Struct, frozen=True):
    """Bytes of RAM a plan takes, by term. Allocated counts what is reserved, resident what is really touched."""

    weights_bytes: int  # as they lie in the file, mapped or read
    kv_bytes: int  # cache and recurrent state of all slots
    compute_bytes: int  # scratch of one batch
    process_bytes: int  # the worker without any of the above
    compute_resident_bytes: int | None = None  # CPU compute buffers are mostly never touched; None = all of it
    exact: bool = False
    device_bytes: int = 0  # in the memory of GPUs, and in no other term
    repack_bytes: int = 0  # copies of weights in the order that kernels want
    output_bytes: int = 0  # logits and embeddings that are handed out
    adapter_bytes: int = 0
    parent_bytes: int = 0  # the process that talks to users
    grammar_bytes: int = 0  # of the worker, once a request has had a grammar
    reclaimable_bytes: int = 0  # of weights_bytes: pages of the file that nothing reads once they are repacked

    @property
    def allocated_bytes(self) -> int:
        return self.compute_bytes + self._beside_compute

    @property
    def resident_bytes(self) -> int:
        """What the resident sets of worker and parent grow to."""
        compute = self.compute_bytes if self.compute_resident_bytes is None else self.compute_resident_bytes
        return compute + self._beside_compute

    @property
    def _beside_compute(self) -> int:
        # Asked for thousands of candidates: no rows are made for it.
        model = self.weights_bytes + self.repack_bytes + self.kv_bytes + self.output_bytes + self.adapter_bytes
        return model + self.process_bytes + self.grammar_bytes + self.parent_bytes

    @property
    def needed_bytes(self) -> int:
        """What must stay in RAM: the resident bytes without what the system may drop at no cost."""
        return self.resident_bytes - self.reclaimable_bytes

    def terms(self) -> tuple[Term, ...]:
        """Every term that takes something, in a fixed order; they add up to `allocated_bytes` and `resident_bytes`."""
        compute = self.compute_bytes if self.compute_resident_bytes is None else self.compute_resident_bytes
        terms = (
            Term("weights", self.weights_bytes, self.weights_bytes),
            Term("repacked weights", self.repack_bytes, self.repack_bytes),
            Term("cache", self.kv_bytes, self.kv_bytes),
            Term("compute buffers", self.compute_bytes, compute),
            Term("output buffer", self.output_bytes, self.output_bytes),
            Term("adapters", self.adapter_bytes, self.adapter_bytes),
            Term("worker process", self.process_bytes, self.process_bytes),
            Term("grammar tables", self.grammar_bytes, self.grammar_bytes),
            Term("parent process", self.parent_bytes, self.parent_bytes),
        )
        return tuple(term for term in terms if term.allocated_bytes)


class Rate(Struct, frozen=True):
    """A predicted or measured speed, tokens per second."""

    tok_s: float
    low: float
    high: float
    basis: RateBasis


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """Everything a worker needs to load one model, and why it is so."""

    backend: str
    artifact: Artifact
    settings: Settings
    reasons: tuple[Reason, ...] = ()
    footprint: Footprint | None = None
    step_s: float | None = None  # predicted for the longest step, a whole batch of a prompt; None = not predicted
    sampling: SamplingDefaults = UNASKED  # of requests that leave it open
    thinking: bool = False  # answers to requests that leave it open think first, where the model can
    thinking_sampling: SamplingDefaults | None = None  # of answers that think first; None = the same
    adapters: tuple[AdapterFile, ...] = ()  # that are loaded beside the model
    answers_with: AdapterSet = ()  # of these, where a request leaves it open
    may_use_bytes: int | None = None  # of RAM, when this was planned; None = whatever there is

    @property
    def served_as(self) -> str:
        """What answers where a request leaves it open: `BASE:NAME` with one adapter, otherwise the model's own name."""
        names = [name for name, _ in self.answers_with]
        return ":".join((self.artifact.name, *names)) if len(names) == 1 else self.artifact.name


@dataclass(frozen=True, slots=True)
class PlacedPart:
    """What one GPU holds of a model."""

    name: str  # as the library calls it: "CUDA0"
    description: str
    layers: int  # the output table counts as one
    n_bytes: int  # of its memory; 0 where it shares the machine's
    unified: bool = False
    scratch_bytes: int = 0  # of one batch, as predicted; of `n_bytes`, where that is told


@dataclass(frozen=True, slots=True)
class OtherPlacement:
    """Another way to run the same model, and how fast that would be."""

    parts: tuple[PlacedPart, ...]  # () = on the processor alone
    gpu_layers: int
    experts_away: int
    ubatch: int
    decode: Rate | None  # None = not predicted
    prefill: Rate | None
    needed_bytes: int  # of RAM
    lost: Lost  # why it is not planned
    request_s: float | None  # of the usual request


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model in one quantization on one backend with one context: what selection compares."""

    model: str
    params: int
    quant: str
    backend: str
    ctx: int
    slots: int
    tensor_bytes: int
    footprint: Footprint
    decode: Rate
    prefill: Rate
    quality: float  # expected score after quantization, 0..100
    quality_low: float
    quality_high: float
    source: str
    license: str = ""
    kv_type: str = "f16"
    threads: int = 1  # decode
    threads_batch: int = 1  # prompts
    gpu_layers: int = 0  # as in Settings
    parts: tuple[PlacedPart, ...] = ()  # on GPUs
    experts_away: int = 0  # as in Settings
    ubatch: int = 512  # tokens of a prompt that are computed at once
    other_placements: tuple[OtherPlacement, ...] = ()  # the next best, where there are GPUs
    counted_bytes: int = 0  # against the memory budget, with a margin where the size is an estimate

    @property
    def settings(self) -> Settings:
        """How it is run."""
        return Settings(
            n_ctx=self.ctx,
            n_slots=self.slots,
            n_threads=self.threads,
            n_threads_batch=self.threads_batch,
            kv_type=self.kv_type,
            gpu_layers=self.gpu_layers,
            n_batch=self.ubatch,
            experts_away=self.experts_away,
            devices=tuple(part.name for part in self.parts),
            device_layers=tuple(part.layers for part in self.parts),
        )


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why something was not chosen: the rule's name, and the numbers it failed on."""

    model: str
    quant: str  # "" = every quant of the model
    rule: str
    reason: Refusal
    kv_type: str = ""  # the type of cache it failed with, where a smaller one took its place; "" = whatever the type


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer of `auto-select`. `would_choose` differs from `choice` where a better source cannot be reached."""

    choice: Candidate | None
    reasons: tuple[Reason, ...] = ()
    runners_up: tuple[Candidate, ...] = ()
    rejected: tuple[Rejection, ...] = ()
    would_choose: Candidate | None = None
    budget_bytes: int = 0
    inputs: dict[str, object] = field(default_factory=dict)  # request, machine, catalog
