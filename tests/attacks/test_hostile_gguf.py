"""No file makes the header reader crash, hang or allocate: it is refused, and the refusal names what is wrong."""

import contextlib
import json
import random
import struct
import subprocess
import sys
import tracemalloc

import pytest
from attacks.gguf.hostile import CORPUS, SPLITS, UNSUPPORTED, learned
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gguf_writer import ARRAY, BOOL, F32, FLOAT32, STRING, UINT8, UINT64, Gguf, Tensor, model
from support.refusals import refuses

from edgellm.catalog.identify import identify
from edgellm.errors import ArtifactError, BadArtifact, EdgeLLMError, UnsupportedArtifact
from edgellm.formats.gguf import reader
from edgellm.formats.gguf.header import MAX_KEYS, MAX_TENSORS, parse_gguf

MEMORY_BYTES = 64 * 1024**2


def content(name):
    made = CORPUS[name]
    return made() if callable(made) else made


@pytest.mark.parametrize("name", CORPUS)
def test_hostile_file_is_refused_by_name_of_what_is_wrong(name, tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(content(name))

    with refuses(UnsupportedArtifact if name in UNSUPPORTED else BadArtifact) as caught:
        reader.read_header(path)

    assert str(path) in caught.value.message
    assert caught.value.hint


def write_split(name, folder):
    """Path of the first part."""
    paths = [folder / f"{name}-0000{no}-of-00002.gguf" for no in (1, 2)]
    for path, data in zip(paths, SPLITS[name], strict=True):
        path.write_bytes(data)
    return paths[0]


@pytest.mark.parametrize("name", SPLITS)
def test_parts_that_disagree_are_refused(name, tmp_path):
    path = write_split(name, tmp_path)
    for part in (path, path.with_name(f"{name}-00002-of-00002.gguf")):
        with refuses(BadArtifact):
            reader.read_model(part)


# As `edgellm serve FILE`, and as a worker that is given a plan for the file.
OPENED = """
import json, sys
from edgellm.catalog.identify import identify
from edgellm.errors import ArtifactError
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.contract.manager import plugins

backend, said = plugins().backend("gguf"), {}
for path in json.load(sys.stdin):
    artifact = Artifact("gguf", (path,), "x")
    refusals = []
    for way in (lambda: identify(path), lambda: backend.open(LaunchPlan("gguf", artifact, Settings(n_ctx=256)))):
        try:
            way()
        except ArtifactError as error:
            refusals.append(error.code)
    said[path] = refusals
native = sorted({line.split()[-1] for line in open("/proc/self/maps") if "llama" in line or "ggml" in line})
print(json.dumps([said, sorted(name for name in sys.modules if name.startswith("llama_cpp")), native]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="maps of a process are read from /proc")
def test_every_hostile_file_is_refused_before_native_code_is_loaded(tmp_path):
    paths = [str(write_split(name, tmp_path)) for name in SPLITS]
    for name in CORPUS:
        paths.append(str(tmp_path / f"{name}.gguf"))
        (tmp_path / f"{name}.gguf").write_bytes(content(name))
    run = subprocess.run(
        [sys.executable, "-c", OPENED], input=json.dumps(paths), capture_output=True, text=True, check=True
    )
    said, modules, native = json.loads(run.stdout)

    accepted = {path: refusals for path, refusals in said.items() if len(refusals) != 2}
    assert accepted == {}
    assert len(said) == len(CORPUS) + len(SPLITS)
    assert modules == [], "llama_cpp was imported"
    assert native == [], "a native library is mapped"


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_file_cut_anywhere_is_refused(order):
    sound = model()
    sound.order = order
    data = sound.build()
    for length in range(1, len(data)):
        with pytest.raises(ArtifactError):
            parse_gguf(data[:length], file_bytes=length, where="cut")


def peak_of(data):
    """Peak bytes of reading a header, whatever the outcome. A test has a time limit."""
    tracemalloc.start()
    with contextlib.suppress(ArtifactError):
        parse_gguf(data, file_bytes=len(data), where="big")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def big(name):
    """The costliest files that the limits let through, or nearly."""
    names = [f"t{i:05d}" for i in range(MAX_TENSORS)]
    made = {
        "tensors": lambda: Gguf(tensors=[Tensor(n, (8, 1, 1, 1), F32, 32) for n in names]),
        "keys": lambda: Gguf(keys=[(f"k{i}", ARRAY, (UINT64, [2**60] * 15)) for i in range(MAX_KEYS)]),
        "texts": lambda: Gguf(keys=[(f"k{i}", STRING, "\U0001f600" * 60_000) for i in range(100)]),
        "short-arrays": lambda: Gguf(keys=[(f"k{i}", ARRAY, (STRING, ["a"] * 1000)) for i in range(300)]),
        "strings": lambda: Gguf(keys=[("k", ARRAY, struct.pack("<IQ", STRING, 2_000_000) + bytes(16_000_000))]),
        "strings-over-limit": lambda: Gguf(
            keys=[("k", ARRAY, struct.pack("<IQ", STRING, 5_000_000) + bytes(40_000_000))]
        ),
        "numbers": lambda: Gguf(keys=[("k", ARRAY, struct.pack("<IQ", UINT8, 50_000_000) + bytes(50_000_000))]),
    }
    return made[name]().build()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("tensors", marks=pytest.mark.slow(5)),
        pytest.param("keys", marks=pytest.mark.slow(2)),
        "texts",
        pytest.param("short-arrays", marks=pytest.mark.slow(2)),
        pytest.param("strings", marks=pytest.mark.slow(3)),
        "strings-over-limit",
        "numbers",
    ],
)
def test_the_largest_headers_take_little_memory(name):
    assert peak_of(big(name)) < MEMORY_BYTES


def test_the_most_strings_allowed_are_read():
    data = Gguf(keys=[("k", ARRAY, struct.pack("<IQ", STRING, 4_000_000) + bytes(32_000_000))]).build()

    assert parse_gguf(data, file_bytes=len(data), where="strings").metadata["k"].length == 4_000_000


_SOUND = model(attention__sliding_window=8, rope__dimension_count=16)
_SOUND.keys += [("a.flag", BOOL, 1), ("a.rate", FLOAT32, 0.5), ("a.list", ARRAY, (STRING, ["x"] * 1030))]
_BYTES = _SOUND.build()


def read_everything(data):
    """What a hostile file meets between the disk and native code."""
    header = parse_gguf(data, file_bytes=len(data), where="fuzz")
    reader.shape(header)
    reader.quant_name(header)
    reader.chat_template(header)
    reader.context_length(header)
    assert all(t.offset + t.n_bytes <= len(data) for t in header.tensors)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, len(_BYTES) - 1), st.sampled_from([0, 1, 2, 8, 31, 127, 128, 255])),
        min_size=1,
        max_size=6,
    )
)
def test_changed_bytes_are_read_or_refused(changes):
    data = bytearray(_BYTES)
    for offset, value in changes:
        data[offset] = value
    with contextlib.suppress(EdgeLLMError):
        read_everything(bytes(data))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(_BYTES) - 9), st.sampled_from(["<I", "<Q"]), st.integers(0, 2**64 - 1))
def test_changed_words_are_read_or_refused(offset, code, value):
    data = bytearray(_BYTES)
    struct.pack_into(code, data, offset, value % 2 ** (8 * struct.calcsize(code)))
    with contextlib.suppress(EdgeLLMError):
        read_everything(bytes(data))


@pytest.mark.parametrize("name", learned())
def test_what_fuzzing_reached_is_read_or_refused(name):
    data = learned()[name]

    assert peak_of(data) < MEMORY_BYTES
    with contextlib.suppress(EdgeLLMError):
        read_everything(data)


def test_spliced_files_are_read_or_refused():
    rng = random.Random(1)
    for _ in range(400):
        data = bytearray(_BYTES)
        for _ in range(rng.randint(1, 3)):
            a, b, n = rng.randrange(len(data)), rng.randrange(len(data)), rng.randint(1, 64)
            data[a : a + rng.choice([0, n])] = data[b : b + n]
        with contextlib.suppress(EdgeLLMError):
            read_everything(bytes(data))


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes in the file system")
def test_a_pipe_is_refused_and_does_not_hang(tmp_path):
    import os

    os.mkfifo(tmp_path / "x.gguf")
    with refuses(BadArtifact):
        reader.read_header(tmp_path / "x.gguf")
    with refuses(BadArtifact):
        identify(str(tmp_path / "x.gguf"))
