"""The contract of a tuner: it turns rows of tokens into better factors, and nothing else.

Data, masks, order, schedule, early stopping, checkpoints, resuming and progress are the core's, so they mean the same
with every tuner. A `Tuner` is light and lives in the parent; the `Trainer` that it opens lives in a worker, which may
be killed at any moment.

Factors have the names of the served file's tensors and the order of their rows: no permutation for GGUF. All are
float32, and what they add to `y = W x` of the tensor NAME ("blk.0.attn_q.weight") is:

    lora, lora-fa, lora+   alpha/rank B A x        NAME.lora_a (rank, in), NAME.lora_b (out, rank)
    rslora                 alpha/sqrt(rank) B A x  the same
    delta-lora             alpha/rank ((1 + l) B A - l B' A') x, l = delta_scale
                                                   also NAME.start_a, NAME.start_b: A' and B', those of the step
                                                   delta_start. Without them (it was never reached): as lora
    vera                   diag(b) B diag(d) A x   NAME.vera_d (rank,), NAME.vera_b (out,); once, vera_a (rank, most in)
                                                   and vera_b (most out, rank): their first columns and rows
    dora                   y = m * V x / |V|, |V| of each row, V = W + alpha/rank B A
                                                   lora's, and NAME.dora_m (out,)
    full                   y = V x                 NAME (out, in): V
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from edgellm.contract.backend import Advice
from edgellm.types.model import Artifact
from edgellm.types.tune_device import CPU
from edgellm.types.tuning import Method, TuneFootprint, TuneSettings, TuneSize

if TYPE_CHECKING:  # numpy costs 80 ms to import
    import numpy as np
    import numpy.typing as npt

    from edgellm.types.gpu import Gpu
    from edgellm.types.machine import Machine

Arrays: TypeAlias = "Mapping[str, npt.NDArray[np.generic]]"


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of tokens, padded on the right to the longest of them.

    A row holds documents one after another. A token attends to those before it in its own document, and to no other.
    A supervised token is predicted from those before it; the first of a document never is.
    """

    tokens: npt.NDArray[np.int32]  # (rows, length); 0 where there is padding
    supervised: npt.NDArray[np.bool_]  # (rows, length): whether this very token counts for the loss
    positions: npt.NDArray[np.int32]  # (rows, length): from 0 on in each document
    documents: npt.NDArray[np.int32]  # (rows, length): from 1 on in each row, 0 = padding


class Trainer(Protocol):
    """One model that is being tuned. One process, one thread, no locks."""

    @property
    def build(self) -> str:
        """What equal bits depend on beside the settings: the library with its version, the kernels that it takes."""
        ...

    @property
    def n_trained(self) -> int:
        """Values that the optimizer changes."""
        ...

    def step(self, batches: Sequence[Batch], learning_rate: float) -> float:
        """One step of the optimizer on the mean loss of all supervised tokens of `batches`, which are computed one
        after another. Returns that loss before the step, in nats per token.

        Raises:
            BackendError: it is no finite number; nothing was changed.
        """
        ...

    def loss(self, batch: Batch) -> float:
        """Sum over all supervised tokens, in nats. Changes nothing."""
        ...

    def next_token(self, tokens: Sequence[int]) -> int:
        """The likeliest one behind these, at least one. Changes nothing."""
        ...

    def state(self) -> Arrays:
        """All that the next step depends on: what is trained, moments, counters, random state. Views, valid until the
        next step."""
        ...

    def restore(self, state: Arrays) -> None:
        """Take over the `state` of another trainer of the same model and settings.

        Raises:
            BadArtifact: an array is missing or of another shape.
        """
        ...

    def factors(self) -> Arrays:
        """What was learned, as this module says."""
        ...

    def close(self) -> None:
        """Free everything. Calling it twice is fine."""
        ...


class Tuner(Protocol):
    """What a plugin registers. Importing it must be cheap and touch no native code."""

    @property
    def name(self) -> str:
        """Public name: "torch"."""
        ...

    @property
    def methods(self) -> frozenset[Method]: ...

    def missing(self) -> Advice | None:
        """What is not installed, and the command that gets it; None = it can run. No heavy import."""
        ...

    def supports(self, base: Artifact) -> list[str]:
        """Reasons it cannot tune this model; empty = it can. Reads headers only."""
        ...

    def footprint(self, base: Artifact, settings: TuneSettings, size: TuneSize) -> TuneFootprint:
        """By a formula, without native code, in 2 s at most, for `settings.device`. Reads headers only."""
        ...

    def rate(self, base: Artifact, settings: TuneSettings, machine: Machine) -> float:
        """Tokens per second that are learned from on the processor, as predicted. Reads headers only."""
        ...

    def open(self, base: Artifact, settings: TuneSettings) -> Trainer:
        """Load the model on `settings.device`, with the first values of what is trained. Called in a worker only.

        Raises:
            BackendUnavailable, BadArtifact, UnsupportedArtifact.
        """
        ...


@runtime_checkable
class GpuTuner(Protocol):
    """Optional: a tuner that computes on GPUs, too (`TuneSettings.device`)."""

    def lacks(self, kind: str) -> Advice | None:
        """Why it cannot compute on devices of this kind, and what gets it; None = as far as can be told without its
        library, it can. No heavy import.

        Args:
            kind: "cuda", "mps" or "xpu" (`types.tune_device`); of "cuda" also those of one maker, "nvidia" or "amd".
        """
        ...

    def rate_on(self, base: Artifact, settings: TuneSettings, gpu: Gpu | None) -> float:
        """As `Tuner.rate`, on `settings.device`. `gpu`: what is known of it; None = nothing."""
        ...


def lacking(tuner: Tuner, kind: str) -> Advice | None:
    """What keeps a tuner from devices of this kind; None = nothing that is known before it starts."""
    if kind == CPU:
        return None
    if isinstance(tuner, GpuTuner):
        return tuner.lacks(kind)
    return Advice(f"the {tuner.name} tuner computes on processors only", "leave the device out")


def rate_of(tuner: Tuner, base: Artifact, settings: TuneSettings, machine: Machine, gpu: Gpu | None) -> float:
    """Tokens per second on `settings.device`."""
    if settings.device != CPU and isinstance(tuner, GpuTuner):
        return tuner.rate_on(base, settings, gpu)
    return tuner.rate(base, settings, machine)
