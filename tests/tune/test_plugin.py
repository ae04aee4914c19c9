"""What the tuner says of a file without torch: whether it can, how much memory, how fast."""

from __future__ import annotations

import json
import subprocess
import sys

import msgspec
import pytest
from app.test_tune import ROWS, TEMPLATE
from support.gguf_decoders import FAMILIES, Decoder, byte_level

from edgellm.contract.manager import plugins
from edgellm.formats.gguf.reader import read_model
from edgellm.hardware import gpu_table, profiles
from edgellm.types.model import Artifact
from edgellm.types.tuning import METHODS, TuneSettings, TuneSize

pytestmark = pytest.mark.slow(2)

SIZE = TuneSize(n_rows=20, n_tokens=2000, n_supervised=500, most_supervised=40, longest=120)


def base(path):
    return Artifact("gguf", (str(path),), "m")


def test_it_is_registered_and_tunes_what_it_knows(tmp_path):
    tuner = plugins().tuners()["torch"]
    assert tuner.methods == frozenset(METHODS)
    for number, decoder in enumerate(FAMILIES.values()):
        assert tuner.supports(base(decoder.write(tmp_path / f"{number}.gguf"))) == []
    assert len(tuner.supports(base(Decoder("phi3").write(tmp_path / "phi3.gguf")))) == 1
    assert len(tuner.supports(base(tmp_path / "missing.gguf"))) == 1
    assert len(tuner.supports(Artifact("onnx", (str(tmp_path),), "m"))) == 1


def test_nothing_of_it_imports_torch_in_the_parent(tmp_path):
    path = FAMILIES["qwen3"].write(tmp_path / "m.gguf")
    code = f"""
import sys
from edgellm.contract.manager import plugins
from edgellm.types.model import Artifact
from edgellm.types.tuning import TuneSettings, TuneSize
tuner, base = plugins().tuners()["torch"], Artifact("gguf", ({str(path)!r},), "m")
assert tuner.missing() is None
assert tuner.supports(base) == []
tuner.footprint(base, TuneSettings(), TuneSize(1, 1, 1, 1, 1))
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_memory_grows_with_what_takes_it(tmp_path):
    path = Decoder(layers=8, hidden=256, ffn=512, tied=False, kind="Q8_0").write(tmp_path / "m.gguf")
    tuner, file = plugins().tuners()["torch"], base(path)

    def needed(size=SIZE, **settings):
        return tuner.footprint(file, TuneSettings(batch=4, **settings), size).needed_bytes

    least = needed()
    assert needed(quantized=False) > least
    assert needed(checkpointing=False) > least
    assert needed(rank=64) > least
    assert needed(method="full") > needed(quantized=False)
    assert needed(method="dora") > needed(method="lora") > needed(method="lora-fa")
    assert needed(msgspec.structs.replace(SIZE, longest=240)) > least
    assert needed(length=60) < least  # rows are no longer than that


def test_speed_follows_the_threads_and_the_work(tmp_path):
    tuner, file = plugins().tuners()["torch"], base(Decoder().write(tmp_path / "m.gguf"))
    machine = profiles.load(profiles.names()[0])
    rate = tuner.rate(file, TuneSettings(), machine)
    assert tuner.rate(file, TuneSettings(n_threads=2), machine) == pytest.approx(2 * rate)
    assert tuner.rate(file, TuneSettings(checkpointing=False), machine) > rate


def test_a_verdict_imports_no_torch(tmp_path):
    vocabulary = byte_level(288) | {"tokenizer.chat_template": TEMPLATE}
    path = Decoder(keys={"context_length": 256}, vocabulary=vocabulary).write(tmp_path / "m.gguf")
    data = tmp_path / "mail.jsonl"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    code = f"""
import sys
import edgellm
preview = edgellm.plan_tuning({str(path)!r}, {str(data)!r})
assert preview.tuner == "torch", preview.tuner
assert preview.choice.footprint.needed_bytes
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_file_is_read_once_for_all_that_is_asked(tmp_path, monkeypatch):
    reads = []
    monkeypatch.setattr("edgellm_tune.tuner.read_model", lambda path: reads.append(path) or read_model(path))
    torch, file = plugins().tuners()["torch"], base(Decoder().write(tmp_path / "m.gguf"))
    for rank in (4, 8, 16):
        torch.footprint(file, TuneSettings(rank=rank), SIZE)
    first = torch.footprint(file, TuneSettings(), SIZE)
    assert len(reads) == 1

    Decoder(layers=9).write(tmp_path / "m.gguf")
    assert torch.footprint(file, TuneSettings(), SIZE).weights_bytes > first.weights_bytes
    assert len(reads) == 2


@pytest.mark.parametrize("device", ["cuda:0", "mps", "xpu:0"])
def test_on_a_gpu_the_same_values_lie_in_its_memory_and_the_rest_in_ram(device, tmp_path):
    path = Decoder(layers=8, hidden=256, ffn=512, tied=False, kind="Q8_0").write(tmp_path / "m.gguf")
    tuner, file = plugins().tuners()["torch"], base(path)

    def both(size=SIZE, **settings):
        return (tuner.footprint(file, TuneSettings(**settings, device=where), size) for where in ("cpu", device))

    for method in METHODS:
        here, there = both(method=method)
        same = ("trained_bytes", "gradient_bytes", "optimizer_bytes", "data_bytes")
        assert [getattr(there, name) for name in same] == [getattr(here, name) for name in same]
        assert here.device_bytes == 0
        assert there.device_bytes > here.needed_bytes - here.process_bytes - here.data_bytes
        assert there.copies_bytes >= there.trained_bytes + there.optimizer_bytes
        assert there.needed_bytes == there.process_bytes + there.data_bytes + there.copies_bytes
        assert there.process_bytes > here.process_bytes
    # A table that only rows are read of is a copy there.
    here, there = both()
    assert there.weights_bytes - here.weights_bytes == next(
        tensor.n_bytes for tensor in read_model(path).tensors if tensor.name == "token_embd.weight"
    )
    # Without a kernel that does without them, the weights of attention are kept.
    here, there = both(msgspec.structs.replace(SIZE, longest=500))
    assert (there.activation_bytes > here.activation_bytes) == (device != "cuda:0")


def test_a_gpu_is_as_fast_as_its_arithmetic_where_steps_are_large(tmp_path):
    tuner, file = plugins().tuners()["torch"], base(Decoder(layers=8, hidden=256, ffn=512).write(tmp_path / "m.gguf"))
    machine = profiles.load("desktop-2x-rtx-3090-64gb")
    known = gpu_table.find(machine.accelerators[0])

    def rate(batch, gpu=known):
        return tuner.rate_on(file, TuneSettings(device="cuda:0", batch=batch), gpu)

    assert rate(1) < rate(8) < rate(64)
    assert rate(8, None) < rate(8)
    assert rate(8) > tuner.rate(file, TuneSettings(batch=8), machine)
