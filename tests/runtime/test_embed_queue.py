"""Texts to embed: batches are bounded and of similar lengths, requests take turns, and answers go on beside them."""

from __future__ import annotations

import queue
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from support.refusals import refuses
from support.toy_engine import ToyEngine, ToyTokenizer

from edgellm.contract.embedder import EmbeddingInfo, Pair, check_sequences
from edgellm.contract.engine import SlotInput
from edgellm.errors import (
    BackendError,
    Closed,
    ContextOverflow,
    Overloaded,
    StepFailed,
    UnsupportedTask,
    UsageError,
)
from edgellm.runtime import embed_queue, wire
from edgellm.runtime.busy_step import BUSY_CHUNK
from edgellm.runtime.embed_queue import LONG_TEXT, EmbedQueue
from edgellm.runtime.loop import Loop
from edgellm.types.event import Done, Vectors
from edgellm.types.request import (
    MAX_TOKEN_BYTES,
    EmbeddingRequest,
    GenerationRequest,
    Request,
    RerankRequest,
    TokenizeRequest,
    check_context,
    check_prompt,
)
from edgellm.types.sampling import Sampling
from edgellm.types.text_bytes import FREE_BLANKS

WIDTH = 6


class ToyEmbedder(ToyEngine):
    """A vector is a hash of the tokens; what was asked of it is kept."""

    def __init__(self, *, generates: bool = True, can: Sequence[str] = ("embed", "rerank"), **kind: object) -> None:
        super().__init__(**kind)  # type: ignore[arg-type]
        self.batches: list[list[int]] = []
        self.kinds: list[str] = []  # "embed", "rerank" or "step", in order
        self.broken: Exception | None = None
        self.info = type(self.info)(
            **{name: getattr(self.info, name) for name in ("n_slots", "n_ctx", "max_batch_tokens", "max_logits")},
            vocab_size=self.info.vocab_size, eos_ids=self.info.eos_ids, n_embd=WIDTH, batch_invariant=True,
            capabilities=frozenset(can), generates=generates, embedding=EmbeddingInfo("mean", True, (2, 4)),
        )  # fmt: skip

    def step(self, batch):
        self.kinds.append("step")
        return super().step(batch)

    def embed(self, sequences):
        self.kinds.append("embed")
        return self.hashed(sequences)

    def pair(self, query: str, document: str) -> Pair:
        first, second = (
            self.tokenizer.encode(text, add_special=False, parse_special=False) for text in (query, document)
        )
        return Pair((*first, *second), len(first))

    def rerank(self, pairs):
        self.kinds.append("rerank")
        return self.hashed([pair.tokens for pair in pairs])[:, 0]

    def hashed(self, sequences):
        check_sequences(sequences, self.info.vocab_size, self.info.n_ctx)
        self.batches.append([len(tokens) for tokens in sequences])
        if self.broken is not None:
            raise self.broken
        return np.stack([vector_of(tokens) for tokens in sequences])


EXECUTOR = ThreadPoolExecutor(1)  # of which no thread is made where no text is long


def apart(read: Callable[[], Any], client: str, size: int) -> Future[Any]:
    return EXECUTOR.submit(read)


def vector_of(tokens: Sequence[int]) -> np.ndarray:
    vector = np.random.default_rng(list(tokens)).standard_normal(WIDTH).astype(np.float32)
    return vector / np.linalg.norm(vector)


def tokens_of(text: str) -> list[int]:
    return ToyEmbedder().tokenizer.encode(text, add_special=True, parse_special=False)


def played(engine: ToyEmbedder, *asked: Request, then: Sequence[wire.Down] = ()) -> dict[int, list[wire.Up]]:
    """What the loop says of requests 1, 2, ... that all arrive at once; `then` comes right after them."""
    inbox: queue.SimpleQueue[wire.Down] = queue.SimpleQueue()
    said: dict[int, list[wire.Up]] = {}

    def hear(messages: list[wire.Up]) -> None:
        for message in messages:
            said.setdefault(message.id, []).append(message)  # type: ignore[union-attr]

    for number, request in enumerate(asked, 1):
        inbox.put(wire.Submit(number, request))
    for message in then or [wire.Stop(drain=True)]:
        inbox.put(message)
    Loop(engine, inbox, hear).run()
    return said


