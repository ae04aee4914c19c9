"""What a model in training is worth: its held-out loss and a few continuations, both in float32."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from model import BitNet, TernaryLinear
from tokenizers import Tokenizer
from tokens import EOS
from torch import Tensor

SEED = 1


@contextmanager
def float32() -> Iterator[None]:
    """Products in float32, whatever the training uses."""
    before, TernaryLinear.dtype = TernaryLinear.dtype, torch.float32
    try:
        yield
    finally:
        TernaryLinear.dtype = before


@torch.no_grad()
def evaluate(model: BitNet, windows: list[Tensor], text_bytes: int) -> dict[str, float]:
    """Held-out loss, in nats where the name says nothing else."""
    with float32():
        total = sum(model.loss(w, "sum").item() for w in windows)
    tokens = sum(w.shape[1] - 1 for w in windows)
    return {
        "held_out_loss_per_token": total / tokens,
        "held_out_loss_per_byte": total / text_bytes,
        "held_out_bits_per_byte": total / text_bytes / math.log(2),
        "held_out_perplexity": math.exp(total / tokens),
        "held_out_tokens": tokens,
        "held_out_bytes": text_bytes,
    }


@torch.no_grad()
def sample(model: BitNet, tokenizer: Tokenizer, prompt: str, count: int, temperature: float = 0.7) -> str:
    """`prompt` and up to `count` more tokens, drawn from the 40 likeliest."""
    generator = torch.Generator().manual_seed(SEED)
    ids = tokenizer.encode(prompt).ids
    with float32():
        for _ in range(count):
            hidden = model(torch.tensor([ids[-model.config.max_position_embeddings :]]))[0, -1]
            scores = model.model.embed_tokens.weight @ hidden / temperature
            scores[scores < scores.topk(40).values[-1]] = -math.inf
            ids.append(int(torch.multinomial(scores.softmax(0), 1, generator=generator)))
            if ids[-1] == tokenizer.token_to_id(EOS):
                break
    return tokenizer.decode(ids)
