"""The contract of an engine: it turns tokens into logits, and nothing else. Vectors: `edgellm.contract.embedder`.

Templates, sampling, stop strings, prefix reuse, batching and cancellation are the core's, so they mean the same on
every backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from edgellm.contract.embedder import Embedder, EmbeddingInfo, Reranker  # msgspec looks the second up for EngineInfo
from edgellm.errors import CacheFull

if TYPE_CHECKING:  # numpy costs 80 ms to import
    import numpy as np
    import numpy.typing as npt

    from edgellm.types.adapter import AdapterSet

# Rows of logits that engines keep beyond one for each slot, for draft verification and teacher forcing. A row costs
# 4 bytes x vocabulary: 1 MiB for Gemma 3's 262,144.
SPARE_LOGITS = 31

Logits: TypeAlias = "npt.NDArray[np.float32]"


@dataclass(frozen=True, slots=True)
class SlotInput:
    """Tokens to append to one slot in one step."""

    slot: int  # 0 <= slot < info.n_slots
    n_past: int  # tokens of this slot already in the cache
    tokens: tuple[int, ...]  # appended after n_past, never empty
    n_logits: int  # logits wanted for the last n tokens: 0 mid-prompt, 1 to decode, k to verify a draft
    # (name, scale) of those that these tokens are computed with, each other set in the same step only where
    # `mixes_adapters` says so. Zeros are left out, and the order is always the same.
    adapters: AdapterSet = ()


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a loaded model is. Fixed for the life of the engine."""

    n_slots: int
    n_ctx: int  # tokens per slot
    max_batch_tokens: int  # most tokens in one step, over all slots
    max_logits: int  # most rows of logits in one step, over all slots; at least n_slots
    vocab_size: int
    eos_ids: frozenset[int]
    n_embd: int = 0
    add_bos: bool = False  # the model wants a BOS token before the prompt
    bos_text: str = ""
    eos_text: str = ""
    chat_template: str | None = None
    response_template: str = ""  # JSON of Hugging Face's key: how answers are marked
    # What becomes one token wherever `parse_special` allows it: texts of control tokens ("<|im_end|>"), and of tokens
    # that were added to the vocabulary and are shown ("<think>", but also "<table>").
    special_texts: tuple[str, ...] = ()
    added_texts: tuple[str, ...] = ()
    rewind_tokens: int | None = None  # how far truncate can go back: 0 = not at all, None = all the way
    fork_copies: bool = False  # fork costs memory traffic; False = the prefix is shared
    batch_invariant: bool = False  # batched equals isolated bit for bit
    capabilities: frozenset[str] = frozenset()  # names of CAPABILITIES, below
    mixes_adapters: bool = False  # entries of one step may have different adapters
    generates: bool = True  # False = an encoder: `step` refuses, truncate and fork keep nothing
    embedding: EmbeddingInfo | None = None  # of what "embed" gives
    device: str = "cpu"
    allocated_bytes: int | None = None  # weights, cache and buffers as the library counts them; None = it does not say
    details: dict[str, str] = field(default_factory=dict)  # for people: library, kernels, buffers


