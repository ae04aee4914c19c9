"""Logits of 200 given tokens, and which of llama.cpp's libraries computed them: variant_logits.py MODEL FILE.npy

Run with LLAMA_CPP_LIB_PATH, natively or by qemu-user.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from edgellm_gguf import ggml
from edgellm_gguf.engine import LlamaEngine

from edgellm.contract.engine import SlotInput
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings

PARTS = [32] * 6 + [1] * 8  # 200 tokens; 32 rows of logits are the most of a step


def main(model: str, target: str) -> None:
    engine = LlamaEngine(LaunchPlan("gguf", Artifact("gguf", (model,), "model"), Settings(256)))
    # Each is given: one that differs does not change those after it. As a prompt comes, then as an answer does.
    tokens = np.random.default_rng(1).integers(0, engine.info.vocab_size, sum(PARTS)).tolist()
    rows, done = [], 0
    for part in PARTS:
        step = engine.step([SlotInput(0, done, tuple(tokens[done : done + part]), part)])
        rows.append(np.array(step[0], np.float32))
        done += part
    np.save(target, np.concatenate(rows))
    print(Path(ggml.cpu_library()).stem.removeprefix("libggml-cpu-"))


if __name__ == "__main__":
    main(*sys.argv[1:])
