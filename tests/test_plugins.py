"""A broken plugin is a row with the reason, whatever way it is broken; the others work."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import fake_plugins
from support.refusals import refuses
from support.waiting import PATIENCE_S, wait_until

from edgellm.app import context
from edgellm.app.convert import convert
from edgellm.app.resolve import resolve
from edgellm.builtin.commands import COMMANDS
from edgellm.contract import answers, hookspecs, installed, left_threads, manager, slow
from edgellm.contract.asked_tuner import AskedTuner
from edgellm.contract.child import ended_with_us
from edgellm.contract.converter import Conversion
from edgellm.contract.manager import PluginRow, Plugins
from edgellm.errors import BackendError, BackendUnavailable, SourceError, UnknownModel, UsageError
from edgellm.estimate import quants
from edgellm.selection.rule_result import PluginRule
from edgellm.store.sources import asking, registry
from edgellm.types.machine import Cpu, Machine, Memory
from edgellm.types.model import Artifact


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """On sys.path; what is imported from it is forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("fake_"):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def this_process_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of a program pools are told that no work comes, after which none in this process would take any."""
    monkeypatch.setattr(left_threads, "_end_idle_pools", lambda: None)


def row(plugins: Plugins, name: str) -> PluginRow:
    return next(row for row in plugins.rows() if row.name == name)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (fake_plugins.RAISES, "RuntimeError: its library is gone"),
        (fake_plugins.EXITS, "SystemExit: 3"),
        (fake_plugins.TYPO, "unknown hook 'register_backend', did you mean register_backends?"),
        (
            fake_plugins.WRONG_ARGUMENT,
            "TypeError: unknown argument 'registry' of register_backends, did you mean register?",
        ),
        (fake_plugins.WRONG_ARGUMENT.replace("registry", "x"), "unknown argument 'x' of register_backends, there are:"),
        ("raise RuntimeError('one\\n\\n  two')", "RuntimeError: one two ("),
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("def broken(:", "fake_bad.py, line 1)"),
        ("import os\n\nthing = no_such_thing\n", "NameError: name 'no_such_thing' is not defined ("),
    ],
)
def test_a_plugin_that_does_not_load_is_a_row(folder: Path, source: str, reason: str) -> None:
    fake_plugins.install(folder, "bad", source)
    fake_plugins.install(folder, "good", fake_plugins.COMMAND)
    plugins = Plugins()

    assert reason in row(plugins, "bad").error
    assert row(plugins, "bad").distribution == "edgellm-bad 1.0"
    assert row(plugins, "good").error == ""
    assert "echo" in plugins.backends()


NAMED_BADLY = fake_plugins.TAKES_ECHO.replace("EchoBackend()", "type('My', (EchoBackend,), {'name': 'My Echo!'})()")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (fake_plugins.BAD_BACKEND, "lacks formats, quants, check, supports, footprint, open, describe"),
        (fake_plugins.TAKES_ECHO, "backend name 'echo' is already taken by plugin echo (built in)"),
        (NAMED_BADLY, "letters, digits, - and _ are expected"),
    ],
)
def test_a_bad_backend_is_refused_and_told(folder: Path, source: str, reason: str) -> None:
    fake_plugins.install(folder, "zbad", source)
    plugins = Plugins()

    assert "half" not in plugins.backends()
    assert plugins.backends()["echo"].describe() == {"library": "none"}
    assert row(plugins, "zbad").error.startswith("register_backends: ")
    assert reason in row(plugins, "zbad").error


WRONG_THINGS = """
from dataclasses import replace
import click
from edgellm.builtin.echo import EchoBackend
from edgellm.contract.command import LazyCommand
from edgellm.contract.hookspecs import hookimpl
from edgellm.types.model import ModelCard

CARD = ModelCard("mine", "llama", "chat", "mit", 8192, 10**9, 10**9, None)

class Numbered(EchoBackend):
    name, formats = "numbered", frozenset({{7}})

class Deaf(EchoBackend):
    name = "deaf"
    def open(self): ...

class OneFormat(EchoBackend):
    name, formats = "one", "echo"

class Mute(click.Command):
    def get_short_help_str(self, limit=45): return None if self.name == "a" else {{}}["no help"]

class Bucket:
    scheme = "s3"
    def reachable(self, timeout_s): return ""
    def needs(self, folder, n_bytes): return []
    def fetch(self, uri, folder, progress): return []
    def discard(self, paths): ...

class Slow:
    name, methods = "slow", frozenset({{"lora"}})
    def missing(self): ...
    def supports(self, base): ...
    def footprint(self, base, settings): ...
    def rate(self, base, settings, machine): ...
    def open(self, base, settings): ...

class OneMethod(Slow):
    name, methods = "one", "lora"
    def footprint(self, base, settings, size): ...

@hookimpl
def {hook}(register):
    register({things})
