"""What every engine with capability "embed" must do; `edgellm.testing.backend` is where plugin authors find it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import pytest

from edgellm.contract.answers import kind_of
from edgellm.contract.embedder import Embedder, Reranker
from edgellm.contract.engine import SlotInput
from edgellm.errors import CacheFull, UnsupportedTask
from edgellm.testing.limit import limited
from edgellm.testing.refusals import assert_refused
from edgellm.testing.shared import SharedEngine
from edgellm.testing.tokens import encode

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgellm.contract.engine import Engine

TEXTS = (
    "A harbour.",
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "Rain fell on the harbour all night; by morning every boat was full of water, and nobody had slept.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
)


@limited
class EmbedderContract(SharedEngine):
    """Vectors do not depend on what is beside them in a batch, keep their order, and are what `info` says.

    The plan needs a context of at least 64 tokens. An engine that also generates is proved by `BackendContract` too.

    Attributes:
        tolerance: largest difference of a number between a batch and a sequence alone, of vectors of unit length.
        leak_batches: batches run to see that memory stays flat. leak_bytes: growth allowed over them.
        limit_s: seconds that opening and each test may take. What takes longer hangs.
    """

    tolerance: ClassVar[float] = 1e-5
    leak_batches: ClassVar[int] = 300
    leak_bytes: ClassVar[int] = 16 * 1024**2

    @pytest.fixture
    def embedding_engine(self, shared_engine: Engine) -> Engine:
        """The class's engine."""
        self.refuse_hung()
        return shared_engine

    def test_it_says_what_its_vectors_are(self, embedding_engine: Engine) -> None:
        info = embedding_engine.info
        assert "embed" in info.capabilities, f"info.capabilities={set(info.capabilities)}, 'embed' is expected"
        assert isinstance(embedding_engine, Embedder), f"{type(embedding_engine).__name__} has no method embed"
        assert info.embedding is not None, "info.embedding is None, an EmbeddingInfo is expected"
        assert info.embedding.pooling, "info.embedding.pooling is empty"
        assert info.n_embd > 0, f"info.n_embd={info.n_embd}, the length of a vector is expected"
        wrong = [size for size in info.embedding.dimensions or () if not 0 < size <= info.n_embd]
        assert wrong == [], f"info.embedding.dimensions has {wrong}, a vector has {info.n_embd} numbers"

    def test_rows_are_float32_of_the_promised_length(self, embedding_engine: Engine) -> None:
        import numpy as np

        info = embedding_engine.info
        vectors = embed(embedding_engine, sequences(embedding_engine))
        expected = (len(TEXTS), info.n_embd)
        assert vectors.shape == expected, f"vectors have the shape {vectors.shape}, {expected} is expected"
        assert vectors.dtype == "float32", f"vectors are {vectors.dtype}, float32 is expected"
        assert np.isfinite(vectors).all(), f"{(~np.isfinite(vectors)).sum()} numbers are not finite"
        lengths = np.linalg.norm(vectors, axis=1)
        assert info.embedding is not None, "info.embedding is None, an EmbeddingInfo is expected"
        assert lengths.min() > 0, f"the vector of {TEXTS[int(lengths.argmin())]!r} is zero"
        if info.embedding.normalized:
            assert abs(lengths - 1).max() < 1e-5, f"info says unit length, the vectors' lengths are {lengths}"

    def test_batched_equals_isolated(self, embedding_engine: Engine) -> None:
        """Also that padding does not leak: in a batch every sequence but the longest is padded."""
        tokens = sequences(embedding_engine)
        together = embed(embedding_engine, tokens)
        for text, one, row in zip(TEXTS, tokens, together, strict=True):
            self.assert_same(embed(embedding_engine, [one])[0], row, f"{text!r} alone and in a batch")

    def test_order_is_kept(self, embedding_engine: Engine) -> None:
        tokens = sequences(embedding_engine)
        forward, backward = embed(embedding_engine, tokens), embed(embedding_engine, tokens[::-1])
        for text, one, other in zip(TEXTS, forward, backward[::-1], strict=True):
            self.assert_same(one, other, f"{text!r} in a batch and in the same batch backwards")
        difference, least = float(abs(forward[0] - forward[1]).max()), 10 * self.tolerance
        assert difference > least, (
            f"the vectors of {TEXTS[0]!r} and {TEXTS[1]!r} differ by {difference:g} only, more than {least:g} is "
            "expected: their order cannot be proved"
        )

    def test_the_caller_may_keep_what_it_got(self, embedding_engine: Engine) -> None:
        tokens = sequences(embedding_engine)
        first = embed(embedding_engine, tokens[:1])
        copy = first.copy()
        embed(embedding_engine, tokens[1:])
        changed = int((first != copy).sum())
        assert changed == 0, f"{changed} numbers of a vector changed when the next was computed: return a copy"

    def test_the_longest_sequence_fits(self, embedding_engine: Engine) -> None:
        n_rows = len(embed(embedding_engine, [stretched(embedding_engine, embedding_engine.info.n_ctx)]))
        assert n_rows == 1, f"a sequence of info.n_ctx tokens gives {n_rows} rows, 1 is expected"

    def test_what_cannot_be_embedded_is_refused(self, embedding_engine: Engine) -> None:
        info, (first, *_) = embedding_engine.info, sequences(embedding_engine)
        embed_too = functools.partial(_embed_both, embedding_engine, first)
        long = stretched(embedding_engine, info.n_ctx + 1)
        what = f"embed() of a sequence with a token more than info.n_ctx={info.n_ctx}"
        assert_refused(CacheFull, functools.partial(embed_too, long), what)
        for wrong in ([], [-1], [info.vocab_size]):
            assert_refused(
                ValueError, functools.partial(embed_too, wrong), f"embed() of the sequence {wrong}", "sequence 1"
            )
        n_rows = len(embed(embedding_engine, [first]))
        assert n_rows == 1, f"after a refusal, one sequence gives {n_rows} rows, 1 is expected"

    def test_an_engine_that_only_embeds_refuses_to_generate(self, embedding_engine: Engine) -> None:
        if embedding_engine.info.generates:
            pytest.skip("does not apply: the engine generates, too")
        batch = [SlotInput(0, 0, tuple(sequences(embedding_engine)[0]), 1)]
        assert_refused(UnsupportedTask, lambda: embedding_engine.step(batch), "a step of an engine that only embeds")
        n_kept = embedding_engine.truncate(0, 5)
        assert n_kept == 0, f"truncate(0, 5) says that {n_kept} tokens are left, an encoder keeps none"

    def test_scores_do_not_depend_on_the_batch(self, embedding_engine: Engine) -> None:
        """Of engines that rerank too."""
        if "rerank" not in embedding_engine.info.capabilities:
            pytest.skip("does not apply: the engine does not rerank")
        assert isinstance(embedding_engine, Reranker), f"{type(embedding_engine).__name__} lacks rerank or pair"
        pairs = [embedding_engine.pair(TEXTS[0], text) for text in TEXTS]
        together = _array("rerank", embedding_engine.rerank(pairs))
        assert together.shape == (len(TEXTS),), f"scores have the shape {together.shape}, {(len(TEXTS),)} is expected"
        for text, pair, score in zip(TEXTS, pairs, together, strict=True):
            difference, allowed = abs(float(embedding_engine.rerank([pair])[0] - score)), 10 * self.tolerance
            assert difference <= allowed, f"alone and in a batch, scores of {text!r} differ by {difference:g}"

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

    def assert_same(self, one: npt.NDArray[np.float32], other: npt.NDArray[np.float32], what: str) -> None:
        """Within the tolerance, relative to the vectors' length. `what` is compared, in words."""
        import numpy as np

        __tracebackhide__ = True
        difference = float(abs(one - other).max() / np.linalg.norm(one))
        assert difference <= self.tolerance, f"numbers differ by {difference:g}, allowed {self.tolerance:g}: {what}"


def sequences(engine: Engine) -> list[list[int]]:
    """Tokens of TEXTS with the special ones that the model wants, cut to the context."""
    rows = [encode(engine, text, add_special=True) for text in TEXTS]
    return [tokens[: engine.info.n_ctx] for tokens in rows]


def stretched(engine: Engine, size: int) -> list[int]:
    """Tokens of a text over and over, so many."""
    tokens = sequences(engine)[1]
    return (tokens * (size // len(tokens) + 1))[:size]


def embed(engine: Engine, tokens: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
    """What the engine gives; it must be an `Embedder`."""
    assert isinstance(engine, Embedder), f"{type(engine).__name__} has no method embed"
    return _array("embed", engine.embed(tokens))


def _embed_both(engine: Engine, one: Sequence[int], other: Sequence[int]) -> npt.NDArray[np.float32]:
    return embed(engine, [one, other])


def _array(call: str, given: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    assert hasattr(given, "shape"), f"{call}() gives {kind_of(given)}, a float32 array is expected"
    return given
