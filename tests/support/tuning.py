"""Rows for a tuner, and trainers of small models on torch."""

from __future__ import annotations

import numpy as np

from edgellm.contract.tuner import Batch
from edgellm.formats.gguf.reader import read_model
from edgellm.types.tuning import TuneSettings

WHY_NOT = "torch: it is not installed; `make test-all` installs it"


def rows(*lengths, seed=0, vocab=288, share=0.6):
    """A batch of random tokens: for each row the lengths of its documents. Some tokens are supervised."""
    rng = np.random.default_rng(seed)
    size = len(lengths), max(map(sum, lengths))
    batch = Batch(*(np.zeros(size, kind) for kind in (np.int32, bool, np.int32, np.int32)))
    for row, documents in enumerate(lengths):
        start = 0
        for number, length in enumerate(documents, 1):
            part = row, slice(start, start + length)
            batch.tokens[part] = rng.integers(0, vocab, length)
            batch.supervised[part] = rng.random(length) < share
            batch.supervised[row, start] = False
            batch.positions[part] = np.arange(length)
            batch.documents[part] = number
            start += length
    return batch


def trainer(path, *, dtype="float64", **settings):
    """Of a file."""
    import torch
    from edgellm_tune.trainer import TorchTrainer

    return TorchTrainer(read_model(path), TuneSettings(**settings), getattr(torch, dtype))


def stir(trainer, seed=0, spread=0.3):
    """Random values for all that is trained, so that no gradient is zero because a factor is."""
    import torch

    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in trainer.trained.values():
            tensor.add_(torch.randn(tensor.shape, generator=random).to(tensor.dtype), alpha=spread)
