"""What the probe found out about libllama, as it is kept, and what of it is said to people."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edgellm.contract.backend import Device  # msgspec looks it up for Verdict

# ggml's backends that compute on the CPU or on another machine.
NO_GPU = frozenset({"CPU", "BLAS", "RPC"})


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One thing in which a library is another than the one that the binding was written for."""

    name: str  # "llama_context_params.swa_full", "llama_batch_init"
    here: str  # "False", "missing"
    expected: str = ""  # "True"; "" = that it is there

    def __str__(self) -> str:
        return f"{self.name} is {self.here}" + (f", not {self.expected}" if self.expected else "")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the probe found. `problem` is empty where the library runs."""

    problem: str
    system_info: str = ""
    library_sha256: str = ""
    version: str = ""  # of its llama.cpp, with the commit: "0.5.0-dev (0c1e57098)"
    # What shows that its structs are the binding's: they came in one wheel, or its own table of them; "" = it only
    # behaves as if they were.
    proof: Literal["wheel", "layout", ""] = ""
    variant: str = ""  # of the processor's code that was chosen, of a build with several: "haswell"
    variants: dict[str, int] = field(default_factory=dict)  # all of them -> ggml's score here; 0 = cannot run
    unloaded: dict[str, str] = field(default_factory=dict)  # backends in its folder that do not load -> why
    stale: tuple[str, ...] = ()  # of them, those that were built here and have to be built again
    offload: bool = False  # the library says that it can put layers on a GPU, here
    backends: tuple[str, ...] = ()  # what it was built with: "CPU", "Vulkan"
    devices: tuple[Device, ...] = ()  # GPUs that it sees; how much of them is free is not kept
    complaints: tuple[str, ...] = ()  # of backends for GPUs and their drivers, while they were loaded
    architectures: frozenset[str] | None = None  # GGUF architectures that it loads; None = it does not tell
    tensor_types: frozenset[str] = frozenset()  # of the tensors that it opens: "Q4_K"
    # Tensor types that it copies into another layout while loading -> bytes of the copy for a byte of the file.
    repacked: dict[str, float] = field(default_factory=dict)

    @property
    def gpu_backends(self) -> tuple[str, ...]:
        return tuple(name for name in self.backends if name not in NO_GPU)

    def doubt(self) -> str:
        """Why nothing shows that it is the right library, though it runs; "" = something does."""
        if self.problem or self.proof:
            return ""
        return (
            f"this libllama, of llama.cpp {self.version}, behaves as llama-cpp-python expects, but it is neither from "
            "its wheel nor a build that tells its structs"
        )

    def missing_backends(self) -> str:
        """Those that are in its folder and do not load, and why."""
        return "; ".join(f"libggml-{name} is there and does not load: {why}" for name, why in self.unloaded.items())

    def no_device(self) -> str:
        """Why the backends for GPUs that it has see none, in their own words where they have any."""
        words = "; ".join(self.complaints) or "is its driver there?"
        return f"this libllama ({', '.join(self.gpu_backends)}) sees no GPU: {words}"

    def choice(self) -> str:
        """Which variant computes, and why: "haswell, the highest score (63) of the 6 of 14 that run here"."""
        able = [score for score in self.variants.values() if score]
        if not self.variant:
            return ""
        score = self.variants.get(self.variant)
        return f"{self.variant}, the highest score ({score}) of the {len(able)} of {len(self.variants)} that run here"
