"""Tokenizers against llama.cpp's own, on the same files: equal ids, equal bytes, equal ends of an answer."""

from __future__ import annotations

import ctypes
import functools
import os
import random
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gguf_writer import ARRAY, BOOL, FLOAT32, INT32, STRING, UINT32, Gguf
from support.refusals import refuses

from edgellm.errors import UnsupportedArtifact
from edgellm.formats.gguf import reader
from edgellm.formats.tokenizer import from_gguf
from edgellm.formats.tokenizer.kinds import TokenKind
from edgellm.formats.tokenizer.pretokenizers import PRE_TOKENIZERS
from edgellm.formats.tokenizer.tokenizer import BYTE_OF, FileTokenizer, Vocabulary

pytest.importorskip("tokenizers")
HERE = Path(__file__).resolve().parents[2]
LETTERS = [char for char, _ in sorted(BYTE_OF.items(), key=lambda item: item[1])]

# Characters of Unicode 14: the libraries know different versions, and newer ones are letters to one of them only.
ASSIGNED = st.characters(exclude_categories=("Cs", "Cn", "Co")).filter(lambda c: unicodedata.category(c) != "Cn")
COMMON = st.sampled_from(list("aAbBzZ  \n\r\t'sStTlLvVeErR.,!?-/<>$+|`~_()09"))
TEXT = st.text(st.one_of(COMMON, COMMON, ASSIGNED), max_size=16)


def opened(path: str | Path) -> Any:
    """llama.cpp's tokenizer of the file, and nothing else of it; `eos_ids` are its ends of an answer."""
    llama_cpp = pytest.importorskip("llama_cpp")
    from edgellm_gguf.tokenizer import LlamaTokenizer

    opened.quiet = llama_cpp.llama_log_callback(lambda *_: None)  # type: ignore[attr-defined]
    llama_cpp.llama_log_set(opened.quiet, ctypes.c_void_p(0))  # type: ignore[attr-defined]
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    assert model is not None, path
    vocab = llama_cpp.llama_model_get_vocab(model)
    tokenizer: Any = LlamaTokenizer(vocab)
    tokenizer.model = model
    tokenizer.n_tokens = llama_cpp.llama_vocab_n_tokens(vocab)
    ids = range(tokenizer.n_tokens)
    tokenizer.eos_ids = frozenset(t for t in ids if llama_cpp.llama_vocab_is_eog(vocab, t))
    tokenizer.bos_id = llama_cpp.llama_vocab_bos(vocab)
    tokenizer.add_bos = llama_cpp.llama_vocab_get_add_bos(vocab)
    return tokenizer


def read(path: str | Path) -> FileTokenizer:
    return from_gguf.read_tokenizer(reader.read_header(path))


def same(ours: FileTokenizer, theirs: Any, text: str) -> None:
    for special in (False, True):
        for parse in (False, True):
            how = {"add_special": special, "parse_special": parse}
            assert ours.encode(text, **how) == theirs.encode(text, **how), (text, how)


