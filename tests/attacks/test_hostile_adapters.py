"""No adapter reaches native code that it would abort on, or that it would run without the adapter: refused by name."""

import contextlib
import json
import random
import struct
import subprocess
import sys

import pytest
from attacks.gguf.hostile_adapters import EMBEDDING, EXPERTS, LYING, SOUND, STRANGE, adapter, base
from support.gguf_writer import FLOAT32
from support.refusals import refuses

from edgellm.errors import BadArtifact, EdgeLLMError, UnsupportedArtifact
from edgellm.formats.gguf import adapter as gguf_adapter
from edgellm.formats.gguf import reader

UNSUPPORTED = {
    "type-is-missing", "type-of-a-model", "type-is-a-number", "of-another-kind", "kind-is-missing", "whole-numbers",
    "blocks-of-4-bits", "a-norm", "big-endian",
}  # fmt: skip


@pytest.mark.parametrize("name", LYING)
def test_an_adapter_that_lies_is_refused_where_it_is_read(name, tmp_path):
    path = LYING[name].write(tmp_path / "x.gguf")

    with refuses(UnsupportedArtifact if name in UNSUPPORTED else BadArtifact) as caught:
        gguf_adapter.read(path)

    assert str(path) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("name", STRANGE)
def test_an_adapter_of_another_model_is_refused_before_it_is_loaded(name, tmp_path):
    model = reader.read_model(base(tied=name == "embedding-of-a-tied-model").write(tmp_path / "base.gguf"))
    sound = gguf_adapter.read(STRANGE[name].write(tmp_path / "x.gguf"))

    with refuses(UnsupportedArtifact) as caught:
        gguf_adapter.check(sound, model)

    assert caught.value.hint


@pytest.mark.parametrize(
    ("tensors", "made"),
    [(SOUND.tensors, base()), (EMBEDDING, base()), (EXPERTS, base(experts=2)), (SOUND.tensors, base(tied=True))],
    ids=["linear", "embedding", "experts", "tied"],
)
def test_an_adapter_of_the_model_passes(tensors, made, tmp_path):
    model = reader.read_model(made.write(tmp_path / "base.gguf"))

    gguf_adapter.check(gguf_adapter.read(adapter(tensors).write(tmp_path / "x.gguf")), model)


def test_an_adapter_of_other_experts_is_refused(tmp_path):
    model = reader.read_model(base(experts=8).write(tmp_path / "base.gguf"))

    with refuses(UnsupportedArtifact):
        gguf_adapter.check(gguf_adapter.read(adapter(EXPERTS).write(tmp_path / "x.gguf")), model)


@pytest.mark.parametrize("name", ["missing", "a-folder", "html", "cut"])
def test_what_is_no_file_of_an_adapter_is_refused(name, tmp_path):
    path = tmp_path / "x.gguf"
    if name == "a-folder":
        path.mkdir()
    elif name != "missing":
        path.write_bytes(b"<!DOCTYPE html>404" if name == "html" else SOUND.build()[:-1])

    with refuses(BadArtifact):
        gguf_adapter.read(path)


_BYTES = SOUND.build()


def test_changed_adapters_are_read_or_refused(tmp_path):
    rng, path = random.Random(1), tmp_path / "x.gguf"
    for _ in range(500):
        data = bytearray(_BYTES)
        for _ in range(rng.randint(1, 3)):
            at, code = rng.randrange(len(data) - 8), rng.choice(["<I", "<Q"])
            value = rng.choice([0, 1, 2, 6, 9, 63, 2**31, 2**62, rng.randrange(2**32)])
            struct.pack_into(code, data, at, value % 2 ** (8 * struct.calcsize(code)))
        path.write_bytes(data)
        with contextlib.suppress(EdgeLLMError):
            changed = gguf_adapter.read(path)
            assert all(1 <= pair.rank <= gguf_adapter.MOST_RANK for pair in changed.pairs)


def test_alpha_of_zero_is_none_as_in_native_code(tmp_path):
    said = gguf_adapter.read(adapter(SOUND.tensors, adapter__lora__alpha=(FLOAT32, 0.0)).write(tmp_path / "x.gguf"))

    assert [said.scale(pair) for pair in said.pairs] == [1.0, 1.0]


# As `edgellm adapters import` and `edgellm run --adapter` look at it.
LOOKED_AT = """
import json, sys
from pathlib import Path
from edgellm.app import adapters, stored_adapters
from edgellm.errors import ArtifactError

said = {}
for path in json.load(sys.stdin):
    refusals = []
    base = str(Path(path).with_name("base.gguf"))
    for look in (lambda: stored_adapters.bring(Path(path), base, "x"), lambda: adapters.asked([path])):
        try:
            look()
        except ArtifactError as error:
            refusals.append(error.code)
    said[path] = len(refusals)
print(json.dumps([said, sorted(name for name in sys.modules if name.startswith("llama_cpp"))]))
"""


def test_every_hostile_adapter_is_refused_before_native_code_is_loaded(tmp_path):
    base().write(tmp_path / "base.gguf")
    paths = [str(made.write(tmp_path / f"{name}.gguf")) for name, made in LYING.items()]
    run = subprocess.run(
        [sys.executable, "-c", LOOKED_AT], input=json.dumps(paths), capture_output=True, text=True, check=True
    )
    said, modules = json.loads(run.stdout)

    assert said == dict.fromkeys(paths, 2)
    assert modules == []
