"""The trainer: its losses, its steps, and that it goes on from its state to the same bits."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest
from support.decoder_forward import Forward
from support.gguf_decoders import FAMILIES, Decoder
from support.refusals import refuses
from support.tuning import rows, stir, trainer

from edgellm.adaptation import packed
from edgellm.adaptation.example import Example
from edgellm.adaptation.loop import FACTORS
from edgellm.adaptation.packing import pack
from edgellm.adaptation.worker import HELD_OUT, ROWS, TuneJob, TuneStop, tune_apart
from edgellm.errors import BackendError, BadArtifact, UnsupportedArtifact, WorkerCrashed
from edgellm.formats.safetensors.reader import read_safetensors
from edgellm.types.model import Artifact
from edgellm.types.tuning import METHODS, TuneFinished, TuneProgress, TuneSettings, TuneStarted

with contextlib.suppress(ImportError):  # conftest.py skips
    import torch

BATCH = rows((9, 7), (12,))


def loss_by_numpy(path, batch):
    """Of each document by itself."""
    forward, total = Forward(path), 0.0
    for row, documents in enumerate(batch.documents):
        for number in range(1, documents.max() + 1):
            here = documents == number
            tokens, supervised = batch.tokens[row, here], batch.supervised[row, here]
            logits = forward.logits(tokens).astype(np.float64)
            logprobs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
            total -= sum(logprobs[at - 1, tokens[at]] for at in np.flatnonzero(supervised))
    return total


@pytest.mark.slow(20)
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_those_of_the_formulas(family, tmp_path):
    path = FAMILIES[family].write(tmp_path / "m.gguf")
    assert trainer(path).loss(BATCH) == pytest.approx(loss_by_numpy(path, BATCH), rel=1e-6)


@pytest.mark.slow(10)
@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "Q4_K", "Q6_K"])
def test_blocks_are_unpacked_when_they_are_needed_or_at_once(kind, tmp_path):
    path = Decoder(kind=kind, hidden=256, ffn=256, head_dim=64, tied=False).write(tmp_path / "m.gguf")
    in_blocks, unpacked = (trainer(path, dtype="float32", quantized=quantized) for quantized in (True, False))

    assert in_blocks.loss(BATCH) == unpacked.loss(BATCH)
    assert (
        in_blocks.step([BATCH], 1e-3)
        == unpacked.step([BATCH], 1e-3)
        == pytest.approx(loss_by_numpy(path, BATCH) / BATCH.supervised.sum(), rel=1e-4)
    )
    assert in_blocks.loss(BATCH) == unpacked.loss(BATCH)


@pytest.mark.slow(5)
@pytest.mark.parametrize(
    "kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL"]
)
def test_any_bytes_are_the_values_that_gguf_reads(kind):
    import gguf
    from edgellm_tune.blocks import unpack

    from edgellm.formats.gguf.ggml_types import BY_NAME

    row = 512 // BY_NAME[kind].block_elems * BY_NAME[kind].block_bytes
    raw = np.random.default_rng(1).integers(0, 256, (64, row)).astype(np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind])
    values = unpack(torch.from_numpy(raw), BY_NAME[kind], torch.float32).numpy()
    assert np.array_equal(values, expected, equal_nan=True)


@pytest.mark.slow(10)
def test_parts_of_the_vocabulary_and_of_the_tokens_make_the_same_loss(tmp_path, monkeypatch):
    from edgellm_tune import base, loss

    path = Decoder(kind="Q8_0", tied=False).write(tmp_path / "m.gguf")
    whole = trainer(path)
    first, then = whole.step([BATCH], 1e-2), whole.loss(BATCH)
    monkeypatch.setattr(base, "PART_BYTES", 50 * 64 * 4)  # of the 288 rows
    monkeypatch.setattr(loss, "LOGITS_BYTES", 5 * 288 * 4)  # of the 15 tokens
    parts = trainer(path)
    assert len(list(parts.model.head.parts())) == 6
    assert parts.step([BATCH], 1e-2) == pytest.approx(first, rel=1e-12)
    assert parts.loss(BATCH) == pytest.approx(then, rel=1e-12)


@pytest.mark.slow(10)
def test_a_step_weighs_tokens_and_not_batches(tmp_path):
    path = Decoder().write(tmp_path / "m.gguf")
    batches = [rows((4,), seed=1), rows((12, 5), (9,), seed=2), rows((6,), seed=3, share=0.0)]
    together = rows((4,), (12, 5), (9,))
    for row, (batch, of) in enumerate([(batches[0], 0), (batches[1], 0), (batches[1], 1)]):
        size = batch.tokens.shape[1]
        for name in ("tokens", "supervised", "positions", "documents"):
            getattr(together, name)[row] = 0
            getattr(together, name)[row, :size] = getattr(batch, name)[of]
    one, three = trainer(path), trainer(path)

    assert three.step(batches, 1e-2) == pytest.approx(one.step([together], 1e-2), rel=1e-12)
    assert three.loss(BATCH) == pytest.approx(one.loss(BATCH), rel=1e-12)


@pytest.mark.slow(15)
@pytest.mark.parametrize("method", METHODS)
def test_it_goes_on_from_its_state_to_the_same_bits(method, tmp_path):
    path = Decoder(kind="Q4_1").write(tmp_path / "m.gguf")
    settings = {"method": method, "rank": 4, "dtype": "float32", "delta_start": 2, "weight_decay": 0.01}
    batches = [rows((9, 7), (12,), seed=step) for step in range(6)]
    whole = trainer(path, **settings)
    kept = {}
    for step, batch in enumerate(batches):
        kept[step] = {name: np.array(array) for name, array in whole.state().items()}
        whole.step([batch], 1e-2)
    for start in (0, 2, 3, 5):
        other = trainer(path, seed=9, **settings)
        stir(other)
        other.restore(kept[start])
        for batch in batches[start:]:
            other.step([batch], 1e-2)
        assert other.factors().keys() == whole.factors().keys()
        for name, array in whole.factors().items():
            assert np.array_equal(array, other.factors()[name]), (start, name)


@pytest.mark.slow(5)
def test_what_each_method_leaves_alone(tmp_path):
    path = Decoder().write(tmp_path / "m.gguf")
    frozen = trainer(path, method="lora-fa", rank=4)
    before = {name: np.array(array) for name, array in frozen.factors().items()}
    frozen.step([BATCH], 1e-2)
    changed = {name.rpartition(".")[2] for name, array in frozen.factors().items() if (array != before[name]).any()}
    assert changed == {"lora_b"}

    early = trainer(path, method="delta-lora", rank=4, delta_start=3)
    assert "blk.0.attn_q.weight.start_a" not in early.factors()
    content = path.read_bytes()
    whole = trainer(path, method="full")
    whole.step([BATCH], 1e-2)
    assert path.read_bytes() == content
    assert {"token_embd.weight", "output_norm.weight", "blk.1.ffn_down.weight"} <= whole.factors().keys()


@pytest.mark.slow(5)
def test_what_cannot_be_learned_from_changes_nothing(tmp_path):
    path = Decoder().write(tmp_path / "m.gguf")
    tuned = trainer(path, rank=4)
    with refuses(BackendError):
        tuned.step([rows((5,), share=0.0)], 1e-2)
    before = {name: np.array(array) for name, array in tuned.state().items()}
    with torch.no_grad():
        tuned.model.vectors["output_norm.weight"].fill_(float("inf"))
    with refuses(BackendError):
        tuned.step([BATCH], 1e-2)
    assert all(np.array_equal(array, before[name]) for name, array in tuned.state().items())
    with refuses(BadArtifact):
        tuned.restore({**before, "blk.0.attn_q.weight.lora_a": np.zeros((5, 64))})
    with refuses(UnsupportedArtifact):
        trainer(Decoder(extra={"blk.0.attn_sinks.weight": 4}).write(tmp_path / "sinks.gguf"))


def job(folder: Path, path: Path) -> TuneJob:
    """Of 60 rows, with held-out ones: 30 steps."""
    folder.mkdir()
    rng = np.random.default_rng(4)

    def examples(count):
        for _ in range(count):
            tokens = rng.integers(0, 288, rng.integers(5, 20)).astype(np.int32)
            yield Example(tokens, np.arange(len(tokens)) > 2)

    packed.write(folder / ROWS, pack(list(examples(120)), 40))
    packed.write(folder / HELD_OUT, pack(list(examples(10)), 40))
    settings = TuneSettings(rank=4, batch=2, epochs=2, learning_rate=1e-2, length=40, eval_every=9, checkpoint_every=4)
    artifact = Artifact("gguf", (os.fspath(path),), "m")
    return TuneJob("torch", artifact, "base", settings, os.fspath(folder), "here", nice=0)


@pytest.mark.slow(60)
@pytest.mark.timeout(1500)  # beside other programs
def test_killed_at_any_moment_it_ends_with_the_same_file(tmp_path):
    path = Decoder(kind="Q8_0").write(tmp_path / "m.gguf")
    events = list(tune_apart(job(tmp_path / "whole", path), TuneStop()))
    assert isinstance(events[0], TuneStarted)
    assert isinstance(events[-1], TuneFinished)
    n_steps = events[0].n_steps
    assert events[-1].n_steps == n_steps
    factors = read_safetensors(tmp_path / "whole" / FACTORS)
    assert len(factors.tensors) == 2 * 2 * 7

    interrupted = job(tmp_path / "killed", path)
    moments = sorted(np.random.default_rng(5).integers(1, n_steps, 3))
    for moment in moments:
        with refuses(WorkerCrashed, reason="SIGKILL"):
            for event in tune_apart(interrupted, TuneStop()):
                if isinstance(event, TuneProgress) and event.step >= moment:
                    for child in psutil.Process().children():
                        child.send_signal(signal.SIGKILL)
    events = list(tune_apart(interrupted, TuneStop()))

    assert events[0].first_step >= moments[-1] - 4
    assert events[0].exact
    assert (tmp_path / "killed" / FACTORS).read_bytes() == (tmp_path / "whole" / FACTORS).read_bytes()