"""


@pytest.mark.parametrize(
    ("hook", "things", "reason"),
    [
        ("register_backends", "Deaf()", "open: it takes (), but is called with (plan)"),
        ("register_backends", "Deaf", "it is a class; register an object: Deaf()"),
        ("register_backends", "OneFormat()", "formats of backend 'one' is 'echo', a set of names is expected"),
        ("register_sources", '"s3", Bucket()', "reachable: it takes (timeout_s), but is called with (timeout_s, uri)"),
        ("register_sources", '"s3", Bucket()', "but is called with (uri, folder, n_bytes=, progress=)"),
        ("register_sources", '"S3", Bucket()', "source scheme 'S3' is malformed"),
        ("register_sources", '"s3"', "register(scheme, source) was called without source"),
        ("register_sources", "Bucket()", "register(scheme, source) was called without scheme"),
        ("register_sources", "", "register(scheme, source) was called without scheme and source"),
        ("register_sources", '"s3", Bucket(), 7', "register(scheme, source) was given 3 things"),
        ("register_sources", 'scheme="s3", source=Bucket()', "no arguments by name, and was given scheme, source"),
        ("register_converters", '"gguf", print', "(from_format, to_format, converter) was called without to_format"),
        ("register_rules", "", "register(rule) was called without rule"),
        ("register_rules", "Deaf", "it is a class; register an object: Deaf()"),
        ("register_quants", "Deaf", "it is a class; register an object: Deaf()"),
        ("register_converters", '"a", "b", 7', "7 is not a converter: 7 cannot be called"),
        ("register_converters", '"a", "b", lambda it: it', "it takes (it), but is called with (conversion, progress)"),
        ("register_rules", "7", "7 is not a rule: 7 cannot be called"),
        ("register_rules", "Deaf()", "cannot be called"),
        ("register_commands", '"hello"', "'hello' is not a click.Command"),
        ("register_commands", "LazyCommand('a b', '', 'json')", "the name of a command is 'a b', letters, digits"),
        ("register_commands", "LazyCommand(None, '', 'json')", "the name of a command is None, letters, digits"),
        ("register_commands", "click.Command('a', help=7)", "help of command 'a' is 7, text is expected"),
        ("register_commands", "click.Command('a', short_help=b'x')", "short_help of command 'a' is b'x', text"),
        ("register_commands", "Mute('a')", "the short help of command 'a' is None, text is expected"),
        ("register_commands", "Mute('b')", "KeyError: 'no help'"),
        ("register_models", '{"id": "mine"}', "is not a ModelCard"),
        (
            "register_tuners",
            "Slow()",
            "footprint: it takes (base, settings), but is called with (base, settings, size)",
        ),
        ("register_tuners", "OneMethod()", "methods of tuner 'one' is 'lora', a set of names is expected"),
        (
            "register_backends",
            "Numbered()",
            "formats of backend 'numbered' is frozenset({7}), a set of names is expected",
        ),
        ("register_converters", '"gguf", "UPPER", print', "to_format is 'UPPER', lower case is expected"),
        ("register_converters", '"gguf", 7, print', "the name of a format is 7, letters, digits, - and _ are expected"),
        ("register_models", "replace(CARD, shape={})", "catalog row 'mine': shape is {}, Shape or None is expected"),
        ("register_models", "replace(CARD, files=(7,))", "catalog row 'mine': files[0] is 7, ModelFile is expected"),
    ],
)
def test_what_is_registered_is_checked_at_once(folder: Path, hook: str, things: str, reason: str) -> None:
    fake_plugins.install(folder, "wrong", WRONG_THINGS.format(hook=hook, things=things))
    plugins = Plugins()
    registered: list[object] = []

    def register_source(scheme: str, source: object) -> None:
        registered.append(source)

    def register(*things: object) -> None:
        registered.extend(things)

    plugins.call(hook, register=register_source if hook == "register_sources" else register)

    assert reason in row(plugins, "wrong").error
    line = WRONG_THINGS.splitlines().index("    register({things})") + 1
    assert reason.startswith("KeyError") or row(plugins, "wrong").error.endswith(
        f"({folder}/fake_wrong.py, line {line})"
    )
    assert not any(type(thing).__module__ == "fake_wrong" for thing in registered)


@pytest.mark.parametrize("hook", ["register_rules", "register_backends", "register_commands"])
def test_an_entry_point_that_names_a_class_is_told_to_name_an_object(folder: Path, hook: str) -> None:
    source = WRONG_THINGS.format(hook=hook, things="")
    body = "".join(
        f"    {line}\n"
        for line in source.partition("@hookimpl\n")[2].replace("(register)", "(self, register)").splitlines()
    )
    (folder / "fake_klass.py").write_text(f"{source.partition('@hookimpl')[0]}\nclass Mine:\n    @hookimpl\n{body}")
    fake_plugins.declare(folder, "klass", "fake_klass:Mine", "edgellm-klass")

    expected = "its entry point names a class, Mine; name an object, as `plugin = Mine()` in its module makes one"
    assert expected in row(Plugins(), "klass").error


QUANT = """
from edgellm.contract.hookspecs import hookimpl
from edgellm.estimate.quants import Quant

@hookimpl
def register_quants(register):
    register(Quant({}, "legacy", 2.6, "Q2_K", "...", "{}"))
