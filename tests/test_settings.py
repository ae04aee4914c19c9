"""What the environment says, and flags that hold while a command runs without touching it."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from support.refusals import check_refusal, refuses

from edgellm import settings
from edgellm.cli._options import launches
from edgellm.cli.main import cli
from edgellm.contract import pip
from edgellm.contract.backend import worker_environment
from edgellm.errors import UsageError
from edgellm.sdk.client import EdgeLLM
from edgellm.settings import Environment


def test_the_environment_is_read_anew_each_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path))
    monkeypatch.setenv("EDGELLM_OFFLINE", "1")
    assert (settings.current().data_dir, settings.current().offline) == (tmp_path / "data", True)

    monkeypatch.setenv("EDGELLM_OFFLINE", "0")
    assert not settings.current().offline


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_home_that_is_a_file_is_refused_where_something_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, below: str
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path / "file" / below))
    for name in ("data_dir", "cache_dir"):
        with refuses(UsageError):
            getattr(settings.current(), name)


def test_a_level_that_is_none_is_refused_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_LOG", "loud")
    assert settings.current().log == "loud"
    with refuses(UsageError):
        _ = settings.current().log_level


@pytest.mark.parametrize(("written", "seconds"), [("", None), ("0", 0.0), ("2", 2.0), ("1.5", 1.5)])
def test_when_a_worker_counts_as_hung(monkeypatch: pytest.MonkeyPatch, written: str, seconds: float | None) -> None:
    monkeypatch.setenv("EDGELLM_HUNG_AFTER", written)
    assert settings.current().hung_after_s == seconds


@pytest.mark.parametrize("written", ["soon", "-1", "nan", "1e9", "0.001"])
def test_a_time_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv("EDGELLM_HUNG_AFTER", written)
    with refuses(UsageError):
        _ = settings.current().hung_after_s


@pytest.mark.parametrize(("written", "n_bytes"), [("", None), ("0", 0), ("64MiB", 64 << 20), ("1GB", 10**9)])
def test_how_much_a_server_may_take(monkeypatch: pytest.MonkeyPatch, written: str, n_bytes: int | None) -> None:
    monkeypatch.setenv("EDGELLM_SERVER_MEMORY", written)
    assert settings.current().server_memory_bytes == n_bytes


@pytest.mark.parametrize("written", ["much", "-1", "31MiB", "512"])
def test_a_size_that_is_none_or_too_small_is_refused(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv("EDGELLM_SERVER_MEMORY", written)
    with refuses(UsageError):
        _ = settings.current().server_memory_bytes


SECRETS = "HF_TOKEN HUGGING_FACE_HUB_TOKEN EDGELLM_API_KEY AWS_SECRET_ACCESS_KEY AWS_ACCESS_KEY_ID PGPASSWORD my_passwd"
HARMLESS = "PATH HTTPS_PROXY TOKENIZERS_PARALLELISM KEYBOARD MONKEY OMP_NUM_THREADS PIP_INDEX_URL EDGELLM_LOG"


def test_what_looks_like_a_secret_reaches_no_process_that_we_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in f"{SECRETS} {HARMLESS}".split():
        monkeypatch.setenv(name, "kept")
    for given in (settings.variables(), worker_environment(None), pip.environment()):
        assert given.keys().isdisjoint(SECRETS.split())
        assert given.keys() >= set(HARMLESS.split())


SETTINGS = {
    "home": Path("/x y"), "plugins": frozenset({"b", "a"}), "offline": True, "models": "", "max_rate": "2MB/s",
    "models_dirs": (Path("/a"), Path("/b c")), "allow_http": True, "log": "INFO", "hung_after": "0",
    "server_memory": "1GB", "log_format": "json", "devices": ("CUDA0", "CUDA1"), "python": "/p/python3",
}  # fmt: skip


@pytest.mark.parametrize("field", sorted({field.name for field in fields(Environment)} - {"api_key"}))
def test_a_process_that_we_start_goes_by_each_setting(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment says; the key is no business of its."""
    for name in settings.NAMES:
        monkeypatch.delenv(name, raising=False)
    unset = getattr(settings.current(), field)
    with settings.override(**{field: SETTINGS[field]}):
        given = settings.variables()
    assert getattr(Environment.of(given), field) == SETTINGS[field] != unset

    for name in settings.NAMES & given.keys():
        monkeypatch.setenv(name, given[name])
    with settings.override(**{field: unset}):
        assert getattr(Environment.of(settings.variables()), field) == unset


