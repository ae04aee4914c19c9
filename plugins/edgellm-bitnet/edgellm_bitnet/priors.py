"""Speed of the ternary kernels as it is assumed until `edgellm calibrate` has measured it."""

from __future__ import annotations

from edgellm.types.priors import KernelRate, Priors

# On one core with AVX-512 VNNI a prompt took 417e9 weights of BitNet-2B per second. A single token waits for memory
# (35 GB/s), so the rate of decoding was chosen such that both measured rates, with one and with two threads, are met
# within a quarter (docs/benchmarks/log/ternary.md).
TERNARY = KernelRate(decode_gw_s=250.0, prefill_gw_s=400.0)
# Q1_0, Q2_0 and TQ1_0 are unpacked into the layout of I2_S when they are loaded.
PRIORS = Priors(rates=dict.fromkeys(("I2_S", "TQ2_0", "TQ1_0", "Q2_0", "Q1_0"), TERNARY))
