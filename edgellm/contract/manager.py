"""Finds plugins and keeps their failures apart: a broken plugin is a row in `edgellm plugins`, never a traceback.

Each entry point of group `edgellm.v1` is imported on its own (pluggy's loader stops at the first that raises), and each
hook implementation is called on its own for the same reason: built-in plugins first, then those of this project, the
others by name. A plugin that asks pluggy for another order (`tryfirst`, wrappers) is refused when it is loaded.
"""

from __future__ import annotations

import copy
import difflib
import functools
import importlib
import inspect
import re
import reprlib
import sys
from collections.abc import Callable, Collection
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pluggy

from edgellm import settings
from edgellm.contract import hookspecs, installed
from edgellm.contract.failure import is_of_user, tidied, told
from edgellm.contract.left_threads import noted
from edgellm.contract.registration import checked
from edgellm.contract.slow import told_where_slow
from edgellm.errors import BackendUnavailable, UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    import click

    from edgellm.contract.backend import Backend
    from edgellm.contract.converter import Converter
    from edgellm.contract.tuner import Tuner

# Built-ins are plugins like any other; they are named here because they have no entry point to be found by.
BUILTIN = {
    "commands": "edgellm.builtin.commands",
    "echo": "edgellm.builtin.echo",
    "sources": "edgellm.builtin.sources",
}


MOST_THINGS = 1_000  # of one plugin and hook: for each row of a catalog a command decides anew
MOST_OF = {"probe_accelerators": 16}  # in one machine, and a choice tries combinations of them
# A module, and perhaps an object in it. Where it has another form, importlib fails over it without a word of that.
_ENTRY = re.compile(r"[\w.]+\s*(:\s*[\w.]+\s*)?(\[.*\])?")
_PASSED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)  # as pluggy passes arguments


@dataclass(frozen=True, slots=True)
class PluginRow:
    """One plugin as found. `error` is empty where it works."""

    name: str
    distribution: str  # "name version" of the package, or "built in"
    module: str
    error: str = ""
    allowed: bool = True  # False = EDGELLM_PLUGINS leaves it out; it was not imported


