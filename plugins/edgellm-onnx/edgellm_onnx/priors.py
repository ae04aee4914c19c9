"""Speed of onnxruntime's kernels before they are measured, and how large published ONNX exports are."""

from __future__ import annotations

from edgellm.types.priors import ExportRule, KernelRate, Priors
from edgellm_onnx.devices import DEVICES

# onnxruntime 1.32 on one core of a Zen 4 decoded SmolLM2-135M at 0.67 (4 bits), 0.78 (8 bits) and 0.39 (16 bits) of the
# rate of llama.cpp on the same weights, and read prompts as fast (docs/benchmarks/log/onnx.md): the priors of
# `edgellm.estimate.isa`, scaled by these.
RATES = {
    "INT4": KernelRate(28.0, 80.0),
    "INT8": KernelRate(31.0, 80.0),
    "F16": KernelRate(10.0, 75.0),
    "F32": KernelRate(10.0, 75.0),
}
# As transformers.js and Optimum export (onnxruntime's MatMulNBits quantizer: blocks of 32, each with a float scale):
# the embedding table stays in floats. The published model_q4.onnx of SmolLM2-1.7B-Instruct has 1,411,969,607 bytes with
# its graph; this rule gives 1,409 million.
EXPORT = ExportRule("onnx", {"F32": "F32", "F16": "F16", "INT8": "F32", "INT4": "F32"}, full_cache=True)
PRIORS = Priors(RATES, EXPORT, {name: kind.prior for name, kind in DEVICES.items()})
