"""No tokenizer metadata crash or hang the reader, or reach the library unchecked: refused, by the key that is wrong."""

from __future__ import annotations

import contextlib
import random
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gguf_writer import ARRAY, BOOL, FLOAT32, INT32, STRING, UINT32, Gguf

from edgellm.errors import ArtifactError, BadArtifact, UnsupportedArtifact
from edgellm.formats.gguf import reader
from edgellm.formats.gguf.header import parse_gguf
from edgellm.formats.tokenizer import from_gguf
from edgellm.formats.tokenizer.tokenizer import BYTE_OF, FileTokenizer

pytest.importorskip("tokenizers")
LETTERS = sorted(BYTE_OF, key=BYTE_OF.__getitem__)
TOKENS = [*LETTERS, "ab", "abc", "<|im_end|>"]
KINDS = [1] * (len(TOKENS) - 1) + [3]
PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "ab"]
PIECE_KINDS = [2, 3, 3, *[6] * 256, 1, 1, 1, 1]
LONG = 1100  # tokens that the header leaves in the file
NOT_UTF8 = Gguf().text(b"\xff\xfe")

Keys = dict[str, tuple[int, Any]]
BPE: Keys = {
    "model": (STRING, "gpt2"),
    "pre": (STRING, "qwen2"),
    "tokens": (ARRAY, (STRING, TOKENS)),
    "token_type": (ARRAY, (INT32, KINDS)),
    "merges": (ARRAY, (STRING, ["a b", "ab c"])),
    "eos_token_id": (UINT32, len(TOKENS) - 1),
}
SPM: Keys = {
    "model": (STRING, "llama"),
    "tokens": (ARRAY, (STRING, PIECES)),
    "scores": (ARRAY, (FLOAT32, [-float(i) for i in range(len(PIECES))])),
    "token_type": (ARRAY, (INT32, PIECE_KINDS)),
}


def made(base: Keys, changed: dict[str, Any]) -> Gguf:
    """`changed` replaces keys; None takes one out."""
    keys = {name: value for name, value in (base | changed).items() if value is not None}
    named = [(f"tokenizer.ggml.{name}", kind, value) for name, (kind, value) in keys.items()]
    return Gguf([("general.architecture", STRING, "llama"), *named])


def read(path: Path) -> FileTokenizer:
    return from_gguf.read_tokenizer(reader.read_header(path))


def strings(*texts: str | bytes) -> tuple[int, Any]:
    return ARRAY, (STRING, list(texts))


REFUSED: dict[str, tuple[Keys, dict[str, Any], str]] = {
    "tokens absent": (BPE, {"tokens": None}, "tokens is missing or empty"),
    "tokens empty": (BPE, {"tokens": strings()}, "tokens is missing or empty"),
    "tokens a text": (BPE, {"tokens": (STRING, "a b")}, "tokens is no list of texts but 'a b'"),
    "tokens numbers": (BPE, {"tokens": (ARRAY, (INT32, [1, 2]))}, r"tokens is no list of texts but \(1, 2\)"),
    "tokens many numbers": (BPE, {"tokens": (ARRAY, (INT32, [1] * LONG))}, "tokens is no list of texts but LongArray"),
    "token twice": (BPE, {"tokens": strings(*TOKENS[:-1], "ab")}, "tokens has 'ab' twice"),
    "token no UTF-8": (BPE, {"tokens": strings(*TOKENS, *[NOT_UTF8] * LONG)}, "tokens is not UTF-8"),
    "kinds too few": (BPE, {"token_type": (ARRAY, (INT32, KINDS[1:]))}, "token_type has 258 values for 259 tokens"),
    "kinds a number": (BPE, {"token_type": (UINT32, 1)}, "token_type is no list of numbers"),
    "kinds texts": (BPE, {"token_type": strings(*TOKENS)}, "token_type is no list of numbers"),
    "kinds floats": (SPM, {"token_type": (ARRAY, (FLOAT32, [1.5] * LONG))}, "token_type is no list of numbers"),
    "kinds bools": (BPE, {"token_type": (ARRAY, (BOOL, [1] * len(TOKENS)))}, "token_type is no list of numbers"),
    "byte token of no byte": (BPE, {"token_type": (ARRAY, (INT32, [6, *KINDS[1:]]))}, "which is not written <0xNN>"),
    "special token endless": (BPE, {"tokens": strings(*TOKENS[:-1], "<" * 600)}, "special token 258 of 600 characters"),
    "merges absent": (BPE, {"merges": None}, "merges is missing or empty"),
    "merges empty": (BPE, {"merges": strings()}, "merges is missing or empty"),
    "merge of an absent token": (BPE, {"merges": strings("a b", "ab zz")}, "merges do not fit the tokens"),
    "merge into an absent token": (BPE, {"merges": strings("a c")}, "merges do not fit the tokens"),
    "merge into a control token": (
        BPE,
        {"tokens": strings(*TOKENS[:-1], "bc"), "merges": strings("b c")},
        "do not fit",
    ),
    "merge of letters of two bytes": (BPE, {"merges": strings("\u0100 \u0101")}, "merges do not fit the tokens"),
    "merge of one": (BPE, {"merges": strings("ab")}, "merges has 'ab', which is no pair"),
    "merge of three": (BPE, {"merges": strings("a b c")}, "merges has 'a b c', which is no pair"),
    "merge of nothing": (BPE, {"merges": strings("a ")}, "merges has 'a ', which is no pair"),
    "merges numbers": (BPE, {"merges": (ARRAY, (UINT32, [1]))}, "merges is no list of texts"),
    "eos out of range": (BPE, {"eos_token_id": (UINT32, 259)}, "eos_token_id is 259, tokens are 0 to 258"),
    "bos a text": (BPE, {"bos_token_id": (STRING, "<s>")}, "bos_token_id is '<s>', tokens are"),
    "bos a bool": (BPE, {"bos_token_id": (BOOL, 1)}, "bos_token_id is True"),
    "bos wanted and absent": (BPE, {"add_bos_token": (BOOL, 1)}, "bos_token_id is missing, and the model wants"),
    "eos wanted and absent": (BPE, {"eos_token_id": None, "add_eos_token": (BOOL, 1)}, "eos_token_id is missing"),
    "add_bos a number": (BPE, {"add_bos_token": (UINT32, 1)}, "add_bos_token is no bool but 1"),
    "model a number": (BPE, {"model": (UINT32, 1)}, "model is no text but 1"),
    "pre a list": (BPE, {"pre": strings("qwen2")}, "pre is no text"),
    "scores absent": (SPM, {"scores": None}, "scores is missing"),
    "scores too few": (SPM, {"scores": (ARRAY, (FLOAT32, [0.0]))}, "scores has 1 values for 263 tokens"),
    "scores texts": (SPM, {"scores": strings(*PIECES)}, "scores is no list of numbers"),
    "scores NaN": (
        SPM,
        {
            "tokens": strings(*PIECES, *(f"t{i}" for i in range(LONG))),
            "token_type": None,
            "scores": (ARRAY, struct.pack("<IQ", FLOAT32, LONG + 263) + b"\0\0\xc0\x7f" * (LONG + 263)),
        },
        "scores holds NaN",
    ),
    "space prefix a text": (SPM, {"add_space_prefix": (STRING, "yes")}, "add_space_prefix is no bool"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_by_its_key(name: str, tmp_path: Path) -> None:
    base, changed, message = REFUSED[name]
    path = made(base, changed).write(tmp_path / "x.gguf")
    with pytest.raises(BadArtifact, match=message) as caught:
        read(path)
    assert re.search(rf"{re.escape(str(path))}: key tokenizer\.ggml\.\w+ ", caught.value.message)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": (STRING, "t5")}, r"tokenizer\.ggml\.model is 't5'"),
        ({"pre": (STRING, "default2")}, r"tokenizer\.ggml\.pre is 'default2', which is not known"),
        ({"pre": None}, r"does not say how its tokenizer cuts words \(tokenizer\.ggml\.pre\)"),
        ({"pre": (STRING, "")}, "does not say how"),
    ],
)
def test_what_is_not_known_is_unsupported(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedArtifact, match=message) as caught:
        read(made(BPE, changed).write(tmp_path / "x.gguf"))
    assert caught.value.hint


