"""Logits of 200 given tokens, and which code computed them: variant_logits.py BACKEND MODEL FILE.npy

Run natively or by qemu-user; with LLAMA_CPP_LIB_PATH, or with installed wheels.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from edgellm.contract.engine import Engine, SlotInput
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings

PARTS = [32] * 6 + [1] * 8  # 200 tokens; 32 rows of logits are the most of a step


def llama(plan: LaunchPlan) -> tuple[Engine, str]:
    from edgellm_gguf import ggml
    from edgellm_gguf.engine import LlamaEngine

    engine = LlamaEngine(plan)
    return engine, Path(ggml.cpu_library()).stem.removeprefix("libggml-cpu-")


def ternary(plan: LaunchPlan) -> tuple[Engine, str]:
    from edgellm_bitnet import native
    from edgellm_bitnet.plugin import BitnetBackend

    return BitnetBackend().open(plan), list(native.isas())[native.isa_index()]


OPENED = {"gguf": llama, "bitnet": ternary}


def main(backend: str, model: str, target: str) -> None:
    engine, variant = OPENED[backend](LaunchPlan(backend, Artifact("gguf", (model,), "model"), Settings(256)))
    # Each is given: one that differs does not change those after it. As a prompt comes, then as an answer does.
    tokens = np.random.default_rng(1).integers(0, engine.info.vocab_size, sum(PARTS)).tolist()
    rows, done = [], 0
    for part in PARTS:
        step = engine.step([SlotInput(0, done, tuple(tokens[done : done + part]), part)])
        rows.append(np.array(step[0], np.float32))
        done += part
    np.save(target, np.concatenate(rows))
    print(variant)


if __name__ == "__main__":
    main(*sys.argv[1:])