"""


def test_who_has_a_scheme_or_a_quantization_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, taken in (("yfirst", "shelf"), ("zsecond", "shelf"), ("zthird", "hf")):
        fake_plugins.install(folder, name, SOURCE.replace('register("shelf"', f'register("{taken}"'))
    for name, quant in (("yquant", '"Q2_ACME"'), ("zquant", '"q2_acme"'), ("zquant2", '"q4_k_m"')):
        fake_plugins.install(folder, name, QUANT.format(quant, name))
    plugins = Plugins()
    for module in ("edgellm.contract.manager", "edgellm.store.sources.registry"):
        monkeypatch.setattr(f"{module}.plugins", lambda: plugins)
    monkeypatch.setattr(quants, "QUANTS", dict(quants.QUANTS))
    plugins.registrations()  # as `edgellm plugins` asks first
    registry.sources.__wrapped__()
    plugins.call("register_quants", register=quants.register)

    errors = {name: row(plugins, name).error for name in ("zsecond", "zthird", "zquant", "zquant2")}
    assert "source scheme 'shelf' is already taken by plugin yfirst (edgellm-yfirst 1.0)" in errors["zsecond"]
    assert "source scheme 'hf' is already taken by plugin sources (built in)" in errors["zthird"]
    assert "name 'q2_acme' is already taken by plugin yquant (edgellm-yquant 1.0)" in errors["zquant"]
    assert "name 'q4_k_m' is already taken by one of EdgeLLM's own" in errors["zquant2"]


ACCELERATOR = """
from edgellm.contract.hookspecs import hookimpl
from edgellm.types.machine import Accelerator

@hookimpl
def probe_accelerators(register, machine):
    register(Accelerator({}))
"""


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ('"acme", "Acme", vram_bytes="4GB"', "accelerator 'Acme': vram_bytes is '4GB', int or None is expected"),
        ('"acme", None', "accelerator None: name is None, str is expected"),
        ('"acme", ""', "accelerator '': name is '', a line of text is expected"),
        ('"acme", "Acme", free_bytes=-1', "accelerator 'Acme': free_bytes is -1, 0 to 2**60 is expected"),
        ('"acme", "Acme", bandwidth_gb_s=float("nan")', "bandwidth_gb_s is nan, 0 to 2**60 is expected"),
    ],
)
def test_an_accelerator_is_checked_at_once(folder: Path, arguments: str, reason: str) -> None:
    fake_plugins.install(folder, "wrong", ACCELERATOR.format(arguments))
    plugins = Plugins()
    registered: list[object] = []
    plugins.call("probe_accelerators", register=registered.append, machine=None)

    assert registered == []
    assert reason in row(plugins, "wrong").error


SOURCE = """
from edgellm.contract.hookspecs import hookimpl

class Shelf:
    scheme = "shelf"
    def reachable(self, timeout_s, uri=""): return ""
    def needs(self, folder, n_bytes): return []
    def fetch(self, uri, folder, *, n_bytes, progress): return []
    def discard(self, paths): ...

@hookimpl
def register_sources(register):
    register("shelf", Shelf())
"""


def test_whose_a_source_is_its_errors_say(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_plugins.install(folder, "shelf", SOURCE)
    plugins = Plugins()
    by_scheme: dict[str, object] = {}
    plugins.call("register_sources", register=by_scheme.__setitem__)
    monkeypatch.setattr("edgellm.contract.manager.plugins", lambda: plugins)

    with refuses(SourceError):
        asking.fetch(by_scheme["shelf"], "shelf:x", folder, n_bytes=None, progress=print)


CHANGES = """
from edgellm.contract.hookspecs import hookimpl

@hookimpl
def probe_accelerators(register, machine):
    object.__setattr__(machine, "cpu", None)
"""


def test_what_a_probe_does_to_its_machine_nobody_else_sees(folder: Path) -> None:
    fake_plugins.install(folder, "changes", CHANGES)
    machine = Machine("test", "Test", Cpu("x86_64"), Memory(2**34))
    plugins = Plugins()
    plugins.call("probe_accelerators", register=print, machine=machine)

    assert machine.cpu == Cpu("x86_64")
    assert row(plugins, "changes").error == ""


GPUS = """
from edgellm.contract.hookspecs import hookimpl
from edgellm.types.machine import Accelerator

@hookimpl
def probe_accelerators(machine, register):
    for at in range(999):
        register(Accelerator("cuda", f"GPU {at}", 8 * 2**30, 8 * 2**30))
"""


def test_more_accelerators_than_a_machine_has_are_not_taken(folder: Path) -> None:
    fake_plugins.install(folder, "gpus", GPUS)
    plugins, registered = Plugins(), list[object]()
    plugins.call(
        "probe_accelerators", machine=Machine("test", "Test", Cpu("x86_64"), Memory(2**34)), register=registered.append
    )

    assert len(registered) == 16
    assert "it registers more than 16 things, and no more are taken" in row(plugins, "gpus").error


def test_more_rows_than_commands_can_look_at_are_not_taken(folder: Path) -> None:
    source = WRONG_THINGS.format(hook="register_models", things="CARD")
    fake_plugins.install(
        folder, "many", source.replace("    register(CARD)", "    for _ in range(2000): register(CARD)")
    )
    plugins = Plugins()
    registered: list[object] = []
    plugins.call("register_models", register=registered.append)

    assert sum(card.id == "mine" for card in registered) == 1000
    assert "it registers more than 1,000 things, and no more are taken" in row(plugins, "many").error


@pytest.mark.parametrize(
    ("imported", "called", "what"),
    [
        ("{wait}", "pass", "plugin waits, which is imported (fake_waits), has not come back after"),
        ("", "{wait}", "register_rules of plugin waits has not come back after"),
    ],
    ids=["import", "hook"],
)
def test_a_plugin_that_does_not_come_back_is_named_while_it_lasts(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    imported: str,
    called: str,
    what: str,
) -> None:
    monkeypatch.setattr(slow, "TOLD_AFTER_S", 0.01)
    monkeypatch.setattr(slow, "waited_for", lambda: wait_until(lambda: what in caplog.text), raising=False)
    wait = "__import__('edgellm.contract.slow', fromlist=['x']).waited_for()"
    source = "from edgellm.contract.hookspecs import hookimpl\n{}\n@hookimpl\ndef register_rules(register):\n    {}\n"
    fake_plugins.install(folder, "waits", source.format(imported.format(wait=wait), called.format(wait=wait)))
    plugins = Plugins()
    plugins.rules()

    assert row(plugins, "waits").error == ""
    assert what in caplog.text


THREAD = """
import threading, time
from edgellm.contract.hookspecs import hookimpl

