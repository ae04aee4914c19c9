"""Quantizing here: what is predicted is what is written, and nothing stays of what is not whole."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from support.gguf_writer import F32, INT32, STRING, UINT16, UINT32, Gguf, Tensor
from support.refusals import refuses
from support.tiny_models import MODELS, Tiny
from support.waiting import PATIENCE_S, wait_until
from support.words import said

from edgellm import explain
from edgellm.app import context, launch
from edgellm.app.quantize import make as making
from edgellm.app.quantize import plan as planning
from edgellm.app.quantize.make import make
from edgellm.app.quantize.plan import Plan, plan
from edgellm.cli.main import cli
from edgellm.contract.quantizer import Quantization
from edgellm.errors import BackendError, BadArtifact, DiskFull, UnsupportedArtifact, UsageError, WorkerCrashed
from edgellm.estimate import file_recipe, quants
from edgellm.formats.gguf import reader
from edgellm.store.card import HEADER
from edgellm.store.library import TWICE, Library
from edgellm.types.model import Artifact
from edgellm.types.model_reason import ChosenQuant
from edgellm.types.plan import Decision
from edgellm.types.quantize_note import MatrixCovers, SizeAsOf
from edgellm.types.request import SelectionRequest

# One of each kind; all of them, on real models: `make bench-bytes`. IQ1 and IQ2 take seconds to set up.
QUANTS = ("F32", "BF16", "Q4_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K_L", "Q4_K_M", "Q5_K_S", "Q6_K", "IQ4_NL",
          "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4", "Q2_0", "Q1_0")  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, knowing: Callable[[Path], Path]) -> Path:
    return knowing(tmp_path_factory.mktemp("quantize-home"))


@pytest.fixture(autouse=True)
def one_home(own_home: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The library is probed once for the module; what a test stored is gone with it."""
    monkeypatch.setenv("EDGELLM_HOME", str(home))
    yield
    shutil.rmtree(home / "data", ignore_errors=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of random weights with rows that some types divide and some do not."""
    return replace(MODELS["qwen2-short-rows"], n_layer=2).write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def one_block(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As small as a model gets whose rows every type divides: codebook types are slow to make."""
    tiny = Tiny("llama", n_layer=1, n_ff=256, n_head_kv=1)
    return tiny.write(tmp_path_factory.mktemp("block"))


@pytest.fixture(scope="module")
def whole_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of experts whose rows every type divides."""
    return replace(MODELS["llama-4-experts"], n_layer=1, n_expert=2).write(tmp_path_factory.mktemp("whole"))


def imatrix(
    path: Path, model: reader.GgufModel, *, n: int = 0, left_out: str = "", value: float = 2.0, count: float = 1.0
) -> Path:
    """An importance matrix of equal values for every tensor of the model; `n` lies about how many."""
    made = Gguf([("general.type", STRING, "imatrix"), ("imatrix.chunk_count", UINT32, 4)])
    data = b""
    for tensor in model.tensors:
        if len(tensor.dims) < 2 or tensor.name == left_out:
            continue
        rows = n or tensor.dims[0]
        experts = tensor.dims[2] if len(tensor.dims) > 2 else 1
        for suffix, dims, fill in ((".in_sum2", (rows, experts), value), (".counts", (1, experts), count)):
            made.tensors.append(Tensor(tensor.name + suffix, dims, F32, dims[0] * dims[1] * 4))
            part = np.full(dims[0] * dims[1], fill, np.float32).tobytes()
            data += part + bytes(-len(part) % 32)
    head = made.header()
    path.write_bytes(head + bytes(-len(head) % 32) + data)
    return path


def planned(*arguments: Any, **options: Any) -> Plan:
    found = plan(*map(str, arguments), **options)
    assert isinstance(found, Plan)
    return found


@pytest.mark.parametrize("name", ["tiny", "one_block"])
def test_types_are_written_as_predicted(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    from edgellm_gguf import quantize

    source = request.getfixturevalue(name)
    model = reader.read_model(source)
    matrix = imatrix(tmp_path / "imatrix.gguf", model)
    for quant in QUANTS:
        expected = file_recipe.plan(model, quant)
        if expected.impossible:
            continue
        path = str(matrix) if expected.need_imatrix else ""
        expected = file_recipe.plan(model, quant, imatrix=bool(path))
        target = tmp_path / f"{quant}.gguf"
        job = Quantization(Artifact("gguf", (str(source),), "tiny"), str(target), quant, 1, path)
        quantize.run(job, lambda _done, _total, _name: None)
        written = reader.read_model(target)

        assert {t.name: t.type.name for t in written.tensors} == {p.tensor.name: p.type for p in expected.tensors}
        assert written.tensor_bytes == expected.tensor_bytes, quant
        assert reader.quant_name(written.header, written.tensors) == quant


def test_it_is_written_beside_the_source_and_is_whole(tiny: Path) -> None:
    heard: list[tuple[float, str]] = []
    wanted = planned(tiny, "Q4_K_M")
    made = make(wanted, lambda share, what: heard.append((share, what)))

    assert made.path == tiny.with_name("qwen2-Q4_K_M.gguf")
    assert made.bytes == made.path.stat().st_size
    assert abs(made.bytes - wanted.file_bytes) <= 128, "but for a key or two in the header"
    assert made.tensor_bytes == reader.read_model(made.path).tensor_bytes == wanted.file.tensor_bytes
    assert [share for share, _ in heard] == sorted(share for share, _ in heard)
    assert len(heard) == len(wanted.file.tensors) + 1, "every tensor is told of"
    assert "blk.0.attn_k.weight (" in " ".join(what for _, what in heard)
    assert leftovers(tiny.parent) == []
    made.path.unlink()


def test_a_split_model_becomes_one_file(tiny: Path, tmp_path: Path) -> None:
    whole, data = reader.read_model(tiny), tiny.read_bytes()
    halves = whole.tensors[:10], whole.tensors[10:]
    for no, tensors in enumerate(halves):
        keys = [
            ("split.no", UINT16, no),
            ("split.count", UINT16, 2),
            ("split.tensors.count", INT32, len(whole.tensors)),
        ]
        made = Gguf([*replace(MODELS["qwen2-short-rows"], n_layer=2).gguf().keys, *keys] if no == 0 else keys)
        made.tensors = [Tensor(t.name, t.dims, t.type.id, t.n_bytes) for t in tensors]
        head = made.header()
        parts = [data[t.offset : t.offset + t.n_bytes] + bytes(-t.n_bytes % 32) for t in tensors]
        (tmp_path / f"m-0000{no + 1}-of-00002.gguf").write_bytes(head + bytes(-len(head) % 32) + b"".join(parts))
    one = make(planned(tiny, "Q4_K_M", output=tmp_path / "of-one.gguf"))
    two = make(planned(tmp_path / "m-00002-of-00002.gguf", "Q4_K_M", output=tmp_path / "of-two.gguf"))

    assert two.path.read_bytes() == one.path.read_bytes()


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_an_existing_file_is_replaced_by_force_only(tiny: Path, tmp_path: Path) -> None:
    target = tmp_path / "there.gguf"
    target.write_bytes(b"precious")
    with refuses(UsageError):
        plan(str(tiny), "Q8_0", output=target)
    wanted = planned(tiny, "Q8_0", output=target, force=True)

    assert make(wanted).path == target
    assert reader.quant_name(reader.read_header(target)) == "Q8_0"
    with refuses(UsageError, param="output"):
        plan(str(tiny), "Q8_0", output=tiny, force=True)


def test_a_file_that_came_up_meanwhile_is_not_replaced(tiny: Path, tmp_path: Path) -> None:
    wanted = planned(tiny, "Q8_0", output=tmp_path / "there.gguf")
    (tmp_path / "there.gguf").write_bytes(b"precious")

    with refuses(UsageError):
        make(wanted)
    assert (tmp_path / "there.gguf").read_bytes() == b"precious"
    assert leftovers(tmp_path) == []


def test_ctrl_c_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    def interrupt(_share: float, what: str) -> None:
        if "(5 of" in what:
            raise KeyboardInterrupt

    before = set(psutil.Process().children())
    with pytest.raises(KeyboardInterrupt):
        make(planned(tiny, "Q4_K_M", output=tmp_path / "x.gguf"), interrupt)
    assert list(tmp_path.iterdir()) == []
    assert set(psutil.Process().children()) <= before


def test_a_worker_that_dies_is_told_of_and_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    """As soon as it is there: what it says of its progress may be read when it has finished."""
    before, planned_file = set(psutil.Process().children()), planned(tiny, "Q4_K_M", output=tmp_path / "x.gguf")

    def kill() -> None:
        wait_until(lambda: set(psutil.Process().children()) - before)
        for child in set(psutil.Process().children()) - before:
            child.kill()

    killer = threading.Thread(target=kill)
    with refuses(WorkerCrashed, reason="SIGKILL", varies="(?<=SIGKILL).*"):
        killer.start()
        make(planned_file)
    killer.join()
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys
from pathlib import Path
from edgellm.app.quantize.make import make
from edgellm.app.quantize.plan import plan
import time, psutil
def wait(share, what):
    print(*[child.pid for child in psutil.Process().children()], flush=True)
    time.sleep(3600)
make(plan(sys.argv[1], "Q4_K_M", output=Path(sys.argv[2])), wait)
"""


@pytest.mark.slow(4)
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_what_a_killed_process_left_is_removed_by_the_next_one(tiny: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.gguf"
    run = subprocess.Popen([sys.executable, "-c", KILLED, str(tiny), str(target)], stdout=subprocess.PIPE)
    assert run.stdout is not None
    worker = psutil.Process(int(run.stdout.readline().split()[0]))
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    worker.wait(PATIENCE_S)  # its parent is gone, so it leaves

    assert leftovers(tmp_path) == [".x.gguf.quantizing"]
    assert not target.exists()
    make(planned(tiny, "Q4_K_M", output=target))
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


def test_two_processes_do_not_make_one_file(tiny: Path, tmp_path: Path) -> None:
    wanted = planned(tiny, "Q4_K_M", output=tmp_path / "x.gguf")

    def again(_share: float, _what: str) -> None:
        with refuses(UsageError):
            subprocess_make(wanted)
        raise KeyboardInterrupt

    def subprocess_make(one: Plan) -> None:
        # A lock object of its own, as another process has.
        with making.alone(one.output or Path()):
            pass

    with pytest.raises(KeyboardInterrupt):
        make(wanted, again)


def test_another_writing_than_predicted_is_refused(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = planned(tiny, "Q4_K_M", output=tmp_path / "x.gguf")
    monkeypatch.setattr(Plan, "quant", property(lambda _self: "Q5_K_M"))

    with refuses(BackendError, varies=r"(?<=llama\.cpp )b\d+"):
        make(wanted)
    assert list(tmp_path.iterdir()) == []


def test_a_quantization_of_a_plugin_has_types_of_its_own(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgellm_gguf import quantize

    def acme(_backend: str, job: Quantization, progress: Callable[[int, int, str], None]) -> None:
        quantize.run(replace(job, quant="Q4_0"), progress)

    monkeypatch.setattr(quants, "QUANTS", dict(quants.QUANTS))
    quants.register(quants.Quant("Q2_ACME", "legacy", 2.6, "Q2_K", "...", "..."))
    monkeypatch.setattr(planning, "backend_for", lambda quant, _machine: type("Acme", (), {"name": "acme"}))
    monkeypatch.setattr("edgellm.runtime.quantize_worker.quantize", acme)
    wanted = planned(tiny, "q2_acme", output=tmp_path / "x.gguf")
    made = make(wanted)

    assert wanted.quant == "Q2_ACME"
    assert SizeAsOf("Q2_ACME", "Q2_K") in wanted.notes
    assert reader.quant_name(reader.read_header(made.path)) == "Q4_0"
    monkeypatch.setattr(quantize, "run", lambda job, _progress: Path(job.target).write_bytes(b"ACME"))
    with refuses(BackendError):
        make(replace(wanted, replace=True))
    assert leftovers(tmp_path) == []


def test_quantizing_twice_is_refused_with_its_cost(tiny: Path, tmp_path: Path) -> None:
    first = make(planned(tiny, "Q4_0", output=tmp_path / "q4_0.gguf")).path
    with refuses(UsageError, param="allow-requantize"):
        plan(str(first), "Q4_K_M")
    with refuses(UsageError, param="to"):
        plan(str(first), "Q4_0")

    wanted = planned(first, "Q8_0", allow_requantize=True)
    assert wanted.made_of.startswith(TWICE)
    assert make(wanted).tensor_bytes == wanted.file.tensor_bytes


def test_a_file_of_ones_own_that_was_quantized_twice_is_never_chosen(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(planned(tiny, "Q4_0", output=tmp_path / "q4_0.gguf")).path
    folder = tmp_path / "models"
    folder.mkdir()
    wanted = planned(first, "Q8_0", allow_requantize=True, output=folder / "twice.gguf")
    listed = replace(wanted, source=replace(wanted.source, in_catalog=True))
    name = wanted.source.card.id
    monkeypatch.setenv("EDGELLM_MODELS_DIR", str(folder))

    path = make(listed).path
    assert Library().files() == {}
    assert HEADER not in {card.trust for card in context.cards()}, "not found by looking through folders either"
    (kept,) = Library().files(twice=True)[name]
    assert (kept.quant, kept.made_from) == ("Q8_0", "Q4_0")
    assert Library().fetch(wanted.source.card, kept).path == str(path), "where it is named it runs"
    assert planned(path, "Q5_1", allow_requantize=True).source.lossy

    make(replace(listed, source=replace(listed.source, lossy=False), file=planned(tiny, "Q8_0").file, replace=True))
    assert [file.made_from for file in Library().files()[name]] == [""], "another file took its place"
    assert len(Library().installed()) == 1
    make(replace(listed, replace=True))
    assert Library().remove(name) == 0
    assert path.exists(), "it is the user's"


@pytest.mark.slow(2)
def test_what_is_nearly_lossless_may_be_quantized_again(tiny: Path, tmp_path: Path) -> None:
    first = make(planned(tiny, "Q8_0", output=tmp_path / "q8_0.gguf")).path
    wanted = planned(first, "Q4_K_M")

    assert not wanted.made_of.startswith(TWICE)
    assert any("are quantized already, most of them Q8_0: 99." in explain.sentence(note) for note in wanted.notes)
    told = CliRunner().invoke(cli, ["quantize", str(first), "--to", "Q4_K_M", "--dry-run", "--json"])
    assert json.loads(told.stdout)["notes_facts"] == [explain.facts(note) for note in wanted.notes]
    assert make(wanted).tensor_bytes == wanted.file.tensor_bytes


def test_types_that_need_an_importance_matrix_are_refused_without(whole_rows: Path, tmp_path: Path) -> None:
    with refuses(UsageError, param="imatrix"):
        plan(str(whole_rows), "IQ2_XXS")

    matrix = imatrix(tmp_path / "i.gguf", reader.read_model(whole_rows))
    wanted = planned(whole_rows, "IQ2_XXS", imatrix=str(matrix), output=tmp_path / "x.gguf")
    assert any(isinstance(note, MatrixCovers) for note in wanted.notes)
    assert make(wanted).tensor_bytes == wanted.file.tensor_bytes


def test_an_importance_matrix_of_another_model_is_refused(whole_rows: Path, tiny: Path, tmp_path: Path) -> None:
    model, path = reader.read_model(whole_rows), tmp_path / "i.gguf"
    with refuses(BadArtifact):
        plan(str(whole_rows), "IQ2_XXS", imatrix=str(imatrix(path, model, n=32)))
    with refuses(BadArtifact):
        plan(str(whole_rows), "IQ2_XXS", imatrix=str(imatrix(path, model, left_out="blk.0.ffn_up_exps.weight")))
    with refuses(BadArtifact):
        plan(str(whole_rows), "IQ2_XXS", imatrix=str(tiny))
    unnamed = Gguf([("general.type", STRING, "imatrix")])
    unnamed.tensors = [Tensor(suffix, (1, 1), F32, 4) for suffix in (".in_sum2", ".counts")]
    with refuses(BadArtifact):
        plan(str(whole_rows), "Q4_K_M", imatrix=str(unnamed.write(path)))
    path.write_bytes(b"\x10\0\0\0old format")
    with refuses(BadArtifact):
        plan(str(whole_rows), "IQ2_XXS", imatrix=str(path))


NO_NUMBERS = ((math.nan, 1.0), (-2.0, 1.0), (2.0, math.inf), (2.0, math.nan), (2.0, -1.0), (2.0, 0.0))


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (math.inf, 1.0),
        *(pytest.param(*pair, marks=pytest.mark.slow(4)) for pair in NO_NUMBERS),
        (2.0, 0.5),
    ],
)
def test_values_that_are_no_numbers_are_refused_by_the_worker(
    whole_rows: Path, tmp_path: Path, value: float, count: float
) -> None:
    matrix = imatrix(tmp_path / "i.gguf", reader.read_model(whole_rows), value=value, count=count)
    with refuses(BadArtifact):
        make(planned(whole_rows, "IQ2_XXS", imatrix=str(matrix), output=tmp_path / "x.gguf"))
    assert leftovers(tmp_path) == []


def test_what_cannot_be_made_is_said_before(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with refuses(UsageError, param="to"):
        plan(str(tiny), "Q1_0")
    with refuses(UsageError, param="to"):
        plan(str(tiny), "I2_S")
    with refuses(UsageError):
        plan("hf://a/b:F16", "Q8_0")
    assert planned(f"file:{tiny}", "Q8_0").source.artifact.path == str(tiny)
    with refuses(UsageError):
        plan(str(tiny), "Q4_X")
    with refuses(UsageError, param="output"):
        plan(str(tiny), "Q8_0", output=tmp_path / "none" / "x.gguf")
    swapped = MODELS["llama"].gguf()
    swapped.order = ">"
    swapped.write(tmp_path / "big.gguf")
    with refuses(UnsupportedArtifact):
        plan(str(tmp_path / "big.gguf"), "Q8_0")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: type("Usage", (), {"free": 2**20}))
    with refuses(DiskFull):
        plan(str(tiny), "Q8_0")


def test_auto_takes_what_selection_wants(tiny: Path, tmp_path: Path) -> None:
    wanted = planned(tiny, "auto")
    assert wanted.quant in ("Q6_K", "Q8_0"), "a tiny model keeps its bits"
    assert any(isinstance(note, ChosenQuant) for note in wanted.notes)

    made = make(wanted).path
    found = plan(str(made), "auto", allow_requantize=True)
    assert isinstance(found, Decision), "there is nothing better to make"
    made = make(planned(tiny, "Q5_1", output=tmp_path / "q5_1.gguf")).path
    with refuses(UsageError, param="allow-requantize"):
        plan(str(made), "auto")
    assert isinstance(plan(str(made), "auto", allow_requantize=True), Decision), "what was lost stays lost"


def test_a_file_that_is_not_quantized_is_run_with_the_way_to_quantize_it(tiny: Path, tmp_path: Path) -> None:
    small = make(planned(tiny, "Q8_0", output=tmp_path / "small.gguf")).path
    told = {path: " ".join(said(launch.model_plan(str(path), SelectionRequest(ctx=256)))) for path in (tiny, small)}

    assert f"`edgellm quantize {tiny} --to auto`" in told[tiny]
    assert "edgellm quantize" not in told[small]


@pytest.mark.model
@pytest.mark.slow(3)
def test_a_model_of_the_catalog_is_found_by_its_name(smollm2: str, tmp_path: Path) -> None:
    wanted = planned(smollm2, "Q8_0", allow_requantize=True)
    made = make(wanted)

    assert made.name == "smollm2-135m-instruct:Q8_0"
    assert made.path.parent.parent == Library().root / "smollm2-135m-instruct"
    assert made.tensor_bytes == wanted.file.tensor_bytes
    run = launch.model_plan(made.name, SelectionRequest(offline=True, ctx=256))
    assert run.artifact.path == str(made.path)
    assert run.artifact.model_id == "smollm2-135m-instruct"
    chosen = {file.source for row in context.cards() for file in row.files}
    assert wanted.made_of not in chosen, "quantized twice: run where it is named, not chosen"
    with refuses(UsageError, varies=r"(?<=Q8_0-)\w+"):
        plan(smollm2, "Q8_0", allow_requantize=True)

    # Into a file of one's own: known by the same name.
    outside = make(planned(smollm2, "Q5_0", allow_requantize=True, output=tmp_path / "mine.gguf"))
    assert launch.model_plan(outside.name, SelectionRequest(offline=True)).artifact.path == str(tmp_path / "mine.gguf")


def test_the_command_says_what_it_did(tiny: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgellm", "quantize", str(tiny), "--to", "q4_k_m"]
    done = subprocess.run([*command, "--output", str(tmp_path / "x.gguf")], capture_output=True, text=True, check=True)
    assert "F16 to Q4_K_M" in done.stdout
    assert f"Wrote {tmp_path / 'x.gguf'}" in done.stdout
    assert "are what was predicted" in done.stdout
    refused = subprocess.run([*command[:-1], "Q1_0"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith("Error: Q1_0 cannot hold rows of 224 weights")
