"""What a GGUF adapter's file says, as the values that callers need."""

import hashlib

from attacks.gguf.hostile_adapters import EMBEDDING, EXPERTS, SOUND, adapter
from support.gguf_writer import ARRAY, UINT32

from edgellm.formats.gguf import adapter as gguf_adapter


def test_an_adapter_says_what_it_changes_and_by_how_much(tmp_path):
    path = SOUND.write(tmp_path / "x.gguf")

    read = gguf_adapter.read(path)

    assert (read.architecture, read.rank, read.alpha, read.invocation_tokens) == ("llama", 4, 8.0, ())
    assert [(pair.name, pair.rank, pair.base_dims) for pair in read.pairs] == [
        ("blk.0.attn_q.weight", 4, (64, 64)),
        ("blk.0.attn_v.weight", 2, (64, 32)),
    ]
    assert [read.scale(pair) for pair in read.pairs] == [2.0, 4.0]  # alpha / its own rank
    assert read.tensor_bytes == 4 * (4 * (64 + 64) + 2 * (64 + 32))
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert gguf_adapter.read(path, hashed=False).sha256 == ""


def test_alpha_may_be_missing_and_then_nothing_is_scaled(tmp_path):
    read = gguf_adapter.read(adapter(SOUND.tensors, adapter__lora__alpha=None).write(tmp_path / "x.gguf"))

    assert [read.scale(pair) for pair in read.pairs] == [1.0, 1.0]


def test_dimensions_of_the_embedding_and_of_experts_are_those_of_their_matrices(tmp_path):
    read = gguf_adapter.read(adapter(EMBEDDING + EXPERTS).write(tmp_path / "x.gguf"))

    assert {pair.name: (pair.rank, pair.base_dims) for pair in read.pairs} == {
        "token_embd.weight": (4, (64, 16)),
        "blk.0.ffn_down_exps.weight": (4, (128, 64, 2)),
    }


def test_tokens_that_wake_an_adapter_are_read(tmp_path):
    woken = adapter(SOUND.tensors, adapter__alora__invocation_tokens=(ARRAY, (UINT32, [7, 8, 9])))

    assert gguf_adapter.read(woken.write(tmp_path / "x.gguf")).invocation_tokens == (7, 8, 9)
