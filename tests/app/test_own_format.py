"""A backend whose format the core does not know is tried by its name: without a file, or with a path."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import gguf_writer
from support.refusals import check_refusal, refuses

from edgellm.app import context, launch, own_format, stored_cards
from edgellm.builtin.echo import EchoBackend
from edgellm.cli.main import cli
from edgellm.contract.converter import Conversion, Converted
from edgellm.contract.manager import Plugins, plugins
from edgellm.contract.source import FetchedFile, Progress, RemoteFile
from edgellm.errors import (
    BackendError,
    BackendUnavailable,
    BadArtifact,
    NothingFits,
    UnknownModel,
    UnsupportedArtifact,
    UsageError,
)
from edgellm.sdk.client import EdgeLLM
from edgellm.store.sources.registry import sources
from edgellm.types.backend_reason import BackendOpens
from edgellm.types.model import Artifact, ModelCard, ModelFile, Shape
from edgellm.types.plan import Settings
from edgellm.types.request import SelectionRequest

PI = ("--profile", "raspberry-pi-5-8gb")


class Trial(EchoBackend):
    """Needs no file."""

    name, formats = "trial", frozenset({"trial"})

    def supports(self, artifact: Artifact) -> list[str]:
        return [] if artifact.format == "trial" else ["not trial"]


class Shelf(EchoBackend):
    """Opens files of its own."""

    name, formats = "shelf", frozenset({"shelf", "gguf"})

    def supports(self, artifact: Artifact) -> list[str]:
        return [] if artifact.format == "shelf" and artifact.path.endswith(".shelf") else ["not a shelf"]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for backend in (Trial(), Shelf()):
        monkeypatch.setitem(plugins()._backends, backend.name, backend)


@pytest.fixture
def book(tmp_path: Path) -> str:
    path = tmp_path / "book.shelf"
    path.write_text("a model in a format of its own")
    return str(path)


def test_its_name_is_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    with EdgeLLM.load("trial", ctx=512, slots=2, isolate=False) as named:
        assert named.chat("hello", temperature=0).text == "hello"
        assert (named.plan.backend, named.plan.settings.n_ctx, named.plan.settings.n_slots) == ("trial", 512, 2)
        assert BackendOpens("trial", "trial") in named.plan.reasons
    with EdgeLLM.auto(backend="trial", isolate=False) as chosen:
        assert chosen.chat("hello", temperature=0).text == "hello"


def test_a_command_tries_it() -> None:
    named = CliRunner().invoke(cli, ["run", "trial", "hello", "--no-isolate"])
    by_flag = CliRunner().invoke(cli, ["run", "--backend", "trial", "--no-isolate"], input="hello")
    chosen = CliRunner().invoke(cli, ["run", "auto", "hello", "--backend", "trial", "--no-isolate"])

    assert (named.output, by_flag.output, chosen.output) == ("hello\n",) * 3


def test_a_path_is_its_where_it_is_named(book: str, tmp_path: Path) -> None:
    with EdgeLLM.load(book, backend="shelf", isolate=False) as llm:
        assert (llm.plan.backend, llm.plan.artifact) == (
            "shelf",
            Artifact("shelf", (book,), "book", bytes=30, shown_as="book"),
        )
        assert llm.chat("hello", temperature=0).text == "hello"
    with refuses(BadArtifact):
        EdgeLLM.load(book)
    with refuses(UnsupportedArtifact):
        EdgeLLM.load(str(gguf_writer.model().write(tmp_path / "tiny.gguf")), backend="trial")
    with refuses(UnknownModel):
        EdgeLLM.load("shelf")
    with refuses(UnknownModel):
        EdgeLLM.load(f"{book}.gone", backend="shelf")


class Knowing(Shelf):
    """Knows its files by how they begin."""

    name = "knowing"
    said = "shelf"

    def recognizes(self, path: str, begin: bytes) -> str:
        return self.said if begin.startswith(b"a model in") and len(begin) <= 4096 else ""


def test_a_path_alone_is_enough_where_a_backend_recognizes_it(
    book: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(plugins()._backends, "knowing", Knowing())
    with EdgeLLM.load(book, isolate=False) as llm:
        assert llm.plan.artifact == Artifact("shelf", (book,), "book", bytes=30, shown_as="book")
        assert llm.chat("hello", temperature=0).text == "hello"
    (tmp_path / "notes.txt").write_text("some notes")
    for other in (tmp_path / "notes.txt", tmp_path / "gone.shelf"):
        with pytest.raises((BadArtifact, UnknownModel)):
            EdgeLLM.load(other)


@pytest.mark.parametrize("said", [None, 7, b"shelf", "gguf", "nothing-of-mine"])
def test_who_recognizes_otherwise_than_it_must_is_passed_over(
    book: str, monkeypatch: pytest.MonkeyPatch, said: object
) -> None:
    blamed: list[tuple[str, str]] = []
    monkeypatch.setattr(Plugins, "blame", lambda self, *words: blamed.append(words))
    knowing = Knowing()
    monkeypatch.setattr(knowing, "said", said, raising=False)
    monkeypatch.setitem(plugins()._backends, "knowing", knowing)

    with refuses(BadArtifact) as caught:
        EdgeLLM.load(book)
    assert f"backend knowing of the plugin might know it, but recognizes() gives {said!r}, " in caught.value.hint
    assert [backend for backend, _ in blamed] == ["knowing"]
    assert blamed[0][1].startswith(f"recognizes() gives {said!r}, ")


class Strict(Shelf):
    """Opens nothing but its own."""

    name, formats = "strict", frozenset({"strict"})

    def supports(self, artifact: Artifact) -> list[str]:
        return ["it does not begin with STRICT"]


def test_a_backend_that_was_named_says_itself_why_it_does_not_open_a_file(
    book: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(plugins()._backends, "strict", Strict())
    with refuses(UnsupportedArtifact) as caught:
        EdgeLLM.load(book, backend="strict")
    assert caught.value.message == f"backend 'strict' cannot open {book}: it does not begin with STRICT"
    (tmp_path / "notes.txt").write_text("some notes")
    with refuses(BadArtifact) as caught_too:  # it opens GGUF files, too
        EdgeLLM.load(tmp_path / "notes.txt", backend="shelf")
    assert caught_too.value.message.endswith(
        "it is plain text, and backend shelf does not open it as shelf: not a shelf"
    )


class Plain(Shelf):
    """Opens no format of its own."""

    name, formats = "plain", frozenset({"gguf"})


class Silent(Knowing):
    """Tells no memory."""

    def footprint(self, artifact: Artifact, settings: Settings) -> None:
        return None


def told(*words: str) -> str:
    answer = CliRunner().invoke(cli, words, env={"COLUMNS": "300"})
    assert answer.exit_code == 0, (answer.output, answer.exception)
    return answer.stdout


def test_what_one_backend_recognizes_is_not_called_no_model_to_another(
    book: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for backend in (Knowing(), Plain()):
        monkeypatch.setitem(plugins()._backends, backend.name, backend)
    with refuses(UnsupportedArtifact):
        EdgeLLM.load(book, backend="plain")
    for verb in ("show", "estimate"):
        answer = CliRunner().invoke(cli, [verb, book, "--backend", "plain"])
        check_refusal(answer.exception, UnsupportedArtifact)


def test_it_is_shown(book: str, monkeypatch: pytest.MonkeyPatch) -> None:
    named = told("show", book, "--backend", "shelf")
    assert named.splitlines()[:3] == ["book", "  format        shelf", "  size          30 B"]
    assert "backend shelf of the plugin opens it" in named
    assert f"`edgellm estimate {book} --backend shelf`" in named
    monkeypatch.setitem(plugins()._backends, "knowing", Knowing())
    assert "backend knowing of the plugin opens it" in told("show", book)
    as_data, usual = (json.loads(told("show", model, "--json")) for model in (book, "qwen3-4b"))
    assert list(as_data) == list(usual)
    assert as_data["files"] == [{"quant": None, "format": "shelf", "bytes": 30, "source": f"file:{book}"}]
    assert as_data["files"][0].keys() == usual["files"][0].keys()
    check_refusal(
        CliRunner().invoke(cli, ["show", "qwen3-4b", "--backend", "shelf"]).exception, UsageError, param="backend"
    )


def test_its_memory_is_estimated_where_its_backend_tells_it(book: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plugins()._backends, "knowing", Knowing())
    for words in ((book,), (book, "--backend", "shelf")):
        lines = told("estimate", *words).splitlines()
        assert next(line for line in lines if line.startswith("worker process")).split() == [
            "worker",
            "process",
            "32",
            "MiB",
            "32",
            "MiB",
        ]
        assert lines[-1].startswith("Fits: ")
    as_data, usual = (json.loads(told("estimate", model, "--json", *PI)) for model in (book, "qwen3-4b:Q4_K_M"))
    (row,), (usual_row,) = as_data["estimates"], usual["estimates"]
    assert (list(as_data), sorted(row)) == (list(usual), sorted(usual_row))
    assert [sorted(row[key]) for key in ("memory", "verdict")] == [
        sorted(usual_row[key]) for key in ("memory", "verdict")
    ]
    assert as_data["model"].keys() == usual["model"].keys()
    assert (row["memory"]["counted_bytes"], row["verdict"]["fits"], row["decode"]) == (96 * 1024**2, True, None)
    assert row["backend"] == "knowing"
    refused = CliRunner().invoke(cli, ["estimate", book, "--max-memory", "40MiB"]).exception
    check_refusal(refused, NothingFits)


def test_of_its_memory_nothing_is_said_where_its_backend_tells_none(book: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plugins()._backends, "knowing", Silent())
    monkeypatch.delitem(plugins()._backends, "shelf")
    check_refusal(CliRunner().invoke(cli, ["estimate", book]).exception, UnsupportedArtifact)
    for words in (("--quant", "Q8_0"), ("--adapter", "rank=8")):
        refused = CliRunner().invoke(cli, ["estimate", book, *words]).exception
        check_refusal(refused, UsageError, param=words[0].removeprefix("--"))


def test_it_is_converted_where_a_converter_takes_its_format(
    book: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(conversion: Conversion, progress: Progress) -> Converted:
        conversion.target.write_text(f"{conversion.source.format}, {conversion.source.bytes} bytes")
        return Converted(conversion.target, conversion.target.stat().st_size)

    monkeypatch.setitem(plugins()._backends, "knowing", Knowing())
    monkeypatch.setitem(plugins()._converters, ("shelf", "text"), convert)
    target = tmp_path / "book.txt"
    told("convert", book, "--to", "text", "--out", str(target))
    assert target.read_text() == "shelf, 30 bytes"
    check_refusal(CliRunner().invoke(cli, ["quantize", book, "--to", "Q8_0"]).exception, UnsupportedArtifact)


def test_a_backend_that_is_not_there_is_told_rather_than_the_file(book: str) -> None:
    with refuses(BackendUnavailable, varies="installed: .*"):
        EdgeLLM.load(book, backend="markov")


def test_what_has_no_meaning_for_it_is_refused() -> None:
    with refuses(UsageError, param="quant"):
        EdgeLLM.load("trial", quant="Q8_0")
    with refuses(UsageError, param="backend"):
        EdgeLLM.load("trial", backend="echo")


def test_a_file_that_only_its_backend_knows_names_the_flag(book: str) -> None:
    with refuses(BadArtifact) as caught:
        EdgeLLM.load(book)

    assert "shelf" in caught.value.hint


def test_a_backend_that_does_not_say_whether_it_opens_a_file_is_at_fault(
    book: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shelf, "supports", lambda self, artifact: None)

    with refuses(BackendError):
        EdgeLLM.load(book, backend="shelf")


def test_a_model_without_a_file_is_named_where_its_backend_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trial, "check", lambda self, machine: ["its device is not there"])

    with refuses(UnsupportedArtifact):
        EdgeLLM.load("trial")


@pytest.mark.parametrize(("name", "kind"), [("x" * 300, BadArtifact), ("x\0", UnknownModel)])
def test_no_backend_is_asked_for_a_path_that_cannot_be_looked_at(name, kind, tmp_path):
    with pytest.raises(kind):
        own_format.identified(str(tmp_path / name), None)


class Bookcase:
    """A source that describes nothing before it is fetched."""

    scheme = "shelf"

    def __init__(self, book: str) -> None:
        self.book = book

    def reachable(self, timeout_s: float, uri: str = "") -> str:
        return ""

    def needs(self, folder: Path, n_bytes: int) -> list[tuple[Path, int]]:
        return [(folder, n_bytes)]

    def fetch(self, uri: str, folder: Path, *, n_bytes: int | None, progress: Progress) -> list[FetchedFile]:
        return [FetchedFile(Path(shutil.copy(self.book, folder)))]

    def discard(self, paths: Sequence[Path]) -> None:
        pass


def test_a_stored_one_runs_by_its_address_as_it_did_before_it_was_stored(
    book: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"n_layer": 2, "n_embd": 64, "n_ff": 128, "n_head": 4, "n_head_kv": 4, "head_dim": 16, "n_vocab": 257}
    shape = Shape("llama", tied_embeddings=True, **sizes)
    size = Path(book).stat().st_size
    file = ModelFile("shelf://book.shelf", "Q8_0", "shelf", bytes=size, tensor_bytes=size)
    card = ModelCard("book-1m", "llama", "chat", "mit", 4096, 10**6, 10**6, shape, (file,))
    monkeypatch.setattr(Shelf, "quants", None)
    monkeypatch.setitem(sources(), "shelf", Bookcase(book))
    here = context.here().narrowed([card])
    plans = [launch.model_plan("shelf://book.shelf", SelectionRequest(), context=here) for _ in range(2)]

    assert plans[0] == plans[1]
    assert (plans[0].backend, plans[0].artifact.model_id) == ("shelf", "book-1m")
    with refuses(UnsupportedArtifact):  # nothing tells of it any more
        stored_cards.at("shelf://book.shelf", [])


def test_an_address_of_such_a_file_says_how_its_backend_gets_it(book: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sources(), "shelf", Bookcase(book))
    with refuses(BadArtifact, varies=r"file-\S+?incomplete") as caught:
        EdgeLLM.load("shelf://book.shelf")

    assert caught.value.message.startswith("shelf://book.shelf cannot be used: ")
    assert "download it and give its path with backend (trial, shelf)" in caught.value.hint


def test_so_does_one_whose_header_is_read_before(book: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Described(Bookcase):
        def resolve(self, uri: str) -> list[RemoteFile]:
            return [RemoteFile("book.shelf", path=Path(self.book), bytes=Path(self.book).stat().st_size)]

    monkeypatch.setitem(sources(), "shelf", Described(book))
    with refuses(BadArtifact) as caught:
        EdgeLLM.load("shelf://book.shelf")

    assert "download it and give its path with backend (trial, shelf)" in caught.value.hint
