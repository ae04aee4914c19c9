"""`edgellm pull`, `list`, `show` and `rm`: a model comes to this disk, is seen there, and goes."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner, Result
from support import gguf_writer
from support.random_lora import random_lora
from support.refusals import check_refusal, refuses
from support.store_server import ModelServer, card_of
from support.tiny_models import MODELS
from support.waiting import wait_until

from edgellm.adaptation import adapter_file
from edgellm.app import removal
from edgellm.app.tune import jobs
from edgellm.catalog import lookup
from edgellm.cli.doctor_store import examine_store
from edgellm.cli.main import cli
from edgellm.cli.report import Report
from edgellm.errors import UnknownModel, UsageError
from edgellm.explain import stored_remedy
from edgellm.formats.gguf.reader import read_model
from edgellm.store.adapters import AdapterOrigin, AdapterStore
from edgellm.store.holders import WORKER, holders, shown
from edgellm.store.library import MADE, Library
from edgellm.store.manifest import StoredModel
from edgellm.types.model import ModelCard, ModelFile


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def installed() -> list[StoredModel]:
    return Library().installed()


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A tiny model at an address of this machine."""
    server = ModelServer()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = gguf_writer.model(context_length=8192)
    made.keys.append(("tokenizer.chat_template", gguf_writer.STRING, "{{ messages }}"))
    made.tensors.append(gguf_writer.Tensor("blk.0.ffn_up.weight", (64, 1000), gguf_writer.Q8_0, 1000 * 68))
    server.files["o/tiny-Q8_0.gguf"] = made.build()
    yield f"{server.url}/files/o/tiny-Q8_0.gguf"
    server.close()


def test_a_model_is_fetched_listed_shown_and_deleted(address: str, tmp_path: Path) -> None:
    lora = random_lora(read_model(MODELS["llama-grouped"].sparse(tmp_path)), roles=("attn_q",))
    assert "Nothing is stored" in invoke("list").stdout
    pulled = invoke("pull", address)
    assert pulled.exit_code == 0, pulled.output
    (stored,) = installed()
    assert str(stored.folder) in pulled.stdout

    assert str(stored.folder) in invoke("list").stdout
    assert str(stored.folder) in invoke("models", "--installed").stdout
    report = json.loads(invoke("list", "--json").stdout)
    assert [entry["id"] for entry in report["installed"]] == [stored.model_id]

    shown = invoke("show", address)
    assert shown.exit_code == 0, shown.output
    assert "trained for 8,192 tokens" in shown.stdout

    for name, quant in (("mail", "Q8_0"), ("other", "Q4_0")):
        origin = AdapterOrigin(name, stored.model_id, quant, "0" * 64, "/m.gguf")
        AdapterStore().add(origin, lambda path: adapter_file.write(path, lora))
    removed = invoke("rm", f"{stored.model_id}:q8_0".upper())
    assert removed.exit_code == 0, removed.output
    assert "Adapters of it stay: mail.\n" in removed.stdout
    assert installed() == []
    assert not stored.folder.exists()
    left = " ".join(invoke("list").stdout.split())
    assert ("2 adapters, " in left, "Nothing is stored" in left) == (True, False)


def test_pull_says_where_it_lies_as_json_and_fetches_once(address: str) -> None:
    first = json.loads(invoke("pull", address, "--json").stdout)
    again = json.loads(invoke("pull", address, "--json").stdout)

    assert first == again
    assert [Path(path).stat().st_size for path in first["paths"]] == [first["bytes"]]


def test_a_model_that_was_damaged_is_marked(address: str) -> None:
    assert invoke("pull", address).exit_code == 0
    (stored,) = installed()
    path = stored.folder / stored.files[0].path
    content = bytearray(path.read_bytes())
    content[-4:] = b"worn"
    path.write_bytes(content)

    (entry,) = json.loads(invoke("list", "--json").stdout)["installed"]
    assert entry["problem_facts"] == {
        "kind": "other_hash", "path": str(path), "sha256": hashlib.sha256(content).hexdigest(),
        "stored_sha256": stored.sha256,
    }  # fmt: skip
    told = " ".join(invoke("list").stdout.split())
    assert entry["problem"] in told
    (damaged,) = Library().checked(again=False)
    assert damaged.problem is not None
    assert stored_remedy(damaged.problem) in told
    (shown,) = json.loads(invoke("show", stored.model_id, "--json").stdout)["installed"]
    assert shown["problem"] == entry["problem"]


def left_by_a_kill(name: str) -> Path:
    folder = Library().root / "tiny" / name
    folder.mkdir(parents=True)
    (folder / "tiny-Q8_0.gguf.0123.incomplete").write_bytes(b"b" * 1_500_000)
    return folder


