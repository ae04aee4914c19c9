"""The part of a backend's contract that is about tokens, and what all parts put in."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from edgellm.contract.answers import kind_of
from edgellm.contract.engine import SlotInput
from edgellm.errors import BackendError
from edgellm.runtime.engine_check import check_pieces
from edgellm.testing.limit import limited
from edgellm.testing.shared import SharedEngine

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgellm.contract.engine import Engine

TEXTS = (
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "Rain fell on the harbour all night; by morning every boat was full of water.",
    "Grüße aus Köln: zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. 你好 🙂",
)
THIRD_OF_A_STEP = 20  # tokens: three prompts fit the smallest batch that is allowed


@limited
class TokenizerTests(SharedEngine):
    """The fixture `engine` is the class's own."""

    def test_tokens_give_the_text_back(self, engine: Engine) -> None:
        for text in TEXTS:
            came = b"".join(map(engine.tokenizer.token_bytes, encode(engine, text))).decode(errors="backslashreplace")
            assert came.strip() == text, f"encode and token_bytes make {came!r} of {text!r}"

    def test_pieces_spell_the_tokens(self, engine: Engine) -> None:
        pieces, special = pieces_of(engine)
        most = max(token for text in TEXTS for token in encode(engine, text, add_special=True))
        assert most < len(pieces), (
            f"pieces() gives {len(pieces)} pieces, and encode() gives token {most}, which has none"
        )
        plain = [token for token in range(len(pieces)) if token not in special]
        differ = [token for token in plain if pieces[token] != engine.tokenizer.token_bytes(token)]
        assert differ == [], f"pieces and token_bytes differ for tokens {differ[:5]}, which are not special"
        unmarked = [token for token in engine.info.eos_ids if token < len(pieces) and token not in special]
        assert unmarked == [], f"tokens {unmarked} end an answer and are not among the special ones"

        texts = [piece.decode("utf-8", "replace") for piece in pieces]
        differ = [token for token, text in enumerate(texts) if text != engine.tokenizer.text(token)]
        assert differ == [], f"pieces and text differ for tokens {differ[:5]}"

    def test_special_texts_can_be_cut(self, engine: Engine) -> None:
        """Every text that becomes a control token is named, and a cut keeps it text."""
        given, special = pieces_of(engine)
        encode = functools.partial(engine.tokenizer.encode, add_special=False, parse_special=True)
        pieces = [piece.decode(errors="replace") for piece in given]
        unnamed = [pieces[token] for token in special if special & {*encode(pieces[token])}]
        missing = {*unnamed} - {*engine.info.special_texts}
        assert not missing, f"{sorted(missing)[:5]} become control tokens, and are not among info.special_texts"
        for text in engine.info.special_texts:
            assert not special & {*encode(text[:1]), *encode(text[1:])}, (
                f"{text!r} cannot be cut after its first letter"
            )


def encode(engine: Engine, text: str, *, add_special: bool = False) -> list[int]:
    """Token ids, for comparing texts without BOS."""
    tokens = engine.tokenizer.encode(text, add_special=add_special, parse_special=False)
    assert isinstance(tokens, list), f"encode() gives {kind_of(tokens)}, a list of token ids is expected"
    return tokens


def beginning(engine: Engine, text: str, most: int = THIRD_OF_A_STEP) -> list[int]:
    """Tokens of the longest beginning of `text` that has at most so many, with the special ones around it."""
    by_length = (text[:size] for size in range(len(text), 0, -1))
    encoded = (encode(engine, part, add_special=True) for part in by_length)
    return next(tokens for tokens in encoded if len(tokens) <= most)


def pieces_of(engine: Engine) -> tuple[list[bytes], frozenset[int]]:
    """What `pieces` gives, where it is what it must be."""
    __tracebackhide__ = True
    try:
        return check_pieces("", engine.tokenizer.pieces(), engine.info.vocab_size)
    except BackendError as error:
        pytest.fail(error.message, pytrace=False)


def last_rows(
    engine: Engine, slot: int, tokens: Sequence[int], n_rows: int, n_past: int = 0
) -> npt.NDArray[np.float32]:
    """A copy of the logits after each of the last `n_rows` tokens, of all of which the slot holds `n_past`."""
    import numpy as np

    __tracebackhide__ = True
    most, start, parts = min(n_rows, engine.info.max_logits), n_past, []
    for stop in range(len(tokens) - n_rows + most, len(tokens) + most, most):
        chunk = tuple(tokens[start:stop])
        n_wanted = min(most, len(chunk))
        rows = engine.step([SlotInput(slot, start, chunk, n_wanted)])[0]
        shape = (n_wanted, engine.info.vocab_size)
        assert rows.shape == shape, f"a step gives logits of the shape {rows.shape}, {shape} is expected"
        parts.append(rows.copy())
        start = min(stop, len(tokens))
    return np.concatenate(parts)


def last_row(engine: Engine, slot: int, tokens: Sequence[int], n_past: int = 0) -> npt.NDArray[np.float32]:
    """A copy of the logits after `tokens`, of which the slot already holds `n_past`."""
    row: npt.NDArray[np.float32] = last_rows(engine, slot, tokens, 1, n_past)[0]
    return row
