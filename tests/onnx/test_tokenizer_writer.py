"""A GGUF tokenizer written as tokenizer.json and its small files."""

from __future__ import annotations

import json

import pytest
from edgellm_onnx.tokenizer_writer import write_tokenizer
from support.gguf_decoders import byte_level, sentence_piece
from support.refusals import refuses

from edgellm.errors import UnsupportedArtifact
from edgellm.formats.gguf import reader
from edgellm.formats.gguf.writer import GgufWriter
from edgellm.formats.tokenizer.from_json import read_tokenizer_json


def written(tmp_path, keys, **changed):
    """(the original, the one read back from the folder)."""
    keys |= {f"tokenizer.ggml.{name}": value for name, value in changed.items()}
    with GgufWriter(tmp_path / "v.gguf", {"general.architecture": "llama", **keys}, []):
        pass
    folder = tmp_path / "folder"
    folder.mkdir()
    return write_tokenizer(reader.read_header(tmp_path / "v.gguf"), folder), read_tokenizer_json(folder)


@pytest.mark.parametrize("keys", [byte_level(288), sentence_piece(288), sentence_piece(288, prefix=True)])
def test_it_reads_back_as_it_was(tmp_path, keys):
    original, read = written(tmp_path, keys)

    assert (read.bos_id, read.eos_id, read.eos_ids) == (original.bos_id, original.eos_id, original.eos_ids)
    assert (read.add_bos, read.add_eos, read.chat_template) == (
        original.add_bos,
        original.add_eos,
        original.chat_template,
    )
    assert [read.token_bytes(i) for i in range(288)] == [original.token_bytes(i) for i in range(288)]


@pytest.mark.parametrize("keys", [byte_level(288), sentence_piece(288, prefix=True)])
def test_the_library_alone_reads_the_file(tmp_path, keys):
    """Without EdgeLLM: as transformers or onnxruntime-genai would, the token of the beginning included."""
    from tokenizers import Tokenizer

    original, _ = written(tmp_path, keys)
    alone = Tokenizer.from_file(str(tmp_path / "folder" / "tokenizer.json"))

    text = "the inner thing on a hat <tool> é\u3053"
    assert alone.encode(text).ids == original.encode(text, add_special=True, parse_special=True)
    plain = text.replace("<tool>", "")
    assert alone.decode(alone.encode(plain).ids) == plain


def test_the_end_of_answers_and_padding_are_carried_over(tmp_path):
    original, _ = written(tmp_path, byte_level(288), padding_token_id=280)

    found = json.loads((tmp_path / "folder" / "generation_config.json").read_text())
    assert found == {"eos_token_id": sorted(original.eos_ids), "pad_token_id": 280}


def test_what_is_recommended_for_sampling_is_carried_over(tmp_path):
    written(tmp_path, byte_level(288) | {"general.sampling.temp": 0.6, "general.sampling.top_k": 20})

    found = json.loads((tmp_path / "folder" / "generation_config.json").read_text())
    assert {name: found[name] for name in ("do_sample", "temperature", "top_k")} == {
        "do_sample": True, "temperature": 0.6, "top_k": 20,
    }  # fmt: skip


def test_ties_that_ranks_cannot_hold_are_refused(tmp_path):
    """Equal scores: SentencePiece joins the leftmost pair, ranks of pairs have an order of their own."""
    scores = [0.0] * (259 + 20)
    with refuses(UnsupportedArtifact):
        written(tmp_path, sentence_piece(288, scores=scores))
