"""A prompt that is far too long is refused before all of it is read, and one that fits is read whole."""

from __future__ import annotations

import pytest
from support.refusals import refuses

from edgellm.builtin.echo import EchoEngine
from edgellm.contract.engine import Tokenizer
from edgellm.errors import ContextOverflow
from edgellm.runtime.prompt_reader import OF_CUT, PART, USUAL_LETTERS, Begun, PromptReader
from edgellm.types.event import Tokens
from edgellm.types.plan import Settings
from edgellm.types.request import GenerationRequest, TokenizeRequest

N_CTX = 20_000


class Seen:
    """`letters` letters a token; a special token in front and behind, if wanted. Keeps the length of each text."""

    def __init__(self, tokenizer: Tokenizer, letters: int = 1) -> None:
        self.token_bytes, self.text = tokenizer.token_bytes, tokenizer.text
        self.lengths: list[int] = []
        self._letters = letters

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        self.lengths.append(len(text))
        around = [0] * add_special
        return [*around, *(ord(text[at]) for at in range(0, len(text), self._letters)), *around]


def reader(letters: int = 1, n_ctx: int = N_CTX) -> tuple[PromptReader, Seen]:
    engine = EchoEngine(Settings(n_ctx=n_ctx))
    seen = Seen(engine.tokenizer, letters)
    return PromptReader(seen, engine.info), seen  # type: ignore[arg-type]


def test_what_has_twice_the_tokens_in_its_first_part_is_read_no_further() -> None:
    prompts, seen = reader()
    with refuses(ContextOverflow, n_prompt=40_000, n_ctx=N_CTX):
        prompts.read(GenerationRequest("a" * 1_000_000))
    assert seen.lengths == [PART]


def test_parts_are_read_until_they_have_twice_the_tokens() -> None:
    prompts, seen = reader(letters=4)
    with refuses(ContextOverflow, n_prompt=40_000):
        prompts.read(GenerationRequest("a" * 1_000_000))
    assert seen.lengths == [PART] * 3


def test_one_that_is_a_little_too_long_is_counted_exactly() -> None:
    prompts, _ = reader(letters=8)
    with refuses(ContextOverflow, n_prompt=25_002):
        prompts.read(GenerationRequest("a" * 200_000))


@pytest.mark.parametrize("n_letters", [PART, USUAL_LETTERS * N_CTX])
def test_what_usually_fits_is_read_once(n_letters: int) -> None:
    prompts, seen = reader(letters=8)
    prompts.read(GenerationRequest("a" * n_letters))
    assert seen.lengths == [n_letters]


@pytest.mark.parametrize("add_bos", [True, False])
def test_one_that_fits_has_the_tokens_of_the_whole(add_bos: bool) -> None:
    text = "".join(chr(97 + at % 26) for at in range(150_001))
    prompts, seen = reader(letters=9)
    begun = prompts.read(GenerationRequest(text, add_bos=add_bos))
    assert isinstance(begun, Begun)
    assert begun.prompt == Seen(seen, 9).encode(text, add_special=add_bos, parse_special=True)  # type: ignore[arg-type]
    assert seen.lengths == [PART, PART, len(text) - 2 * PART, len(text)]


def test_tokens_that_cuts_add_count_for_nothing() -> None:
    """Blanks that are one token in all, and one of each part: sixteen parts and a context of eight."""
    prompts, seen = reader(letters=PART // OF_CUT, n_ctx=8)
    seen.encode = lambda text, *, add_special, parse_special: [32] * (OF_CUT if len(text) <= PART else 1)  # type: ignore[method-assign]
    begun = prompts.read(GenerationRequest(" " * (1 << 20), add_bos=False))
    assert isinstance(begun, Begun)
    assert begun.prompt == [32]


def test_a_count_is_exact_however_long_the_text_is() -> None:
    prompts, seen = reader()
    answered = prompts.answer(TokenizeRequest("a" * 500_000))
    assert isinstance(answered, Tokens)
    assert len(answered.ids) == 500_000
    assert seen.lengths == [500_000]