class Plugins:
    """Every plugin of this process, loaded once."""

    def __init__(self, allow: frozenset[str] | None = None) -> None:
        self._manager = pluggy.PluginManager("edgellm")
        self._manager.add_hookspecs(hookspecs)
        self._allow = allow
        self._rows: dict[str, PluginRow] = {}
        self._owners: dict[tuple[str, Any], str] = {}  # (hook, name of what it registered) -> plugin
        self._faults: dict[str, dict[str, str]] = {}  # plugin -> hook or thing that it registered -> its first error
        for name, module in BUILTIN.items():
            self._load(name, "built in", module, functools.partial(importlib.import_module, module))
        entries, damaged = installed.entries()
        sound: list[tuple[EntryPoint, str]] = []
        for entry in entries:
            try:
                sound.append((entry, installed.distribution(entry)))
            except ValueError as error:
                damaged[installed.distribution_by_folder(entry)] = str(error)
        for entry, dist in sorted(sound, key=lambda it: (it[0].group != hookspecs.GROUP, _order(it[0].name, it[1]))):
            there = self._rows.get(entry.name)
            if entry.group != hookspecs.GROUP and there is not None and there.distribution == dist:
                continue  # it is for both versions of the contract
            if allow is not None and entry.name not in allow:
                self._rows[entry.name] = PluginRow(entry.name, dist, entry.value, "not in EDGELLM_PLUGINS", False)
            elif there is not None:
                # Two distributions that claim one name: the first stays, the second is shown, neither is lost silently.
                key = f"{entry.name} ({dist})"
                self._rows[key] = PluginRow(key, dist, entry.value, _taken(entry.name, there))
            elif entry.group != hookspecs.GROUP:
                self._rows[entry.name] = PluginRow(entry.name, dist, entry.value, _of_group(entry.group))
            else:
                self._load(entry.name, dist, entry.value, entry.load)
        for dist, reason in damaged.items():  # whose plugins, if they have any, are not known
            name = dist.partition(" ")[0]
            key = dist if name in self._rows else name
            # Where EDGELLM_PLUGINS names those that are wanted, nobody waits for what this one may have.
            self._rows[key] = PluginRow(key, dist, "", reason, allowed=allow is None)
        self._unloaded = frozenset(name for name, row in self._rows.items() if row.error and row.allowed)

    def _load(self, name: str, dist: str, module: str, load: Callable[[], object]) -> None:
        try:
            # Standard output is the command's own: perhaps one JSON object.
            if not _ENTRY.fullmatch(module):
                expected = "a module's name is expected, or MODULE:OBJECT"
                raise ValueError(f"its entry point is {module!r}; {expected}")
            importing = f"plugin {name}, which is imported ({module}),"
            with redirect_stdout(sys.stderr), noted(lambda: f"plugin {name}"), told_where_slow(importing):
                plugin = load()
            _refuse_unknown(plugin)
            self._manager.register(plugin, name)
            # Validates hook names and arguments now, so that a typo is this plugin's row and nobody else's error.
            self._manager.check_pending()
            self._refuse_order(name)
            _refuse_unmarked(plugin, self._manager.get_hookcallers(plugin) or ())
            self._rows[name] = PluginRow(name, dist, module)
        except BaseException as error:
            if is_of_user(error):
                raise
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            self._rows[name] = PluginRow(name, dist, module, told(error))

    def _refuse_order(self, name: str) -> None:
        for caller in self._manager.get_hookcallers(self._manager.get_plugin(name)) or ():
            for impl in caller.get_hookimpls():
                options = ("tryfirst", "trylast", "wrapper", "hookwrapper")
                refused = [option for option in options if getattr(impl, option)]
                if impl.plugin_name == name and refused:
                    raise TypeError(f"{caller.name} asks for {refused[0]}, but plugins are called in order of name")

    def check_names(self) -> None:
        """
        Raises:
            UsageError: EDGELLM_PLUGINS names a plugin that is not installed.
        """
        missing = sorted((self._allow or frozenset()) - set(self._rows))
        if not missing:
            return
        names = [name for name in self._rows if name not in BUILTIN]
        near = difflib.get_close_matches(missing[0], names, n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"EDGELLM_PLUGINS names {missing[0]!r}, and no plugin of that name is installed",
            hint=f"{guess}installed: {', '.join(sorted(names)) or 'none'}; or unset it",
        )

    def rows(self) -> list[PluginRow]:
        return [self._rows[name] for name in sorted(self._rows)]

    def unheard(self, hook: str) -> list[PluginRow]:
        """The plugins of which not all is known that they would register by `hook`, with why: those that did not load,
        and those whose `hook` raised when it was called."""
        rows = [row for row in self.rows() if row.name in self._unloaded]
        raised = [
            replace(self._rows[name], error=faults[hook])
            for name, faults in sorted(self._faults.items())
            if hook in faults
        ]
        return [*rows, *raised]

    def suspects(self, hook: str) -> str:
        """For the end of a hint, where what nobody registered by `hook` is looked for: `"; plugin x, which failed, may
        bring it (see `edgellm plugins`)"`; "" where none failed."""
        names = [row.name for row in self.unheard(hook)]
        if not names:
            return ""
        who = f"plugin {names[0]}" if len(names) == 1 else f"one of the plugins {', '.join(names)}"
        return f"; {who}, which failed, may bring it (see `edgellm plugins`)"

    def call(self, hook: str, **arguments: Any) -> None:
        """Call every implementation of `hook`, built-in ones first, then by name. One that raises is an error row."""
        for impl in self._implementations(hook):
            self._call_one(hook, impl, arguments)

    def rules(self) -> list[tuple[PluginRow, Callable[..., Any]]]:
        """Selection rules, each with the plugin that registered it."""
        added: list[tuple[PluginRow, Callable[..., Any]]] = []
        for impl in self._implementations("register_rules"):
            row = self._rows[impl.plugin_name]

            def register(rule: Callable[..., Any], *, of: PluginRow = row) -> None:
                added.append((of, rule))

            self._call_one("register_rules", impl, {"register": register})
        return added

    def owner(self, hook: str, name: object) -> PluginRow | None:
        """The plugin that registered what has that name by `hook`."""
        owner = self._owners.get((hook, name))
        return None if owner is None else self._rows[owner]

    def blame(self, name: str, error: str, hook: str = "register_backends") -> None:
        """What a backend or command did against the contract is an error of its plugin; the first of each stays."""
        owner = self.owner(hook, name)
        if owner is not None:
            self._add_fault(owner.name, f"{_kind(hook)} {name}", error)

    def _add_fault(self, plugin: str, place: str, error: str) -> None:
        """Its row has one error of each place."""
        faults = self._faults.setdefault(plugin, {})
        faults.setdefault(place, f"{place}: {error}")
        self._rows[plugin] = replace(self._rows[plugin], error="; ".join(faults.values()))

    def registrations(self) -> dict[str, tuple[str, ...]]:
        """Plugin name -> what it adds, in words: `("backend gguf", "command convert")`. Calls its register hooks."""
        added: dict[str, list[str]] = {name: [] for name in self._rows}
        for hook in sorted(vars(self._manager.hook)):
            for impl in self._implementations(hook):
                if not hook.startswith("register_"):
                    added[impl.plugin_name].append(hook)  # asks for a machine, so it is only named
                    continue

                def register(*things: object, kind: str = _kind(hook), to: str = impl.plugin_name) -> None:
                    added[to].append(f"{kind} {_label(things)}")

                self._call_one(hook, impl, {"register": register})
        return {name: tuple(things) for name, things in added.items()}

    def _implementations(self, hook: str) -> list[pluggy.HookImpl]:
        impls = getattr(self._manager.hook, hook).get_hookimpls()
        return sorted(impls, key=lambda impl: _order(impl.plugin_name, self._rows[impl.plugin_name].distribution))

    def _call_one(self, hook: str, impl: pluggy.HookImpl, arguments: dict[str, Any]) -> None:
        called: list[bool] = []
        most = MOST_OF.get(hook, MOST_THINGS)
        register = checked(hook, arguments["register"])

        def register_counted(*things: object, **named: object) -> None:
            if len(called) == most:
                raise ValueError(f"it registers more than {most:,} things, and no more are taken")
            called.append(True)
            register(*things, **named)
            self._own(hook, things[0], impl.plugin_name)

        # The rest is the plugin's own: what it does to a machine, no other plugin sees.
        arguments = copy.deepcopy({k: v for k, v in arguments.items() if k != "register"})
        arguments["register"] = register_counted
        try:
            called_slow = told_where_slow(f"{hook} of plugin {impl.plugin_name}")
            with redirect_stdout(sys.stderr), noted(lambda: f"plugin {impl.plugin_name}"), called_slow:
                returned = impl.function(*[arguments[name] for name in impl.argnames])
            if inspect.iscoroutine(returned):
                returned.close()
                raise TypeError("it is async, and a plain function is expected")
            if returned is not None and not called:
                raise TypeError(f"it returned {reprlib.repr(returned)}, which nobody reads; call register instead")
        except BaseException as error:  # a plugin that calls sys.exit() must not end every command
            if is_of_user(error):
                raise
            self._add_fault(impl.plugin_name, hook, told(error))

    def _own(self, hook: str, thing: Any, plugin: str) -> None:
        """Remember who brought what others keep, by its name: the first, and of rows of the catalog the last."""
        name = thing if isinstance(thing, str) else getattr(thing, "id", None) or getattr(thing, "name", None)
        if hook == "register_models":
            self._owners[hook, name] = plugin
        elif hook in {"register_sources", "register_quants"}:
            self._owners.setdefault((hook, name), plugin)

    def backends(self) -> dict[str, Backend]:
        """Name -> backend, sorted by name."""
        return dict(self._backends)

    def converters(self) -> dict[tuple[str, str], Converter]:
        """(from_format, to_format) -> converter."""
        return dict(self._converters)

    def tuners(self) -> dict[str, Tuner]:
        """Name -> tuner, sorted by name."""
        return dict(self._tuners)

    def commands(self) -> dict[str, click.Command]:
        """Name -> command of the command line."""
        return dict(self._commands)

    # Each hook is called once: what it registers stays for the life of the process.

    @functools.cached_property
    def _backends(self) -> dict[str, Backend]:
        return self._by_name("register_backends", "backend name {!r}", lambda backend: backend.name)

    @functools.cached_property
    def _converters(self) -> dict[tuple[str, str], Converter]:
        return self._by_name(
            "register_converters", "the converter from {0[0]} to {0[1]}", lambda start, to, _: (start, to)
        )

    @functools.cached_property
    def _tuners(self) -> dict[str, Tuner]:
        return self._by_name("register_tuners", "tuner name {!r}", lambda tuner: tuner.name)

    @functools.cached_property
    def _commands(self) -> dict[str, click.Command]:
        return self._by_name("register_commands", "command name {!r}", lambda command: command.name)

    def _by_name(self, hook: str, what: str, name_of: Callable[..., Any]) -> dict[Any, Any]:
        """What is registered by `hook`, by its name, sorted; the first keeps it."""
        by_name: dict[Any, Any] = {}

        def register(*things: Any, of: str) -> None:
            name = name_of(*things)
            if name in by_name:
                taker = self._rows[self._owners[hook, name]]
                raise ValueError(f"{what.format(name)} is already taken by plugin {taker.name} ({taker.distribution})")
            by_name[name] = things[-1]
            self._owners[hook, name] = of

        for impl in self._implementations(hook):
            self._call_one(hook, impl, {"register": functools.partial(register, of=impl.plugin_name)})
        return dict(sorted(by_name.items()))

    def backend(self, name: str) -> Backend:
        """The backend of that name.

        Raises:
            UsageError: no plugin offers it; BackendUnavailable: the plugin of that name is broken.
        """
        backends = self._backends
        if name in backends:
            return backends[name]
        for row in self.rows():
            if row.name == name and row.error:
                raise BackendUnavailable(f"plugin {name!r} failed: {row.error}", hint="see `edgellm plugins`")
        hint = f"installed: {', '.join(backends) or 'none'}{self.suspects('register_backends')}"
        raise UsageError(f"no backend named {name!r}", hint=hint)