def texts(n: int = 300) -> list[str]:
    """Lines of this repository (English, code, JSON), and what breaks tokenizers."""
    files = [*HERE.glob("*.md"), *HERE.glob("docs/*.md"), *HERE.glob("edgellm/**/*.py"), *HERE.glob("tests/**/*.json")]
    lines = [line for file in sorted(files) for line in file.read_text().splitlines(keepends=True) if line.strip()]
    chosen = random.Random(1).sample([line[:400] for line in lines], n)
    runs = [f"{' ' * n}x{' ' * n}\n{chr(9) * n}y{chr(10) * n}" for n in range(40)]
    return [
        *chosen, *runs, *("".join(chosen[i : i + 8]) for i in range(0, 80, 8)),
        "", " ", "\n", "Hello, world!", "a\r\nb\r\n\r\nc\r", "getHTTPResponse HelloWorld fooBarBAZ",
        "it's WE'LL I'M don't", "0 12 345 6789 01234567890 3.14 1,000,000 ½ ²³ ١٢٣", "日本語のテキスト、テスト。漢字",
        "한국어 텍스트 입니다", "العربية: نص مُشَكَّل", "हिन्दी देवनागरी ภาษาไทย", "привет МИР Straße ÉTÉ été Ünï",
        "e\u0301a\u0308 Z\u0335a\u0336l\u0337", "🎉 👨‍👩‍👧 🏳️‍🌈 🇫🇷 👍🏽", "\u00a0a\u2003b\u3000c\u2028d",
        "\x00\x01\x7f.\x06.", "//* +=-- ```py\n~~", "$100 €5 <a href='x'>&amp;</a>", "<|im_start|>user\nhi<|im_end|>\n",
        "<|im_end|><|im_end|>", "x<|im_end", "<|im_<|im_end|>end|>", "<|endoftext|> ", "</s><s>[INST] <<SYS>>",
        "<start_of_turn>user\nx<end_of_turn>\n", "<bos><eos><pad><unk>", "<0x41><unused7>[multimodal]",
        "<b>bold</b><h1>▁▁▁</h1>", "▁▁▁ ▁x", "\ufeffBOM", "\U0010ffff\ufffd",
    ]  # fmt: skip


@pytest.fixture(scope="module", params=["smollm2", "gemma3"])
def pair(request: pytest.FixtureRequest) -> tuple[FileTokenizer, Any]:
    """(ours, llama.cpp's) of a real model: byte-level BPE, and SentencePiece without a leading space."""
    path = request.getfixturevalue(request.param)
    return read(path), opened(path)


def test_real_models_encode_as_llama_cpp_does(pair: tuple[FileTokenizer, Any]) -> None:
    samples = texts()
    assert len(samples) > 300
    for text in samples:
        same(*pair, text)


@settings(max_examples=300)
@given(st.lists(st.one_of(TEXT, st.sampled_from(["<|im_end|>", "<eos>", "<unused9>", "\n\n\n", "<b>"]))).map("".join))
@pytest.mark.slow(3)
def test_random_text_encodes_as_llama_cpp_does(pair: tuple[FileTokenizer, Any], text: str) -> None:
    same(*pair, text)


def test_every_token_has_llama_cpp_s_bytes(pair: tuple[FileTokenizer, Any]) -> None:
    ours, theirs = pair
    assert ours.n_tokens == theirs.n_tokens
    assert [t for t in range(ours.n_tokens) if ours.token_bytes(t) != theirs.token_bytes(t)] == []


def test_ends_of_an_answer_and_texts_of_special_tokens_are_llama_cpp_s(pair: tuple[FileTokenizer, Any]) -> None:
    ours, theirs = pair
    assert ours.eos_ids == theirs.eos_ids
    assert (ours.bos_id, ours.add_bos) == (theirs.bos_id, theirs.add_bos)
    assert ours.bos_text == theirs.text(theirs.bos_id) != ""
    assert [ours.text(t) for t in range(300)] == [theirs.text(t) for t in range(300)]


@given(st.one_of(TEXT, st.text(max_size=40)))
def test_bytes_of_tokens_are_the_text(pair: tuple[FileTokenizer, Any], text: str) -> None:
    """Some bytes have no token in SmolLM2, so what it knows is asked of llama.cpp in the other tests."""
    ours = pair[0]
    for parse in (False, True):
        tokens = ours.encode(text, add_special=False, parse_special=parse)
        if ours.add_bos:  # Gemma
            # SentencePiece writes a space as that character, so the character itself comes back as a space.
            assert b"".join(map(ours.token_bytes, tokens)) == text.replace("\u2581", " ").encode()


