"""The contract of a backend: it turns tokens into logits, and nothing else. Vectors: `edgellm.contract.embedder`.

Templates, sampling, stop strings, prefix reuse, batching and cancellation are the core's, so they mean the same on
every backend. A `Backend` is light and lives in the parent; an `Engine` lives in a worker. Prove yours with
`edgellm.testing.backend.BackendContract`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from edgellm.contract.embedder import EmbeddingInfo  # msgspec looks it up for EngineInfo
from edgellm.errors import BackendUnavailable, CacheFull, UsageError
from edgellm.settings import variables

if TYPE_CHECKING:  # numpy costs 80 ms to import, and `edgellm --help` needs no plan
    import numpy as np
    import numpy.typing as npt

    from edgellm.types.calibration import Calibration
    from edgellm.types.machine import Machine
    from edgellm.types.model import Artifact, ModelFacts
    from edgellm.types.plan import Footprint, LaunchPlan, Settings
    from edgellm.types.priors import Priors, Repacking

Logits: TypeAlias = "npt.NDArray[np.float32]"


@dataclass(frozen=True, slots=True)
class SlotInput:
    """Tokens to append to one slot in one step."""

    slot: int  # 0 <= slot < info.n_slots
    n_past: int  # tokens of this slot already in the cache
    tokens: tuple[int, ...]  # appended after n_past, never empty
    n_logits: int  # logits wanted for the last n tokens: 0 mid-prompt, 1 to decode, k to verify a draft
    adapters: tuple[tuple[str, float], ...] = ()  # (LoRA id, scale)


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a loaded model is. Fixed for the life of the engine."""

    n_slots: int
    n_ctx: int  # tokens per slot
    max_batch_tokens: int  # most tokens in one step, over all slots
    max_logits: int  # most rows of logits in one step, over all slots; at least n_slots
    vocab_size: int
    eos_ids: frozenset[int]
    n_embd: int = 0
    add_bos: bool = False  # the model wants a BOS token before the prompt
    bos_text: str = ""
    eos_text: str = ""
    chat_template: str | None = None
    rewind_tokens: int | None = None  # how far truncate can go back: 0 = not at all, None = all the way
    fork_copies: bool = False  # fork costs memory traffic; False = the prefix is shared
    batch_invariant: bool = False  # batched equals isolated bit for bit
    capabilities: frozenset[str] = frozenset()  # "embed", "rerank", "save_slot"
    generates: bool = True  # False = an encoder: `step` refuses, truncate and fork keep nothing
    embedding: EmbeddingInfo | None = None  # of what "embed" gives
    device: str = "cpu"
    allocated_bytes: int | None = None  # weights, cache and buffers as the library counts them; None = it does not say
    details: dict[str, str] = field(default_factory=dict)  # for people: library, kernels, buffers


def check_batch(batch: Sequence[SlotInput], info: EngineInfo, lengths: Sequence[int]) -> None:
    """What an engine checks before a step touches its cache. `lengths`: tokens in each slot.

    Raises:
        CacheFull: an entry is longer than what its slot has left.
        ValueError: a slot twice, a wrong `n_past`, no tokens, an id outside the vocabulary, or too many of anything.
    """
    total = rows = 0
    for entry in batch:
        total += len(entry.tokens)
        rows += entry.n_logits
        if not entry.tokens or entry.n_past != lengths[entry.slot]:
            raise ValueError(f"slot {entry.slot} holds {lengths[entry.slot]} tokens, not {entry.n_past}")
        if entry.n_past + len(entry.tokens) > info.n_ctx:
            needed, free = len(entry.tokens), info.n_ctx - entry.n_past
            raise CacheFull(f"slot {entry.slot} needs {needed} cells, {free} are free", needed=needed, free=free)
        if min(entry.tokens) < 0 or max(entry.tokens) >= info.vocab_size:
            raise ValueError(f"slot {entry.slot}: a token id outside 0..{info.vocab_size - 1}")
    if len({entry.slot for entry in batch}) < len(batch):
        raise ValueError("a slot stands twice in one step")
    if total > info.max_batch_tokens or rows > info.max_logits:
        most = f"{info.max_batch_tokens} and {info.max_logits} are the most"
        raise ValueError(f"a step of {total} tokens and {rows} rows of logits; {most}")