{imported}

@hookimpl
def register_rules(register):
    {called}
"""
LEAVES = "threading.Thread(target=time.sleep, args=({seconds},), name='watcher').start()"


@pytest.mark.parametrize("place", ["imported", "called"])
def test_a_thread_that_a_plugin_leaves_holds_no_command_up(folder: Path, tmp_path: Path, place: str) -> None:
    statements = {"imported": "", "called": "pass"} | {place: LEAVES.format(seconds=3600)}
    fake_plugins.install(folder, "leaves", THREAD.format(**statements))

    done = fake_plugins.run_edgellm(folder, "leaves,echo", tmp_path, "plugins", "--json")
    assert "Note: ended without waiting for plugin leaves: thread 'watcher'" in done.stderr
    assert json.loads(done.stdout)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Leaves a thread `one` that lasts as long as the test."""
    monkeypatch.setattr(left_threads, "_left", [])
    monkeypatch.setattr(left_threads, "_rest_is_of_command", False)
    ended, threads = threading.Event(), []

    def leave() -> None:
        threads.append(threading.Thread(target=ended.wait, name="one"))
        threads[-1].start()

    yield leave
    ended.set()
    for thread in threads:  # the next test sees all that live
        thread.join()


def test_a_thread_that_ends_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(left_threads, "_left", [])
    go_on = threading.Event()
    with left_threads.noted(lambda: "plugin ends"):
        threading.Thread(target=go_on.wait, name="one").start()
    assert left_threads.still_there(0.0) == ["plugin ends: thread 'one'"]

    threading.Timer(0.1, go_on.set).start()
    assert left_threads.still_there(PATIENCE_S) == []


def test_a_thread_of_nobody_known_is_left_too(waits: Callable[[], None]) -> None:
    waits()
    assert left_threads.still_there(0.0) == ["a plugin or a library: thread 'one'"]


def test_threads_of_one_plugin_are_told_once(waits: Callable[[], None]) -> None:
    with left_threads.noted(lambda: "plugin leaves"):
        waits()
        waits()
    assert left_threads.still_there(0.0) == ["plugin leaves: thread 'one' and 1 more"]


def test_what_a_command_of_a_plugin_leaves_is_waited_for(waits: Callable[[], None]) -> None:
    left_threads.rest_is_of_command()
    waits()
    assert left_threads.still_there(0.0) == []
    with left_threads.noted(lambda: "plugin other"):
        waits()
    assert left_threads.still_there(0.0) == ["plugin other: thread 'one'"]


def test_a_command_of_a_plugin_ends_with_its_threads(folder: Path, tmp_path: Path) -> None:
    goes_on = "threading.Thread(target=lambda: (threading.main_thread().join(), print('done'))).start()"
    says = 'click.echo("hello from a plugin")'
    source = fake_plugins.COMMAND.replace("import click", "import threading, click").replace(says, goes_on)
    fake_plugins.install(folder, "works", source)

    done = fake_plugins.run_edgellm(folder, "works", tmp_path, "hello")
    assert done.stdout.split() == ["done"]
    assert "Note" not in done.stderr


def test_a_pool_that_is_idle_is_no_thread_that_runs() -> None:
    script = (
        "from concurrent.futures import ThreadPoolExecutor as Pool\n"
        "from edgellm.contract.left_threads import still_there\n"
        "pool = Pool(2)\npool.submit(print).result()\nprint(still_there(60.0))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]"]


def _check(leave: Callable[..., object]) -> None:
    answers.check(SimpleNamespace(name="mine", check=leave), None)


def _supports(leave: Callable[..., object]) -> None:
    AskedTuner(SimpleNamespace(name="mine", supports=leave)).supports(None)


def _fetch(leave: Callable[..., object]) -> None:
    asking.fetch(SimpleNamespace(scheme="mine", fetch=leave), "mine:x", Path(), n_bytes=1, progress=None)


def _convert(leave: Callable[..., object]) -> None:
    convert(leave, Conversion(Artifact("mine", ("m",), "m"), Path("no/such/target"), "other"), lambda *_: None)