def rows_of(message: wire.Up) -> np.ndarray:
    assert isinstance(message, wire.Reply)
    if isinstance(message.event, wire.Failed):
        raise message.event.error()
    assert isinstance(message.event, Vectors)
    return np.frombuffer(message.event.data, "<f4").reshape(message.event.n, -1)


def texts(rng: random.Random, count: int, longest: int = 100) -> tuple[str, ...]:
    return tuple("".join(rng.choices("abcdefgh", k=rng.randint(1, longest))) for _ in range(count))


@pytest.mark.parametrize("seed", range(20))
def test_every_text_gets_its_own_vector_in_order(seed: int) -> None:
    rng = random.Random(seed)
    engine = ToyEmbedder(n_batch=rng.choice((8, 64, 512)))
    asked = [EmbeddingRequest(texts(rng, rng.randint(1, 30))) for _ in range(rng.randint(1, 5))]
    said = played(engine, *asked)
    for number, request in enumerate(asked, 1):
        (message,) = said[number]
        wanted = [tokens_of(text) for text in request.inputs]
        np.testing.assert_array_equal(rows_of(message), [vector_of(tokens) for tokens in wanted])
        assert message.event.usage.prompt_tokens == sum(map(len, wanted))
    for batch in engine.batches:
        assert len(batch) == 1 or len(batch) * max(batch) <= engine.info.max_batch_tokens
        assert min(batch) >= max(batch) * embed_queue.LEAST_FILL


def test_token_ids_are_taken_as_they_are() -> None:
    said = played(ToyEmbedder(), EmbeddingRequest(((5, 6, 7), "ab", (3,))))
    wanted = [vector_of([5, 6, 7]), vector_of(tokens_of("ab")), vector_of([3])]
    np.testing.assert_array_equal(rows_of(said[1][0]), wanted)


def test_scores_come_in_the_order_of_the_documents() -> None:
    engine = ToyEmbedder()
    said = played(engine, RerankRequest("ab", ("c", "dd", "a longer one")))
    scores = rows_of(said[1][0])
    assert scores.shape == (3, 1)
    np.testing.assert_array_equal(
        scores, engine.rerank([engine.pair("ab", d) for d in ("c", "dd", "a longer one")])[:, None]
    )


def test_what_no_context_holds_is_refused_unread() -> None:
    engine = ToyEmbedder(n_ctx=64)
    read: list[str] = []
    encode = engine.tokenizer.encode

    def noted(text: str, **kind: bool) -> list[int]:
        read.append(text)
        return encode(text, **kind)

    engine.tokenizer.encode = noted  # type: ignore[method-assign]
    said = played(engine, EmbeddingRequest(("a", "a" * (64 * MAX_TOKEN_BYTES + 1))))
    with pytest.raises(ContextOverflow) as caught:
        rows_of(said[1][0])
    assert caught.value.index == 1
    assert read == []


@pytest.mark.parametrize("blank", [" ", "\n", "\u3000"])
def test_blanks_which_wordpiece_drops_do_not_make_a_text_too_long(blank: str) -> None:
    check_context(EmbeddingRequest((blank * 100_000 + "a" * 64 * MAX_TOKEN_BYTES,)), 64)
    with refuses(ContextOverflow, index=1):
        check_context(EmbeddingRequest(("a", blank * 100_000 + "a" * (64 * MAX_TOKEN_BYTES + 1))), 64)
    with refuses(ContextOverflow, index=0):
        check_context(RerankRequest("a" + blank * 100_000, ("a" * 64 * MAX_TOKEN_BYTES,)), 64)
    check_prompt(["a", blank * 100_000], 64)
    with refuses(ContextOverflow):
        check_prompt(["a" * 63 * MAX_TOKEN_BYTES, "a" + blank], 64)


