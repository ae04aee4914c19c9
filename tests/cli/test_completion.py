"""`edgellm completion`: what a shell is offered, and that bash itself completes with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from edgellm.builtin.commands import COMMANDS
from edgellm.cli.completion import SHELLS
from edgellm.cli.main import cli
from edgellm.contract.manager import plugins
from edgellm.hardware import profiles


def offered(*words: str, incomplete: str = "") -> set[str]:
    completions = ShellComplete(cli, {}, "edgellm", "_EDGELLM_COMPLETE").get_completions(list(words), incomplete)
    return {item.value for item in completions if item.type == "plain"}


def test_commands_models_profiles_tasks_backends_and_quantizations_are_offered() -> None:
    assert set(COMMANDS) <= offered()
    assert {"qwen3-4b", "smollm2-135m-instruct"} <= offered("run")
    assert offered("run", incomplete="qwen3-4") == {"qwen3-4b", "qwen3-4b-instruct-2507", "qwen3-4b-thinking-2507"}
    assert "qwen3-4b:Q4_K_M" in offered("estimate", incomplete="qwen3-4b:Q4")
    assert offered("auto-select", "--task") == {"chat", "code", "agent", "embed"}
    assert offered("auto-select", "--profile") == set(profiles.names())
    assert offered("serve", "--backend") == set(plugins().backends())
    assert offered("quants", incomplete="q5_k") == {"Q5_K_M", "Q5_K_S"}
    assert "--max-download" in offered("pull", incomplete="--max")
    assert offered("rm") == set()


def test_a_path_is_completed_as_a_file() -> None:
    completions = ShellComplete(cli, {}, "edgellm", "_EDGELLM_COMPLETE").get_completions(["run"], "./mod")
    assert [(item.value, item.type) for item in completions] == [("./mod", "file")]


def test_a_broken_file_of_rows_offers_nothing_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_MODELS", "/no/such/file.toml")
    assert offered("run") == set()


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_its_script(shell: str) -> None:
    done = CliRunner().invoke(cli, ["completion", shell])
    assert done.exit_code == 0, done.output
    assert "_EDGELLM_COMPLETE" in done.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=done.stdout, text=True, check=True)


def test_another_shell_is_refused() -> None:
    assert CliRunner().invoke(cli, ["completion", "cmd"]).exit_code == click.UsageError.exit_code


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_a_model_and_its_quantization(tmp_path: Path) -> None:
    command = tmp_path / "edgellm"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m edgellm "$@"\n')
    command.chmod(0o755)
    script = """
        eval "$(edgellm completion bash)"
        COMP_WORDS=(edgellm run smollm2-135m-instruct:Q4) COMP_CWORD=2 COMPREPLY=()
        _edgellm_completion edgellm
        printf '%s\\n' "${COMPREPLY[@]}"
        case $COMP_WORDBREAKS in *:*) echo "a colon breaks words";; esac
    """
    env = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=True)

    lines = done.stdout.splitlines()
    assert "smollm2-135m-instruct:Q4_1" in lines, done.stderr
    assert all(line.startswith("smollm2-135m-instruct:Q4") for line in lines)