def _order(name: str, distribution: str) -> tuple[bool, bool, str]:
    """Built-in plugins come first, then those of this project, then the others, by name."""
    return name not in BUILTIN, distribution.partition(" ")[0] not in installed.OWN, name


def _of_group(group: str) -> str:
    if re.fullmatch(r"edgellm\.v\d+", group):
        return f"it is for {group}, and this EdgeLLM calls {hookspecs.GROUP}: install a release for that"
    return f"its entry point is in group {group!r}, which nobody reads: its author writes {hookspecs.GROUP!r}"


def _taken(name: str, by: PluginRow) -> str:
    return f"name {name!r} is already taken by {by.distribution}: uninstall one, or its author renames the entry point"


def _refuse_unknown(plugin: object) -> None:
    """Refuse a hook or an argument that there is not; pluggy does, too, and does not say which may be meant."""
    for name, function in inspect.getmembers(plugin, inspect.isroutine):
        if not hasattr(function, "edgellm_impl"):
            continue
        if name not in _hooks():
            near = difflib.get_close_matches(name, _hooks(), n=1)
            raise TypeError(f"unknown hook {name!r}" + (f", did you mean {near[0]}?" if near else ""))
        if inspect.isclass(plugin) and inspect.isfunction(inspect.getattr_static(plugin, name)):
            expected = f"name an object, as `plugin = {plugin.__name__}()` in its module makes one"
            raise TypeError(f"its entry point names a class, {plugin.__name__}; {expected}")
        there = list(inspect.signature(getattr(hookspecs, name)).parameters)
        for argument in inspect.signature(function).parameters.values():
            if argument.default is argument.empty and argument.name not in there and argument.kind in _PASSED:
                near = difflib.get_close_matches(argument.name, there, n=1)
                hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(there)}"
                raise TypeError(f"unknown argument {argument.name!r} of {name}, {hint}")