@pytest.mark.parametrize("blank", [" ", "\n", "\u3000"])
def test_more_blanks_than_anybody_writes_are_not_cut_into_tokens(blank: str) -> None:
    blanks = blank * (FREE_BLANKS // len(blank.encode()) + 64 * MAX_TOKEN_BYTES + 1)
    with refuses(ContextOverflow, index=1):
        check_context(EmbeddingRequest(("a", blanks)), 64)
    with refuses(ContextOverflow):
        check_prompt(["a", blanks], 64)
    with refuses(UsageError, param="text"):
        check_context(TokenizeRequest("a" + blank * 2 * FREE_BLANKS), 64)


def test_a_query_of_blanks_is_not_cut_beside_each_document() -> None:
    with refuses(ContextOverflow, index=0):
        check_context(RerankRequest("a" + " " * 64 * MAX_TOKEN_BYTES, ("b", "c")), 64)


def test_documents_beside_a_long_query_are_read_apart() -> None:
    engine = ToyEmbedder(n_batch=64, n_ctx=4096)
    apart: list[tuple[str, int]] = []

    def read_apart(read: Callable[[], Any], client: str, size: int) -> Future[Any]:
        apart.append((client, size))
        return Future()

    waiting = EmbedQueue(engine, read_apart)
    waiting.submit(1, RerankRequest("q" * LONG_TEXT, ("a",), client="a"))
    waiting.step(beside_answers=False)
    assert apart == [("a", LONG_TEXT + 1)]


def test_a_single_text_does_not_wait_for_two_thousand() -> None:
    engine = ToyEmbedder(n_batch=64, n_ctx=64)
    many = EmbeddingRequest(("abcdefgh" * 7,) * 2000)
    ended: list[int] = []
    inbox: queue.SimpleQueue[wire.Down] = queue.SimpleQueue()
    inbox.put(wire.Submit(1, many))
    inbox.put(wire.Submit(2, EmbeddingRequest(("a",))))
    inbox.put(wire.Stop(drain=True))
    Loop(engine, inbox, lambda messages: ended.extend([message.id, len(engine.batches)] for message in messages)).run()
    (second, after), (first, whole) = ended
    assert (second, first) == (2, 1)
    assert after <= 3
    assert whole == 2001


def test_a_request_that_comes_while_another_is_computed_has_its_turn() -> None:
    engine = ToyEmbedder(n_batch=64, n_ctx=64)
    waiting = EmbedQueue(engine, apart)
    waiting.submit(1, EmbeddingRequest(("abcdefgh" * 7,) * 200))
    while len(engine.batches) < 3:
        waiting.step(beside_answers=False)
    waiting.submit(2, EmbeddingRequest(("a", "b" * 50)))
    said: list[wire.Up] = []
    while not said:
        said += waiting.step(beside_answers=False)
    assert [message.id for message in said] == [2]
    assert len(engine.batches) <= 8


def test_a_client_waits_for_one_batch_of_another_that_has_eight_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed_queue, "READ_S", 60.0)  # on a busy machine a text may take longer than the usual time
    engine = ToyEmbedder(n_batch=64, n_ctx=64)
    waiting = EmbedQueue(engine, apart)
    for number in range(8):
        waiting.submit(number, EmbeddingRequest(("abcdefgh" * 7,) * 20, client="a"))
    while len(engine.batches) < 10:
        waiting.step(beside_answers=False)
    waiting.submit(9, EmbeddingRequest(("b" * 60,), client="b"))
    said: list[wire.Up] = []
    while not said:
        said += waiting.step(beside_answers=False)

    assert [message.id for message in said] == [9]
    assert len(engine.batches) == 11


