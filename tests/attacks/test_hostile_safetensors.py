"""No file makes the safetensors reader crash, hang or allocate: it is refused, and the refusal names what is wrong."""

import contextlib
import json
import os
import tracemalloc

import pytest
from attacks.safetensors.hostile import CORPUS, SOUND, UNSUPPORTED
from support.refusals import refuses
from support.safetensors_writer import build, entry

from edgellm.errors import ArtifactError, BadArtifact, UnsupportedArtifact
from edgellm.formats.safetensors import reader
from edgellm.formats.safetensors.header import MAX_HEADER_BYTES, MAX_TENSORS, parse_safetensors

MEMORY_BYTES = 64 * 1024**2


@pytest.mark.parametrize("name", CORPUS)
def test_hostile_file_is_refused_by_name_of_what_is_wrong(name, tmp_path):
    made = CORPUS[name]
    path = tmp_path / "x.safetensors"
    path.write_bytes(made() if callable(made) else made)

    for read in (reader.read_header, reader.read_safetensors):
        with refuses(UnsupportedArtifact if name in UNSUPPORTED else BadArtifact) as caught:
            read(path)
        assert str(path) in caught.value.message
        assert caught.value.hint


def test_a_file_cut_anywhere_is_refused():
    for length in range(1, len(SOUND)):
        with pytest.raises(ArtifactError):
            parse_safetensors(SOUND[:length], file_bytes=length, where="cut")


def big(name):
    """The costliest headers that the limits let through, or nearly."""
    made = {
        "tensors": lambda: {f"tensor number {i:08d} " + "x" * 100: entry("U8", (0,), 0) for i in range(MAX_TENSORS)},
        "metadata": lambda: {"__metadata__": {f"{i}": "" for i in range(4 * MAX_TENSORS)}},
        "text": lambda: {"__metadata__": {"a": "\U0001f600" * (MAX_HEADER_BYTES // 13)}},
        "keys": lambda: {f"{i}": 1 for i in range(4 * MAX_TENSORS)},
        "numbers": lambda: {"a": {"dtype": "U8", "shape": [1] * 2_000_000, "data_offsets": [0, 0]}},
        "lists": lambda: {"a": [[]] * 1_500_000},
        "unknown fields": lambda: {"a": entry("U8", (0,), 0) | {"x": [0] * 2_000_000}},
    }
    return build(json.dumps(made[name](), separators=(",", ":")).encode())


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow(2)) for name in ("tensors", "metadata")),
        "text",
        "keys",
        "numbers",
        "lists",
        "unknown fields",
    ],
)
def test_the_largest_headers_take_little_memory(name):
    data = big(name)
    assert len(data) < MAX_HEADER_BYTES + 8
    tracemalloc.start()
    with contextlib.suppress(ArtifactError):
        parse_safetensors(data, file_bytes=len(data), where="big")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < MEMORY_BYTES + len(data)


@pytest.mark.parametrize(
    "file",
    ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", ".", "a\0.safetensors", "a\\b.safetensors",
     "C:x.safetensors", "config.json"],
)  # fmt: skip
def test_an_index_reaches_no_file_outside_its_folder(tmp_path, file):
    (tmp_path / "x.safetensors").write_bytes(SOUND)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / reader.INDEX).write_text(json.dumps({"weight_map": {"a": file}}))

    with refuses(BadArtifact):
        reader.read_safetensors(folder)


INDEXES = {
    "empty-file": b"",
    "empty-map": b'{"weight_map": {}}',
    "no-map": b"{}",
    "list": b'{"weight_map": ["a"]}',
    "number": b'{"weight_map": {"a": 1}}',
    "not-json": b"{",
    "not-utf8": b'{"weight_map": {"\xff": "a.safetensors"}}',
    "missing-shard": b'{"weight_map": {"a": "y.safetensors"}}',
    "missing-tensor": b'{"weight_map": {"q": "x.safetensors"}}',
    "tensor-in-two": b'{"weight_map": {"a": "x.safetensors", "b": "z.safetensors"}}',
    "too-many-shards": json.dumps({"weight_map": {f"{i}": f"{i}.safetensors" for i in range(2000)}}).encode(),
    "too-many-tensors": b'{"weight_map": {' + b'"a":"b",' * 300_000 + b'"a":"b"}}',
}  # fmt: skip


@pytest.mark.parametrize("name", INDEXES)
def test_a_lying_index_is_refused(tmp_path, name):
    for shard in ("x", "z"):
        (tmp_path / f"{shard}.safetensors").write_bytes(SOUND)
    (tmp_path / reader.INDEX).write_bytes(INDEXES[name])

    with refuses(BadArtifact) as caught:
        reader.read_safetensors(tmp_path)
    assert caught.value.hint


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="machines: no named pipes here")
def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / reader.FILE)

    with refuses(BadArtifact):
        reader.read_safetensors(tmp_path)
