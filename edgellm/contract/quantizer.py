"""Contract: what writes a model in another quantization. Optional for a backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from edgellm.types.model import Artifact

TensorProgress = Callable[[int, int, str], None]  # tensors done, tensors in all, the name of the one being written


@dataclass(frozen=True, slots=True)
class Quantization:
    """What to quantize, to what, and where."""

    source: Artifact  # its header was checked; all parts of a split set
    target: str  # the file to write; the caller renames it when it is whole
    quant: str
    n_threads: int = 1
    imatrix: str = ""  # path of a GGUF importance matrix whose header was checked
    allow_requantize: bool = False  # whether tensors that are quantized may be quantized again


@runtime_checkable
class Quantizer(Protocol):
    """A backend whose library quantizes."""

    @property
    def quantizes_to(self) -> frozenset[str]:
        """Names of the quantizations that it writes."""
        ...

    def quantize(self, job: Quantization, progress: TensorProgress) -> None:
        """Write `job.target`. In a worker only, which may be killed at any moment.

        Raises:
            BackendUnavailable: the library does not load. BackendError: it gave up, with its words.
            DiskFull: the file has no room. ArtifactError: it cannot read the source or the importance matrix.
        """
        ...
