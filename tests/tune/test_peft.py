"""Against peft on transformers' model: the same losses step by step, and adapters that go both ways."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from support.gguf_decoders import Decoder
from support.tuning import WHY_NOT, rows, stir, trainer

from edgellm.adaptation import peft_export, peft_folder
from edgellm.adaptation.lora import Lora, LoraFactors
from edgellm.formats.gguf.reader import read_model

with contextlib.suppress(ImportError):  # conftest.py skips
    import torch

# What these libraries say of each other is not ours.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")

RATE = 3e-3
DECAY = 0.01
SETTINGS = {"rank": 4, "alpha": 6.0, "max_grad_norm": 0.0, "weight_decay": DECAY, "lora_plus_ratio": 8.0}


@pytest.fixture(autouse=True)
def peft_is_there():
    pytest.importorskip("peft", reason=WHY_NOT)


def optimizer_of(model, method, rate):
    from peft.optimizers import create_loraplus_optimizer

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if method != "lora+":
        return torch.optim.AdamW(trained, lr=rate, weight_decay=DECAY)
    return create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=rate, loraplus_lr_ratio=8.0, loraplus_weight_decay=DECAY, betas=(0.9, 0.999)
    )


@pytest.mark.slow(60)
@pytest.mark.parametrize("method", ["lora", "rslora", "lora+", "vera", "dora"])
def test_losses_over_100_steps(method, tmp_path):
    from support.hf_twin import Twin, losses

    # Two components of a head are in the same order here and in the hub's model: VeRA's rows are, so to say, numbered.
    decoder = Decoder(tied=False, head_dim=2 if method == "vera" else 32)
    path = decoder.write(tmp_path / "m.gguf")
    tuned = trainer(path, method=method, **SETTINGS)
    model = Twin(path, torch.float64).adapted(tuned)
    batches = [rows((9,), (6,), seed=step % 7) for step in range(100)]

    rate = 20 * RATE if method == "vera" else RATE
    theirs = losses(model, optimizer_of(model, method, rate), batches)
    ours = [tuned.step([batch], rate) for batch in batches]

    assert sum(ours[-7:]) < 0.9 * sum(ours[:7])
    assert np.abs(np.array(ours) - theirs).max() < 1e-6


@pytest.mark.model
@pytest.mark.slow(150)
@pytest.mark.by_hand
@pytest.mark.timeout(3000)  # beside other programs
def test_losses_over_100_steps_of_a_real_model(smollm2):
    from support.hf_twin import Twin, losses

    tuned = trainer(smollm2, dtype="float32", method="lora", max_grad_norm=0.0, weight_decay=DECAY, quantized=False)
    model = Twin(smollm2, torch.float32).adapted(tuned)
    batches = [rows((24,), seed=step % 10, vocab=49152) for step in range(100)]

    theirs = losses(model, optimizer_of(model, "lora", 2e-4), batches)
    ours = [tuned.step([batch], 2e-4) for batch in batches]

    assert ours[-1] < ours[0]
    assert (np.abs(np.array(ours) - theirs) / theirs).max() < 1e-3


def lora_of(tuned):
    """The trainer's factors as the core's noun."""
    factors = tuned.factors()
    names = [name.removesuffix(".lora_a") for name in factors if name.endswith(".lora_a")]
    pairs = {
        name: LoraFactors(*(np.array(factors[f"{name}.lora_{end}"], np.float32) for end in "ab")) for name in names
    }
    return Lora("llama", tuned.settings.alpha, pairs)


@pytest.mark.slow(10)
def test_an_adapter_goes_to_peft_and_comes_back(tmp_path):
    from peft import PeftModel
    from support.hf_twin import Twin, losses

    path = Decoder().write(tmp_path / "m.gguf")
    batch = rows((12,), (7,))
    tuned = trainer(path, dtype="float32", rank=4, alpha=6.0)
    stir(tuned, spread=0.1)
    peft_export.write(tmp_path / "out", lora_of(tuned), read_model(path))
    loaded = PeftModel.from_pretrained(Twin(path, torch.float32).model, tmp_path / "out", is_trainable=True)
    nothing = torch.optim.SGD(loaded.parameters(), lr=0.0)
    mean = losses(loaded, nothing, [batch])[0]
    assert tuned.loss(batch) / batch.supervised.sum() == pytest.approx(mean, abs=1e-4)

    with torch.no_grad():
        for name, parameter in loaded.named_parameters():
            if "lora_" in name:
                parameter.mul_(1.5)
    mean = losses(loaded, nothing, [batch])[0]
    loaded.save_pretrained(tmp_path / "back")
    back = peft_folder.load(tmp_path / "back", read_model(path))
    again = trainer(path, dtype="float32", rank=4, alpha=6.0)
    with torch.no_grad():
        for name, pair in back.factors.items():
            again.trained[f"{name}.lora_a"].copy_(torch.from_numpy(pair.a))
            again.trained[f"{name}.lora_b"].copy_(torch.from_numpy(pair.b))
    assert again.loss(batch) / batch.supervised.sum() == pytest.approx(mean, abs=1e-4)
    assert again.loss(batch) != pytest.approx(tuned.loss(batch), rel=1e-3)