@pytest.mark.parametrize(
    ("name", "way_on"),
    [
        (".Q8_0-0123456789abcdef.incomplete", "the same `edgellm pull` goes on"),
        (".Q8_0-0123456789abcdef.89abcdef.incomplete", "`edgellm pull` begins it anew"),
        (".Q8_0-0123456789abcdef.removed", "`edgellm pull` begins it anew"),
    ],
)
def test_a_download_that_did_not_end_is_told_and_can_be_removed(name: str, way_on: str) -> None:
    folder = left_by_a_kill(name)
    listed = " ".join(invoke("list").stdout.split())
    assert f"tiny Q8_0 1.5 MB of an unfinished download: {way_on}, `edgellm rm tiny:Q8_0` deletes it" in listed
    assert "Nothing is stored" not in listed
    (row,) = json.loads(invoke("list", "--json").stdout)["begun"]
    report = Report()
    examine_store(report)
    assert [finding.level for finding in report.findings if "unfinished" in finding.text] == ["note"]
    assert (row["bytes"], row["is_running"], row["folders"]) == (1_500_000, False, [str(folder)])
    check_refusal(invoke("rm", "tiny:Q4_0").exception, UnknownModel)

    removed = invoke("rm", "tiny", "--json")
    assert json.loads(removed.stdout)["removed"] == [{"id": "tiny", "quant": "Q8_0", "freed_bytes": 1_500_000}]
    assert not folder.parent.exists()
    assert "Nothing is stored" in invoke("list").stdout


def test_what_an_unfinished_tuning_takes_is_told() -> None:
    folder = jobs.root() / "toy" / "mail.0123"
    folder.mkdir(parents=True)
    (folder / "rows.npz").write_bytes(bytes(5000))
    told = " ".join(invoke("list").stdout.split())
    assert "toy:mail" in told
    assert "adapters jobs" in told
    with refuses(UnknownModel) as caught:
        removal.named("toy:Mail", [])
    assert "edgellm adapters jobs --rm toy:mail.0123" in caught.value.hint


def test_lock_files_of_what_was_removed_are_not_counted_as_stored(address: str) -> None:
    assert invoke("pull", address).exception is None
    assert invoke("rm", installed()[0].model_id).exception is None
    assert list(Library().root.glob(".locks/*"))
    examine_store(report := Report())
    assert (report.store["files"], report.store["bytes"]) == (0, 0)


def test_a_download_that_runs_is_not_removed() -> None:
    from filelock import FileLock

    folder = left_by_a_kill(".Q8_0-0123456789abcdef.incomplete")
    lock = Library().root / ".locks" / "tiny.Q8_0-0123456789abcdef.lock"
    lock.parent.mkdir()
    with FileLock(lock):
        assert "is being fetched, 1.5 MB so far" in invoke("list").stdout
        check_refusal(invoke("rm", "tiny").exception, UsageError)
    assert folder.exists()


def test_an_interrupted_pull_says_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        left_by_a_kill(".Q8_0-0123456789abcdef.incomplete")
        raise KeyboardInterrupt

    monkeypatch.setattr("edgellm.app.launch.plan", interrupted)
    shown = " ".join(invoke("pull", "tiny").stderr.split())
    assert "Kept: tiny Q8_0 1.5 MB of an unfinished download: the same `edgellm pull` goes on" in shown


def test_what_is_built_in_needs_no_fetching() -> None:
    assert "built in" in invoke("pull", "echo").stdout


def test_nothing_is_deleted_where_one_name_is_wrong(address: str) -> None:
    invoke("pull", address)
    (stored,) = installed()

    wrong = invoke("rm", stored.model_id, "no-such-model")
    check_refusal(wrong.exception, UnknownModel)
    assert installed() == [stored]
    check_refusal(invoke("rm", f"{stored.model_id}:Q4_K_M").exception, UnknownModel)
    assert invoke("rm", f"{stored.model_id}:Q4_K_M").exception.hint == "stored of it: Q8_0"
    address = invoke("rm", "https://someone:hunter2@models.example/a.gguf").exception
    check_refusal(address, UnknownModel)
    assert "hunter2" not in str(address)
    report = json.loads(invoke("rm", stored.model_id, stored.model_id, "--json").stdout)
    assert report["removed"] == [{"id": stored.model_id, "quant": "Q8_0", "freed_bytes": stored.bytes}]


def test_two_entries_of_one_name_are_deleted_one_after_the_other(address: str) -> None:
    invoke("pull", address)
    (stored,) = installed()
    shutil.copytree(stored.folder, stored.folder.with_name("published-anew"))

    removed = invoke("rm", stored.model_id, "--json")
    assert removed.exit_code == 0, removed.output
    assert [row["freed_bytes"] for row in json.loads(removed.stdout)["removed"]] == [stored.bytes] * 2
    assert installed() == []


