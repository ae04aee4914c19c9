"""llama.cpp behind the contract: its sliding windows, its memory, its views, and files that must never reach it."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support import gguf_writer
from support.refusals import refuses

from edgellm.contract.engine import Engine, SlotInput
from edgellm.contract.manager import plugins
from edgellm.errors import BackendUnavailable, BadArtifact, CacheFull, UnsupportedArtifact
from edgellm.testing import encode, last_row
from edgellm.types.model import Artifact, Shape
from edgellm.types.plan import LaunchPlan, Settings

WINDOW = 512  # of Gemma 3 270M
patient = pytest.mark.timeout(1800)


def open_engine(path: str, **changed: object) -> Engine:
    """One thread: the threads of a library that spins at barriers crawl where other processes run."""
    wanted: dict[str, object] = {"n_ctx": 256, "n_slots": 2, "n_batch": 128} | changed
    settings = Settings(n_threads=1, n_threads_batch=1, **wanted)  # type: ignore[arg-type]
    return plugins().backend("gguf").open(LaunchPlan("gguf", Artifact("gguf", (path,), "test"), settings))


def close_to(engine: Engine) -> float:
    """Largest difference allowed between a batch's logits and a single row's; see test_batching."""
    return 0.0 if "AMX" in engine.info.details["buffers"] else 2.0


@pytest.fixture(scope="module")
def small(smollm2: str) -> Iterator[Engine]:
    engine = open_engine(smollm2)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def sliding(gemma3: str) -> Iterator[Engine]:
    engine = open_engine(gemma3, n_ctx=1024)
    yield engine
    engine.close()


def prefill(engine: Engine, slot: int, tokens: list[int]) -> None:
    """In chunks of 48: from 64 rows on llama.cpp computes attention with another kernel, and rounds differently."""
    engine.truncate(slot, 0)
    size = 48
    for start in range(0, len(tokens), size):
        engine.step([SlotInput(slot, start, tuple(tokens[start : start + size]), 0)])


@pytest.mark.model
@patient
def test_logits_are_views_of_the_librarys_own_memory(small: Engine) -> None:
    import llama_cpp

    small.truncate(0, 0)
    rows = small.step([SlotInput(0, 0, (1, 2, 3), 2)])[0]
    address = ctypes.cast(llama_cpp.llama_get_logits(small._ctx), ctypes.c_void_p).value  # type: ignore[attr-defined]
    assert rows.ctypes.data == address
    assert not rows.flags.owndata
    assert not rows.flags.writeable
    before = rows[0].copy()
    again = small.step([SlotInput(0, 3, (4,), 1)])[0]
    assert again.ctypes.data == address
    assert not np.array_equal(before, rows[0]), "the old view shows the new step"


@pytest.mark.model
@patient
@pytest.mark.slow(5)
def test_a_moved_window_cannot_be_rewound(sliding: Engine) -> None:
    """What the window has left behind is gone: nothing is kept, and the next answer is a fresh one's."""
    tokens = (encode(sliding, "The river runs to the sea and does not come back. ") * 100)[:900]
    prefill(sliding, 0, tokens)
    assert sliding.truncate(0, 100) == 0
    assert sliding.truncate(0, 100) == 0
    again = last_row(sliding, 0, tokens[:20])
    sliding.truncate(1, 0)
    fresh = last_row(sliding, 1, tokens[:20])
    assert float(np.abs(again - fresh).max()) == 0.0


@pytest.mark.model
@patient
@pytest.mark.slow(12)
def test_a_short_rewind_inside_the_window_gives_the_same_answer(sliding: Engine) -> None:
    """Up to rounding: the window's cells are a ring, in another order after a rewind than in a fresh slot."""
    tokens = (encode(sliding, "Every morning the baker opened the shop at six. ") * 100)[:800]
    rewind = sliding.info.rewind_tokens
    assert rewind
    for back in (1, rewind):
        prefill(sliding, 0, tokens)
        kept = sliding.truncate(0, len(tokens) - back)
        assert kept == len(tokens) - back
        other = tokens[:kept] + tokens[:3]
        again = last_row(sliding, 0, other, kept)
        prefill(sliding, 1, other[:-3])
        fresh = last_row(sliding, 1, other, kept)
        assert float(np.abs(again - fresh).max()) <= 2.0
        assert again.argmax() == fresh.argmax()


@pytest.mark.model
@patient
def test_short_prompts_of_a_sliding_model_are_rewound_like_any(sliding: Engine) -> None:
    tokens = encode(sliding, "A short one, well inside the window of this model.")
    prefill(sliding, 0, tokens)
    assert sliding.truncate(0, 5) == 5
    assert sliding.truncate(0, 7) == 5