def test_sound_files_are_read(tmp_path: Path) -> None:
    """What the hostile ones are made of, and what real files do: empty tokens, ids of -1, merges that come twice."""
    for base in (BPE, SPM):
        assert read(made(base, {}).write(tmp_path / "x.gguf")).encode("ab", add_special=False, parse_special=False)
    odd = {
        "tokens": strings(*TOKENS, "", "", "bc"),
        "token_type": (ARRAY, (INT32, [*KINDS, 1, 1, 1])),
        "merges": strings("a b", "b c", "ab c", "a b"),
        "bos_token_id": (UINT32, 2**32 - 1),
    }
    ours = read(made(BPE, odd).write(tmp_path / "y.gguf"))
    assert (ours.n_tokens, ours.bos_id, ours.token_bytes(260), ours.token_bytes(10**9)) == (262, None, b"", b"")
    assert ours.encode("abc", add_special=False, parse_special=False) == [TOKENS.index("abc")]


def test_special_tokens_of_one_letter_take_no_quadratic_time(tmp_path: Path) -> None:
    """Every place of the text might begin one: of 500 lengths, and with nothing that ends them.

    Quadratic time is ended by the test's time limit.
    """
    names = ["a" * length for length in range(3, 500)]
    tokens = [*LETTERS, "aa", *(name + "!" for name in names)]
    changed = {
        "tokens": strings(*tokens),
        "token_type": (ARRAY, (INT32, [1] * 257 + [3] * len(names))),
        "merges": strings("a a"),
    }
    ours = read(made(BPE, changed | {"eos_token_id": None}).write(tmp_path / "x.gguf"))
    ours.encode("a" * 20_000, add_special=False, parse_special=True)


def exercise(data: bytes) -> None:
    """What a hostile file meets: the header's checks, the reader, and then text."""
    header = parse_gguf(data, file_bytes=len(data), where="fuzz")
    if any(isinstance(value, reader.LongArray) for value in header.metadata.values()):
        return  # it would be read from the file
    ours = from_gguf.read_tokenizer(header)
    for text in ("ab <|im_end|></s>", "é🎉\x00", " " * 9):
        for parse_special in (False, True):
            tokens = ours.encode(text, add_special=True, parse_special=parse_special)
            assert all(0 <= token < ours.n_tokens for token in tokens)
    assert all(isinstance(ours.token_bytes(token), bytes) for token in range(ours.n_tokens))
    assert ours.bos_text + ours.eos_text is not None


SOUND = [made(BPE, {}).build(), made(SPM, {}).build()]


@settings(max_examples=300)
@given(st.sampled_from(SOUND), st.integers(0, 2**32), st.integers(1, 8))
def test_changed_bytes_are_refused_or_harmless(sound: bytes, seed: int, n: int) -> None:
    dice = random.Random(seed)
    data = bytearray(sound)
    for _ in range(n):
        data[dice.randrange(len(data))] = dice.choice([0, 1, 2, 3, 6, 32, 97, 127, 128, 255])
    with contextlib.suppress(ArtifactError):
        exercise(bytes(data))