def test_files_of_ones_own_are_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf_writer.model().write(tmp_path / "Mine.Q8_0.gguf")
    monkeypatch.setenv("EDGELLM_MODELS_DIR", str(tmp_path))

    check_refusal(invoke("rm", "mine").exception, UnknownModel)
    assert (tmp_path / "Mine.Q8_0.gguf").exists()


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelCard:
    """The row of a model whose file a package brings."""
    path = gguf_writer.model().write(tmp_path / "of-package.gguf")
    file = ModelFile(f"file:{path}", "Q8_0", sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    card = card_of(file, "of-package")
    monkeypatch.setattr(lookup, "catalog", lambda added: {card.id: card})
    return card


def test_what_belongs_to_a_package_is_not_deleted(packaged: ModelCard) -> None:
    """And the same is said, with the same status, however often and whether it was ever run."""
    (file,) = packaged.files
    before = invoke("rm", packaged.id)
    Library().fetch(packaged, file)
    told = [before, invoke("rm", packaged.id), invoke("rm", f"{packaged.id}:q8_0")]

    assert {one.exit_code for one in told} == {0}
    assert {" ".join(one.stdout.split()) for one in told} == {f"of-package Q8_0 {removal.PACKAGED}."}
    assert json.loads(invoke("rm", packaged.id, "--json").stdout)["removed"] == []
    assert Path(file.source.removeprefix("file:")).exists()
    assert [stored.quant for stored in installed()] == ["Q8_0"], "it can still be run, and is listed"
    check_refusal(invoke("rm", f"{packaged.id}:Q4_0").exception, UnknownModel)


def test_what_was_made_of_a_packages_model_is_deleted(packaged: ModelCard) -> None:
    (file,) = packaged.files
    made = replace(file, source=f"{MADE}Q8_0", quant="Q5_0", sha256=None)
    Library().root.mkdir(parents=True, exist_ok=True)
    copy = shutil.copy(file.source.removeprefix("file:"), Library().root / "made.gguf")
    Library().keep(packaged, made, Path(copy))
    removed = " ".join(invoke("rm", packaged.id).stdout.split())

    assert "Removed of-package Q5_0 from the store: " in removed
    assert f"of-package Q8_0 {removal.PACKAGED}." in removed
    assert installed() == []


def test_a_link_that_leads_nowhere_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Gone.Q8_0.gguf").symlink_to(tmp_path / "nothing")
    monkeypatch.setenv("EDGELLM_MODELS_DIR", str(tmp_path))

    listed = invoke("list")
    assert listed.exit_code == 0, listed.output
    assert "Gone.Q8_0.gguf" in listed.stdout


def test_a_model_of_the_catalog_is_shown() -> None:
    output = invoke("show", "qwen3-4b").stdout
    assert "4.0B" in output
    assert "Q4_K_M" in output
    report = json.loads(invoke("show", "qwen3-4b", "--json").stdout)
    assert (report["schema"], report["id"], report["installed"]) == (1, "qwen3-4b", [])
    assert {"quant", "bytes", "source", "format"} <= report["files"][0].keys()


@pytest.mark.parametrize("source", ["made:here-Q2_K", "made:twice-Q4_1-here-Q2_K", "file:{}"])
def test_what_was_made_here_is_not_shown_as_published(source: str, tmp_path: Path) -> None:
    card, library = lookup.catalog()["smollm2-135m-instruct"], Library()
    before = invoke("show", card.id).stdout
    library.root.mkdir(parents=True, exist_ok=True)
    made = library.root / "made.gguf"
    made.write_bytes(gguf_writer.model().build())
    library.keep(card, ModelFile(source.format(tmp_path / "a.gguf"), "Q2_K"), made)

    shown = invoke("show", card.id).stdout
    assert re.findall("  published.*", shown) == re.findall("  published.*", before)
    assert "on this disk  Q2_K" in shown


def test_what_a_running_program_has_open_is_deleted_only_by_force(address: str) -> None:
    path = Path(json.loads(invoke("pull", address, "--json").stdout)["paths"][0])
    (stored,) = installed()
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        file.close()
        check_refusal(
            invoke("rm", stored.model_id).exception, UsageError, varies=r"(?<=in use by ).* \(process [0-9]+\)"
        )
        assert installed() == [stored]
        told = " ".join(invoke("rm", stored.model_id, "--force").stdout.split())
        assert re.search(rf"are free once .* \(process {os.getpid()}\) no longer has it open\.", told)
    assert installed() == []


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_of_a_worker_the_program_is_named_that_can_be_ended(tmp_path: Path) -> None:
    program = tmp_path / "edgellm"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()', {WORKER!r}])"
    program.write_text(child)
    with subprocess.Popen([sys.executable, program, "serve", "tiny"], stdin=subprocess.PIPE) as serve:
        process = psutil.Process(serve.pid)
        wait_until(lambda: [c for c in process.children() if WORKER in c.cmdline()] != [])
        (worker,) = process.children()
        assert shown(worker.pid) == f"edgellm serve (process {serve.pid})"
        serve.communicate(b"\n")
    assert shown(serve.pid) == f"process {serve.pid}"


def test_nobody_has_open_what_is_only_stored(address: str) -> None:
    invoke("pull", address)
    (stored,) = installed()
    assert holders(stored.folder) == []


def test_the_beginning_of_a_name_is_not_enough_to_delete_by(address: str) -> None:
    invoke("pull", address)
    (stored,) = installed()
    error = invoke("rm", stored.model_id[:3]).exception
    assert isinstance(error, UnknownModel)
    check_refusal(error, UnknownModel)
    assert f"{stored.model_id}:{stored.quant}?" in error.hint
    assert installed() == [stored]
