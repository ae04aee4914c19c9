"""No tokenizer metadata crash or hang the reader, or reach the library unchecked: refused, by the key that is wrong."""

from __future__ import annotations

import contextlib
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gguf_writer import ARRAY, BOOL, FLOAT32, INT32, STRING, UINT32, Gguf
from support.refusals import refuses

from edgellm.errors import ArtifactError, BadArtifact, UnsupportedArtifact, UsageError
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


REFUSED: dict[str, tuple[Keys, dict[str, Any]]] = {
    "tokens absent": (BPE, {"tokens": None}),
    "tokens empty": (BPE, {"tokens": strings()}),
    "tokens a text": (BPE, {"tokens": (STRING, "a b")}),
    "tokens numbers": (BPE, {"tokens": (ARRAY, (INT32, [1, 2]))}),
    "tokens many numbers": (BPE, {"tokens": (ARRAY, (INT32, [1] * LONG))}),
    "token twice": (BPE, {"tokens": strings(*TOKENS[:-1], "ab")}),
    "token no UTF-8": (BPE, {"tokens": strings(*TOKENS, *[NOT_UTF8] * LONG)}),
    "kinds too few": (BPE, {"token_type": (ARRAY, (INT32, KINDS[1:]))}),
    "kinds a number": (BPE, {"token_type": (UINT32, 1)}),
    "kinds texts": (BPE, {"token_type": strings(*TOKENS)}),
    "kinds floats": (SPM, {"token_type": (ARRAY, (FLOAT32, [1.5] * LONG))}),
    "kinds bools": (BPE, {"token_type": (ARRAY, (BOOL, [1] * len(TOKENS)))}),
    "byte token of no byte": (BPE, {"token_type": (ARRAY, (INT32, [6, *KINDS[1:]]))}),
    "special token endless": (BPE, {"tokens": strings(*TOKENS[:-1], "<" * 600)}),
    "merges absent": (BPE, {"merges": None}),
    "merges empty": (BPE, {"merges": strings()}),
    "merge of an absent token": (BPE, {"merges": strings("a b", "ab zz")}),
    "merge into an absent token": (BPE, {"merges": strings("a c")}),
    "merge into a control token": (
        BPE,
        {"tokens": strings(*TOKENS[:-1], "bc"), "merges": strings("b c")},
    ),
    "merge of letters of two bytes": (BPE, {"merges": strings("\u0100 \u0101")}),
    "merge of one": (BPE, {"merges": strings("ab")}),
    "merge of three": (BPE, {"merges": strings("a b c")}),
    "merge of nothing": (BPE, {"merges": strings("a ")}),
    "merges numbers": (BPE, {"merges": (ARRAY, (UINT32, [1]))}),
    "eos out of range": (BPE, {"eos_token_id": (UINT32, 259)}),
    "bos a text": (BPE, {"bos_token_id": (STRING, "<s>")}),
    "bos a bool": (BPE, {"bos_token_id": (BOOL, 1)}),
    "bos wanted and absent": (BPE, {"add_bos_token": (BOOL, 1)}),
    "eos wanted and absent": (BPE, {"eos_token_id": None, "add_eos_token": (BOOL, 1)}),
    "add_bos a number": (BPE, {"add_bos_token": (UINT32, 1)}),
    "model a number": (BPE, {"model": (UINT32, 1)}),
    "pre a list": (BPE, {"pre": strings("qwen2")}),
    "scores absent": (SPM, {"scores": None}),
    "scores too few": (SPM, {"scores": (ARRAY, (FLOAT32, [0.0]))}),
    "scores texts": (SPM, {"scores": strings(*PIECES)}),
    "scores NaN": (
        SPM,
        {
            "tokens": strings(*PIECES, *(f"t{i}" for i in range(LONG))),
            "token_type": None,
            "scores": (ARRAY, struct.pack("<IQ", FLOAT32, LONG + 263) + b"\0\0\xc0\x7f" * (LONG + 263)),
        },
    ),
    "space prefix a text": (SPM, {"add_space_prefix": (STRING, "yes")}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_by_its_key(name: str, tmp_path: Path) -> None:
    base, changed = REFUSED[name]
    path = made(base, changed).write(tmp_path / "x.gguf")
    with refuses(BadArtifact) as caught:
        read(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"model": (STRING, "t5")}, id="another model"),
        pytest.param({"pre": (STRING, "default2")}, id="another pre"),
        pytest.param({"pre": None}, id="no pre"),
        pytest.param({"pre": (STRING, "")}, id="an empty pre"),
    ],
)
def test_what_is_not_known_is_unsupported(changed: dict[str, Any], tmp_path: Path) -> None:
    with refuses(UnsupportedArtifact) as caught:
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


def test_a_text_on_which_the_library_panics_is_refused(tmp_path: Path) -> None:
    """Its panic is no `Exception`, and would end the worker."""
    ours = read(made(BPE, {}).write(tmp_path / "x.gguf"))
    with refuses(UsageError):
        ours.encode(" " * 10_200_000 + "x", add_special=False, parse_special=False)


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