@pytest.mark.parametrize(
    ("call", "registered"),
    [
        (_check, ("register_backends", "mine")),
        (_supports, ("register_tuners", "mine")),
        (_fetch, ("register_sources", "mine")),
        (_convert, ("register_converters", ("mine", "other"))),
    ],
)
def test_whose_thread_is_left_is_known_of_every_call(
    monkeypatch: pytest.MonkeyPatch,
    waits: Callable[[], None],
    call: Callable[[Callable[..., object]], None],
    registered: tuple[str, object],
) -> None:
    owners = {registered: PluginRow("leaves", "edgellm-leaves 1.0", "leaves")}
    host = SimpleNamespace(owner=lambda *key: owners.get(key), blame=lambda *_: None)
    monkeypatch.setattr(manager, "plugins", lambda: host)
    with contextlib.suppress(BackendError, SourceError):
        call(lambda *_, **__: waits())

    assert left_threads.still_there(0.0) == ["plugin leaves (edgellm-leaves 1.0): thread 'one'"]


def test_whose_thread_is_left_is_known_of_rules(waits: Callable[[], None]) -> None:
    with pytest.raises(BackendError):
        PluginRule(lambda *_: waits(), "leaves", "edgellm-leaves 1.0")((), None)

    assert left_threads.still_there(0.0) == ["plugin leaves (edgellm-leaves 1.0): thread 'one'"]


@pytest.mark.parametrize("value", ["acme-hy", "!!!", "acme:", ""])
def test_an_entry_point_that_names_no_module_is_told_so(folder: Path, value: str) -> None:
    fake_plugins.declare(folder, "hy", value, "acme-hy")

    assert f"its entry point is {value!r}; a module's name is expected" in row(Plugins(), "hy").error


def test_an_async_hook_is_told_so(folder: Path) -> None:
    hook = "from edgellm.contract.hookspecs import hookimpl\n@hookimpl\nasync def register_rules(register): ...\n"
    fake_plugins.install(folder, "later", hook)
    plugins = Plugins()
    plugins.rules()

    assert "it is async, and a plain function is expected" in row(plugins, "later").error


def test_an_interrupt_says_what_was_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(slow, "_NOTICED_S", 0.0)
    with pytest.raises(KeyboardInterrupt), slow.told_where_slow("backend mine: check()"):
        raise KeyboardInterrupt

    assert "ended while this was waited for: backend mine: check()" in caplog.text


CONVERTER = """
from edgellm.contract.hookspecs import hookimpl

@hookimpl
def register_converters(register):
    register("acme", "acme2", {})
"""


def test_a_converter_is_found_by_its_formats_and_the_first_keeps_them(folder: Path) -> None:
    fake_plugins.install(folder, "yfirst", CONVERTER.format("print"))
    fake_plugins.install(folder, "zsecond", CONVERTER.format("max"))
    fake_plugins.install(folder, "zthing", CONVERTER.format("7"))
    plugins = Plugins()

    assert plugins.converters()["acme", "acme2"] is print
    assert row(plugins, "yfirst").error == ""
    taken = "the converter from acme to acme2 is already taken by plugin yfirst (edgellm-yfirst 1.0)"
    assert taken in row(plugins, "zsecond").error
    assert "7 cannot be called" in row(plugins, "zthing").error


TUNER = """
from edgellm.contract.hookspecs import hookimpl

class Any:
    name, methods = "any", frozenset({"lora"})
    def missing(self): ...
    def supports(self, base): ...
    def footprint(self, base, settings, size): ...
    def rate(self, base, settings, machine): ...
    def open(self, base, settings): ...

@hookimpl
def register_tuners(register):
    register(Any())
"""


def test_a_tuner_is_found_by_its_name_and_the_first_keeps_it(folder: Path) -> None:
    fake_plugins.install(folder, "yfirst", TUNER)
    fake_plugins.install(folder, "zsecond", TUNER)
    plugins = Plugins()

    assert type(plugins.tuners()["any"]).__module__ == "fake_yfirst"
    assert row(plugins, "yfirst").error == ""
    assert "tuner name 'any' is already taken by plugin yfirst (edgellm-yfirst 1.0)" in row(plugins, "zsecond").error
    assert plugins.registrations()["yfirst"] == ("tuner any",)


def test_a_hook_that_exits_ends_only_itself(folder: Path) -> None:
    fake_plugins.install(folder, "aexits", fake_plugins.EXITS_IN_HOOK)
    fake_plugins.install(folder, "good", fake_plugins.COMMAND)
    plugins = Plugins()
    commands = plugins.commands()

    assert set(commands) - set(COMMANDS) == {"hello"}
    assert row(plugins, "aexits").error == f"register_commands: SystemExit: 3 ({folder}/fake_aexits.py, line 7)"


@pytest.mark.parametrize("option", ["tryfirst", "trylast", "wrapper", "hookwrapper"])
def test_an_order_of_its_own_is_refused(folder: Path, option: str) -> None:
    """Plugins are called by name: what would be ignored is an error."""
    body = "yield" if "wrapper" in option else "pass"
    imports = "from edgellm.contract.hookspecs import hookimpl"
    source = f"{imports}\n\n@hookimpl({option}=True)\ndef register_models(register):\n    {body}\n"
    fake_plugins.install(folder, "pushy", source)

    assert f"asks for {option}, but plugins are called in order of name" in row(Plugins(), "pushy").error


