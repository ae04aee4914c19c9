"""What pip is run under. In its place is a program that tells, or takes, what it may have."""

from __future__ import annotations

import json
import subprocess
import sys

import psutil
import pytest
from support.waiting import wait_until

from edgellm.contract import pip
from edgellm.contract.child import Child

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits of a POSIX system")


@pytest.fixture
def instead(tmp_path, monkeypatch):
    """Writes what is run as pip; returns the environment for it."""

    def write(program: str) -> dict[str, str]:
        (tmp_path / "pip").mkdir()
        (tmp_path / "pip" / "__init__.py").touch()
        (tmp_path / "pip" / "__main__.py").write_text(program)
        return pip.environment() | {"PYTHONPATH": str(tmp_path)}

    return write


TELL = """
import json, resource, sys
limits = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0] for name in ("FSIZE", "DATA", "CORE")}
print(json.dumps({"said": sys.argv[1:], "stdin": sys.stdin.read(), **limits}))
"""


def test_it_has_its_arguments_its_limits_and_no_input(instead):
    end = pip.run(pip.command(["download", "x"], most_file_bytes=12345), instead(TELL))
    told = json.loads(end.last_words)

    assert (told["said"][-2:], told["stdin"], told["FSIZE"], told["CORE"]) == (["download", "x"], "", 12345, 0)
    assert told["DATA"] == pip.MEMORY_BYTES or sys.platform != "linux"


def test_a_nearer_limit_stays_and_is_told_as_pip_tells_it(instead, tmp_path):
    writes = f"open({str(tmp_path / 'x')!r}, 'wb').write(bytes(10000))"
    command = ["sh", "-c", 'ulimit -f 8; exec "$@"', "sh", *pip.command([], most_file_bytes=9_000_000)]
    end = pip.run(command, instead(writes))

    assert end.last_words == "OSError: [Errno 27] File too large"


def test_a_file_that_reaches_its_limit_ends_it(instead, tmp_path):
    writes = f"open({str(tmp_path / 'x')!r}, 'wb').write(bytes(10000))"
    end = pip.run(pip.command([], most_file_bytes=1000), instead(writes))

    assert (end.returncode, (tmp_path / "x").stat().st_size) == (pip.FILE_LIMIT_STATUS, 1000)


STARTS = """
import subprocess, sys
print(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE).pid, flush=True)
while True:
    pass
"""


def test_what_it_started_ends_with_it(instead):
    # Held by nothing but its end of the pipe, as where this process is killed.
    started = subprocess.Popen(
        pip.command([]), env=instead(STARTS), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    with started:
        below = psutil.Process(int(started.stdout.readline()))
        started.stdin.close()
        wait_until(lambda: not below.is_running() or below.status() == psutil.STATUS_ZOMBIE)

    assert started.returncode == -9


def test_a_child_that_is_not_held_has_no_input():
    with Child([sys.executable, "-c", "import sys; print(repr(sys.stdin.read()))"]) as child:
        wait_until(lambda: child.wait(0.1))
    assert child.end.stderr == "''\n"
