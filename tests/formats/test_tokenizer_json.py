"""Tokenizers of Hugging Face folders, against the library itself and against the same vocabulary as GGUF."""

from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.gguf_writer import ARRAY, INT32, STRING, UINT32, Gguf
from support.refusals import refuses

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.formats.gguf import reader
from edgellm.formats.tokenizer import from_gguf, from_json
from edgellm.formats.tokenizer.folder import MAX_RESPONSE_TEMPLATE, TokenizerFolder
from edgellm.formats.tokenizer.pipelines import Pipelines
from edgellm.formats.tokenizer.pretokenizers import PRE_TOKENIZERS
from edgellm.formats.tokenizer.tokenizer import BYTE_OF

tokenizers = pytest.importorskip("tokenizers")
LETTERS = sorted(BYTE_OF, key=BYTE_OF.__getitem__)
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "Ġ Ġ", "< |", "Ã ©", "o k", "1 2"]
VOCAB = {token: i for i, token in enumerate([*LETTERS, *(merge.replace(" ", "") for merge in MERGES)])}
SPECIAL = ["<|begin_of_text|>", "<|eot_id|>", "<tool>"]
FIRST = len(VOCAB)


def added(content: str, token: int, **changed: Any) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token, "content": content, **flags, **changed}


def pipeline(**changed: Any) -> dict[str, Any]:
    """A byte-level tokenizer.json as Llama 3's; `changed` replaces its components."""
    split = {"type": "Split", "pattern": {"Regex": PRE_TOKENIZERS["llama3"].patterns[0]}, "behavior": "Isolated"}
    letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    model = {"type": "BPE", "vocab": VOCAB, "merges": MERGES, "ignore_merges": True}
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": SPECIAL[0], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {SPECIAL[0]: {"id": SPECIAL[0], "ids": [FIRST], "tokens": [SPECIAL[0]]}},
    }
    return {
        "version": "1.0",
        "added_tokens": [added(text, FIRST + i, special=i < 2) for i, text in enumerate(SPECIAL)],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split | {"invert": False}, letters]},
        "post_processor": template,
        "decoder": letters,
        "model": model,
    } | changed