ORDERED = """
from edgellm.contract.hookspecs import hookimpl

@hookimpl
def register_quants(register):
    register("{}")
"""


def test_built_in_plugins_come_first_then_by_name(folder: Path) -> None:
    for name in ("zeta", "alpha"):
        fake_plugins.install(folder, name, ORDERED.format(name))
    plugins = Plugins()
    added: list[object] = []
    plugins.call("register_quants", register=added.append)

    assert [quant for quant in added if isinstance(quant, str)] == ["alpha", "zeta"]
    assert plugins._implementations("register_commands")[0].plugin_name == "commands"


def test_what_ships_keeps_its_names_whatever_another_plugin_is_called(folder: Path) -> None:
    """A stranger's plugin `acme` with a backend `light`, and one of this project's that sorts behind it."""
    source = fake_plugins.LIGHT_BACKEND.replace('name = "gguf"', 'name = "light"')
    source += "\n@hookimpl\ndef register_backends(register):\n    register(Light())\n"
    fake_plugins.install(folder, "acme", source)
    fake_plugins.install(folder, "zlight", source, distribution="edgellm-gguf")
    plugins = Plugins(frozenset({"acme", "zlight"}))

    assert type(plugins.backends()["light"]).__module__ == "fake_zlight"
    assert row(plugins, "zlight").error == ""
    taken = "backend name 'light' is already taken by plugin zlight (edgellm-gguf 1.0)"
    assert taken in row(plugins, "acme").error


def test_the_distributions_of_this_project_are_all_known() -> None:
    folders = (Path(__file__).parents[1] / "plugins").glob("*/pyproject.toml")
    names = {tomllib.loads(file.read_text("utf-8"))["project"]["name"] for file in folders}

    assert names == installed.OWN


COUNTS = """
from edgellm.builtin.echo import EchoBackend
from edgellm.contract.hookspecs import hookimpl

class Counted(EchoBackend):
    name = "counted"

@hookimpl
def register_backends(register):
    calls.append(1)
    register(Counted())

calls = []
"""


def test_each_hook_is_called_once(folder: Path) -> None:
    fake_plugins.install(folder, "counts", COUNTS)
    plugins = Plugins()

    assert plugins.backends()["counted"] is plugins.backend("counted")
    assert plugins.backends() == plugins.backends()
    assert len(sys.modules["fake_counts"].calls) == 1


UNMARKED = """
def register_rules(register):
    register(print)
"""

RULES_RAISE = """
from edgellm.contract.hookspecs import hookimpl

@hookimpl
def register_rules(register):
    register(lambda options, scenario: None)
    raise LookupError("no list of licences")
"""


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (UNMARKED, "TypeError: register_rules has no @hookimpl, so it is never called"),
        ("def register_rule(register): ...", "TypeError: no function of it has @hookimpl, so it adds nothing"),
        ("from edgellm.contract.hookspecs import *", "TypeError: no function of it has @hookimpl"),
    ],
)
def test_a_plugin_whose_functions_are_never_called_says_so(folder: Path, source: str, reason: str) -> None:
    fake_plugins.install(folder, "mute", source)

    assert row(Plugins(), "mute").error.startswith(reason)


RETURNS = """
from edgellm.contract.hookspecs import hookimpl

@hookimpl
def register_rules(register):
    return [len]
"""


def test_a_hook_that_returns_its_things_is_told(folder: Path) -> None:
    fake_plugins.install(folder, "giver", RETURNS)
    plugins = Plugins()

    assert plugins.rules() == []
    told = "register_rules: TypeError: it returned [<built-in function len>], which nobody reads; call register"
    assert row(plugins, "giver").error.startswith(told)


def test_who_may_have_brought_what_is_not_there_is_named(folder: Path) -> None:
    """A plugin that did not load might have used any hook, one that raised in a hook only that one."""
    fake_plugins.install(folder, "bad", fake_plugins.RAISES)
    fake_plugins.install(folder, "half", RULES_RAISE)
    fake_plugins.install(folder, "off", fake_plugins.RAISES)
    plugins = Plugins(frozenset({"bad", "half"}))
    rules = plugins.rules()

    unheard = {row.name: row.error for row in plugins.unheard("register_rules")}
    assert sorted(unheard) == ["bad", "half"]
    assert unheard["half"].startswith("register_rules: LookupError: no list of licences (")
    assert [(by.name, by.distribution) for by, _ in rules] == [("half", "edgellm-half 1.0")]
    assert [row.name for row in plugins.unheard("register_commands")] == ["bad"]
    assert plugins.suspects("register_commands") == "; plugin bad, which failed, may bring it (see `edgellm plugins`)"
    assert Plugins(frozenset()).suspects("register_commands") == ""


HALVES = """
from edgellm.contract.hookspecs import hookimpl

@hookimpl
def register_rules(register):
    raise LookupError("no rules")

@hookimpl
def register_sources(register):
    raise LookupError("no sources")
"""


def test_each_hook_that_failed_is_told(folder: Path) -> None:
    fake_plugins.install(folder, "halves", HALVES)
    plugins = Plugins()
    for hook in ("register_rules", "register_sources", "register_rules"):
        plugins.call(hook, register=lambda *_: None)

    told = row(plugins, "halves").error
    assert [part.partition(" (")[0] for part in told.split("; ")] == [
        "register_rules: LookupError: no rules",
        "register_sources: LookupError: no sources",
    ]
    assert [told.count("rules"), *(r.error.count("no rules") for r in plugins.unheard("register_rules"))] == [2, 1]


