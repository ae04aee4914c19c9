"""What the tuner says of a file without torch: whether it can, how much memory, how fast."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest
from support.gguf_decoders import FAMILIES, Decoder

from edgellm.contract.manager import plugins
from edgellm.hardware import profiles
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
    path = Decoder(layers=8, tied=False, kind="Q8_0").write(tmp_path / "m.gguf")
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
