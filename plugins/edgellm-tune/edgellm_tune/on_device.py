"""What a GPU adds to the formulas: what it takes beside the values themselves, and how fast it is.

No constant here was measured: no GPU was there. They are chosen so that a verdict errs to the side of too much memory
and too little speed (docs/limits.md).
"""

from __future__ import annotations

import msgspec

from edgellm.formats.gguf.decoder import Decoder
from edgellm.types.gpu import Gpu
from edgellm.types.tune_device import device_kind
from edgellm.types.tuning import TuneFootprint, TuneSettings
from edgellm.units import MIB

# torch's allocator cuts blocks of 2 and 20 MiB, and keeps what it cannot use again: of what comes and goes, so much.
SPARE_SHARE = 0.2
WORKSPACE_BYTES = 160 * MIB  # cuBLAS's: 32 MiB as it is set here, up to 128 of its own on the newest; small remainders
PROCESS_BYTES = 1024 * MIB  # in RAM: torch's libraries for GPUs and a driver's context, beside those for processors
_SHARE_OF_PEAK = 0.25  # of the arithmetic in float32, which products of some hundred rows reach
_SHARE_OF_BANDWIDTH = 0.5
_LAUNCH_S = 8e-6  # of an operation, however little it computes
_OPERATIONS_OF_LAYER = 180  # that are started for a layer forward and backward: seven matrices with their factors
_OPERATIONS_OF_UNPACKING = 12  # for 256 Ki values
_UNPACKED_AT_ONCE = 256 * 1024
_LEAST_TFLOPS = 0.8  # of a GPU of which nothing is known


def placed(footprint: TuneFootprint, largest_tensor_bytes: int) -> TuneFootprint:
    """The same values on a GPU, with what they take beside."""
    comes_and_goes = footprint.unpacked_bytes + footprint.activation_bytes + footprint.gradient_bytes
    spare = SPARE_SHARE * (comes_and_goes + footprint.logits_bytes) + WORKSPACE_BYTES
    # A checkpoint is written from copies; before that, one tensor after the other is read from the file.
    copies = max(footprint.trained_bytes + footprint.optimizer_bytes, largest_tensor_bytes)
    return msgspec.structs.replace(
        footprint,
        process_bytes=footprint.process_bytes + PROCESS_BYTES,
        on_device=True,
        spare_bytes=int(spare),
        copies_bytes=copies,
    )


def scores(config: Decoder, device: str, longest: int) -> int:
    """Values for each token that attention keeps of a layer: of CUDA only the mask of a window, elsewhere all weights,
    as torch has no kernel there whose gradient does without them."""
    if device_kind(device) == "cuda":
        return longest if config.window and longest > config.window else 0
    return config.heads * longest


def rate(operations: float, weights: int, config: Decoder, settings: TuneSettings, gpu: Gpu | None) -> float:
    """Tokens per second. `operations` of a token; `weights` of all layers."""
    tflops = _SHARE_OF_PEAK * gpu.fp32_tflops if gpu else _SHARE_OF_PEAK * _LEAST_TFLOPS
    tokens, passes = settings.batch * settings.length, 2 + settings.checkpointing
    starts = config.n_layer * _OPERATIONS_OF_LAYER * passes / 2
    moved = 0.0
    if settings.quantized and settings.method != "full":
        starts += passes * weights / _UNPACKED_AT_ONCE * _OPERATIONS_OF_UNPACKING
        moved = passes * weights * 4.0 * 4  # written and read again three times, as float32
    of_batch = starts * _LAUNCH_S
    if gpu:
        of_batch += moved / (_SHARE_OF_BANDWIDTH * gpu.bandwidth_gb_s * 1e9)
    return 1 / (operations / (tflops * 1e12) + of_batch / tokens)