@pytest.mark.model
@patient
@pytest.mark.slow(4)
def test_a_long_sequence_of_a_sliding_model_is_forked_whole(sliding: Engine) -> None:
    tokens = (encode(sliding, "The lighthouse keeper counted the ships again. ") * 100)[:900]
    prefill(sliding, 0, tokens)
    assert sliding.fork(0, 1, len(tokens)) == len(tokens)
    batch = [SlotInput(slot, len(tokens), (tokens[0],), 1) for slot in (0, 1)]
    one, other = (rows[-1] for rows in sliding.step(batch))
    assert np.array_equal(one, other)
    assert sliding.fork(0, 1, 50) == 0, "a prefix that the window has left cannot be given"
    assert sliding.truncate(0, len(tokens)) == len(tokens)


@pytest.mark.model
@patient
def test_a_bad_step_changes_nothing(small: Engine) -> None:
    tokens = tuple(encode(small, "The quick brown fox jumps"))
    prefill(small, 0, list(tokens))
    small.truncate(1, 0)
    n = len(tokens)
    for bad in (
        [SlotInput(1, 0, (5,), 1), SlotInput(0, n - 1, (5,), 1)],
        [SlotInput(1, 0, (5,), 1), SlotInput(0, n, (), 0)],
        [SlotInput(1, 0, (5,), 1), SlotInput(0, n, (small.info.vocab_size,), 1)],
        [SlotInput(1, 0, (5,), 1), SlotInput(0, n, (-1,), 1)],
        [SlotInput(1, 0, (5,) * (small.info.max_batch_tokens + 1), 1)],
        [SlotInput(1, 0, (5,) * 100, small.info.max_logits + 1)],
    ):
        with pytest.raises(ValueError):
            small.step(bad)
    with pytest.raises(CacheFull) as full:
        small.step([SlotInput(0, n, (5,) * (small.info.n_ctx - n + 2), 1)])
    assert (full.value.needed, full.value.free) == (small.info.n_ctx - n + 2, small.info.n_ctx - n)
    assert len(small.step([SlotInput(1, 0, (5,), 1), SlotInput(0, n, (5,), 1)])) == 2


@pytest.mark.model
@pytest.mark.slow(2)
@patient
def test_opening_and_closing_leaks_nothing(smollm2: str) -> None:
    import psutil

    def used() -> int:
        open_engine(smollm2).close()
        gc.collect()
        return int(psutil.Process().memory_info().rss)

    used()
    before = used()
    for _ in range(3):
        after = used()
    assert after - before < 16 * 1024**2


TWO = """
import gc, sys
import llama_cpp
sys.path.insert(0, {folder!r})
from test_engine import open_engine, encode, last_row
first, second = open_engine({path!r}), open_engine({path!r})
second.close()
del second
gc.collect()
llama_cpp.llama_model_load_from_file(b"no such file", llama_cpp.llama_model_default_params())  # logs an error
print(last_row(first, 0, encode(first, "still here")).shape)
"""


