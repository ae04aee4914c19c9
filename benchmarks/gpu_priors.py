"""Where the constants of `edgellm.estimate.gpu_terms` start from: research notes on GPUs, 1 and 2.

The fit moves them as far as published rates ask for; a class without rows keeps its start.
"""

from __future__ import annotations

import gpu_fit

SPREAD = {
    "reached": 0.12, "cache": 0.25, "flops": 0.4, "layer_us": 0.35, "experts_us": 0.35, "matrix": 0.35,
    "unpack-k": 0.2, "unpack-8": 0.2, "unpack-float": 0.25, "routing": 0.4, "attention": 0.5, "batch_layer_us": 0.5,
    "columns": 0.8, "scan": 0.8, "answer": 0.1,
}  # fmt: skip
# Of reached and matrix: shares of a peak. layer_us and experts_us: microseconds a layer. flops: of FP32, a weight. The
# rest: factors.
START = {
    "reached": {
        "cuda-blackwell": 0.87, "cuda-ada": 0.87, "cuda-ampere": 0.83, "cuda-hbm": 0.8, "cuda-turing": 0.83,
        "cuda-pascal": 0.7, "cuda-shared": 0.85, "rocm-rdna": 0.75, "rocm-rdna4": 0.8, "rocm-apu": 0.84,
        "metal": 0.86, "vulkan-nvidia": 0.9, "vulkan-rdna": 0.86, "vulkan-rdna4": 0.84, "vulkan-apu": 0.85,
        "vulkan-intel": 0.67, "vulkan-intel-shared": 0.8, "sycl": 0.7, "opencl": 0.25, "vulkan-mobile": 0.25,
    },
    "matrix": {
        "cuda-blackwell": 0.48, "cuda-ada": 0.5, "cuda-ampere": 0.49, "cuda-a100": 0.23, "cuda-hopper": 0.19,
        "cuda-turing": 0.35, "cuda-turing-notc": 1.2, "cuda-volta": 0.31, "cuda-pascal": 1.2,
        "rocm-rdna": 0.42, "rocm-rdna4": 0.33, "rocm-apu": 0.34,
        "rocm-vega": 0.3, "metal-m1-m2": 0.67, "metal-m3-m4": 0.7, "metal-m5": 0.5, "vulkan-blackwell": 0.33,
        "vulkan-ada": 0.42, "vulkan-nvidia": 0.44, "vulkan-nvidia-old": 0.6, "vulkan-rdna": 0.5,
        "vulkan-rdna4": 0.35, "vulkan-rdna3.5-apu": 0.28, "vulkan-apu": 0.16, "vulkan-alchemist": 0.11,
        "vulkan-battlemage": 0.09, "vulkan-intel-shared": 0.25, "sycl": 0.29, "opencl": 0.15, "vulkan-mobile": 0.05,
    },
    "cache": {
        "cuda": 0.83, "cuda-old": 0.83, "rocm": 0.77, "metal": 0.65, "vulkan": 0.75, "sycl": 0.75, "opencl": 0.5,
    },
    "layer_us": {
        "cuda": 19, "cuda-old": 30, "rocm": 15, "metal": 25, "vulkan": 15, "sycl": 40, "opencl": 60,
    },
    "experts_us": {
        "cuda": 54, "cuda-old": 54, "rocm": 72, "metal": 100, "vulkan": 67, "sycl": 100, "opencl": 150,
    },
    "flops": {
        "plain": 4.8, "k45": 9.5, "q6": 7, "q23": 8, "iq": 6, "mxfp4": 5, "float": 5, "q23-vulkan-amd": 40,
        "bf16-vulkan-experts": 40,
    },
    "unpack-k": {
        "nvidia": 1.15, "amd": 1.15, "amd-vulkan": 1.15, "apple": 1.15, "other": 1.15,
    },
    "unpack-8": {
        "nvidia": 1.1, "amd": 1.1, "amd-vulkan": 1.1, "apple": 1.1, "other": 1.1,
    },
    "unpack-float": {
        "nvidia": 1.1, "amd": 1.1, "amd-vulkan": 1.1, "apple": 1.1, "other": 1.1,
    },
    "routing": {
        "nvidia": 1.6, "amd": 1.6, "amd-vulkan": 1.6, "apple": 1.6, "other": 1.6,
        "sycl": 10,  # 7.5 by rows of a B60, 14 by a B70's, which are held back from the fit of all others
    },
    "attention": {
        "nvidia": 2.0, "amd": 2.0, "amd-vulkan": 2.0, "apple": 2.0, "other": 2.0,
    },
    "batch_layer_us": {
        "all": 60,
    },
    "columns": {
        "all": 32,
    },
    "scan": {
        "tokens": 10, "chunks": 2,
    },
    "answer": {
        "whole": 1.09, "old-build": 1.3, "no-flash": 1.1,
    },
}  # fmt: skip
PRIORS = {
    f"{family}/{name}": gpu_fit.Prior(value, SPREAD[family])
    for family, values in START.items()
    for name, value in values.items()
}
# Factors of the middle that a class of predictions starts from, as so many rows of its own would: the notes' bands.
AS_ROWS = 10
BANDS = {
    "decode": {
        "nvidia": (0.82, 1.2), "nvidia-old": (0.72, 1.3), "amd": (0.72, 1.3), "amd-shared": (0.82, 1.2),
        "apple": (0.72, 1.3), "intel": (0.5, 1.4), "mobile": (0.2, 1.2), "unknown": (0.2, 1.2), "small": (0.5, 1.2),
    },
    "prefill": {
        "nvidia": (0.5, 1.5), "nvidia-old": (0.5, 1.5), "nvidia-shared": (0.5, 1.5),
        "nvidia-few": (0.5, 1.5), "apple-few": (0.5, 1.5), "nvidia-vulkan": (0.5, 1.5),
        "nvidia-old-vulkan": (0.5, 1.5), "nvidia-shared-vulkan": (0.5, 1.5), "amd": (0.3, 2.0),
        "amd-vulkan": (0.3, 2.0), "amd-shared": (0.35, 1.7), "amd-shared-vulkan": (0.35, 1.7), "apple": (0.7, 1.35),
        "intel": (0.4, 1.9), "mobile": (0.1, 2.0), "unknown": (0.1, 2.0), "small": (0.4, 1.6),
    },
}  # fmt: skip