def _hooks() -> list[str]:
    return [name for name, spec in vars(hookspecs).items() if hasattr(spec, "edgellm_spec")]


def _refuse_unmarked(plugin: object, called: Collection[object]) -> None:
    """Refuse functions that are named as hooks and are none, and a plugin without hooks: what it is for is not done."""
    own = {name: getattr(plugin, name, None) for name in _hooks()}
    for name, function in own.items():
        if inspect.isroutine(function) and not (hasattr(function, "edgellm_impl") or hasattr(function, "edgellm_spec")):
            raise TypeError(f"{name} has no @hookimpl, so it is never called")
    if not called:
        raise TypeError("no function of it has @hookimpl, so it adds nothing; docs/plugins.md lists the hooks")


def _kind(hook: str) -> str:
    return hook.removeprefix("register_").removesuffix("s")


def _label(things: tuple[object, ...]) -> str:
    """Names among what was registered: `("s3", source)` -> "s3", a backend -> its name, a rule -> its function's."""
    words = [thing for thing in things if isinstance(thing, str)]
    if not words and things:
        names = (getattr(things[0], key, None) for key in ("name", "id", "__name__"))
        words = [next((str(name) for name in names if name), repr(things[0]))]
    return tidied(" to ".join(words))


@functools.cache
def plugins() -> Plugins:
    """The plugins of this process. The environment's allow-list is read once."""
    return Plugins(settings.current().plugins)
