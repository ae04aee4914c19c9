"""What is written is read back, by our reader and by the gguf package; a write that fails leaves nothing behind."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from support.refusals import refuses

from edgellm.errors import DiskFull, UsageError
from edgellm.formats.gguf import writer
from edgellm.formats.gguf.ggml_types import BY_NAME
from edgellm.formats.gguf.reader import read_array, read_header, read_key_bytes
from edgellm.formats.gguf.writer import Encoded, GgufWriter, TensorInfo, Typed

KEYS = {
    "general.architecture": "bitnet-b1.58",
    "general.file_type": 40,
    "x.negative": -5,
    "x.large": 2**40,
    "x.real": 0.5,
    "x.flag": True,
    "x.byte": Typed("u8", 255),
    "x.double": Typed("f64", 0.1),
    "x.tokens": ["a", "\u00e9", b"\xff\xfe"],
    "x.types": Typed("i32", [1, -3, 6]),
    "x.scores": [0.0, -1.5],
    "x.flags": [True, False],
    "x.none": Typed("str", []),
}


def tensors(*names):
    layouts = {
        "token_embd.weight": ("F16", (64, 5)), "blk.0.attn_q.weight": ("I2_S", (128, 3)),
        "blk.0.ffn_up.weight": ("TQ2_0", (256, 2)), "output_norm.weight": ("F32", (7,)),
    }  # fmt: skip
    return [
        TensorInfo(name, dims, BY_NAME[kind]) for name, (kind, dims) in layouts.items() if not names or name in names
    ]


def data_of(tensor):
    return np.random.default_rng(tensor.n_bytes).integers(0, 256, tensor.n_bytes, np.uint8).tobytes()


def write(path, keys=KEYS, infos=None, **options):
    infos = tensors() if infos is None else infos
    with GgufWriter(path, keys, infos, **options) as file:
        for tensor in infos:
            whole = data_of(tensor)
            file.write(tensor.name, (piece for piece in (whole[:3], memoryview(whole)[3:])))
    return path


def leftovers(folder: Path):
    return sorted(path.name for path in folder.iterdir())


def test_our_reader_finds_what_was_written(tmp_path):
    path = write(tmp_path / "m.gguf")
    header = read_header(path)

    assert (header.version, header.alignment, header.architecture) == (3, 32, "bitnet-b1.58")
    assert [header.metadata[f"x.{name}"] for name in ("negative", "large", "flag", "byte", "double")] == [
        -5, 2**40, True, 255, 0.1,
    ]  # fmt: skip
    assert read_array(header, "x.types") == (1, -3, 6)
    assert read_array(header, "x.scores") == (0.0, -1.5)
    assert header.metadata["x.tokens"][:2] == ("a", "\u00e9")
    assert header.metadata["x.none"] == ()
    content = path.read_bytes()
    for tensor, info in zip(header.tensors, tensors(), strict=True):
        assert (tensor.name, tensor.dims, tensor.type) == (info.name, info.dims, info.type)
        assert content[tensor.offset : tensor.offset + tensor.n_bytes] == data_of(info)
    assert len(content) == header.file_bytes == GgufWriter(path, KEYS, tensors()).size_bytes


def test_the_gguf_package_reads_the_same(tmp_path):
    infos = tensors("token_embd.weight", "blk.0.ffn_up.weight", "output_norm.weight")  # it knows no I2_S
    reader = GGUFReader(write(tmp_path / "m.gguf", infos=infos))

    for key, value in KEYS.items():
        expected = value.value if isinstance(value, Typed) else value
        if key == "x.tokens":
            assert [bytes(reader.fields[key].parts[i]) for i in reader.fields[key].data][2] == b"\xff\xfe"
        elif key != "x.none":
            assert reader.fields[key].contents() == expected, key
    for tensor, info in zip(reader.tensors, infos, strict=True):
        assert (tensor.name, tuple(tensor.shape), tensor.tensor_type.name) == (info.name, info.dims, info.type.name)
        assert tensor.data.tobytes() == data_of(info)


def test_every_type_of_the_table_has_the_size_that_the_gguf_package_gives(tmp_path):
    from gguf import GGML_QUANT_SIZES

    for kind, (elems, n_bytes) in GGML_QUANT_SIZES.items():
        if kind.name in BY_NAME:
            ours = BY_NAME[kind.name]
            assert (ours.id, ours.block_elems, ours.block_bytes) == (kind.value, elems, n_bytes)


def test_keys_are_carried_over_byte_by_byte(tmp_path):
    long = KEYS | {"x.long": [f"token {i}" for i in range(2000)], "x.text": "a" * 300_000}
    first = read_header(write(tmp_path / "a.gguf", keys=long))
    write(tmp_path / "b.gguf", keys={key: Encoded(data) for key, data in read_key_bytes(first).items()})

    assert (tmp_path / "b.gguf").read_bytes() == (tmp_path / "a.gguf").read_bytes()


def test_no_tensors_and_no_keys_are_a_file_too(tmp_path):
    header = read_header(write(tmp_path / "m.gguf", keys={}, infos=[]))

    assert header.tensors == ()


def test_an_error_in_the_middle_leaves_nothing(tmp_path):
    def interrupted():
        with GgufWriter(tmp_path / "m.gguf", KEYS, tensors()) as file:
            file.write(tensors()[0].name, data_of(tensors()[0]))
            assert len(leftovers(tmp_path)) == 1
            assert "m.gguf" not in leftovers(tmp_path)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("early", [True, False])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch, early):
    """RLIMIT_FSIZE stands for the disk's end: found before the first byte, or, without preallocation, in the middle."""
    if not early:
        monkeypatch.delattr(os, "posix_fallocate")
    big = [TensorInfo("a", (1_000_000,), BY_NAME["F32"])]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with refuses(DiskFull) as caught:
            write(tmp_path / "m.gguf", infos=big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert caught.value.hint
    assert leftovers(tmp_path) == []


def test_a_file_is_replaced_only_when_told(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"before")
    with refuses(UsageError):
        write(path)
    assert path.read_bytes() == b"before"

    write(path, replace=True)
    assert read_header(path).tensors
    assert leftovers(tmp_path) == ["m.gguf"]


def test_a_file_that_comes_up_meanwhile_stays(tmp_path):
    path = tmp_path / "m.gguf"
    with refuses(UsageError), GgufWriter(path, KEYS, []):
        path.write_bytes(b"somebody else")

    assert path.read_bytes() == b"somebody else"
    assert leftovers(tmp_path) == ["m.gguf"]


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with refuses(UsageError):
        write(tmp_path / "no" / "m.gguf")


@pytest.mark.parametrize(
    ("name", "n_bytes"),
    [
        ("output_norm.weight", 28),
        ("token_embd.weight", 639),
    ],
)
def test_a_tensor_out_of_order_or_of_another_length_is_a_mistake(tmp_path, name, n_bytes):
    with refuses(ValueError), GgufWriter(tmp_path / "m.gguf", KEYS, tensors()) as file:
        file.write(name, bytes(n_bytes))
    with refuses(ValueError), GgufWriter(tmp_path / "m", KEYS, tensors()):
        pass

    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("value", [[], [1, "a"], [True, 1]])
def test_an_array_without_one_type_has_to_be_typed(tmp_path, value):
    with refuses(ValueError):
        GgufWriter(tmp_path / "m.gguf", {"x": value}, [])


def test_another_alignment_is_refused(tmp_path):
    with refuses(ValueError):
        GgufWriter(tmp_path / "m.gguf", {"general.alignment": 64}, [])
    assert writer.ALIGNMENT == 32
