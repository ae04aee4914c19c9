"""Logits and embeddings of small models against the numpy oracle, on every instruction set that this processor runs.

The oracle computes in float64, the engine in float32, and both round activations to int8: where a value lies within a
float's rounding of a half, they round differently, and from there on differ by a step of an activation (1/127 of the
largest, of one of 256: about 0.2 % of what a layer adds, DAMPING of the residual stream; a few times that for the
activations of a quantized head), as do later tokens, which attend to it. Rows without such a value agree to about 1e-7.
So of three prompts one must have half of its rows within EXACT, and all rows of all must be within FLIPPED: what is
computed wrongly misses the first by orders of magnitude.
"""

from __future__ import annotations

import numpy as np
import pytest
from bitnet.models import Tiny, engine_of, feed, settings_of, tokens_of
from bitnet.packed import fastest, library, usable
from bitnet.reference import Reference, row_errors
from edgellm_bitnet.weights import GgufWeights
from support.refusals import refuses

from edgellm.contract.engine import SlotInput
from edgellm.errors import CacheFull, UnsupportedArtifact
from edgellm.formats.gguf.ggml_types import BY_NAME
from edgellm.formats.gguf.writer import TensorInfo

EXACT, FLIPPED = 2e-6, 1e-2
# In a long context nearly every row attends to a position that was rounded differently. Measured: at most 6e-4.
LONG = 2e-3
ORACLES = {}
GEMMA = {"attention.sliding_window": 8, "rope.freq_base": 1000000.0}


@pytest.fixture(autouse=True)
def built():
    library()


def check(tmp_path, model, *, settings=None, act_block=0, head="", isa=None, exact=EXACT):
    path = model.write(tmp_path / "model.gguf")
    settings = settings or settings_of()
    prompts = [tokens_of(model, n, seed=n) for n in (12, 21, 23)]
    wanted = oracle(path, model, prompts, act_block=act_block, head=head, kv_type=settings.kv_type)
    with engine_of(path, settings, isa=isa, act_block=act_block, head=head) as engine:
        batch = [SlotInput(slot, 0, tuple(tokens), 11) for slot, tokens in enumerate(prompts)]
        found = [rows.copy() for rows in engine.step(batch)]
    assert np.isfinite(found).all()
    errors = [row_errors(*rows) for rows in zip(found, wanted, strict=True)]
    assert min(np.median(of_prompt) for of_prompt in errors) <= exact, errors
    assert np.max(errors) <= FLIPPED, errors


def oracle(path, model, prompts, **settings):
    """Computed once for all instruction sets."""
    key = repr((model, settings))
    if key not in ORACLES:
        reference = Reference(GgufWeights(str(path)), **settings)
        ORACLES[key] = [reference.logits(tokens)[-11:] for tokens in prompts]
    return ORACLES[key]


def check_long(tmp_path, model, n, settings, *, isa=None, step=64):
    path, tokens = model.write(tmp_path / "model.gguf"), tokens_of(model, n)
    wanted = Reference(GgufWeights(str(path)), kv_type=settings.kv_type).logits(tokens)
    with engine_of(path, settings, isa=isa) as engine:
        found = feed(engine, 0, tokens, rows=30, step=step)
    errors = row_errors(found, wanted[-len(found) :])
    assert errors.max() <= LONG, errors


FAMILIES = {
    "bitnet-b1.58": Tiny(),
    "bitnet": Tiny("bitnet"),
    "llama": Tiny("llama"),
    "qwen3": Tiny("qwen3"),
    "gemma3": Tiny("gemma3", layers=6, hidden=128, ffn=128, keys=GEMMA),
    "qwen3, a norm for each product": Tiny("qwen3", input_norms=True),
    "gemma3, a norm for each product": Tiny("gemma3", layers=6, hidden=128, ffn=128, keys=GEMMA, input_norms=True),
}


@pytest.mark.parametrize("isa", fastest())
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_the_oracle(tmp_path, isa, family):
    check(tmp_path, FAMILIES[family], isa=isa)


@pytest.mark.parametrize("act_block", [0, 256])
@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize("ternary", ["I2_S", "I2_S of Arm", "TQ2_0", "TQ1_0", "Q2_0", "Q1_0"])
def test_every_ternary_type_is_the_oracle(tmp_path, ternary, varying, act_block):
    check(tmp_path, Tiny("llama", ternary=ternary, varying=varying), act_block=act_block)


@pytest.mark.parametrize("isa", usable())
@pytest.mark.parametrize("ternary", ["TQ2_0", "Q2_0", "Q1_0"])
def test_block_scales_on_every_instruction_set(tmp_path, isa, ternary):
    check(tmp_path, Tiny("llama", ternary=ternary, varying=True), isa=isa)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("head", ["F32", "F16", "BF16", "Q6_K", "Q8_0", "Q4_0"])
