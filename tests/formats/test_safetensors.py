"""Our reader against the safetensors library: what one accepts the other reads the same."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors as library
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from support import safetensors_writer
from support.refusals import refuses

from edgellm.errors import ArtifactError, BadArtifact
from edgellm.formats.safetensors import reader
from edgellm.formats.safetensors.header import parse_safetensors
from edgellm.formats.safetensors.reader import read_header, read_safetensors

ARRAYS = {
    "model.embed_tokens.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a.half": np.linspace(-1, 1, 5).astype(np.float16),
    "codes": np.arange(8, dtype=np.uint8).reshape(2, 4),
    "scalar": np.array(2.5, np.float64),
    "none": np.zeros((0, 7), np.int64),
    "flag": np.array([True, False]),
}


def test_what_the_library_writes_is_read(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(ARRAYS, path, metadata={"format": "pt"})

    for model in (read_safetensors(path), read_safetensors(tmp_path)):
        assert model.metadata == {"format": "pt"}
        assert set(model.tensors) == set(ARRAYS)
        for name, array in ARRAYS.items():
            assert model.tensors[name].shape == array.shape
            assert model.raw(name).readonly
            np.testing.assert_array_equal(np.frombuffer(model.raw(name), array.dtype).reshape(array.shape), array)
        assert model.tensor_bytes == sum(array.nbytes for array in ARRAYS.values())
        assert model.file_bytes == path.stat().st_size


def test_data_outlives_the_model(tmp_path):
    save_file(ARRAYS, tmp_path / "model.safetensors")
    raw = read_safetensors(tmp_path).raw("codes")

    assert raw.tobytes() == bytes(range(8))


def test_bfloat16_is_named_and_sized(tmp_path):
    path = safetensors_writer.write(tmp_path / "m.safetensors", {"w": ("BF16", (2, 3), bytes(range(12)))})
    (tensor,) = read_header(path).tensors

    assert (tensor.dtype, tensor.shape, tensor.n_bytes) == ("BF16", (2, 3), 12)


def test_shards_are_one_model(tmp_path):
    names = list(ARRAYS)
    shards = {f"model-0000{i + 1}-of-00002.safetensors": names[3 * i : 3 * i + 3] for i in range(2)}
    for file, members in shards.items():
        save_file({name: ARRAYS[name] for name in members}, tmp_path / file)
    index = {
        "metadata": {"total_size": 1},
        "weight_map": {name: file for file, members in shards.items() for name in members},
    }
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    model = read_safetensors(tmp_path)

    assert len(model.paths) == len(model.parts) == 2
    assert set(model.tensors) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert model.raw(name).tobytes() == array.tobytes()


def test_shards_take_no_more_memory_than_an_index_may_name(tmp_path, monkeypatch):
    shards = [f"model-0000{no}-of-00002.safetensors" for no in (1, 2)]
    for no, file in enumerate(shards):
        save_file({f"w{no}": np.zeros(4, np.float32)}, tmp_path / file, metadata={"format": "pt"})
    index = {"weight_map": {f"w{no}": file for no, file in enumerate(shards)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [part.metadata for part in read_safetensors(tmp_path).parts] == [{"format": "pt"}, {}]

    monkeypatch.setattr(reader, "MAX_TENSORS", 1)
    with refuses(BadArtifact):
        read_safetensors(tmp_path)


def test_a_folder_without_a_model_is_said(tmp_path):
    with refuses(BadArtifact):
        read_safetensors(tmp_path)
    with refuses(BadArtifact):
        read_safetensors(tmp_path / "no")


@given(st.data())
def test_whatever_the_library_refuses_is_refused(data):
    """Offsets and shapes drawn near a sound file. (We refuse more: names given twice, and unknown to us.)"""
    small = st.integers(0, 9)
    header = {
        name: {
            "dtype": data.draw(st.sampled_from(["U8", "I8", "F16", "BF16", "F32", "BOOL"])),
            "shape": data.draw(st.lists(st.integers(0, 4), max_size=3)),
            "data_offsets": sorted([data.draw(small), data.draw(small)]),
        }
        for name in data.draw(st.lists(st.sampled_from("abcd"), unique=True, max_size=3))
    }
    # Half of the time the offsets are made to fit, so that sound files are drawn too.
    if data.draw(st.booleans()):
        at = 0
        for entry in header.values():
            n_bytes = int(np.prod(entry["shape"])) * safetensors_writer.SIZES[entry["dtype"]]
            entry["data_offsets"] = [at, at := at + n_bytes]
        content = safetensors_writer.build(header, bytes(at))
    else:
        content = safetensors_writer.build(header, bytes(data.draw(small)))

    try:
        theirs = {
            name: (info["dtype"], info["shape"], bytes(info["data"])) for name, info in library.deserialize(content)
        }
    except library.SafetensorError:
        with pytest.raises(ArtifactError):
            parse_safetensors(content, file_bytes=len(content), where="drawn")
        return
    ours = {
        tensor.name: (tensor.dtype, list(tensor.shape), content[tensor.offset : tensor.offset + tensor.n_bytes])
        for tensor in parse_safetensors(content, file_bytes=len(content), where="drawn").tensors
    }
    assert ours == theirs


def test_a_header_may_end_in_spaces_and_metadata_may_be_null():
    content = safetensors_writer.build(
        b'{"__metadata__":null,"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}   ', b"x"
    )

    assert parse_safetensors(content, file_bytes=len(content), where="x").metadata == {}
