"""A GPU of which nothing is known: what one is predicted as when it ran here, so that its own rates can correct it."""

from __future__ import annotations

from edgellm.types.gpu import Api, Gpu

# Round numbers of a small GPU: what it really reaches is measured before they are used, and any would do.
GB_S, FP32_TFLOPS, MATRIX_TFLOPS = 100.0, 5.0, 10.0
# Whose kernels it is taken to run. All of a rate is corrected, whatever the share of its parts.
_LIKE: dict[Api, str] = {
    "cuda": "blackwell", "rocm": "rdna4", "metal": "m5", "vulkan": "rdna4", "sycl": "battlemage", "opencl": "adreno-8",
}  # fmt: skip


def stranger(name: str, api: Api, *, unified: bool) -> Gpu:
    return Gpu(
        name=name, group=_LIKE[api], vendor="unknown", known="nothing", bandwidth_gb_s=GB_S, fp32_tflops=FP32_TFLOPS,
        matrix_tflops=MATRIX_TFLOPS, unified=unified, source="its own runs",
    )  # fmt: skip