def pieces() -> dict[str, Any]:
    """A SentencePiece vocabulary as the library has it: merges, byte fallback, a space in front."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for token in ["▁", *"abc<>/s", "ab", "▁a", "▁ab"]:
        vocab[token] = len(vocab)
    model = {
        "type": "BPE",
        "vocab": vocab,
        "merges": ["a b", "▁ a", "▁ ab"],
        "unk_token": "<unk>",
        "byte_fallback": True,
    }
    prefix = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, REPLACE]}
    decoders = [REPLACE | {"pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
    names = [added(text, i) for i, text in enumerate(["<unk>", "<s>", "</s>"])]
    return {
        "version": "1.0",
        "added_tokens": names,
        "normalizer": prefix,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": model | {"byte_fallback": True},
    }


REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
CONFIG = {"bos_token": SPECIAL[0], "eos_token": {"content": SPECIAL[1], "lstrip": False}, "chat_template": "{{ x }}"}


def folder(path: Path, made: Any = None, config: Any = CONFIG, **files: Any) -> Path:
    for name, value in {"tokenizer": made or pipeline(), "tokenizer_config": config, **files}.items():
        (path / f"{name}.json").write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def ids(tokenizer: Any, text: str, *, special: bool = False, parse: bool = True) -> list[int]:
    return list(tokenizer.encode(text, add_special=special, parse_special=parse))


def test_ids_are_the_library_s(tmp_path: Path) -> None:
    ours = from_json.read_tokenizer_json(folder(tmp_path))
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("hello  world", "é 日本 🎉", "<|eot_id|>hello", "a<tool>b", "it's 1234", ""):
        assert ids(ours, text) == theirs.encode(text, add_special_tokens=False).ids
        assert ids(ours, text, special=True) == theirs.encode(text).ids
    assert (ours.bos_id, ours.eos_id, ours.add_bos, ours.add_eos) == (FIRST, FIRST + 1, True, False)
    assert (ours.bos_text, ours.eos_text, ours.text(None)) == ("<|begin_of_text|>", "<|eot_id|>", "")
    assert ours.n_tokens == FIRST + 3


def test_control_tokens_in_text_stay_text_unless_parsed(tmp_path: Path) -> None:
    ours = from_json.read_tokenizer_json(folder(tmp_path))
    assert ids(ours, "x<|eot_id|>") == [VOCAB["x"], FIRST + 1]
    plain = ids(ours, "x<|eot_id|>", parse=False)
    assert FIRST + 1 not in plain
    assert b"".join(map(ours.token_bytes, plain)) == b"x<|eot_id|>"
    # One that is no control token is read wherever it stands, and shown.
    assert ids(ours, "x<tool>", parse=False) == [VOCAB["x"], FIRST + 2]
    assert [ours.token_bytes(FIRST + i) for i in range(3)] == [b"", b"", b"<tool>"]


def test_a_vocabulary_that_holds_control_tokens_gives_none_away(tmp_path: Path) -> None:
    """`ignore_merges` takes a whole word that is a token, whatever it is."""
    library = pipeline(
        added_tokens=[added("hello", VOCAB["hello"]), added(SPECIAL[0], FIRST), added(SPECIAL[1], FIRST + 1)]
    )
    ours = from_json.read_tokenizer_json(folder(tmp_path, library))
    assert ids(ours, "hello") == [VOCAB["hello"]]
    assert ids(ours, "hello w", parse=False) == [*(VOCAB[char] for char in "hello"), VOCAB["Ġw"]]


@given(st.text(max_size=30))
def test_bytes_of_tokens_are_the_text(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    ours = from_json.read_tokenizer_json(folder(tmp_path_factory.mktemp("json")))
    assert b"".join(map(ours.token_bytes, ids(ours, text, parse=False))) == text.encode()


def same_vocabulary_as_gguf(tmp_path: Path) -> Any:
    tokens = [*VOCAB, *SPECIAL]
    keys = [
        ("general.architecture", STRING, "llama"),
        ("tokenizer.ggml.model", STRING, "gpt2"),
        ("tokenizer.ggml.pre", STRING, "llama-bpe"),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)),
        ("tokenizer.ggml.token_type", ARRAY, (INT32, [1] * len(VOCAB) + [3, 3, 4])),
        ("tokenizer.ggml.merges", ARRAY, (STRING, MERGES)),
        ("tokenizer.ggml.bos_token_id", UINT32, FIRST),
        ("tokenizer.ggml.eos_token_id", UINT32, FIRST + 1),
    ]
    return from_gguf.read_tokenizer(reader.read_header(Gguf(keys).write(tmp_path / "x.gguf")))


def test_the_same_vocabulary_as_gguf_gives_the_same_ids(tmp_path: Path) -> None:
    ours = from_json.read_tokenizer_json(folder(tmp_path))
    other = same_vocabulary_as_gguf(tmp_path)
    for text in ("hello  world", "é 日本 🎉", "<|eot_id|>hello<tool>", "it's 12345\n\n x"):
        for special in (False, True):
            for parse in (False, True):
                how = {"special": special, "parse": parse}
                assert ids(ours, text, **how) == ids(other, text, **how)
    assert [ours.token_bytes(t) for t in range(ours.n_tokens)] == [other.token_bytes(t) for t in range(ours.n_tokens)]
    assert (ours.eos_ids, ours.add_bos) == (other.eos_ids, other.add_bos)


def test_sentence_pieces(tmp_path: Path) -> None:
    config = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "add_eos_token": True}
    ours = from_json.read_tokenizer_json(folder(tmp_path, pieces(), config))
    tokens = ids(ours, "ab é", special=True)
    assert (tokens[0], tokens[-1]) == (1, 2)
    assert b"".join(map(ours.token_bytes, tokens)) == " ab é".encode()
    assert ours.token_bytes(3 + 0xC3) == b"\xc3"
    assert ids(ours, "</s>") == [2]
    assert 2 not in ids(ours, "</s>", parse=False)


@pytest.mark.parametrize(
    ("generation", "expected"),
    [({}, {1}), ({"eos_token_id": 5}, {5, 1}), ({"eos_token_id": [5, FIRST]}, {5, FIRST, 1})],
)
def test_ends_of_an_answer(tmp_path: Path, generation: Any, expected: set[int]) -> None:
    """Those of generation_config.json, eos_token, and control tokens known to end a turn (<|eot_id|>)."""
    config = CONFIG | {"eos_token": LETTERS[1]}
    ours = from_json.read_tokenizer_json(folder(tmp_path, config=config, generation_config=generation))
    assert ours.eos_ids == expected | {FIRST + 1}


def test_tokenizer_config_has_the_last_word_on_bos(tmp_path: Path) -> None:
    ours = from_json.read_tokenizer_json(folder(tmp_path, config=CONFIG | {"add_bos_token": False}))
    assert not ours.add_bos
    assert ids(ours, "a", special=True) == [VOCAB["a"]]


@pytest.mark.parametrize(
    ("config", "jinja", "expected"),
    [
        ({"chat_template": "{{ a }}"}, None, "{{ a }}"),
        ({"chat_template": "{{ a }}"}, "{{ b }}", "{{ b }}"),
        ({"chat_template": [{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}]}, None, "d"),
        ({"chat_template": [{"name": "tool", "template": "t"}]}, None, None),
        ({}, None, None),
    ],
)
def test_chat_template(tmp_path: Path, config: Any, jinja: str | None, expected: str | None) -> None:
    folder(tmp_path, config=config)
    if jinja is not None:
        (tmp_path / "chat_template.jinja").write_text(jinja)
    assert from_json.read_tokenizer_json(tmp_path).chat_template == expected


@pytest.mark.parametrize("value", [None, {"fields": {"a": "\ud800"}}, 5, [], "x", {"version": float("nan")}])
def test_a_response_template_is_passed_on_as_json(tmp_path: Path, value: Any) -> None:
    text = from_json.read_tokenizer_json(
        folder(tmp_path, config={**CONFIG, "response_template": value})
    ).response_template
    assert text == ("" if value is None else json.dumps(value))


@pytest.mark.parametrize("case", ["long", "huge", "deep"])
def test_a_response_template_is_bounded(tmp_path: Path, case: str) -> None:
    value = {"long": '"' + "x" * MAX_RESPONSE_TEMPLATE + '"', "huge": " " * 20_000_000 + "1", "deep": "[" * 100_000}[
        case
    ]
    folder(tmp_path, config='{"response_template": ' + value + ("]" * 100_000 if case == "deep" else "") + "}")
    with refuses(BadArtifact):
        from_json.read_tokenizer_json(tmp_path)


def test_a_response_template_that_json_can_read_can_be_written_or_is_refused(tmp_path: Path) -> None:
    for depth in range(300, 1000, 50):
        folder(tmp_path, config='{"response_template": ' + "[" * depth + "]" * depth + "}")
        files = TokenizerFolder(tmp_path)
        with contextlib.suppress(BadArtifact):
            assert len(files.response_template(files.json("tokenizer_config.json"))) == 2 * depth


def test_truncation_and_padding_of_the_file_are_not_used(tmp_path: Path) -> None:
    cut = {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    ours = from_json.read_tokenizer_json(folder(tmp_path, pipeline(truncation=cut)))
    assert len(ids(ours, "abcdefgh")) == 8


def test_only_tokenizer_json_is_needed(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(pipeline()))
    ours = from_json.read_tokenizer_json(tmp_path)
    assert (ours.bos_id, ours.eos_id, ours.bos_text, ours.add_bos) == (None, None, "", True)
    with refuses(UnsupportedArtifact):
        from_json.read_tokenizer_json(tmp_path / "nowhere")


OF_TOKENIZERS = r"(?<=Error: |ption: ).*(?=\))"  # the library's own words
BPE = {"type": "BPE", "vocab": {}, "merges": []}
BROKEN_SPLIT = {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}
NESTED = {"type": "Sequence", "decoders": [{"type": "WordPiece", "prefix": "##", "cleanup": True}]}


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"made": "{"}, id="half a file"),
        pytest.param({"made": "\x00" * 99}, id="zeros"),
        pytest.param({"made": "[" * 100_000}, id="nested"),
        pytest.param({"made": {"version": "1.0", "model": BPE}}, id="no vocabulary"),
        pytest.param({"made": pipeline(model=dict(BPE, vocab={"a": 0}, merges=["a b"]))}, id="a merge of no token"),
        pytest.param({"made": pipeline(model=dict(BPE, vocab=VOCAB | {"x": 2**31}))}, id="a large id"),
        pytest.param({"made": pipeline(model=dict(BPE, vocab=VOCAB | {"zz": 3}))}, id="an id twice"),
        pytest.param({"made": pipeline(model={"type": "Markov"})}, id="an unknown model"),
        pytest.param({"made": pipeline(pre_tokenizer=BROKEN_SPLIT)}, id="a broken expression"),
        pytest.param({"config": "[]"}, id="config a list"),
        pytest.param({"config": "{"}, id="config half a file"),
        pytest.param({"config": "[" * 100_000}, id="config nested"),
        pytest.param({"config": {"eos_token": "nope"}}, id="eos no token"),
        pytest.param({"config": {"eos_token": 7}}, id="eos a number"),
        pytest.param({"config": {"add_bos_token": True}}, id="bos wanted and absent"),
        pytest.param({"config": {"chat_template": 5}}, id="template a number"),
        pytest.param({"generation_config": {"eos_token_id": FIRST + 3}}, id="eos id out of range"),
        pytest.param({"generation_config": {"eos_token_id": [True]}}, id="eos id a bool"),
        pytest.param({"generation_config": {"eos_token_id": "2"}}, id="eos id a text"),
    ],
)
def test_hostile_files_are_refused_by_file_and_key(tmp_path: Path, files: dict[str, Any]) -> None:
    # The library lists the tokens in another order each time.
    with refuses(BadArtifact, varies=rf"{OF_TOKENIZERS}|'(ă|zz)'") as caught:
        from_json.read_tokenizer_json(folder(tmp_path, **files))
    assert str(tmp_path) in caught.value.message
    assert caught.value.hint


def test_spelling_that_is_not_known_is_unsupported(tmp_path: Path) -> None:
    for decoder in (NESTED, None):
        with refuses(UnsupportedArtifact):
            from_json.read_tokenizer_json(folder(tmp_path, pipeline(decoder=decoder)))


def test_large_files_pipes_and_folders_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from edgellm.formats.tokenizer import folder as tokenizer_folder

    folder(tmp_path)
    monkeypatch.setitem(tokenizer_folder.MAX_BYTES, "tokenizer.json", 100)
    with refuses(BadArtifact):
        from_json.read_tokenizer_json(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    os.mkfifo(tmp_path / "tokenizer.json")
    with refuses(BadArtifact):
        from_json.read_tokenizer_json(tmp_path)


def test_an_expression_that_never_ends_is_an_error_and_the_next_text_is_encoded(tmp_path: Path) -> None:
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    ours = from_json.read_tokenizer_json(folder(tmp_path, pipeline(pre_tokenizer=split)))
    with refuses(BadArtifact, varies=OF_TOKENIZERS):
        ids(ours, "a" * 40 + "b")
    assert ids(ours, "ab") == [VOCAB["a"], VOCAB["b"]]


@pytest.mark.parametrize("is_gguf", [False, True])
def test_a_long_text_holds_up_no_other_thread(is_gguf: bool, tmp_path: Path) -> None:
    """The library's own `encode` keeps Python's lock, and its switch for special tokens waits with it in hand."""
    tokenizer = same_vocabulary_as_gguf(tmp_path) if is_gguf else from_json.read_tokenizer_json(folder(tmp_path))
    turns, ended = 0, threading.Event()

    def others() -> None:
        nonlocal turns
        while not ended.wait(0.001):
            ids(tokenizer, "hello", parse=turns % 2 == 0)
            turns += 1

    reading = threading.Thread(target=others)
    reading.start()
    try:
        before = turns
        ids(tokenizer, "hello " * 200_000)
        during = turns - before
    finally:
        ended.set()
        reading.join()
    assert during > 20


def test_added_tokens_out_of_order_keep_their_numbers() -> None:
    tokens = [added("<|a|>", FIRST + 1), added("far", FIRST + 9), added("<|b|>", FIRST), added("h", VOCAB["h"])]
    library = pipeline(added_tokens=tokens, post_processor=None)
    library["model"] = library["model"] | {"vocab": VOCAB | {"far": FIRST + 9}}
    theirs = tokenizers.Tokenizer.from_str(json.dumps(library))
    ours = Pipelines(theirs)
    assert ours._plain.get_added_tokens_decoder().keys() == theirs.get_added_tokens_decoder().keys()
    numbers = set(theirs.encode("<|a|><|b|>").ids)
    assert set(ours.encode("<|a|><|b|>", add_special=False, parse_special=True).ids) == numbers
    assert numbers.isdisjoint(ours.encode("<|a|><|b|>", add_special=False, parse_special=False).ids)
