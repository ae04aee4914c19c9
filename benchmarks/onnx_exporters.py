"""Folders made by optimum-onnx and by onnxruntime-genai's builder, against what those libraries compute themselves.

    python benchmarks/onnx_exporters.py [--optimum PYTHON] [--genai PYTHON]

The first Python has torch, transformers 4 and optimum-onnx; the second torch, transformers 5, onnxruntime-genai,
onnx_ir and onnxscript (the two do not agree on a transformers). Two random models, llama- and qwen2-like, are saved,
exported, and run on 48 tokens: 32 as a prompt and 16 one by one. Optimum's folders are compared with transformers'
logits, the builder's (fp32, int4) with onnxruntime-genai's.

Exit status 1: a logit differs by more than 1e-3 (int4: 0.05, as activations are rounded to 8 bits).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from edgellm_onnx.plugin import OnnxBackend

from edgellm.contract.engine import SlotInput
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings

CHILD = Path(__file__).with_name("onnx_exporters_child.py")
VOCAB, PROMPT, ANSWER = 320, 32, 16
ALLOWED = {"int4": 0.05}
Array = npt.NDArray[np.float32]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimum", help="a Python with optimum-onnx")
    parser.add_argument("--genai", help="a Python with onnxruntime-genai and its builder")
    arguments = parser.parse_args()
    if not (arguments.optimum or arguments.genai):
        parser.error("--optimum or --genai is needed")
    sound = True
    with tempfile.TemporaryDirectory() as room:
        for python, task in ((arguments.optimum, "optimum"), (arguments.genai, "genai")):
            if python:
                work = Path(room) / task
                write_tokenizer(work / "tokenizer.json")
                subprocess.run([python, str(CHILD), task, str(work)], check=True)
                for folder in sorted(path.parent for path in work.glob("*/logits.npz")):
                    sound &= told(task, folder)
    return not sound


def told(task: str, folder: Path) -> bool:
    """Compare one folder; whether it agrees."""
    with np.load(folder / "logits.npz") as kept:
        tokens, theirs = kept["tokens"].tolist(), kept["logits"]
    ours = computed(folder, tokens)
    worst = float(np.abs(ours - theirs).max())
    same = int((ours.argmax(1) == theirs.argmax(1)).sum())
    allowed = next((limit for mark, limit in ALLOWED.items() if mark in folder.name), 1e-3)
    print(f"{task} {folder.name}: largest difference {worst:.2e} of logits within {np.abs(theirs).max():.2f}, "
          f"same first choice {same} of {len(tokens)}")  # fmt: skip
    return worst <= allowed


def computed(folder: Path, tokens: list[int]) -> Array:
    """float32 [tokens, vocab] of our engine: a prompt, then one by one."""
    settings = Settings(256, n_slots=1)
    engine = OnnxBackend().open(LaunchPlan("onnx", Artifact("onnx", (str(folder),), folder.name), settings))
    found = [engine.step([SlotInput(0, 0, tuple(tokens[:PROMPT]), PROMPT)])[0].copy()]
    found += [engine.step([SlotInput(0, at, (tokens[at],), 1)])[0].copy() for at in range(PROMPT, len(tokens))]
    engine.close()
    return np.concatenate(found)


def write_tokenizer(path: Path) -> None:
    """A word for each byte and some more: what a folder must have, whatever it says."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={text: at for at, text in enumerate(["<s>", "</s>", *alphabet])}, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(["<s>", "</s>"])
    path.parent.mkdir(parents=True)
    made.save(str(path))
    (path.parent / "tokens.json").write_text(
        json.dumps(np.random.default_rng(0).integers(2, 250, PROMPT + ANSWER).tolist())
    )


if __name__ == "__main__":
    sys.exit(main())