def test_answers_and_texts_take_turns() -> None:
    engine = ToyEmbedder(n_batch=512, n_ctx=512)
    answer = GenerationRequest("abc", Sampling(temperature=0), max_tokens=20, ignore_eos=True)
    said = played(engine, EmbeddingRequest(("ab" * 50,) * 100), answer)
    assert isinstance(said[2][-1].event, Done)
    assert said[2][-1].event.usage.completion_tokens == 20
    rows_of(said[1][0])
    beside = engine.kinds[engine.kinds.index("step") :]
    both = beside[: len(beside) - beside[::-1].index("step")]
    # From the first step of the answer to its last no kind runs twice in a row, once the texts are read.
    both = both[both.index("embed") - 1 :] if "embed" in both else both
    assert "step embed step embed step embed" in " ".join(both)
    assert "embed embed" not in " ".join(both)
    bounded = [batch for batch, kind in zip(engine.batches, (k for k in both if k == "embed"), strict=False) if kind]
    assert all(len(batch) * max(batch) <= BUSY_CHUNK for batch in bounded[1:])


def test_a_cancelled_request_says_nothing_and_costs_nothing_more() -> None:
    engine = ToyEmbedder(n_batch=8)
    said = played(
        engine,
        EmbeddingRequest(("abcd",) * 500),
        EmbeddingRequest(("b",)),
        then=[wire.Cancel(1), wire.Stop(drain=True)],
    )
    assert 1 not in said
    assert len(engine.batches) <= 2
    rows_of(said[2][0])


def test_a_stop_without_patience_tells_everybody() -> None:
    said = played(ToyEmbedder(), EmbeddingRequest(("abcd",) * 500), then=[wire.Stop(drain=False)])
    with refuses(Closed):
        rows_of(said[1][0])


def test_a_text_that_is_too_long_is_named() -> None:
    engine = ToyEmbedder(n_ctx=16)
    said = played(engine, EmbeddingRequest(("a", "b", "c" * 16)), EmbeddingRequest(("c" * 15,)))
    with refuses(ContextOverflow, n_prompt=17, n_ctx=16, index=2):
        rows_of(said[1][0])
    rows_of(said[2][0])
    said = played(ToyEmbedder(n_ctx=16), RerankRequest("a" * 10, ("b", "c" * 7)))
    with refuses(ContextOverflow, n_prompt=17, n_ctx=16, index=1):
        rows_of(said[1][0])


def test_a_query_beside_which_no_document_fits_is_named() -> None:
    said = played(ToyEmbedder(n_ctx=16), RerankRequest("a" * 16, ("b",)))
    with refuses(ContextOverflow, n_prompt=17, n_ctx=16, param="query"):
        rows_of(said[1][0])


def test_a_text_that_is_too_long_is_cut_where_that_is_asked() -> None:
    engine = ToyEmbedder(n_ctx=16)
    ids = tuple(range(1, 10)) * 2
    said = played(engine, EmbeddingRequest(("a", "b" * 400, ids), truncate=True))
    vectors = said[1][0].event

    assert vectors.n_cut == 2
    assert vectors.usage.prompt_tokens == len(tokens_of("a")) + 16 + 16
    whole = played(engine, EmbeddingRequest(("b" * 15, ids[:16])))[1][0]
    np.testing.assert_array_equal(rows_of(said[1][0])[1:], rows_of(whole))


@pytest.mark.parametrize(("before", "behind"), [((1,), ()), ((), (0,)), ((1,), (0, 0)), ((), ())])
def test_special_tokens_stay_around_a_text_that_is_cut(before: tuple[int, ...], behind: tuple[int, ...]) -> None:
    class Wrapping(ToyTokenizer):
        def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
            plain = super().encode(text, add_special=False, parse_special=parse_special)
            return [*before, *plain, *behind] if add_special else plain

    engine = ToyEmbedder(n_ctx=16)
    engine.tokenizer = Wrapping()
    said = played(engine, EmbeddingRequest(("bcdefghijklmnopqrstuvwxyz",), truncate=True))
    room = 16 - len(before) - len(behind)
    plain = engine.tokenizer.encode("bcdefghijklmnopqrstuvwxyz"[:room], add_special=False, parse_special=False)

    np.testing.assert_array_equal(rows_of(said[1][0])[0], vector_of([*before, *plain, *behind]))


def test_an_id_that_is_no_token_is_refused() -> None:
    said = played(ToyEmbedder(), EmbeddingRequest(((1, 2), (3, 16))))
    with refuses(UsageError, param="input"):
        rows_of(said[1][0])
    with refuses(UsageError, param="input"):
        EmbeddingRequest(((1, 2), (3, -1)))