class Tokenizer(Protocol):
    """Text to tokens and back, as the model defines it."""

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of `text`. `add_special` puts BOS (and EOS) where the model wants them."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """Bytes that `token` adds to the text; b"" for control tokens. May be a part of a UTF-8 character."""
        ...


class Engine(Protocol):
    """One loaded model. One process, one thread, no locks: the runtime never calls it from two threads."""

    @property
    def info(self) -> EngineInfo: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    def step(self, batch: Sequence[SlotInput]) -> list[Logits]:
        """Run one batch; return float32 (n_logits, vocab_size) for each entry that wants logits, in order.

        The arrays are read-only views, valid until the next call. All or nothing.

        Raises:
            CacheFull: before the cache was touched.
            StepFailed: after; `lost_slots` says which slots are empty now.
            UnsupportedTask: the model writes no text (`info.generates`).
        """
        ...

    def truncate(self, slot: int, n_tokens: int) -> int:
        """Keep at most the first `n_tokens` of the slot; return how many were really kept (see rewind_tokens)."""
        ...

    def fork(self, source: int, target: int, n_tokens: int) -> int:
        """Give `target` the first `n_tokens` of `source`, replacing its own; return how many it really has."""
        ...

    def close(self) -> None:
        """Free everything. Calling it twice is fine."""
        ...


class Backend(Protocol):
    """What a plugin registers. Importing it must be cheap and touch no native code."""

    @property
    def name(self) -> str:
        """Public name, as in `--backend NAME`."""
        ...

    @property
    def formats(self) -> frozenset[str]:
        """Artifact formats it opens: "gguf", "safetensors", "onnx"."""
        ...

    @property
    def quants(self) -> frozenset[str] | None:
        """Quantization names it computes with; None = whatever the format holds."""
        ...

    def check(self, machine: Machine) -> list[str]:
        """Reasons it cannot run here; empty = it can. No heavy import, under 20 ms once probed."""
        ...

    def supports(self, artifact: Artifact) -> list[str]:
        """Reasons it cannot open this artifact; empty = it can. Reads headers only."""
        ...

    def footprint(self, artifact: Artifact, settings: Settings) -> Footprint | None:
        """Bytes by a formula, without native code; None = the core's estimate stands."""
        ...

    def open(self, plan: LaunchPlan) -> Engine:
        """Load the model. Called in a worker only.

        Raises:
            BackendUnavailable, BadArtifact, UnsupportedArtifact.
        """
        ...

    def describe(self) -> dict[str, str]:
        """For `edgellm doctor`: version, library, kernels in use. No heavy import."""
        ...


@dataclass(frozen=True, slots=True)
class Device:
    """What a backend's build computes on beside the CPU. The caller may know better how much memory is free."""

    name: str  # as the library calls it: "CUDA0"
    description: str  # "NVIDIA GeForce RTX 4090"
    total_bytes: int
    free_bytes: int | None = None  # None = not known now
    unified: bool = False  # shares the machine's RAM


@dataclass(frozen=True, slots=True)
class Offload:
    """The devices that layers can be put on, in the order they are filled; without any, why and how to get them."""

    devices: tuple[Device, ...] = ()
    missing: str = ""  # "this libllama has no GPU backend"
    remedy: str = ""  # a command that fixes it on this machine, "" = there is nothing to fix


@runtime_checkable
class Offloader(Protocol):
    """Optional: a backend that can put layers on a GPU (`Settings.gpu_layers`)."""

    def offload(self, machine: Machine) -> Offload:
        """Devices of this build on this machine. No heavy import, under 20 ms once probed."""
        ...


@runtime_checkable
class CacheQuantizer(Protocol):
    """Optional: a backend whose cache can be held in other types than f16 (`Settings.kv_type`)."""

    @property
    def kv_types(self) -> frozenset[str]:
        """Names as in `edgellm.types.request.KV_TYPES`. The default is f16, or the most exact where that is missing."""
        ...


@runtime_checkable
class Loader(Protocol):
    """Optional: a backend that knows which models its build can load, beyond their format and quantization."""

    def architectures(self, machine: Machine) -> frozenset[str] | None:
        """GGUF `general.architecture` of every model it loads; None = not known. Under 20 ms once probed."""
        ...

    def tensor_types(self, machine: Machine) -> frozenset[str] | None:
        """Types of the tensors it opens, as in GGUF tools ("Q4_K"); None = not known. Under 20 ms once probed."""
        ...


@runtime_checkable
class Repacker(Protocol):
    """Optional: a backend that copies some weights into another layout while it loads, beside the file's."""

    def repacking(self, machine: Machine, *, is_here: bool) -> Repacking:
        """What is copied on `machine`. No heavy import, under 20 ms once probed.

        Args:
            is_here: it is this machine, so this build answers; otherwise an ordinary build for its processor.
        """
        ...


