"""Texts that llama.cpp's expressions cannot split whole: they are cut, and only they."""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.gguf_writer import ARRAY, BOOL, INT32, STRING, UINT32, Gguf

from edgellm.formats.tokenizer.kinds import TokenKind
from edgellm.formats.tokenizer.tokenizer import BYTE_OF

llama_cpp = pytest.importorskip("llama_cpp")

from edgellm_gguf import long_runs, tokenizer  # noqa: E402
from edgellm_gguf.long_runs import MAX_RUN, parts  # noqa: E402
from edgellm_gguf.tokenizer import LlamaTokenizer  # noqa: E402

LETTERS = sorted(BYTE_OF, key=BYTE_OF.__getitem__)
MERGES = ["a a", "aa aa", "a b", "Ġ a", "Ġ Ġ", "1 2", "! !", "Ċ Ċ", "h e", "l l"]
SPECIAL = ["<s>", "</s>", "<|im_end|>", "[tool]"]
# Of their expressions: one, several one after the other, groups with a look ahead, and words of any characters.
EXPRESSIONS = ["deepseek-llm", "deepseek-coder", "gpt-4o", "tekken", "deepseek-v3", "bloom", "exaone-moe", "superbpe"]
HOW = {"add_special": True, "parse_special": False}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A tokenizer whose expressions are those of a name."""
    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    folder, models = tmp_path_factory.mktemp("pre"), []

    def open_(name: str) -> LlamaTokenizer:
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        models.append(llama_cpp.llama_model_load_from_file(os.fsencode(_vocabulary(folder / "x.gguf", name)), params))
        return LlamaTokenizer(llama_cpp.llama_model_get_vocab(models[-1]))

    yield open_
    for model in models:
        llama_cpp.llama_model_free(model)


def _vocabulary(path: Path, name: str) -> Path:
    tokens = [*LETTERS, *(merge.replace(" ", "") for merge in MERGES), *SPECIAL]
    kinds = [TokenKind.NORMAL] * (len(tokens) - 4) + [TokenKind.CONTROL] * 3 + [TokenKind.USER_DEFINED]
    keys = [
        ("general.architecture", STRING, "llama"),
        ("tokenizer.ggml.model", STRING, "gpt2"),
        ("tokenizer.ggml.pre", STRING, name),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)),
        ("tokenizer.ggml.token_type", ARRAY, (INT32, kinds)),
        ("tokenizer.ggml.merges", ARRAY, (STRING, MERGES)),
        ("tokenizer.ggml.bos_token_id", UINT32, len(tokens) - 4),
        ("tokenizer.ggml.eos_token_id", UINT32, len(tokens) - 3),
        ("tokenizer.ggml.add_bos_token", BOOL, True),
        ("tokenizer.ggml.add_eos_token", BOOL, True),
    ]
    return Gguf(keys).write(path)


@pytest.mark.parametrize("name", EXPRESSIONS)
@pytest.mark.parametrize(
    "run", ["a", "Z", "\u4e2d", "1", "!", " ", "\n", "\u3000 ", "a1", "a ", "a\u0301", "a\x1c", "!\n"]
)
def test_a_run_of_any_kind_ends_no_process(opened: Any, name: str, run: str) -> None:
    """In a thread with the smallest stack."""
    tokens: list[int] = []
    llama = opened(name)
    before = threading.stack_size(2 << 20)
    try:
        thread = threading.Thread(target=lambda: tokens.extend(llama.encode(run * (12_000 // len(run)), **HOW)))
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()

    assert b"".join(map(llama.token_bytes, tokens)).decode() == run * (12_000 // len(run))


def test_threads_that_ask_for_pieces_have_their_own(opened: Any) -> None:
    """Beside the answers at hand, texts of tokens are told and texts are cut."""
    llama = opened("bloom")
    tokens = range(llama_cpp.llama_vocab_n_tokens(llama._vocab))
    alone, seen = [llama.text(token) for token in tokens], list[list[str]]()

    def ask() -> None:
        for _ in range(300):
            seen.append([llama.text(token) for token in tokens])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(texts == alone for texts in seen)
    assert len(seen) == 1200


@given(
    st.lists(st.sampled_from([*"aZ1! \n'\u4e2d\u3002", "the cat. ", "aaaaaaaaaa", "<s>", "[tool]"]), max_size=60).map(
        "".join
    )
)
def test_parts_are_the_text_and_no_run_in_them_is_longer(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_runs, "MAX_RUN", 8)
        divided = parts(text)

    assert "".join(divided) == text
    assert all(divided) or not text
    for part in divided:
        assert all(len(run) <= 8 for run in long_runs._END.split(part))


def test_ordinary_text_is_whole() -> None:
    lines = Path(__file__).read_text() * 20
    prose = "Edge devices answer, and others wait; that is so. " * 1000

    assert parts(lines) == [lines]
    assert parts(prose) == [prose]


def test_a_run_is_cut_behind_a_word_where_there_is_one() -> None:
    minified = '{"key":[1,"don\'t",22],"other":"text"},' * 400
    for run in (minified, "hello world " * 2000, "abc123" * 2000, "\u4e2d\u6587\uff0c" * 4000):
        divided = parts(run)
        assert len(divided) > 1
        for before, after in itertools.pairwise(divided):
            assert before[-1].isalnum()
            assert after[0] != "'"
            assert not before[-1].isalpha() or not after[0].isalpha()
    assert [len(part) for part in parts("a" * (2 * MAX_RUN + 1))] == [MAX_RUN, MAX_RUN, 1]


@pytest.mark.parametrize("name", ["deepseek-llm", "gpt-4o", "tekken", "deepseek-v3"])
def test_tokens_are_those_of_the_whole_text(opened: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a run is cut behind a word, and around special texts in it."""
    llama, rng = opened(name), random.Random(5)
    monkeypatch.setattr(long_runs, "MAX_RUN", 40)
    monkeypatch.setattr(tokenizer, "MAX_RUN", 40)
    words = [*"!(-+.", "ab", "he", "aaa", " ab", "12", "all1", "</s>", "<|im_end|>", "[tool]", " ", "\n", "it's"]
    for _ in range(50):
        text = "".join(rng.choices(words, k=60))
        for special in (False, True):
            how = {"add_special": special, "parse_special": not special}
            assert llama.encode(text, **how) == llama._ids(text, **how), text


@pytest.mark.parametrize("offset", range(0, 12, 3))
def test_special_texts_are_not_cut_apart(opened: Any, offset: int) -> None:
    llama = opened("bloom")
    (user_defined,) = llama.encode("[tool]", add_special=False, parse_special=False)
    (control,) = llama.encode("<|im_end|>", add_special=False, parse_special=True)
    text = "a" * (MAX_RUN - offset) + "[tool]" + "a" * (MAX_RUN - offset - 6) + "<|im_end|>" + "a" * MAX_RUN

    plain = llama.encode(text, add_special=False, parse_special=False)
    parsed = llama.encode(text, add_special=False, parse_special=True)
    assert (plain.count(user_defined), plain.count(control)) == (1, 0)
    assert (parsed.count(user_defined), parsed.count(control)) == (1, 1)
    assert b"".join(map(llama.token_bytes, plain)).decode() == text


def test_beginning_and_end_are_added_once(opened: Any) -> None:
    llama = opened("tekken")
    bos, eos = llama.encode("", **HOW)
    tokens = llama.encode("a" * (3 * MAX_RUN), **HOW)

    assert (tokens[0], tokens[-1]) == (bos, eos)
    assert (tokens.count(bos), tokens.count(eos)) == (1, 1)
