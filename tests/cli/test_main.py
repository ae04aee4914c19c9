"""The front door: lazy commands, and errors that leave with the exit code of their class."""

from __future__ import annotations

import errno
import gc
import itertools
import os
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from support import fake_plugins

from edgellm import errors
from edgellm.builtin.commands import COMMANDS
from edgellm.cli import collector, own_output
from edgellm.cli import main as front
from edgellm.cli.main import cli, main
from edgellm.contract.manager import Plugins
from edgellm.errors import BackendError, EdgeLLMError, StoreUnwritable, UsageError

FLEET = str(Path(__file__).parents[2] / "docs" / "examples" / "fleet.toml")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch):
    """Makes `edgellm quants` raise what the test wants."""

    def arrange(error: BaseException) -> None:
        @click.command()
        def command() -> None:
            raise error

        monkeypatch.setattr(front.LazyGroup, "get_command", lambda self, ctx, name: command)

    return arrange


def status(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return int(caught.value.code or 0)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_short_help_is_the_command_s_own(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.get_short_help_str(200).rstrip(".") == COMMANDS[name].rstrip(".")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_refuses_an_unknown_flag(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(name, "--no-such-flag") == 2
    assert "--no-such-flag" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
@pytest.mark.parametrize(
    "arguments", [["--version"], ["list"], ["list", "--json"], ["help"], ["plan", "--fleet", FLEET, "--json"]]
)
def test_output_that_cannot_be_written_is_an_error_and_no_traceback(arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "edgellm", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    assert done.returncode == StoreUnwritable.exit_code
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize(
    "closed", [*(pytest.param(one, marks=pytest.mark.slow(1)) for one in ("<&-", "<&- >&-")), ">&-", "<&- >&- 2>&-"]
)
def test_closed_streams_are_no_output(closed: str) -> None:
    command = f"{shlex.quote(sys.executable)} -m edgellm list {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_a_worker_runs_without_the_streams_that_its_parent_lacks() -> None:
    command = f"{shlex.quote(sys.executable)} -m edgellm run echo hi <&- 2>&-"
    done = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, text=True, check=False)

    assert done.returncode == 0
    assert "hi" in done.stdout


def test_a_program_without_standard_error_embeds_a_model() -> None:
    code = "import edgellm; print(edgellm.EdgeLLM.load('echo').chat('hi').text)"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} <&- 2>&-"
    done = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, text=True, check=False)

    assert done.returncode == 0
    assert "hi" in done.stdout


def test_a_program_that_may_not_be_started_is_named(failing, capsys: pytest.CaptureFixture[str]) -> None:
    failing(PermissionError(13, "Permission denied", "/opt/python"))
    assert status("quants") == 1
    assert "/opt/python: Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.EMFILE, "ulimit -n"), (errno.EROFS, "read-only"), (errno.ENOSPC, "room"), (errno.EACCES, "permissions")],
)
def test_what_the_system_refuses_is_told_with_its_remedy(
    number: int, remedy: str, failing, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(OSError(number, os.strerror(number), "/opt/x"))
    assert status("quants") == {errno.EROFS: 5, errno.ENOSPC: 5, errno.EMFILE: 2}.get(number, 1)
    assert remedy in " ".join(capsys.readouterr().err.split())


def test_too_many_open_files_are_no_fault_of_the_output(failing, capsys: pytest.CaptureFixture[str]) -> None:
    failing(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
    assert status("quants") == 2
    said = capsys.readouterr().err
    assert "too many open files" in said
    assert "output" not in said


def test_a_reader_that_leaves_is_no_error_to_tell() -> None:
    command = f"{shlex.quote(sys.executable)} -m edgellm quants --json | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)

    assert done.returncode in (0, 141)  # it may all have fitted into the pipe
    assert done.stderr == ""


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("no-such-command") == 2
    assert "no-such-command" in capsys.readouterr().err


def test_a_port_that_is_no_number_is_told_in_plain_words() -> None:
    refused = CliRunner().invoke(cli, ["serve", "--port", "0x"])
    assert refused.exit_code == 2
    assert "'0x' is not a valid whole number" in refused.output


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("chat", "run"), ("remove", "rm"), ("download", "pull"), ("ls", "list"), ("serv", "serve"), ("quant", "quants")],
)
def test_an_unknown_command_is_answered_with_the_one_that_is_meant(
    typed: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(typed, "qwen3-4b") == 2
    assert f"did you mean {meant}" in capsys.readouterr().err


@pytest.mark.parametrize(("typed", "way"), [("ps", "edgellm list"), ("stop", "Ctrl-C"), ("Version", "--version")])
def test_what_is_no_command_of_its_own_is_told_how_it_is_done(
    typed: str, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(typed) == 2
    assert way in capsys.readouterr().err
    assert not set(front.OTHER_WAYS) & {*COMMANDS, *front.OTHER_WORDS}


def test_every_other_word_leads_to_a_command_that_is_there() -> None:
    assert set(front.OTHER_WORDS.values()) <= set(COMMANDS)
    assert not set(front.OTHER_WORDS) & set(COMMANDS)


def test_help_is_a_command_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("help", "quants") == 0
    of_command = capsys.readouterr().out
    assert status("quants", "--help") == 0
    assert capsys.readouterr().out == of_command
    assert status("help") == 0
    assert "auto-select" in capsys.readouterr().out
    assert status("help", "no-such-command") == 2


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_help_ends_with_examples_that_can_be_typed(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    _, _, examples = (command.epilog or "").partition("Examples:\n")
    lines = [shlex.split(line.removeprefix('  eval "$(').removesuffix(')"')) for line in examples.splitlines()]
    assert lines, "no example"
    for words in lines:
        start = words.index("edgellm")
        arguments = list(itertools.takewhile(lambda word: word not in ("<", ">", "|"), words[start + 1 :]))
        assert arguments[0] == name
        command.make_context(name, arguments[1:]).close()  # raises where a flag is not there


def test_the_help_names_tasks_caches_and_installed_backends(capsys: pytest.CaptureFixture[str]) -> None:
    from edgellm.contract.manager import plugins

    assert status("auto-select", "--help") == 0
    output = "".join(capsys.readouterr().out.split())
    assert "--task[chat|code|agent|embed]" in output
    assert "--kv[auto|f16|q8_0|q4_0]" in output
    assert f"--backend[{'|'.join(plugins().backends())}]" in output


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("-h") == 0
    output = capsys.readouterr().out
    assert all(name in output and text in " ".join(output.split()) for name, text in COMMANDS.items())
    assert status("--version") == 0


@pytest.mark.parametrize(
    "error",
    [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, EdgeLLMError)],
    ids=lambda error: error.__name__,
)
def test_an_error_leaves_with_its_code_its_text_and_its_hint(
    failing, error: type[EdgeLLMError], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(error("what failed: 3 of 4", hint="try `edgellm doctor`"))

    assert status("quants") == error.exit_code
    assert capsys.readouterr().err == "Error: what failed: 3 of 4\n  try `edgellm doctor`\n"


COMMANDS_OF_A_PLUGIN = """
import click
from edgellm.contract.command import LazyCommand
from edgellm.contract.hookspecs import hookimpl
from edgellm.errors import UsageError

@click.command()
def breaks():
    raise KeyError("x")

@click.command()
def refuses():
    raise UsageError("no such thing")

class Own(BaseException): ...

@click.command()
def surprises():
    raise Own("x")

@click.command("says")
@click.option("--json", is_flag=True)
def says(json):
    print("on standard output")

@click.command()
def leaves():
    raise SystemExit(3)

@hookimpl
def register_commands(register):
    register(breaks)
    register(surprises)
    register(says)
    register(refuses)
    register(leaves)
    register(LazyCommand("gone", "It is gone.", "fake_no_such_module"))
    register(LazyCommand("other", "It is no command.", "json", "dumps"))
"""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plugins:
    monkeypatch.syspath_prepend(tmp_path)
    fake_plugins.install(tmp_path, "mine", COMMANDS_OF_A_PLUGIN, module="fake_commands")
    monkeypatch.delitem(sys.modules, "fake_commands", raising=False)
    plugins = Plugins(frozenset({"mine"}))
    monkeypatch.setattr("edgellm.contract.manager.plugins", lambda: plugins)
    return plugins


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("breaks", "KeyError: 'x' ({folder}/fake_commands.py, line 9)"),
        ("surprises", "Own: x ({folder}/fake_commands.py, line 19)"),
        ("gone", "ModuleNotFoundError: No module named 'fake_no_such_module'"),
        ("other", "TypeError: json.dumps is <function dum"),
    ],
)
def test_a_command_of_a_plugin_that_breaks_is_told_with_the_plugin(
    host: Plugins, tmp_path: Path, name: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(name) == BackendError.exit_code
    error = capsys.readouterr().err
    assert error.startswith(f"Error: command {name} of plugin mine (edgellm-mine 1.0) failed: ")
    assert told.format(folder=tmp_path) in error
    assert "Traceback" not in error
    (row,) = (row for row in host.rows() if row.name == "mine")
    assert row.error.startswith(f"command {name}: {told.format(folder=tmp_path)}")


def test_the_traceback_of_a_plugins_command_is_there_for_its_author(
    host: Plugins, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGELLM_LOG", "DEBUG")

    assert status("breaks") == BackendError.exit_code
    assert "Traceback (most recent call last):" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "code"), [("refuses", UsageError.exit_code), ("leaves", 3)])
def test_what_a_command_of_a_plugin_says_on_purpose_passes(host: Plugins, name: str, code: int) -> None:
    assert status(name) == code
    assert host.owner("register_commands", name).error == ""


def test_what_a_command_of_a_plugin_prints_is_its_output(host: Plugins, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("says", "--json") == 0
    assert capsys.readouterr().out == "on standard output\n"


@pytest.mark.parametrize(
    ("arguments", "is_one"), [("list --json", True), ("run m -- --json", False), ("list --json -h", False)]
)
def test_which_command_lines_want_one_object(arguments: str, is_one: bool) -> None:
    assert own_output.is_one_object(arguments.split()) is is_one


def test_a_mistake_of_ours_is_a_traceback(failing) -> None:
    failing(KeyError("x"))
    with pytest.raises(KeyError):
        main(["quants"])


def test_an_interrupt_leaves_with_130(failing) -> None:
    failing(KeyboardInterrupt())
    assert status("quants") == 130


def test_an_interrupt_while_the_program_is_imported_leaves_with_130() -> None:
    code = """
import sys
class Interrupted:
    def find_spec(name, path=None, target=None):
        if name == "click":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted)
from edgellm.cli.start import main
main()
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (process.returncode, process.stdout, process.stderr) == (130, "", "Aborted.\n")


def test_a_reader_that_went_away_is_no_traceback(tmp_path: Path) -> None:
    code = "import sys\nfrom edgellm.cli.main import main\nmain(['plugins', '--json'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    stderr = process.stderr.read()
    process.stderr.close()

    assert process.wait() == 141  # as of what SIGPIPE ends
    assert stderr == ""


def test_garbage_is_collected_as_usual_once_a_model_is_held() -> None:
    with pytest.raises(SystemExit):
        main(["run", "echo", "hi"])

    assert gc.get_threshold() == collector.USUAL


def test_a_name_that_a_shell_filled_in_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("show", "a", "b\x1b]0;title\x07.gguf") == 2
    assert "\x1b" not in capsys.readouterr().err
