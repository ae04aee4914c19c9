"""What the environment says wrongly is told before a command begins, and in the form that is asked for."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from support.closed_folder import run_before
from support.serving import serving
from support.waiting import wait_until

from edgellm.errors import UsageError

EDGELLM = (sys.executable, "-m", "edgellm")

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_home_that_cannot_be_entered_is_refused_by_name(tmp_path: Path, below: str) -> None:
    home = tmp_path / below
    done = run_before(tmp_path, *EDGELLM, "models", EDGELLM_HOME=str(home))

    assert done.returncode == UsageError.exit_code
    assert f"EDGELLM_HOME={home} cannot be entered by this user (uid {os.getuid()})" in done.stderr
    assert done.stdout == ""


def test_a_folder_of_settings_that_cannot_be_entered_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "edgellm").mkdir()
    done = run_before(
        tmp_path / "edgellm", *EDGELLM, "models", EDGELLM_HOME="", XDG_CONFIG_HOME=str(tmp_path), HOME=str(tmp_path)
    )

    assert done.returncode == UsageError.exit_code
    assert f"{tmp_path / 'edgellm'} cannot be entered" in done.stderr


def test_doctor_tells_a_home_that_cannot_be_entered_once_and_examines_the_rest(tmp_path: Path) -> None:
    done = run_before(tmp_path, *EDGELLM, "doctor", "--json", EDGELLM_HOME=str(tmp_path))
    text = run_before(tmp_path, *EDGELLM, "doctor", EDGELLM_HOME=str(tmp_path))

    assert (done.returncode, text.returncode) == (0, 0), done.stderr + text.stderr
    report = json.loads(done.stdout)
    assert [row["text"] for row in report["findings"] if "cannot be entered" in row["text"]] == [
        f"the environment: EDGELLM_HOME={tmp_path} cannot be entered by this user (uid {os.getuid()})"
    ]
    assert report["machine"]
    assert not [row for row in report["plugins"] if row["status"] == "error"], "no plugin's fault"
    assert "cannot be entered" in text.stdout


@pytest.mark.parametrize("way", ["option", "variable"])
def test_an_environment_that_is_wrong_is_a_line_of_the_log_of_json(tmp_path: Path, way: str) -> None:
    arguments, variables = ((), {"EDGELLM_LOG_FORMAT": "json"}) if way == "variable" else (("--log-format", "json"), {})
    done = run_before(tmp_path, *EDGELLM, "serve", "echo", *arguments, EDGELLM_HOME=str(tmp_path), **variables)

    (line,) = map(json.loads, done.stderr.splitlines())
    assert done.returncode == UsageError.exit_code
    assert (line["level"], line["code"]) == ("error", "usage_error")


def test_a_form_of_lines_that_the_environment_asks_for_is_that_of_all_that_is_said() -> None:
    with serving("echo", "--port", "0", EDGELLM_LOG_FORMAT="json") as command:
        wait_until(lambda: any("Ready after" in line for line in command.err))

        assert {line["logger"] for line in map(json.loads, command.err)} >= {"edgellm.serve"}
        assert command.out == []


def test_an_option_that_is_wrong_is_told_in_the_form_that_the_environment_asks_for() -> None:
    with serving("echo", "--flag", EDGELLM_LOG_FORMAT="json") as command:
        assert command.status() == UsageError.exit_code
        wait_until(lambda: bool(command.err))
        assert json.loads(command.err[0])["code"] == "usage_error"