def test_a_key_that_is_set_reaches_no_process() -> None:
    with settings.override(api_key="secret"):
        assert "secret" not in settings.variables().values()


def test_a_format_of_lines_that_is_none_is_refused_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_LOG_FORMAT", "xml")
    with refuses(UsageError):
        _ = settings.current().line_format


def test_variables_that_mean_nothing_are_found_with_the_name_that_may_be_meant() -> None:
    values = dict.fromkeys(
        [*settings.NAMES, "EDGELLM_LOG_LEVEL", "EDGELLM_PORTS", "EDGELLM_ZZZ", "EDGELLM_ECHO_X"], "1"
    )

    assert settings.strangers(values | {"HOME": "/"}, ["echo"]) == {
        "EDGELLM_LOG_LEVEL": "EDGELLM_LOG",
        "EDGELLM_PORTS": "EDGELLM_PORT",
        "EDGELLM_ZZZ": "",
    }


def test_every_name_is_explained() -> None:
    explained = {line.split()[0] for line in (settings.__doc__ or "").splitlines() if line.startswith("EDGELLM_")}

    assert explained == settings.NAMES


@click.command()
@launches
def command(**options: object) -> None:
    """What a command and a process that it starts see."""
    now, child = settings.current(), worker_environment(None)
    click.echo(f"{now.offline} {now.max_rate} {[str(folder) for folder in now.models_dirs]}")
    click.echo(" ".join(child[name] for name in ("EDGELLM_OFFLINE", "EDGELLM_MAX_RATE", "EDGELLM_MODELS_DIR")))


def test_flags_hold_while_the_command_runs_and_reach_its_children(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    new = str(tmp_path)
    monkeypatch.setenv("EDGELLM_MODELS_DIR", "/old")
    before = dict(os.environ)
    done = CliRunner().invoke(command, ["--offline", "--max-rate", "2MB/s", "--models-dir", new])

    assert done.output.splitlines() == [f"True 2MB/s ['{new}', '/old']", f"1 2MB/s {new}{os.pathsep}/old"]
    assert dict(os.environ) == before
    assert settings.current() == settings.Environment.of(os.environ)


@pytest.mark.parametrize(
    "written",
    ["EDGELLM_MAX_RATE=fast", "EDGELLM_OFFLINE=maybe", "EDGELLM_ALLOW_HTTP=2", "EDGELLM_LOG=loud",
     "EDGELLM_LOG_FORMAT=xml", "EDGELLM_HUNG_AFTER=soon", "EDGELLM_SERVER_MEMORY=much"],
)  # fmt: skip
def test_a_value_that_means_nothing_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    name, _, value = written.partition("=")
    monkeypatch.setenv(name, value)
    with refuses(UsageError) as refused:
        settings.check(os.environ)
    assert name in refused.value.message

    check_refusal(CliRunner().invoke(cli, ["list"]).exception, UsageError)
    with refuses(UsageError):
        EdgeLLM.load("echo")
    with refuses(UsageError):
        EdgeLLM.auto()
    assert CliRunner().invoke(cli, ["help"]).exit_code == 0


@pytest.mark.parametrize(("written", "on"), [("1", True), ("yes", True), ("ON", True), ("0", False), ("No", False)])
def test_switches(monkeypatch: pytest.MonkeyPatch, written: str, on: bool) -> None:
    monkeypatch.setenv("EDGELLM_OFFLINE", written)
    settings.check(os.environ)
    assert settings.current().offline is on