def test_special_tokens_are_control_only_where_they_may_be(smollm2: str) -> None:
    ours = read(smollm2)
    end = ours.eos_id
    assert ours.encode("<|im_end|>", add_special=False, parse_special=True) == [end]
    plain = ours.encode("<|im_end|>", add_special=False, parse_special=False)
    assert end not in plain
    assert b"".join(map(ours.token_bytes, plain)) == b"<|im_end|>"
    assert ours.token_bytes(end or 0) == b""
    assert ours.text(end) == ours.eos_text == "<|im_end|>"


def test_lone_surrogates_become_replacement_characters(smollm2: str, gemma3: str) -> None:
    for path in (smollm2, gemma3):
        ours = read(path)
        how = {"add_special": False, "parse_special": True}
        assert ours.encode("a\ud800b\udfff", **how) == ours.encode("a\ufffdb\ufffd", **how)
        assert ours.encode("\ud83c\udf89", **how) == ours.encode("🎉", **how)


def test_the_template_is_the_file_s(smollm2: str, gemma3: str) -> None:
    assert "<|im_start|>" in (read(smollm2).chat_template or "")
    assert read(gemma3).chat_template is None


@functools.cache
def packed(alphabet: str) -> tuple[bytes, bytes, bytes, int]:
    """(tokens, kinds, merges, number of tokens) of all bytes, and all pairs of `alphabet` ranked at random.

    Two bytes of the alphabet merge wherever no word ends between them, so the ids show how a text was cut.
    """
    pairs = [(a, b) for a in alphabet for b in alphabet]
    random.Random(3).shuffle(pairs)
    tokens = [*LETTERS, *(a + b for a, b in pairs), "<|im_start|>", "<|im_end|>"]
    kinds = [TokenKind.NORMAL] * (len(tokens) - 2) + [TokenKind.CONTROL] * 2
    merges = [f"{a} {b}" for a, b in pairs]
    pack = Gguf().value
    return (
        pack(ARRAY, (STRING, tokens)),
        pack(ARRAY, (INT32, kinds)),
        pack(ARRAY, (STRING, merges)),
        len(tokens),
    )


def byte_pairs(path: Path, *keys: tuple[str, int, Any], alphabet: str = "".join(LETTERS)) -> Path:
    tokens, kinds, merges, n_tokens = packed(alphabet)
    pairs = [
        ("general.architecture", STRING, "llama"),
        ("tokenizer.ggml.model", STRING, "gpt2"),
        ("tokenizer.ggml.tokens", ARRAY, tokens),
        ("tokenizer.ggml.token_type", ARRAY, kinds),
        ("tokenizer.ggml.merges", ARRAY, merges),
        ("tokenizer.ggml.bos_token_id", UINT32, n_tokens - 2),
        ("tokenizer.ggml.eos_token_id", UINT32, n_tokens - 1),
        *keys,
    ]
    return Gguf(pairs).write(path)


FAMILIES = {pre: name for name, pre in reversed(PRE_TOKENIZERS.items())}


def comparable(name: str) -> Callable[[str], str]:
    """Takes out of a text where llama.cpp approximates the model's own expression, and ours is the model's."""
    pattern = {
        # Upper and lower case are told apart in ASCII only, and marks are no letters.
        "tekken": r"[^\x00-\x7f]",
        "gpt-4o": r"[^\x00-\x7f]",
        # The range U+0800 to U+4E00 does not hold the spaces in it.
        "deepseek-llm": r"[^\S\x00-\xff]",
        "deepseek-coder": r"[^\S\x00-\xff]",
    }.get(name)
    return lambda text: re.sub(pattern, "", text) if pattern else text


