"""A helper process never outlives its block."""

import contextlib
import os
import signal
import subprocess
import sys

import psutil
import pytest
from support.refusals import refuses
from support.waiting import PATIENCE_S, wait_until

from edgellm.contract import pip
from edgellm.contract.child import Child, End, ask, ended_with_us
from edgellm.contract.confine import HELPER
from edgellm.contract.own_python import python
from edgellm.errors import UsageError

# Starts a child, says both ids, and will not go at a polite request.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
print(os.getpid(), child.pid, flush=True)
open(sys.argv[1], "w").write(f"{os.getpid()} {child.pid}")
time.sleep(3600)
"""


def test_output_and_status():
    with Child([sys.executable, "-c", "print('out'); raise SystemExit(3)"], env=os.environ) as process:
        assert process.wait(PATIENCE_S)

    assert process.returncode == 3
    assert process.log == "out\n"


@pytest.mark.parametrize("error", [None, pytest.param(KeyboardInterrupt, marks=pytest.mark.slow(3))])
def test_the_whole_group_is_killed(tmp_path, error):
    pid_file = tmp_path / "pids"
    with (
        contextlib.suppress(error or ()),
        Child([sys.executable, "-c", STUBBORN, str(pid_file)], env=os.environ) as process,
    ):
        wait_until(lambda: pid_file.exists() and len(pid_file.read_text().split()) == 2)
        assert not process.wait(0.01)
        if error is not None:
            raise error

    assert process.returncode == -signal.SIGKILL
    wait_until(lambda: not any(psutil.pid_exists(int(pid)) for pid in pid_file.read_text().split()))


LEAVES = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
print(child.pid)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_what_a_helper_leaves_behind_is_killed():
    with Child([sys.executable, "-c", LEAVES]) as process:
        assert process.wait(PATIENCE_S)

    assert process.returncode == 0
    wait_until(lambda: not psutil.pid_exists(int(process.log)))


# Waits for a helper in its main thread and for one in another, as a launch that asks its sources does.
WAITS = """
import os, sys, threading
from edgellm.contract.child import Child, End, ask, ended_with_us

def wait(told):
    with Child([sys.executable, "-c", sys.argv[1], told], env=os.environ) as process:
        process.wait(3600)

with ended_with_us():
    thread = threading.Thread(target=wait, args=(sys.argv[2] + ".other",))
    thread.start()
    try:
        wait(sys.argv[2])
    finally:
        print("unwound", flush=True)
        thread.join()
"""


def pids(*files):
    return [int(pid) for file in files if file.exists() for pid in file.read_text().split()]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow(2))])
def test_a_signal_that_ends_us_ends_the_helpers(tmp_path, number):
    pid_files = (tmp_path / "pids", tmp_path / "pids.other")
    waits = subprocess.Popen(
        [sys.executable, "-c", WAITS, STUBBORN, str(pid_files[0])], stdout=subprocess.PIPE, start_new_session=True
    )
    with waits:
        wait_until(lambda: len(pids(*pid_files)) == 4)
        waits.send_signal(number)
        out, _ = waits.communicate(timeout=PATIENCE_S)

    assert (waits.returncode, out.strip()) == (128 + number, b"unwound")
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids(*pid_files)))


# The signal comes when a helper runs already, and whoever starts it does not have it yet.
STARTS = """
import os, signal, subprocess, sys, threading
from edgellm.contract.child import Child, ended_with_us

real, ended = subprocess.Popen, threading.Event()

