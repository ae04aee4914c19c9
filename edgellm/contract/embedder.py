"""The contract of an engine that turns texts into vectors (capability "embed") or scores (capability "rerank").

The core cuts texts into tokens, puts sequences of similar length together, and never asks for more than
`len(sequences) * longest <= info.max_batch_tokens`, except that one sequence alone may be as long as `info.n_ctx`.
So an engine that pads knows the most it must hold. Prove yours with `edgellm.testing.backend.EmbedderContract`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from edgellm.errors import CacheFull, UnsupportedTask

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgellm.contract.engine import Logits, SlotInput


@dataclass(frozen=True, slots=True)
class EmbeddingInfo:
    """What the vectors of a model are; `EngineInfo.n_embd` is their length."""

    pooling: str  # how a text's vectors become one: "mean", "cls", "last", "max", ...
    normalized: bool = True  # of unit length
    # Lengths that the model was trained to be cut to (Matryoshka): None = it was not, () = any up to n_embd.
    dimensions: tuple[int, ...] | None = None


@runtime_checkable
class Embedder(Protocol):
    """Capability "embed"."""

    def embed(self, sequences: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """float32 (len(sequences), n_embd), pooled as the model says. The caller may keep it.

        Raises:
            CacheFull: a sequence longer than the context. ValueError: an empty one, or an id outside the vocabulary.
        """
        ...


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and a document as one sequence."""

    tokens: tuple[int, ...]
    n_first: int  # tokens of the query, its special tokens included; segment ids are 0 there and 1 after

    def __len__(self) -> int:
        return len(self.tokens)


@runtime_checkable
class Reranker(Protocol):
    """Capability "rerank": a cross-encoder, which reads query and document together."""

    def pair(self, query: str, document: str) -> Pair:
        """Both as the model wants to read them."""
        ...

    def rerank(self, pairs: Sequence[Pair]) -> npt.NDArray[np.float32]:
        """float32 (len(pairs),): relevance, higher is better, on the scale that the model says. Raises as `embed`."""
        ...


class EmbedsOnly:
    """A base for engines that write no text: what they say to the rest of `edgellm.contract.engine.Engine`."""

    gives: ClassVar[str] = "vectors"

    def step(self, batch: Sequence[SlotInput]) -> list[Logits]:
        """Refused."""
        raise UnsupportedTask("the model writes no text", hint=f"it turns texts into {self.gives}")

    def truncate(self, slot: int, n_tokens: int) -> int:
        """Slots are always empty."""
        return 0

    def fork(self, source: int, target: int, n_tokens: int) -> int:
        """Slots are always empty."""
        return 0


def unit(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rows of length 1; one of zeros stays."""
    import numpy as np

    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), np.float32)


def check_sequences(sequences: Sequence[Sequence[int]], vocab_size: int, n_ctx: int) -> None:
    """What an engine checks of sequences before it computes.

    Raises:
        CacheFull: one is longer than the context. ValueError: one is empty or has an id outside the vocabulary.
    """
    for index, tokens in enumerate(sequences):
        if not tokens:
            raise ValueError(f"sequence {index} is empty")
        if len(tokens) > n_ctx:
            raise CacheFull(f"sequence {index} has {len(tokens)} tokens, {n_ctx} fit", needed=len(tokens), free=n_ctx)
        if min(tokens) < 0 or max(tokens) >= vocab_size:
            raise ValueError(f"sequence {index}: a token id outside 0..{vocab_size - 1}")