@pytest.mark.parametrize("name", FAMILIES.values())
@pytest.mark.slow(1)
def test_words_are_cut_as_llama_cpp_cuts_them(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = byte_pairs(tmp_path_factory.mktemp("pre") / "x.gguf", ("tokenizer.ggml.pre", STRING, name))
    ours, theirs, reduce = read(path), opened(path), comparable(name)
    for text in texts(100):
        same(ours, theirs, reduce(text))

    @settings(max_examples=150, database=None)
    @given(TEXT)
    def random_text(text: str) -> None:
        same(ours, theirs, reduce(text))

    random_text()


def test_every_name_of_a_family_is_llama_cpp_s(tmp_path: Path) -> None:
    """The names, not the expressions: a file of any of them is opened, and adds the same tokens."""
    text = "It's 1234 getHTTPResponse(  x )\r\n\r\n 日本語 Éa!?"
    alphabet = "".join(sorted({LETTERS[byte] for byte in text.encode()}))
    for name, pre in PRE_TOKENIZERS.items():
        path = byte_pairs(tmp_path / "x.gguf", ("tokenizer.ggml.pre", STRING, name), alphabet=alphabet)
        same(read(path), opened(path), comparable(FAMILIES[pre])(text))


def test_case_of_every_alphabet_cuts_words_in_tekken_and_gpt_4o(tmp_path: Path) -> None:
    """From the expressions of the models' own tokenizer.json; llama.cpp cuts at ASCII capitals only."""
    for name in ("tekken", "gpt-4o"):
        ours = read(byte_pairs(tmp_path / "x.gguf", ("tokenizer.ggml.pre", STRING, name)))
        for words in [[a + b, c + d] for a in "éи" for b in "aßщ" for c in "ÉĚЩ" for d in "bñя"]:
            first, second = (ours.encode(word, add_special=False, parse_special=False) for word in words)
            assert ours.encode("".join(words), add_special=False, parse_special=False) == first + second


def test_a_known_vocabulary_needs_no_name_and_others_are_refused(tmp_path: Path) -> None:
    """The published BitNet 2B-4T file names no pre-tokenizer; its vocabulary is Llama 3's."""
    with refuses(UnsupportedArtifact):
        read(byte_pairs(tmp_path / "x.gguf"))

    tokens = [*LETTERS, *(f"t{i}" for i in range(256, 128_000)), "<|begin_of_text|>", "<|end_of_text|>"]
    keys = [
        ("general.architecture", STRING, "bitnet-b1.58"),
        ("tokenizer.ggml.model", STRING, "gpt2"),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)),
        ("tokenizer.ggml.merges", ARRAY, (STRING, ["t 2"])),
        ("tokenizer.ggml.bos_token_id", UINT32, 128_000),
    ]
    keys[2][2][1][300] = "t2"
    ours = read(Gguf(keys).write(tmp_path / "y.gguf"))
    assert ours.add_bos
    assert ours.encode("a", add_special=True, parse_special=False) == [128_000, ord("a")]


def test_the_caller_may_name_the_pre_tokenizer(tmp_path: Path) -> None:
    header = reader.read_header(byte_pairs(tmp_path / "x.gguf"))
    tokenizer = read(byte_pairs(tmp_path / "y.gguf", ("tokenizer.ggml.pre", STRING, "qwen2")))
    given_name = from_gguf.read_tokenizer(header, pre="qwen2")
    how = {"add_special": False, "parse_special": False}
    assert given_name.encode("abc 123\n\nx", **how) == tokenizer.encode("abc 123\n\nx", **how)