def popen(*arguments, **options):
    process = real(*arguments, **options)
    with open(sys.argv[1], "w") as file:
        file.write(str(process.pid))
    os.kill(os.getpid(), signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        ended.wait()
    return process

def wait():
    with Child([sys.executable, "-c", "import time; time.sleep(3600)"], env=os.environ) as process:
        process.wait(3600)

subprocess.Popen = popen
with ended_with_us():
    thread = threading.Thread(target=wait)
    try:
        if sys.argv[2] == "main":
            wait()
        thread.start()
        threading.Event().wait()
    finally:
        print("unwound", flush=True)
        ended.set()
        if thread.ident is not None:
            thread.join()
"""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("thread", ["main", "another"])
def test_a_signal_while_a_helper_starts_ends_it(tmp_path, thread):
    pid_file = tmp_path / "pid"
    with subprocess.Popen(
        [sys.executable, "-c", STARTS, str(pid_file), thread], stdout=subprocess.PIPE, start_new_session=True
    ) as starts:
        try:
            out, _ = starts.communicate(timeout=PATIENCE_S)
        finally:
            starts.kill()

    assert (starts.returncode, out.strip()) == (128 + signal.SIGTERM, b"unwound")
    wait_until(lambda: not psutil.pid_exists(int(pid_file.read_text())))


# The block is over when another thread has the helper that it was starting.
STARTS_LATE = (
    STARTS[: STARTS.index("with ended_with_us():")]
    + """
thread = threading.Thread(target=wait, daemon=True)
try:
    with ended_with_us():
        thread.start()
        threading.Event().wait()
except SystemExit:
    ended.set()
    thread.join()
"""
)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_a_helper_that_another_thread_was_starting_ends_behind_the_block(tmp_path):
    pid_file = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", STARTS_LATE, str(pid_file)], start_new_session=True) as starts:
        try:
            assert starts.wait(PATIENCE_S) == 0
        finally:
            starts.kill()
            wait_until(pid_file.exists)
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid_file.read_text()), signal.SIGKILL)


# The signal comes while a helper has its second to leave by itself.
LEAVING = """
import os, signal, sys
from edgellm.contract.child import Child, ended_with_us

class Signalled(Child):
    def wait(self, timeout_s):
        os.kill(os.getpid(), signal.SIGTERM)
        return super().wait(timeout_s)

try:
    with ended_with_us(), Signalled([sys.executable, "-c", "import time; time.sleep(3600)"], env=os.environ) as process:
        pass
except SystemExit as error:
    print(error.code, process.returncode is not None, process._file.closed, flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_a_helper_that_is_leaving_when_a_signal_comes_is_cleaned_up():
    leaving = subprocess.run([sys.executable, "-c", LEAVING], capture_output=True, timeout=PATIENCE_S, check=False)

    assert leaving.stdout.split() == [str(128 + signal.SIGTERM).encode(), b"True", b"True"], leaving.stderr


# Python prints and drops what is raised in a `__del__`.
DROPS = """
import os, signal
from edgellm.contract.child import ended_with_us

class Dropped:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass

with ended_with_us() as ending:
    with ended_with_us():
        pass
    Dropped()
    print(ending.number, flush=True)
print("went on", flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_a_signal_whose_exception_python_drops_ends_us_all_the_same():
    dropping = subprocess.run([sys.executable, "-c", DROPS], capture_output=True, timeout=PATIENCE_S, check=False)

    assert (dropping.returncode, dropping.stdout.strip()) == (128 + signal.SIGTERM, b"15")


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_what_nohup_ignores_stays_ignored():
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with ended_with_us():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_lines_and_the_end():
    code = "import sys; print(sys.stdin.readline(), end=''); print('b'); print('why\\n', file=sys.stderr); sys.exit(3)"
    with Child([sys.executable, "-c", code], question=b"a") as process:
        assert list(process.lines()) == [b"a\n", b"b\n"]

    assert process.end == End(3, stderr="why\n\n")
    assert (process.end.signal, process.end.last_words) == ("", "why")


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize(("number", "name"), [(signal.SIGILL, "SIGILL"), (40, "signal 40")])
def test_a_signal_is_named(number, name):
    with Child([sys.executable, "-c", f"import os; os.kill(os.getpid(), {number})"], question=b"") as process:
        assert list(process.lines()) == []

    assert (process.end.signal, process.end.timed_out) == (name, False)


def test_a_time_limit_ends_it():
    with Child([sys.executable, "-c", "import time; time.sleep(3600)"], question=b"") as process:
        assert list(process.lines(timeout_s=0.1)) == []

    assert process.end.timed_out


ECHOES = """
from edgellm.contract.parent import connect
question, tell = connect()
print("native code prints")
tell([question.decode(), 1])
"""


def test_a_module_is_asked_one_line(tmp_path, monkeypatch):
    """Longer than a pipe holds; what the library prints goes beside."""
    (tmp_path / "echoes.py").write_text(ECHOES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    answer, end = ask("echoes", question=b"x" * 300_000, timeout_s=PATIENCE_S)

    assert answer == f'["{"x" * 300_000}",1]'
    assert end == End(0, stderr="native code prints\n")


# Starts a child that is connected, says its id, and is killed: nothing unwinds.
ORPHAN = """
import os, signal, sys
from edgellm.contract.child import Child

with Child([sys.executable, "-c", sys.argv[1]], question=b"") as process:
    print(next(process.lines()).decode(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
WAITS_FOR_EVER = """
import os, time
from edgellm.contract.parent import connect
_, tell = connect()
tell(os.getpid())
time.sleep(3600)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_a_connected_child_leaves_when_its_parent_is_killed():
    command = [sys.executable, "-c", ORPHAN, WAITS_FOR_EVER]
    killed = subprocess.run(command, stdout=subprocess.PIPE, check=False)

    assert killed.returncode == -signal.SIGKILL
    wait_until(lambda: not psutil.pid_exists(int(killed.stdout)))


@pytest.fixture
def own_python(monkeypatch):
    monkeypatch.delenv("EDGELLM_PYTHON", raising=False)
    monkeypatch.delenv(HELPER, raising=False)


@pytest.mark.usefixtures("own_python")
@pytest.mark.parametrize("name", ["python", "python3.11", "Python", "pypy3", ".python3-wrapped", "pythonw.exe"])
def test_helpers_run_in_the_python_that_runs(monkeypatch, name):
    monkeypatch.setattr(sys, "executable", f"/x/{name}")
    assert python("m", "a") == [f"/x/{name}", "-P", "-m", "m", "a"]


@pytest.mark.usefixtures("own_python")
@pytest.mark.parametrize(
    ("program", "frozen"),
    [("/x/python3", True), ("/x/app", False), ("/x/uwsgi_python3", False), ("", False), (None, False)],
)
def test_what_is_no_python_is_not_started_in_its_place(monkeypatch, program, frozen):
    monkeypatch.setattr(sys, "executable", program)
    if frozen:
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    with refuses(UsageError):
        python("m")
    with refuses(UsageError):
        pip.command(["list"])
    monkeypatch.setenv("EDGELLM_PYTHON", "/bin/sh")
    assert python("m") == ["/bin/sh", "-P", "-m", "m"]


@pytest.mark.usefixtures("own_python")
def test_a_named_python_that_is_not_there_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGELLM_PYTHON", str(tmp_path / "none"))
    with refuses(UsageError):
        python("m")


# Whatever it is asked to run, it is itself, and tries to start a helper: a frozen app that loads its model.
APP = """#!{python}
import os, sys
from edgellm.contract import child
open({log!r}, "a").write("started\\n")
try:
    child.ask("edgellm.text.template_jobs", timeout_s=60)
except Exception as error:
    open({log!r}, "a").write(type(error).__name__)
"""


@pytest.mark.skipif(os.name != "posix", reason="a script as a program")
def test_a_program_that_runs_in_place_of_a_helper_starts_none(monkeypatch, tmp_path):
    app, log = tmp_path / "python-app", tmp_path / "log"
    app.write_text(APP.format(python=sys.executable, log=str(log)))
    app.chmod(0o755)
    monkeypatch.setenv("EDGELLM_PYTHON", str(app))
    ask("edgellm.text.template_jobs", timeout_s=PATIENCE_S)
    assert log.read_text() == "started\nUsageError"


STARTS_ITS_OWN = """
import json, os
from edgellm.contract.child import ask
from edgellm.contract.parent import connect
_, tell = connect()
tell([ask("echoes", question=b"x", timeout_s=60)[0], dict(os.environ).get("_EDGELLM_HELPER")])
"""


def test_a_helper_has_helpers_and_leaves_no_mark(tmp_path, monkeypatch):
    (tmp_path / "echoes.py").write_text(ECHOES)
    (tmp_path / "starts.py").write_text(STARTS_ITS_OWN)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    answer, _ = ask("starts", timeout_s=PATIENCE_S)
    assert answer == '["[\\"x\\",1]",null]'