def test_dimensions_only_as_trained() -> None:
    engine = ToyEmbedder()
    said = played(engine, *(EmbeddingRequest(("abc",), dimensions=size) for size in (4, WIDTH, 3)))
    whole = vector_of(tokens_of("abc"))
    np.testing.assert_allclose(rows_of(said[1][0])[0], whole[:4] / np.linalg.norm(whole[:4]), rtol=1e-6)
    np.testing.assert_array_equal(rows_of(said[2][0])[0], whole)
    with refuses(UsageError, param="dimensions") as caught:
        rows_of(said[3][0])
    assert caught.value.param == "dimensions"


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(EmbeddingRequest(("a",)), id="embed"),
        pytest.param(RerankRequest("a", ("b",)), id="rerank"),
    ],
)
def test_a_model_that_cannot_says_what_it_can(asked: Request) -> None:
    said = played(ToyEmbedder(can=()), asked)
    with refuses(UnsupportedTask):
        rows_of(said[1][0])


def test_an_encoder_is_asked_for_no_text() -> None:
    engine = ToyEmbedder(generates=False)
    said = played(engine, GenerationRequest("abc"))
    with refuses(UnsupportedTask):
        rows_of(said[1][0])
    assert engine.kinds == []


@pytest.mark.parametrize("error", [StepFailed("native"), ValueError("wrong"), MemoryError()])
def test_a_batch_that_fails_costs_its_requests_and_no_other(error: Exception) -> None:
    engine = ToyEmbedder(n_batch=8)
    fails = EmbedQueue(engine, apart)
    fails.submit(1, EmbeddingRequest(("abcdef",) * 3))
    fails.submit(2, RerankRequest("a", ("b",)))
    engine.broken = error
    said = [*fails.step(beside_answers=False), *fails.step(beside_answers=False), *fails.step(beside_answers=False)]
    assert [message.id for message in said] == [1]
    with pytest.raises(BackendError):
        rows_of(said[0])
    engine.broken = None
    (scores,) = fails.step(beside_answers=False)
    assert rows_of(scores).shape == (1, 1)
    assert fails.idle


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda rows: rows * np.float32(np.nan), id="nan"),
        pytest.param(lambda rows: rows[:, :3], id="narrow"),
        pytest.param(lambda rows: None, id="none"),
        pytest.param(lambda rows: rows.tolist(), id="lists"),
        pytest.param(lambda rows: rows > 0, id="bool"),
    ],
)
def test_numbers_that_are_none_are_an_error(spoil: Callable[[np.ndarray], Any]) -> None:
    engine = ToyEmbedder()
    embed = engine.embed
    engine.embed = lambda sequences: spoil(embed(sequences))  # type: ignore[method-assign]
    said = played(engine, EmbeddingRequest(("a",)))
    with refuses(BackendError):
        rows_of(said[1][0])


def test_scores_that_are_none_are_an_error() -> None:
    engine = ToyEmbedder()
    engine.rerank = lambda pairs: np.zeros((len(pairs), 1), np.float32)  # type: ignore[method-assign]
    said = played(engine, RerankRequest("a", ("b",)))
    with refuses(BackendError):
        rows_of(said[1][0])


def test_too_many_requests_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed_queue, "MAX_WAITING", 2)
    waiting = EmbedQueue(ToyEmbedder(), apart)
    assert waiting.submit(1, EmbeddingRequest(("a",))) == []
    assert waiting.submit(2, EmbeddingRequest(("a",))) == []
    (refused,) = waiting.submit(3, EmbeddingRequest(("a",)))
    with pytest.raises(Overloaded):
        rows_of(refused)


def test_slots_keep_their_tokens_while_texts_are_embedded() -> None:
    engine = ToyEmbedder()
    engine.step([SlotInput(0, 0, (3, 4), 0)])
    played(engine, EmbeddingRequest(("abc",)))
    assert engine.slots[0] == [3, 4]