def test_every_head_is_the_oracle(tmp_path, head, tied):
    check(tmp_path, Tiny(head=head, tied=tied))


@pytest.mark.parametrize("isa", usable())
@pytest.mark.parametrize("head", ["F16", "BF16", "F32", "Q6_K", "Q8_0", "Q4_0"])
def test_heads_on_every_instruction_set(tmp_path, isa, head):
    check(tmp_path, Tiny(head=head, layers=1), isa=isa)


@pytest.mark.parametrize(("head", "embed"), [("F16", "Q6_K"), ("Q6_K", "F16"), ("Q8_0", "Q4_0")])
def test_an_embedding_of_another_type_than_the_head(tmp_path, head, embed):
    check(tmp_path, Tiny(head=head, embed=embed, tied=False))


@pytest.mark.parametrize("stored", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("head", ["q8", "q6", "q4"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_head_requantized_on_request_is_the_oracle(tmp_path, head, stored, tied):
    check(tmp_path, Tiny(head=stored, tied=tied), head=head)


def test_a_requantized_head_of_rows_that_are_no_whole_blocks(tmp_path):
    model = Tiny("llama", hidden=288, heads=3, kv_heads=3, head_dim=96, ffn=320, ternary="I2_S")
    check(tmp_path, model, head="q8")
    check(tmp_path, model, head="q4")
    with (
        refuses(UnsupportedArtifact),
        engine_of(model.write(tmp_path / "model.gguf"), head="q6"),
    ):
        pass


@pytest.mark.parametrize("isa", fastest())
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (6, 2), (4, 1), (10, 2), (8, 1)])
def test_query_heads_share_a_kv_head(tmp_path, isa, heads, kv_heads):
    check(tmp_path, Tiny("qwen3", heads=heads, kv_heads=kv_heads, head_dim=32, hidden=128, ffn=128), isa=isa)


@pytest.mark.parametrize("isa", fastest())
@pytest.mark.parametrize("kv_type", ["f16", "q8_0", "f32"])
@pytest.mark.parametrize(
    ("head_dim", "rope_dim"),
    [
        pytest.param(64, 64, marks=pytest.mark.slow(3)),
        (100, 100),
        pytest.param(128, 128, marks=pytest.mark.slow(3)),
        (64, 32),
        (256, 256),
    ],
)
def test_heads_of_any_size_and_both_cache_types(tmp_path, isa, kv_type, head_dim, rope_dim):
    model = Tiny("llama", heads=8, kv_heads=4, head_dim=head_dim, keys={"rope.dimension_count": rope_dim}, layers=1)
    check(tmp_path, model, isa=isa, settings=settings_of(kv_type=kv_type))


def test_rows_that_start_inside_a_block_and_counts_that_are_no_whole_panels(tmp_path):
    """1bitLLM's 3B has rows of 8640 weights: 67.5 blocks of I2_S."""
    model = Tiny("bitnet", hidden=288, ffn=352, heads=9, kv_heads=3, head_dim=32, vocab=67)
    check(tmp_path, model)


@pytest.mark.parametrize("threads", [*(pytest.param(n, marks=pytest.mark.slow(2)) for n in (1, 2)), 3])
@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_a_context_of_several_chunks(tmp_path, kv_type, threads):
    """The last rows, as one prefill (units of rows) and decoded one by one (chunks shared out among threads)."""
    settings = settings_of(n_ctx=1120, n_slots=1, threads=threads, kv_type=kv_type)
    check_long(tmp_path, Tiny(layers=1), 1100, settings)
    check_long(tmp_path, Tiny(layers=1), 1031, settings, step=1)


@pytest.mark.parametrize("isa", usable())
@pytest.mark.slow(3)
def test_a_context_of_several_chunks_on_every_instruction_set(tmp_path, isa):
    settings = settings_of(n_ctx=1056, n_slots=1)
    check_long(tmp_path, Tiny(layers=1), 1041, settings, isa=isa)


@pytest.mark.parametrize("window", [*(pytest.param(n, marks=pytest.mark.slow(2)) for n in (1, 512)), 33, 700])
@pytest.mark.parametrize("step", [64, 1])
def test_sliding_windows_over_several_chunks(tmp_path, window, step):
    settings = settings_of(n_ctx=1120, n_slots=1)
    model = Tiny("gemma3", layers=1, keys=GEMMA | {"attention.sliding_window": window}, hidden=128, ffn=128)
    check_long(tmp_path, model, 1100, settings, step=step)


@pytest.mark.parametrize("kind", ["linear", "factors"])
def test_stretched_rotations(tmp_path, kind):
    keys = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0} if kind == "linear" else {}
    model, path = Tiny("llama", keys=keys), tmp_path / "model.gguf"
    factors = np.linspace(1, 8, 32).astype(np.float32)
    added = {"rope_freqs__weight": (TensorInfo("rope_freqs.weight", (32,), BY_NAME["F32"]), factors.tobytes())}
    model.write(path, **(added if kind == "factors" else {}))
    tokens = tokens_of(model, 40)
    wanted = Reference(GgufWeights(str(path))).logits(tokens)
    with engine_of(path) as engine:
        assert np.median(row_errors(feed(engine, 0, tokens, rows=30), wanted[-30:])) <= EXACT


