"""The device that a model is tuned on: whether torch has it, how it computes there, and what is said where it fails."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
import torch.utils.deterministic

from edgellm.errors import BackendError, BackendUnavailable, option


def ready(name: str) -> torch.device:
    """The device of that name, set up so that it computes the same bits each time. For a whole process, at its start.

    Raises:
        BackendUnavailable: torch does not see it.
    """
    device = torch.device(name)
    if device.type == "cpu":
        return device
    if "CUDA_VISIBLE_DEVICES" not in os.environ:
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as the driver's library counts, and with it the plan
    seen = _seen()
    if name not in seen:
        what = f"torch sees no {name} here: it sees {' and '.join(seen) if seen else 'no GPU at all'}"
        raise BackendUnavailable(what, hint=f"{_elsewhere()}, or see what `edgellm doctor` says of the GPU")
    # Read when cuBLAS starts: with it, products have the same bits each time.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # all of it is written
    return device


def build_of(device: torch.device) -> str:
    """What equal bits depend on: torch, and the kernels that it takes there."""
    if device.type == "cpu":
        return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    module = torch.get_device_module(device)
    named = getattr(module, "get_device_name", None)
    return f"torch {torch.__version__}, {named(device) if named else device.type}"


@contextlib.contextmanager
def computing_on(device: torch.device) -> Iterator[None]:
    """What torch raises there becomes an error that says what to do. The processor's stay what they are.

    Raises:
        BackendError.
    """
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one, and so is what an operation lacks on a device
        if device.type == "cpu":
            raise
        said = str(error).partition("\n")[0][:300]
        # Metal raises no class of its own.
        if isinstance(error, torch.OutOfMemoryError) or "out of memory" in said:
            hint = f"free it, begin anew with a smaller {option('batch')} or {option('length')}, or {_elsewhere()}"
            raise BackendError(f"the memory of {device} is full: {said}", hint=hint) from error
        raise BackendError(f"{device} cannot compute this: {said}", hint=_elsewhere()) from error


def _seen() -> list[str]:
    kind = torch.accelerator.current_accelerator()
    if kind is None or not torch.accelerator.is_available():
        return []
    if kind.type == "mps":
        return ["mps"]
    return [f"{kind.type}:{number}" for number in range(torch.accelerator.device_count())]


def _elsewhere() -> str:
    return f"{option('device', 'cpu')} goes on on the processor"
