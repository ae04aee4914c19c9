"""What a failure of the kit says where an engine gives what nobody can compare, or raises nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgellm.builtin.echo import ByteTokenizer, EchoEngine
from edgellm.testing import BackendContract, EmbedderContract
from edgellm.types.plan import Settings

PIECES, SPECIAL = ByteTokenizer().pieces()


class Unlimited(EchoEngine):
    """Computes whatever comes."""

    def step(self, batch: Any) -> Any:
        return [self._logits(list(entry.tokens), entry.n_logits) for entry in batch if entry.n_logits]

    def embed(self, sequences: Any) -> Any:
        return np.ones((len(sequences), self.info.n_embd), np.float32)


def tokens_as(given: Callable[[list[int]], Any]) -> Callable[[EchoEngine], None]:
    def spoil(engine: EchoEngine) -> None:
        encode = engine.tokenizer.encode
        engine.tokenizer.encode = lambda text, **how: given(encode(text, **how))  # type: ignore[method-assign]

    return spoil


def pieces_as(*given: object) -> Callable[[EchoEngine], None]:
    def spoil(engine: EchoEngine) -> None:
        engine.tokenizer.pieces = lambda: given  # type: ignore[assignment, method-assign, return-value]

    return spoil


def method_as(name: str, given: Callable[..., Any]) -> Callable[[EchoEngine], None]:
    return lambda engine: setattr(engine, name, given)


def template_as(text: str) -> Callable[[EchoEngine], None]:
    return lambda engine: setattr(engine, "info", dataclasses.replace(engine.info, chat_template=text))


def unable(*_: object) -> int:
    raise NotImplementedError


def leaves(engine: EchoEngine) -> None:
    """As it is."""


@pytest.mark.parametrize(
    ("suite", "test", "kind", "spoil", "words"),
    [
        (BackendContract, "special_texts_can_be_cut", EchoEngine, pieces_as(PIECES[:100], SPECIAL),
         "pieces() of the engine gave 100 pieces, and has 256 among the control tokens"),
        (BackendContract, "pieces_spell_the_tokens", EchoEngine, pieces_as(*PIECES),
         "pieces() of the engine gave a tuple of bytes"),
        (BackendContract, "pieces_spell_the_tokens", EchoEngine, pieces_as(PIECES[:100], frozenset()),
         "pieces() gives 100 pieces, and encode() gives token 256, which has none"),
        (BackendContract, "truncate_leaves_nothing_behind", EchoEngine, tokens_as(np.array),
         "encode() gives a ndarray, a list of token ids is expected"),
        (BackendContract, "fork_gives_the_prefix_and_nothing_else", EchoEngine, method_as("fork", unable),
         "fork(0, 1, 6) raises NotImplementedError; of an engine that cannot fork, 0 is expected"),
        (BackendContract, "answers_share_the_prompt", EchoEngine, method_as("fork", unable),
         "fork(0, 1, 1) raises NotImplementedError; of an engine that cannot fork, 0 is expected"),
        (BackendContract, "a_full_slot_is_refused_before_anything_changes", Unlimited, leaves,
         "a step with a token more than info.n_ctx=256 for a slot raises nothing; CacheFull is expected"),
        (BackendContract, "a_chat_becomes_a_prompt", EchoEngine, template_as("{{ messages[-1]['content' }}"),
         "info.chat_template of one message: "),
        (BackendContract, "a_chat_becomes_a_prompt", EchoEngine, template_as("Hello"),
         "info.chat_template writes 'Hello' of a message 'The quick"),
        (EmbedderContract, "order_is_kept", EchoEngine, method_as("embed", lambda sequences: None),
         "embed() gives None, a float32 array is expected"),
        (EmbedderContract, "scores_do_not_depend_on_the_batch", EchoEngine, method_as("rerank", lambda pairs: None),
         "rerank() gives None, a float32 array is expected"),
        (EmbedderContract, "what_cannot_be_embedded_is_refused", Unlimited, leaves,
         "embed() of a sequence with a token more than info.n_ctx=256 raises nothing; CacheFull is expected"),
    ],
)  # fmt: skip
def test_a_failure_says_what_came(
    suite: type, test: str, kind: type[EchoEngine], spoil: Callable[[EchoEngine], None], words: str
) -> None:
    engine = kind(Settings(n_ctx=256, n_slots=3, n_batch=64))
    spoil(engine)

    with pytest.raises((AssertionError, pytest.fail.Exception)) as caught:
        getattr(suite(), f"test_{test}")(engine)

    assert words in str(caught.value)


def test_an_error_of_another_class_is_told_with_its_words() -> None:
    engine = EchoEngine(Settings(n_ctx=256, n_slots=3))

    def embed(sequences: Any) -> Any:
        raise IndexError("beyond the table")

    engine.embed = embed  # type: ignore[method-assign]
    with pytest.raises(AssertionError) as caught:
        EmbedderContract().test_what_cannot_be_embedded_is_refused(engine)

    assert "raises IndexError: beyond the table; CacheFull is expected" in str(caught.value)
    assert isinstance(caught.value.__cause__, IndexError)
