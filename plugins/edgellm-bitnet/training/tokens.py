"""Documents as tokens: the tokenizer, the training stream and the held-out windows."""

from collections.abc import Iterator

import corpus
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE with the GPT-2 pre-tokenizer (`tokenizer.ggml.pre` = gpt-2)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


class Stream:
    """All training documents end to end, and where a window may begin: at a paragraph."""

    def __init__(self, tokenizer: Tokenizer, documents: list[tuple[str, str]]) -> None:
        self.bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
        newline = tokenizer.encode("\n", add_special_tokens=False).ids[0]
        ids: list[int] = []
        starts: list[int] = []
        for book, text in documents:
            tokens = tokenizer.encode(text, add_special_tokens=False).ids
            begins = [i for i in range(len(tokens)) if tokens[i - 1] == newline != tokens[i] or i == 0]
            for _ in range(corpus.BOOKS[book]):
                starts += [len(ids) + i for i in begins]
                ids += [*tokens, eos, self.bos]
        self.ids = torch.tensor(ids)
        self.starts = torch.tensor(starts)

    def batches(self, batch: int, length: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Endless [batch, length + 1] windows, each begun with the start token."""
        usable = self.starts[self.starts + length < len(self.ids)]
        offsets = torch.arange(length)
        bos = torch.full((batch, 1), self.bos)
        while True:
            for chosen in usable[torch.randperm(len(usable), generator=generator)].split(batch):
                if len(chosen) == batch:
                    yield torch.cat((bos, self.ids[chosen[:, None] + offsets]), 1)


def held_out_windows(tokenizer: Tokenizer, texts: list[str], length: int) -> list[Tensor]:
    """Windows of at most length + 1 tokens, one token shared between neighbours: each token predicted once."""
    windows = []
    for text in texts:
        ids = [*tokenizer.encode(text).ids, tokenizer.token_to_id(EOS)]
        windows += [torch.tensor([ids[i : i + length + 1]]) for i in range(0, len(ids) - 1, length)]
    return windows