@pytest.mark.model
@patient
def test_the_log_outlives_an_engine(smollm2: str) -> None:
    """Two models in one process (isolate=False): when one is gone, the library still has somebody to talk to."""
    here = Path(__file__).parent
    script = TWO.format(folder=str(here), path=smollm2)
    env = os.environ | {"PYTHONPATH": str(here.parent)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert "(49152,)" in done.stdout


@pytest.mark.model
@patient
def test_a_file_name_of_any_bytes_is_opened(smollm2: str, tmp_path: Path) -> None:
    link = os.fsencode(tmp_path) + b"/caf\xe9.gguf"
    os.symlink(smollm2, link)
    engine = open_engine(os.fsdecode(link))
    assert engine.info.vocab_size == 49152
    engine.close()


@pytest.mark.model
@patient
def test_cache_types(smollm2: str) -> None:
    engine = open_engine(smollm2, kv_type="q8_0")
    assert len(engine.step([SlotInput(0, 0, (1, 2, 3), 1)])) == 1
    engine.close()
    with refuses(UnsupportedArtifact):
        open_engine(smollm2, kv_type="q3_0")


def bad_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files that must be refused, with what the refusal is about."""
    sound = gguf_writer.model()
    whole = sound.build()
    for name, data in (
        ("empty", b""),
        ("no GGUF", b"PK\x03\x04" + bytes(200)),
        ("header cut off", whole[:100]),
        ("tensors cut off", whole[:-100]),
        ("counts lie", gguf_writer.Gguf(sound.keys, sound.tensors, n_tensors=2**40).build()),
        ("keys lie", gguf_writer.Gguf(sound.keys, sound.tensors, n_keys=2**63).build()),
        (
            "offset lies",
            gguf_writer.Gguf(sound.keys, [gguf_writer.Tensor("t", (64,), gguf_writer.F32, 256, 2**40)]).build(),
        ),
    ):
        path = folder / f"{name}.gguf"
        path.write_bytes(data)
        yield name, path
    yield "missing", folder / "missing.gguf"
    yield "a folder", folder


REFUSE = """
import sys
from edgellm.errors import ArtifactError
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.contract.manager import plugins
for path in sys.argv[1:]:
    try:
        plugins().backend("gguf").open(LaunchPlan("gguf", Artifact("gguf", (path,), "bad"), Settings(n_ctx=256)))
    except ArtifactError as error:
        print(type(error).__name__, error)
    else:
        print("accepted", path)
assert "llama_cpp" not in sys.modules, "native code was loaded for a bad file"
"""


def test_bad_files_are_refused_before_native_code_is_loaded(tmp_path: Path) -> None:
    paths = [str(path) for _, path in bad_files(tmp_path)]
    done = subprocess.run([sys.executable, "-c", REFUSE, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(paths)
    assert {line.split()[0] for line in lines} == {"BadArtifact"}, done.stdout


@pytest.mark.model
def test_a_truncated_model_is_refused(smollm2: str, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    with open(smollm2, "rb") as whole:
        cut.write_bytes(whole.read(20_000_000))
    with pytest.raises(BadArtifact):
        open_engine(str(cut))


def test_an_architecture_that_llama_cpp_does_not_know_is_unsupported(tmp_path: Path) -> None:
    """Sound by the reader's rules, so native code sees it and says no."""
    pytest.importorskip("llama_cpp")
    path = gguf_writer.model("nosucharch").write(tmp_path / "new.gguf")
    with refuses(UnsupportedArtifact, varies="(?<=gguf: ).*"):
        open_engine(str(path))


LOADS_IN = """
import resource, sys
import psutil
from edgellm.errors import EdgeLLMError
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm_gguf.engine import LlamaEngine

room = psutil.Process().memory_info().vms + int(sys.argv[2]) * 1024**2
resource.setrlimit(resource.RLIMIT_AS, (room, room))
try:
    LlamaEngine(LaunchPlan("gguf", Artifact("gguf", (sys.argv[1],), "test"), Settings(256, mmap=sys.argv[3] == "mmap")))
except EdgeLLMError as error:
    print(error.code, "|", error.message, "|", error.hint)
else:
    print("loaded")
"""


@pytest.mark.model
@pytest.mark.skipif(sys.platform != "linux", reason="limits: RLIMIT_AS holds on Linux only")
@pytest.mark.parametrize("how", ["mmap", "read"])
def test_memory_that_runs_out_is_not_the_files_fault(smollm2: str, how: str) -> None:
    """llama.cpp returns nothing either way; what it said tells the two apart."""
    done = subprocess.run(
        [sys.executable, "-c", LOADS_IN, smollm2, "60", how], capture_output=True, text=True, check=True
    )
    code, message, hint = done.stdout.strip().splitlines()[-1].split(" | ")

    assert code == "backend_unavailable"
    assert message.startswith(f"not enough memory to load {smollm2}: ")
    assert "smaller model" in hint


@pytest.mark.model
@pytest.mark.parametrize("layers", [5, -1])
def test_layers_that_no_gpu_can_take_are_refused(smollm2: str, layers: int) -> None:
    """Also where the plan was written by hand: they would run on the CPU, and nobody would know."""
    import llama_cpp

    if llama_cpp.llama_supports_gpu_offload():
        pytest.skip("cpu: this libllama sees a GPU")
    with refuses(BackendUnavailable):
        open_engine(smollm2, gpu_layers=layers)


@pytest.mark.model
def test_what_it_runs_on_is_said(small: Engine) -> None:
    assert small.info.device == "cpu"
    assert "CPU" in small.info.details["buffers"]
    assert small.info.allocated_bytes is not None
    assert small.info.allocated_bytes > 0
    assert "layers" not in small.info.details


def test_layers_are_split_over_devices_by_their_counts() -> None:
    """What the library makes of it: test_device_reservation."""
    from edgellm_gguf.params import model_params

    shares = model_params(Settings(512, gpu_layers=5, device_layers=(2, 3))).tensor_split
    assert list(shares[:3]) == [2.0, 3.0, 0.0]
    for alone in (Settings(512, gpu_layers=5, device_layers=(5,)), Settings(512, device_layers=(2, 3))):
        assert not model_params(alone).tensor_split


def test_blocks_that_only_draft_count_with_the_layers_on_the_gpu() -> None:
    """The library counts them from the end, and loads nothing of them."""
    from edgellm_gguf.params import model_params

    shape = Shape("glm4moe", 46, 4096, 10944, 96, 8, 128, 151552, tied_embeddings=False, draft_layers=1)
    split = Settings(512, gpu_layers=5, device_layers=(2, 3))
    assert model_params(split, shape).n_gpu_layers == 6
    assert list(model_params(split, shape).tensor_split[:3]) == [2.0, 4.0, 0.0]
    for layers in (0, -1):
        assert model_params(Settings(512, gpu_layers=layers), shape).n_gpu_layers == layers


def test_a_slot_holds_what_was_planned_also_where_the_library_rounds_it(smollm2: str) -> None:
    """What is told of the context, and where an answer ends, is one number: 300 cells are 512 of the library's."""
    engine = open_engine(smollm2, n_ctx=300)
    try:
        assert engine.info.n_ctx == 300
        prefill(engine, 0, [5] * 300)
        with refuses(CacheFull):
            engine.step([SlotInput(0, 300, (5,), 1)])
    finally:
        engine.close()