class AtHalves(Reference):
    """Knows what the first products take: 128 times the embedding, halves to even."""

    def product(self, layer, name, x):
        if name not in ("attn_q", "attn_k", "attn_v"):
            return super().product(layer, name, x)
        integers, scale = self.products[layer, name]
        return (np.rint(128 * self.rows) @ integers.T) * scale * np.abs(x).max(axis=1, keepdims=True) / 127

    def hidden(self, tokens):
        self.rows = self.embedding[np.asarray(tokens)]
        return super().hidden(tokens)


@pytest.mark.parametrize("isa", usable())
def test_values_at_a_half_go_to_even_whatever_their_norm(tmp_path, isa):
    """The norm cancels in what is rounded to 8 bits: neither it nor the factor may move a value off its half."""
    model, rng = Tiny(head="F32", layers=1), np.random.default_rng(3)
    table = (rng.integers(-126, 126, (model.vocab, model.hidden)) + 0.5) / 128
    table[:, 5] = 127 / 128
    size = (model.hidden, model.vocab)
    embedding = TensorInfo("token_embd.weight", size, BY_NAME["F32"]), table.astype("<f4").tobytes()
    ones = TensorInfo("blk.0.attn_norm.weight", size[:1], BY_NAME["F32"]), np.ones(model.hidden, "<f4").tobytes()
    path, tokens = tmp_path / "model.gguf", tokens_of(model, 30)
    model.write(path, token_embd__weight=embedding, blk__0__attn_norm__weight=ones)
    wanted = AtHalves(GgufWeights(str(path))).logits(tokens)
    with engine_of(path, isa=isa) as engine:
        assert np.median(row_errors(feed(engine, 0, tokens, rows=30), wanted)) <= EXACT


def test_activation_blocks_need_rows_of_whole_blocks(tmp_path):
    model = Tiny("llama", hidden=288, heads=3, kv_heads=3, head_dim=96, ffn=320)
    with (
        refuses(UnsupportedArtifact),
        engine_of(model.write(tmp_path / "model.gguf"), act_block=256),
    ):
        pass


POOLING = {"mean": 1, "cls": 2, "last": 3}


@pytest.mark.parametrize("isa", [pytest.param(i, marks=pytest.mark.slow(1)) if i == "scalar" else i for i in usable()])
@pytest.mark.parametrize("pooling", POOLING)
def test_embeddings_are_the_oracles_of_unit_length(tmp_path, isa, pooling):
    model = Tiny("qwen3", input_norms=True, keys={"pooling_type": POOLING[pooling]})
    path = model.write(tmp_path / "model.gguf")
    sequences = [tokens_of(model, n, seed=n) for n in (1, 40, 150, 17)]
    reference = Reference(GgufWeights(str(path)))
    with engine_of(path, settings_of(n_ctx=160, n_batch=64), isa=isa) as engine:
        first = feed(engine, 0, sequences[3])
        found = engine.embed(sequences)
        np.testing.assert_array_equal(feed(engine, 1, sequences[3]), first)  # slots keep what they have
        np.testing.assert_array_equal(feed(engine, 0, [5], n_past=17), feed(engine, 1, [5], n_past=17))
        assert "embed" in engine.info.capabilities
        with pytest.raises(CacheFull):
            engine.embed([[1] * 161])
        for wrong in (-1, model.vocab):
            with pytest.raises(ValueError):
                engine.embed([[wrong]])
    for row, tokens in zip(found, sequences, strict=True):
        hidden = reference.hidden(tokens)
        wanted = {"mean": hidden.mean(axis=0), "cls": hidden[0], "last": hidden[-1]}[pooling]
        assert np.linalg.norm(row - wanted / np.linalg.norm(wanted)) <= LONG
        assert abs(np.linalg.norm(row) - 1) <= 1e-6


@pytest.mark.parametrize("pooling", POOLING)
def test_tokens_that_cannot_be_embedded_are_refused(tmp_path, pooling):
    """The words, which must not depend on the instruction sets that a processor has."""
    model = Tiny("qwen3", input_norms=True, keys={"pooling_type": POOLING[pooling]})
    with engine_of(model.write(tmp_path / "model.gguf"), settings_of(n_ctx=160, n_batch=64)) as engine:
        with refuses(CacheFull, needed=161, free=160):
            engine.embed([[1] * 161])
        for wrong in (-1, model.vocab):
            with refuses(ValueError):
                engine.embed([[wrong]])