def check_batch(batch: Sequence[SlotInput], info: EngineInfo, lengths: Sequence[int]) -> None:
    """What an engine checks before a step touches its cache. `lengths`: tokens in each slot.

    Raises:
        CacheFull: an entry is longer than what its slot has left.
        ValueError: a slot twice, a wrong `n_past`, no tokens, an id outside the vocabulary, or too many of anything.
    """
    total = rows = 0
    for entry in batch:
        total += len(entry.tokens)
        rows += entry.n_logits
        if not entry.tokens or entry.n_past != lengths[entry.slot]:
            raise ValueError(f"slot {entry.slot} holds {lengths[entry.slot]} tokens, not {entry.n_past}")
        if entry.n_past + len(entry.tokens) > info.n_ctx:
            needed, free = len(entry.tokens), info.n_ctx - entry.n_past
            raise CacheFull(f"slot {entry.slot} needs {needed} cells, {free} are free", needed=needed, free=free)
        if min(entry.tokens) < 0 or max(entry.tokens) >= info.vocab_size:
            raise ValueError(f"slot {entry.slot}: a token id outside 0..{info.vocab_size - 1}")
    if len({entry.slot for entry in batch}) < len(batch):
        raise ValueError("a slot stands twice in one step")
    sets = {entry.adapters for entry in batch}
    if (sets != {()} and "adapters" not in info.capabilities) or (len(sets) > 1 and not info.mixes_adapters):
        raise ValueError(f"adapters {sorted(sets)} in one step of an engine that does not take them")
    if total > info.max_batch_tokens or rows > info.max_logits:
        most = f"{info.max_batch_tokens} and {info.max_logits} are the most"
        raise ValueError(f"a step of {total} tokens and {rows} rows of logits; {most}")


class Tokenizer(Protocol):
    """Text to tokens and back, as the model defines it."""

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of `text`. `add_special` puts BOS (and EOS) where the model wants them."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """Bytes that `token` adds to the text; b"" for control tokens. May be a part of a UTF-8 character."""
        ...

    def text(self, token: int) -> str:
        """`token` as a template writes it, control tokens too; "" where the id has no token."""
        ...

    def pieces(self) -> tuple[list[bytes], frozenset[int]]:
        """Bytes of every token, by id, control tokens as a template writes them; and which are control tokens.

        Called once, from the thread that encodes long texts.
        """
        ...


class Engine(Protocol):
    """One loaded model. One process, one thread, no locks: the runtime never calls it from two threads.

    But for the tokenizer, whose methods also run in other threads, several at a time, while answers go on.
    """

    @property
    def info(self) -> EngineInfo: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    def step(self, batch: Sequence[SlotInput]) -> list[Logits]:
        """Run one batch; return float32 (n_logits, vocab_size) for each entry that wants logits, in order.

        The arrays are read-only views, valid until the next call. All or nothing.

        Raises:
            CacheFull: before the cache was touched.
            StepFailed: after; `lost_slots` says which slots are empty now.
            UnsupportedTask: the model writes no text (`info.generates`).
        """
        ...

    def truncate(self, slot: int, n_tokens: int) -> int:
        """Keep at most the first `n_tokens` of the slot; return how many were really kept (see rewind_tokens)."""
        ...

    def fork(self, source: int, target: int, n_tokens: int) -> int:
        """Give `target` the first `n_tokens` of `source`, replacing its own; return how many it really has."""
        ...

    def close(self) -> None:
        """Free everything. Calling it twice is fine."""
        ...


@runtime_checkable
class SlotSaver(Protocol):
    """Capability "save_slot": a slot's cache as bytes, for any engine of the same model and cache type."""

    def save_slot(self, slot: int) -> bytes: ...

    def load_slot(self, slot: int, state: bytes) -> int:
        """Put a saved state in place of the slot's own; return how many tokens it holds.

        Raises:
            ValueError: it is no state of this model, or longer than a slot.
        """
        ...


@runtime_checkable
class AdapterLoader(Protocol):
    """Capability "adapters": LoRA adapters beside the weights, for tokens whose `SlotInput.adapters` names them.

    A cache belongs to the adapters that computed it: the core never lets one set read what another wrote.
    """

    def load_adapter(self, name: str, path: str) -> None:
        """Keep the adapter in a file under this name, which none has. The file may go afterwards.

        Raises:
            BadArtifact, UnsupportedArtifact: it is no adapter of this model. BackendUnavailable: no memory.
        """
        ...

    def drop_adapter(self, name: str) -> None:
        """Free the adapter of that name. No slot uses it any more."""
        ...


# What an engine that names one in `EngineInfo.capabilities` must have.
CAPABILITIES: dict[str, type] = {
    "adapters": AdapterLoader,
    "embed": Embedder,
    "rerank": Reranker,
    "save_slot": SlotSaver,
}