@runtime_checkable
class Inspector(Protocol):
    """Optional: a backend that reads headers of its `formats`, where the core does not read them itself (ONNX)."""

    def inspect(self, path: str) -> ModelFacts:
        """What the model at `path`, a file or a folder, is. Reads headers only, without native code.

        Raises:
            UnknownModel: no model is there, or several and none is named.
            BadArtifact, UnsupportedArtifact.
        """
        ...


@runtime_checkable
class HasPriors(Protocol):
    """Optional: a backend with kernels of its own, or whose files follow an exporter's rule."""

    def priors(self) -> Priors:
        """Pure data, the same object at every call. No heavy import."""
        ...


def priors_of(backend: object) -> Priors:
    """What `backend` states of its kernels and files; nothing where it has no `priors`."""
    from edgellm.types.priors import NO_PRIORS

    return backend.priors() if isinstance(backend, HasPriors) else NO_PRIORS


@dataclass(frozen=True, slots=True)
class Advice:
    """Why a backend does not run, or not as fast as it could, and a command that fixes it."""

    text: str
    fix: str


@runtime_checkable
class Adviser(Protocol):
    """Optional: a backend that knows what holds it back here, for `edgellm doctor`."""

    def advise(self, machine: Machine) -> list[Advice]:
        """Empty = nothing. No heavy import, under 20 ms once probed."""
        ...


@runtime_checkable
class Configurable(Protocol):
    """Optional: a backend with settings of its own, `Settings.options`."""

    def check_options(self, options: Sequence[tuple[str, str]]) -> None:
        """Refuse what it does not have. No heavy import.

        Raises:
            UsageError: an unknown name or value; the hint lists the known ones.
        """
        ...


def check_choices(
    backend: str, chosen: Mapping[str, str], known: Mapping[str, str], values: Mapping[str, Sequence[str]]
) -> None:
    """For `Configurable`: refuse a name that is not in `known`, or a value that is not among the name's `values`.

    Args:
        known: name -> what it is for, for people.
        values: of the names that do not take any value.

    Raises:
        UsageError: see `Configurable.check_options`.
    """
    for name, value in chosen.items():
        if name not in known:
            raise UsageError(f"the {backend} backend has no option {name!r}", hint=f"it has {', '.join(known)}")
        if value not in values.get(name, (value,)):
            raise UsageError(f"{name}={value} means nothing", hint=f"{name}: {known[name]}")


@runtime_checkable
class WorkerEnv(Protocol):
    """Optional: a backend whose libraries read environment variables before any code of its own runs."""

    @property
    def worker_environment(self) -> Mapping[str, str]:
        """Variables of the worker process. One that the user has set stays as it is."""
        ...


@contextlib.contextmanager
def loading_library(name: str, *also: type[Exception]) -> Iterator[None]:
    """Around the import of a backend's library, in a worker: turns what it raises into `BackendUnavailable`.

    Args:
        name: what the error calls the library.
        also: what the import may raise beside `ImportError` and `OSError`.
    """
    failures: tuple[type[Exception], ...] = (ImportError, OSError, *also)
    try:
        yield
    except failures as error:
        raise BackendUnavailable(
            f"{name} does not load: {error}", hint="run `edgellm doctor` for what is missing"
        ) from error


def worker_environment(backend: object) -> dict[str, str]:
    """What a process that runs `backend` starts with."""
    own = dict(backend.worker_environment) if isinstance(backend, WorkerEnv) else {}
    return own | variables()


@runtime_checkable
class SlotSaver(Protocol):
    """Capability "save_slot": a slot's cache as bytes, for any engine of the same model and cache type."""

    def save_slot(self, slot: int) -> bytes: ...

    def load_slot(self, slot: int, state: bytes) -> int:
        """Put a saved state in place of the slot's own; return how many tokens it holds.

        Raises:
            ValueError: it is no state of this model, or longer than a slot.
        """
        ...


@runtime_checkable
class Calibrator(Protocol):
    """Optional: a backend that can measure how fast its kernels run here."""

    def build(self) -> str:
        """What rates hold for: version and digest of the kernels. In the parent, no native code, under 20 ms."""
        ...

    def calibrate(self, settings: Settings) -> Calibration:
        """Rates at one thread and at the settings' numbers of threads, in some ten seconds. In a worker only."""
        ...