def sentence_pieces(path: Path, *keys: tuple[str, int, Any], pieces: list[str] | None = None) -> Path:
    """A small SentencePiece vocabulary with ties, bytes, and a token over the start of a word."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = pieces or [
        *"▁abcde\n'",
        "ab",
        "abc",
        "▁a",
        "▁ab",
        "bc",
        "cd",
        "▁▁",
        "▁▁▁▁",
        "aa",
        "aaa",
        "d▁a",
        "aba",
        "ba",
        "日",
    ]
    tokens = ["<unk>", "<s>", "</s>", *bytes_, *vocabulary, "<|im_end|>", "[tool]"]
    kinds = [
        TokenKind.UNKNOWN,
        TokenKind.CONTROL,
        TokenKind.CONTROL,
        *[TokenKind.BYTE] * 256,
        *[TokenKind.NORMAL] * len(vocabulary),
    ]
    scores = [0.0] * 259 + [-float(i // 2) for i in range(len(vocabulary))] + [0.0, 0.0]
    keys_ = [
        ("general.architecture", STRING, "llama"),
        ("tokenizer.ggml.model", STRING, "llama"),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)),
        ("tokenizer.ggml.scores", ARRAY, (FLOAT32, scores)),
        ("tokenizer.ggml.token_type", ARRAY, (INT32, [*kinds, TokenKind.CONTROL, TokenKind.USER_DEFINED])),
        *keys,
    ]
    return Gguf(keys_).write(path)


@pytest.mark.parametrize(
    ("space_prefix", "add_eos"),
    [
        (None, False),
        (False, True),
        *(pytest.param(*keys, marks=pytest.mark.slow(3)) for keys in ((None, True), (True, False), (True, True))),
        pytest.param(False, False, marks=pytest.mark.slow(3)),
    ],
)
def test_sentence_pieces_merge_as_in_llama_cpp(
    tmp_path_factory: pytest.TempPathFactory, space_prefix: bool | None, add_eos: bool
) -> None:
    keys = [("tokenizer.ggml.add_eos_token", BOOL, add_eos)]
    if space_prefix is not None:
        keys.append(("tokenizer.ggml.add_space_prefix", BOOL, space_prefix))
    path = sentence_pieces(tmp_path_factory.mktemp("spm") / "x.gguf", *keys)
    ours, theirs = read(path), opened(path)
    assert (ours.add_bos, ours.add_eos) == (True, add_eos)
    assert ours.eos_ids == theirs.eos_ids
    assert [ours.token_bytes(t) for t in range(ours.n_tokens)] == [theirs.token_bytes(t) for t in range(ours.n_tokens)]

    @settings(max_examples=400, database=None)
    @given(
        st.lists(st.sampled_from([*"abcd   \n'▁é日🎉", "<|im_end|>", "[tool]", "</s>", "<0x41>"]), max_size=24).map(
            "".join
        )
    )
    def random_text(text: str) -> None:
        same(ours, theirs, text)

    for text in ("d a", "cd ab d  a", "ababa aaaa", "   a    b"):
        same(ours, theirs, text)
    random_text()


def test_text_never_becomes_a_control_token_by_merging(tmp_path: Path) -> None:
    """llama.cpp's SentencePiece merges into any token, SentencePiece itself into no control token."""
    path = sentence_pieces(tmp_path / "x.gguf", pieces=[*"</s>|im_ed", "</", "s>", "</s", "im_end"])
    ours = read(path)
    assert 2 not in ours.encode("</s>", add_special=False, parse_special=False)
    assert ours.encode("</s>", add_special=False, parse_special=True)[-1] == 2


@pytest.mark.slow(2)
def test_long_runs_take_no_quadratic_time(gemma3: str) -> None:
    """Two seconds in all; quadratic time would take hours, which the run's time limit of a test ends."""
    ours = read(gemma3)
    for text in ("a" * 200_000, " " * 200_000, "<" * 200_000, "\n" * 200_000, "ab " * 70_000):
        ours.encode(text, add_special=False, parse_special=True)


@pytest.mark.parametrize("model", ["no_vocab", "none", None])
def test_a_file_without_a_vocabulary_says_so(tmp_path: Path, model: str | None) -> None:
    keys = [("general.architecture", STRING, "llama")]
    if model:
        keys.append(("tokenizer.ggml.model", STRING, model))
    path = Gguf(keys).write(tmp_path / "x.gguf")
    with refuses(UnsupportedArtifact):
        read(path)


def test_ids_that_only_the_embedding_table_has_are_no_text() -> None:
    vocabulary = Vocabulary(["a", "<end>"], [TokenKind.NORMAL, TokenKind.CONTROL], str.encode)

    assert vocabulary.spelled([0, 1, 2, 0, 511]) == "aa"
