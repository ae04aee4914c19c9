"""What every engine with capability "embed" must do; `edgellm.testing.backend` is where plugin authors find it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

import pytest

from edgellm.contract.embedder import Embedder, Reranker
from edgellm.contract.engine import SlotInput
from edgellm.contract.manager import plugins
from edgellm.errors import CacheFull, UnsupportedTask

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgellm.contract.engine import Engine
    from edgellm.types.plan import LaunchPlan

TEXTS = (
    "A harbour.",
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "Rain fell on the harbour all night; by morning every boat was full of water, and nobody had slept.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
)


class EmbedderContract:
    """Vectors do not depend on what is beside them in a batch, keep their order, and are what `info` says.

    The plan needs a context of at least 64 tokens. An engine that also generates is proved by `BackendContract` too.

    Attributes:
        tolerance: largest difference of a number between a batch and a sequence alone, of vectors of unit length.
        leak_batches: batches run to see that memory stays flat. leak_bytes: growth allowed over them.
    """

    tolerance: ClassVar[float] = 1e-5
    leak_batches: ClassVar[int] = 300
    leak_bytes: ClassVar[int] = 16 * 1024**2

    def plan(self) -> LaunchPlan:
        """The plan to test with."""
        raise NotImplementedError(f"{type(self).__name__} must define plan()")

    @pytest.fixture(scope="class")
    @classmethod
    def embedding_engine(cls) -> Iterator[Engine]:
        plan = cls().plan()
        engine = plugins().backend(plan.backend).open(plan)
        yield engine
        engine.close()
        engine.close()

    def test_it_says_what_its_vectors_are(self, embedding_engine: Engine) -> None:
        info = embedding_engine.info
        assert "embed" in info.capabilities
        assert isinstance(embedding_engine, Embedder)
        assert info.embedding is not None
        assert info.embedding.pooling
        assert info.n_embd > 0
        assert all(0 < size <= info.n_embd for size in info.embedding.dimensions or ())

    def test_rows_are_float32_of_the_promised_length(self, embedding_engine: Engine) -> None:
        import numpy as np

        info = embedding_engine.info
        vectors = embed(embedding_engine, sequences(embedding_engine))
        assert vectors.shape == (len(TEXTS), info.n_embd)
        assert vectors.dtype == "float32"
        assert np.isfinite(vectors).all()
        lengths = np.linalg.norm(vectors, axis=1)
        assert info.embedding is not None
        assert lengths.min() > 0
        if info.embedding.normalized:
            assert abs(lengths - 1).max() < 1e-5

    def test_batched_equals_isolated(self, embedding_engine: Engine) -> None:
        """Also that padding does not leak: in a batch every sequence but the longest is padded."""
        tokens = sequences(embedding_engine)
        together = embed(embedding_engine, tokens)
        for one, row in zip(tokens, together, strict=True):
            self.assert_same(embed(embedding_engine, [one])[0], row)

    def test_order_is_kept(self, embedding_engine: Engine) -> None:
        tokens = sequences(embedding_engine)
        forward, backward = embed(embedding_engine, tokens), embed(embedding_engine, tokens[::-1])
        for one, other in zip(forward, backward[::-1], strict=True):
            self.assert_same(one, other)
        assert abs(forward[0] - forward[1]).max() > 10 * self.tolerance

    def test_the_caller_may_keep_what_it_got(self, embedding_engine: Engine) -> None:
        tokens = sequences(embedding_engine)
        first = embed(embedding_engine, tokens[:1])
        copy = first.copy()
        embed(embedding_engine, tokens[1:])
        assert (first == copy).all()

    def test_the_longest_sequence_fits(self, embedding_engine: Engine) -> None:
        assert len(embed(embedding_engine, [stretched(embedding_engine, embedding_engine.info.n_ctx)])) == 1

    def test_what_cannot_be_embedded_is_refused(self, embedding_engine: Engine) -> None:
        info, (first, *_) = embedding_engine.info, sequences(embedding_engine)
        with pytest.raises(CacheFull):
            embed(embedding_engine, [first, stretched(embedding_engine, info.n_ctx + 1)])
        for wrong in ([], [-1], [info.vocab_size]):
            with pytest.raises(ValueError, match="sequence 1"):
                embed(embedding_engine, [first, wrong])
        assert len(embed(embedding_engine, [first])) == 1

    def test_an_engine_that_only_embeds_refuses_to_generate(self, embedding_engine: Engine) -> None:
        if embedding_engine.info.generates:
            pytest.skip("does not apply: the engine generates, too")
        with pytest.raises(UnsupportedTask):
            embedding_engine.step([SlotInput(0, 0, tuple(sequences(embedding_engine)[0]), 1)])
        assert embedding_engine.truncate(0, 5) == 0

    def test_scores_do_not_depend_on_the_batch(self, embedding_engine: Engine) -> None:
        """Of engines that rerank too."""
        if "rerank" not in embedding_engine.info.capabilities:
            pytest.skip("does not apply: the engine does not rerank")
        assert isinstance(embedding_engine, Reranker)
        pairs = [embedding_engine.pair(TEXTS[0], text) for text in TEXTS]
        together = embedding_engine.rerank(pairs)
        assert together.shape == (len(TEXTS),)
        for pair, score in zip(pairs, together, strict=True):
            assert abs(embedding_engine.rerank([pair])[0] - score) <= 10 * self.tolerance

    def test_embedding_leaves_no_memory_behind(self, embedding_engine: Engine) -> None:
        import psutil

        tokens = sequences(embedding_engine)
        for _ in range(20):
            embed(embedding_engine, tokens)
        before = psutil.Process().memory_info().rss
        for number in range(self.leak_batches):
            embed(embedding_engine, tokens[: 1 + number % len(tokens)])
        grown = psutil.Process().memory_info().rss - before
        assert grown <= self.leak_bytes, f"{grown} bytes more after {self.leak_batches} batches"

    def assert_same(self, one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> None:
        """Within the tolerance, relative to the vectors' length."""
        import numpy as np

        difference = float(abs(one - other).max() / np.linalg.norm(one))
        assert difference <= self.tolerance, f"numbers differ by {difference}, allowed {self.tolerance}"


def sequences(engine: Engine) -> list[list[int]]:
    """Tokens of TEXTS with the special ones that the model wants, cut to the context."""
    rows = [engine.tokenizer.encode(text, add_special=True, parse_special=False) for text in TEXTS]
    return [tokens[: engine.info.n_ctx] for tokens in rows]


def stretched(engine: Engine, size: int) -> list[int]:
    """Tokens of a text over and over, so many."""
    tokens = sequences(engine)[1]
    return (tokens * (size // len(tokens) + 1))[:size]


def embed(engine: Engine, tokens: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
    """What the engine gives; it must be an `Embedder`."""
    assert isinstance(engine, Embedder)
    return engine.embed(tokens)
