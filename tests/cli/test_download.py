"""Before a download: its size is told, a large one is asked about on a terminal, and one can be set a limit."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner, Result
from support import gguf_writer as w
from support.refusals import refuses
from support.store_server import ModelServer
from test_launch import MACHINE

from edgellm.app import launch
from edgellm.app.download import PlannedDownload
from edgellm.cli import download
from edgellm.cli._options import make_plan
from edgellm.cli.main import cli
from edgellm.errors import EdgeLLMError, NothingFits
from edgellm.sdk.client import EdgeLLM
from edgellm.store import http
from edgellm.store.library import Library
from edgellm.store.sources.registry import sources
from edgellm.types.options import LaunchOptions
from edgellm.types.request import SelectionRequest
from edgellm.units import show_size

LARGE, SMALL = "o/Tiny-GGUF/tiny-Q8_0.gguf", "o/Tiny-GGUF/tiny-Q4_0.gguf"
MODEL = "hf://o/Tiny-GGUF"
pytestmark = pytest.mark.usefixtures("known_machine")


def a_model(kind: int, file_type: int, block_bytes: int) -> bytes:
    """A model whose weights are all of one type, with 32 in a block."""
    made = w.model(context_length=8192)
    keys = [key for key in made.keys if key[0] != "general.file_type"]
    keys += [("general.file_type", w.UINT32, file_type), ("tokenizer.chat_template", w.STRING, "{{ messages }}")]
    matrices = [("token_embd.weight", 16), ("blk.0.ffn_up.weight", 100_000)]
    tensors = [w.Tensor(name, (64, rows), kind, rows * 2 * block_bytes) for name, rows in matrices]
    return w.Gguf(keys, [*tensors, w.Tensor("output_norm.weight", (64,), w.F32, 256)]).build()


@pytest.fixture
def server(own_home, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    """A repository with a model in two quantizations, of 6.8 and 3.6 MB."""
    from huggingface_hub import constants

    made = ModelServer()
    made.files |= {LARGE: a_model(w.Q8_0, 7, 34), SMALL: a_model(w.Q4_0, 2, 18)}
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(constants, "ENDPOINT", made.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", made.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(own_home / "hub"))
    monkeypatch.setattr(http, "BACKOFF_S", 0.01)
    monkeypatch.setattr(sources()["hf"], "_answers", {})  # another test may have had some
    monkeypatch.setattr("edgellm.hardware.probe.probe", lambda *_, **__: MACHINE)
    yield made
    made.close()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody sits at the terminal, and a megabyte is large."""
    monkeypatch.setattr(download, "_can_answer", lambda: True)
    monkeypatch.setattr(download, "ASKED_ABOVE", 10**6)


def pull(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["pull", MODEL, *arguments], input=answer)


def stored() -> list[str]:
    return [entry.quant for entry in Library().installed()]


def test_a_plan_asks_with_the_size_before_anything_but_the_header_is_fetched(server: ModelServer) -> None:
    downloads: list[PlannedDownload] = []

    def no(planned: PlannedDownload) -> None:
        downloads.append(planned)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch.model_plan(MODEL, SelectionRequest(), approve=no)

    (planned,) = downloads
    assert (planned.choice.quant, planned.bytes) == ("Q8_0", len(server.files[LARGE]))
    assert [(c.quant, n) for c, n in planned.smaller()] == [("Q4_0", len(server.files[SMALL]))]
    assert max(seen.sent for seen in server.seen) <= 1024**2
    assert stored() == []


def test_what_is_on_this_disk_is_not_asked_about(server: ModelServer) -> None:
    launch.model_plan(MODEL, SelectionRequest())
    launch.model_plan(MODEL, SelectionRequest(), approve=lambda planned: pytest.fail(f"asked about {planned}"))


@pytest.mark.parametrize(
    ("answer", "quant"), [("y\n", "Q8_0"), ("Y\n", "Q8_0"), ("1\n", "Q4_0"), ("maybe\n7\n1\n", "Q4_0")]
)
def test_a_large_download_is_asked_about(server: ModelServer, asked: None, answer: str, quant: str) -> None:
    done = pull(answer=answer)

    assert done.exit_code == 0, done.output
    assert "6.8 MB to download" in done.stderr
    assert "Q4_0, 3.6 MB to download: expected quality" in done.stderr
    assert stored() == [quant]


@pytest.mark.parametrize("answer", ["n\n", "N\n", ""])
def test_no_answer_and_no_fetch_nothing(server: ModelServer, asked: None, answer: str) -> None:
    assert pull(answer=answer).exit_code != 0
    assert stored() == []


def test_yes_and_a_small_download_need_no_answer(server: ModelServer, asked: None) -> None:
    assert pull("--yes").exit_code == 0
    assert stored() == ["Q8_0"]
    assert pull("--max-download", "0.1MB").exit_code == 0, "it is on this disk"


def test_without_a_terminal_the_size_is_announced_first(server: ModelServer) -> None:
    done = pull()

    assert done.exit_code == 0, done.output
    announced = next(line for line in done.stderr.splitlines() if line.startswith("Fetching"))
    assert "Q8_0: 6.8 MB from hf://" in announced
    assert stored() == ["Q8_0"]


def test_a_command_that_logs_gets_the_progress_and_the_size_as_lines(
    server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    with click.Context(cli).scope():
        make_plan(MODEL, LaunchOptions(), tell=lines.append)

    assert any(line.startswith("Fetching") and "Q8_0: 6.8 MB from hf://" in line for line in lines)
    assert any(" of 6.8 MB" in line for line in lines)
    assert capsys.readouterr() == ("", "")


def test_a_limit_chooses_the_best_within_it_or_says_what_would_do(server: ModelServer) -> None:
    with refuses(NothingFits):
        launch.model_plan(MODEL, SelectionRequest(max_download_bytes=10**6))
    assert pull("--max-download", "5MB").exit_code == 0
    assert stored() == ["Q4_0"]


def test_in_python_the_logger_tells_the_size_before_the_file_is_fetched(
    server: ModelServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edgellm.download")
    sent: list[int] = []
    caplog.handler.addFilter(lambda _: sent.append(max(seen.sent for seen in server.seen)) or True)
    with contextlib.suppress(EdgeLLMError):  # it is no whole model
        EdgeLLM.load(MODEL).close()

    (told,) = (record.getMessage() for record in caplog.records if record.name == "edgellm.download")
    assert show_size(len(server.files[LARGE])) in told
    assert sent[0] <= 1024**2
    assert stored() == ["Q8_0"]