def test_a_plugin_for_another_version_of_the_contract_is_a_row(folder: Path) -> None:
    """One that is for both is loaded; two of one name are both shown."""
    (folder / "fake_later.py").write_text(fake_plugins.COMMAND)
    fake_plugins.declare(folder, "later", "fake_later", "edgellm-later", "2.0", "edgellm.v2")
    fake_plugins.declare(folder, "both", "fake_later", "edgellm-both", "1.0", "edgellm.v1", "edgellm.v2")
    fake_plugins.declare(folder, "both", "fake_other", "edgellm-other", "1.0", "edgellm.v2")
    fake_plugins.declare(folder, "mine", "fake_other", "edgellm-mine", "1.0", "edgellm.views")
    plugins = Plugins(frozenset({"later", "both"}))

    reason = "it is for edgellm.v2, and this EdgeLLM calls edgellm.v1: install a release for that"
    assert row(plugins, "later") == PluginRow("later", "edgellm-later 2.0", "fake_later", reason)
    assert row(plugins, "both").error == ""
    assert row(plugins, "both (edgellm-other 1.0)").error.startswith(
        "name 'both' is already taken by edgellm-both 1.0:"
    )
    assert [r.name for r in plugins.unheard("register_rules")] == ["both (edgellm-other 1.0)", "later"]
    assert "mine" not in {r.name for r in plugins.rows()}


@pytest.mark.parametrize(
    "group",
    ["edgellm", "edgellm.V1", "edgellm_v1", "edgellm.plugins", "edgellm.v1.1", "edgellm.1", "edgelm.v1", "edge-llm.v1"],
)
def test_a_plugin_in_a_group_that_nobody_reads_is_a_row(folder: Path, group: str) -> None:
    (folder / "fake_mine.py").write_text(fake_plugins.COMMAND)
    fake_plugins.declare(folder, "mine", "fake_mine", "edgellm-mine", "1.0", group)

    reason = f"its entry point is in group {group!r}, which nobody reads: its author writes 'edgellm.v1'"
    assert row(Plugins(frozenset({"mine"})), "mine").error == reason


def test_an_interrupt_while_loading_is_not_swallowed(folder: Path) -> None:
    fake_plugins.install(folder, "bad", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        Plugins()


SOUND_METADATA = b"Metadata-Version: 2.1\nName: evil\nVersion: 1\n"


@pytest.mark.parametrize(
    ("entry_points", "metadata", "reason"),
    [
        (b"\xff\xfe[edgellm.v1]\n", SOUND_METADATA, "entry_points.txt cannot be read: UnicodeDecodeError"),
        (b"[edgellm.v1]\nevil\n", SOUND_METADATA, "entry_points.txt cannot be read: "),
        (b"[edgellm.v1]\nevil = fake_evil\n", b"Name: \xff\xfe\n", "METADATA cannot be read: UnicodeDecodeError"),
        (b"[edgellm.v1]\nevil = fake_evil\n", b"Summary: nothing\n", "METADATA has no name or no version"),
        (b"[edgellm.v1]\nevil = fake_evil\n", None, "METADATA "),
    ],
)
def test_a_damaged_distribution_is_left_out_and_named(
    folder: Path, entry_points: bytes, metadata: bytes | None, reason: str
) -> None:
    """Also of a package that has nothing to do with EdgeLLM."""
    fake_plugins.install(folder, "good", fake_plugins.COMMAND)
    (folder / "fake_evil.py").write_text(fake_plugins.COMMAND)
    info = folder / "evil-1.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_bytes(entry_points)
    if metadata is not None:
        (info / "METADATA").write_bytes(metadata)
    plugins = Plugins()

    assert (row(plugins, "evil").distribution, row(plugins, "evil").module) == ("evil 1", "")
    assert row(plugins, "evil").error.startswith(f"{info}/")
    assert reason in row(plugins, "evil").error
    assert "fake_evil" not in sys.modules
    assert row(plugins, "good").error == ""
    assert "hello" in plugins.commands()


def test_a_damaged_distribution_is_not_missed_where_others_are_named(folder: Path) -> None:
    (folder / "evil-1.dist-info").mkdir()
    (folder / "evil-1.dist-info" / "entry_points.txt").write_bytes(b"\xff\xfe")

    assert [row.name for row in Plugins().unheard("register_rules")] == ["evil"]
    chosen = Plugins(frozenset())
    assert chosen.unheard("register_rules") == []
    assert "cannot be read" in row(chosen, "evil").error


def test_of_two_versions_the_first_on_the_path_counts_beside_a_damaged_one(folder: Path) -> None:
    fake_plugins.install(folder, "good", fake_plugins.COMMAND)
    later = folder / "later"
    later.mkdir()
    fake_plugins.declare(later, "good", "no_such_module", "edgellm-good", "0.9")
    sys.path.append(str(later))
    info = folder / "evil-1.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_bytes(b"\xff")
    try:
        rows = [row for row in Plugins().rows() if "good" in row.name]
    finally:
        sys.path.remove(str(later))

    assert rows == [PluginRow("good", "edgellm-good 1.0", "fake_good")]


UNSAYABLE = """
class Wrong(Exception):
    def __str__(self):
        raise SystemExit(5)

raise Wrong
"""


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (UNSAYABLE, "Wrong: what it says cannot be told: SystemExit ("),
        ("raise RuntimeError('x' * 50_000_000)", "xxx... (50,000,000 characters) ("),
    ],
)
def test_what_an_error_says_is_told_whatever_it_is(folder: Path, source: str, said: str) -> None:
    fake_plugins.install(folder, "bad", source)
    error = row(Plugins(), "bad").error

    assert said in error
    assert len(error) < 3_000


EXITS_IN_ATTRIBUTE = """
from edgellm.builtin.echo import EchoBackend
from edgellm.contract.hookspecs import hookimpl

class Half(EchoBackend):
    name = "half"
    @property
    def {member}(self):
        raise SystemExit(3)

@hookimpl
def register_backends(register):
    register(Half())
"""


@pytest.mark.parametrize("member", ["formats", "check", "kv_types", "priors", "advise"])
def test_an_attribute_that_exits_ends_only_its_plugin(folder: Path, member: str) -> None:
    """Also an optional one, which is only asked for later, in many places."""
    fake_plugins.install(folder, "half", EXITS_IN_ATTRIBUTE.format(member=member))
    plugins = Plugins()

    assert "half" not in plugins.backends()
    assert row(plugins, "half").error.startswith("register_backends: SystemExit: 3 (")


SIGNALLED = """
import signal
from edgellm.contract.hookspecs import hookimpl

class Signalled(Exception):
    def __str__(self):
        signal.raise_signal(signal.SIGTERM)

{at_import}

@hookimpl
def register_backends(register):
    {in_hook}
"""
SIGNAL = "signal.raise_signal(signal.SIGTERM)"


@pytest.mark.parametrize(("at_import", "in_hook"), [(SIGNAL, "pass"), ("", SIGNAL), ("", "raise Signalled")])
def test_a_signal_to_end_is_no_failure_of_the_plugin_at_hand(folder: Path, at_import: str, in_hook: str) -> None:
    """Taken for one, it would end nothing: the command would go on without the plugin."""
    fake_plugins.install(folder, "busy", SIGNALLED.format(at_import=at_import, in_hook=in_hook))

    went_on = False
    with pytest.raises(SystemExit), ended_with_us():
        went_on = bool(Plugins().backends())

    assert not went_on


def test_two_distributions_of_one_name_are_both_shown(folder: Path) -> None:
    fake_plugins.install(folder, "twin", fake_plugins.COMMAND, distribution="edgellm-first", module="fake_first")
    fake_plugins.install(folder, "twin", fake_plugins.RAISES, distribution="edgellm-second", module="fake_second")
    rows = [row for row in Plugins().rows() if row.name.startswith("twin")]

    assert len(rows) == 2
    first = next(row for row in rows if row.name == "twin")
    told = f"name 'twin' is already taken by {first.distribution}: uninstall one, or its author renames the entry point"
    assert next(row.error for row in rows if row is not first) == told


def test_the_allow_list_keeps_others_from_being_imported(folder: Path) -> None:
    fake_plugins.install(folder, "good", fake_plugins.COMMAND)
    fake_plugins.install(folder, "other", fake_plugins.RAISES)
    plugins = Plugins(frozenset({"good"}))

    assert row(plugins, "good").error == ""
    assert row(plugins, "other") == PluginRow(
        "other", "edgellm-other 1.0", "fake_other", "not in EDGELLM_PLUGINS", allowed=False
    )
    assert "fake_other" not in sys.modules


def test_registrations_are_told_in_words(folder: Path) -> None:
    fake_plugins.install(folder, "good", fake_plugins.COMMAND)
    added = Plugins().registrations()

    assert added["echo"] == ("backend echo",)
    assert added["sources"] == tuple(f"source {name}" for name in ("file", "hf", "http", "https", "ollama", "pypi"))
    assert added["commands"] == tuple(f"command {name}" for name in COMMANDS)
    assert added["good"] == ("command hello",)


def test_a_backend_of_a_broken_plugin_says_what_broke(folder: Path) -> None:
    fake_plugins.install(folder, "bad", fake_plugins.RAISES)
    plugins = Plugins()

    with refuses(BackendUnavailable):
        plugins.backend("bad")
    with refuses(UsageError):
        plugins.backend("nobody")


def test_a_model_named_like_a_broken_plugin_says_what_broke(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_plugins.install(folder, "bad", fake_plugins.RAISES)
    monkeypatch.setattr("edgellm.app.resolve.plugins", lambda made=Plugins(): made)  # noqa: B008

    with refuses(BackendUnavailable):
        resolve("bad", context.here())
    with refuses(UnknownModel):
        resolve("no-such-model", context.here())


def test_every_hook_takes_register_first() -> None:
    """docs/plugins.md promises it, and `Plugins.registrations` relies on it."""
    hooks = [value for value in vars(hookspecs).values() if hasattr(value, "edgellm_spec")]

    assert len(hooks) == 9
    assert all(hook.__code__.co_varnames[0] == "register" for hook in hooks)
