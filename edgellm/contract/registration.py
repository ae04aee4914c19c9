"""What is checked of a thing when a plugin registers it: a mistake is a row of that plugin, and no error of others."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Set
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from edgellm.types.machine import Accelerator

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
LONGEST_HELP = 200  # characters of the one line that `edgellm --help` shows
_MOST = 2**60  # bytes, or 1e9 bytes per second


def checked(hook: str, register: Callable[..., None]) -> Callable[..., None]:
    """`register` for one hook; raises TypeError, and registers nothing, where a thing is not what the hook takes."""
    check = _CHECKS[hook]

    def register_checked(*things: object, **named: object) -> None:
        problem = _miscounted(check, things, named) or _class_among(things) or check(*things)
        if problem:
            raise TypeError(problem)
        register(*things)

    return register_checked


def _miscounted(check: Callable[..., str], things: tuple[object, ...], named: dict[str, object]) -> str:
    """What `register` was called without, or with too much; "" = neither."""
    *words, thing = inspect.signature(check).parameters
    takes = f"register({', '.join((*words, thing))})"
    if named:
        return f"{takes} takes no arguments by name, and was given {', '.join(named)}"
    if len(things) > len(words) + 1:
        return f"{takes} was given {len(things)} things"
    n_words = sum(isinstance(given, str) for given in things)
    missing = words[n_words:] + ([thing] if n_words == len(things) else [])
    return f"{takes} was called without {' and '.join(missing)}" if len(things) <= len(words) else ""


def _class_among(things: tuple[object, ...]) -> str:
    return next(
        (f"{thing!r} cannot be registered: {of_class(thing)}" for thing in things if inspect.isclass(thing)), ""
    )


def of_class(thing: type) -> str:
    """What is wrong where a class was given."""
    return f"it is a class; register an object: {thing.__name__}()"


def _backend(backend: Any) -> str:
    from edgellm.contract import backend as contract
    from edgellm.contract.backend import Backend

    # Whether it has what is optional is asked all over the core: what raises there raises here first.
    for kind in vars(contract).values():
        if inspect.isclass(kind) and Protocol in kind.__bases__:
            for member in (*vars(kind), *kind.__annotations__):
                if not member.startswith("_"):
                    getattr(backend, member, None)
    if problem := unlike(Backend, backend):
        return f"{backend!r} is not a backend: {problem}"
    if not isinstance(backend.name, str) or not _NAME.fullmatch(backend.name):
        return f"the name of a backend is {backend.name!r}, letters, digits, - and _ are expected"
    for member in ("formats", "quants"):
        names = getattr(backend, member)
        if not _are_names(names) and not (member == "quants" and names is None):
            return f"{member} of backend {backend.name!r} is {names!r}, a set of names is expected"
    return ""


def _are_names(given: object) -> bool:
    return isinstance(given, Set) and all(isinstance(name, str) for name in given)


def _source(scheme: object, source: object) -> str:
    from edgellm.contract.source import Source, scheme_of

    if not isinstance(scheme, str) or scheme_of(f"{scheme}:") != scheme:
        return f"source scheme {scheme!r} is malformed: lower case is expected, two letters or more"
    problem = unlike(Source, source)
    return f"{source!r} is not a model source: {problem}" if problem else ""


def _converter(from_format: object, to_format: object, converter: object) -> str:
    from edgellm.contract.converter import Converter

    for name in (from_format, to_format):
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            return f"the name of a format is {name!r}, letters, digits, - and _ are expected"
    if to_format != str(to_format).lower():
        return f"to_format is {to_format!r}, lower case is expected, as `edgellm convert --to` asks for"
    problem = miscalled(converter, Converter.__call__)
    return f"{converter!r} is not a converter: {problem}" if problem else ""


def _tuner(tuner: Any) -> str:
    from edgellm.contract.tuner import Tuner

    if problem := unlike(Tuner, tuner):
        return f"{tuner!r} is not a tuner: {problem}"
    if not isinstance(tuner.name, str) or not tuner.name:
        return f"the name of a tuner is {tuner.name!r}, text is expected"
    if not _are_names(tuner.methods):
        return f"methods of tuner {tuner.name!r} is {tuner.methods!r}, a set of names is expected"
    return ""


def _rule(rule: object) -> str:
    problem = miscalled(rule, _rule_takes) or (
        "" if isinstance(getattr(rule, "__name__", None), str) else "it has no __name__ to be called by"
    )
    return f"{rule!r} is not a rule: {problem}" if problem else ""


def _rule_takes(self: object, options: object, scenario: object) -> None: ...


def _command(command: object) -> str:
    import click

    if not isinstance(command, click.Command):
        return f"{command!r} is not a click.Command"
    if not isinstance(command.name, str) or not _NAME.fullmatch(command.name):
        return f"the name of a command is {command.name!r}, letters, digits, - and _ are expected"
    for what in ("help", "short_help", "epilog"):
        if not isinstance(text := getattr(command, what), str | None):
            return f"{what} of command {command.name!r} is {text!r}, text is expected"
    line: object = command.get_short_help_str(LONGEST_HELP)  # `edgellm --help` asks every command
    return "" if isinstance(line, str) else f"the short help of command {command.name!r} is {line!r}, text is expected"


def _model(card: object) -> str:
    from edgellm.contract.field_types import mistyped
    from edgellm.types.model import ModelCard

    if not isinstance(card, ModelCard):
        return f"{card!r} is not a ModelCard"
    problem = mistyped(card)
    return f"catalog row {card.id!r:.80}: {problem}" if problem else ""


def _quant(quant: object) -> str:
    return ""  # `estimate.quants.register` knows what it may be


def _accelerator(accelerator: object) -> str:
    from edgellm.contract.field_types import mistyped
    from edgellm.types.machine import Accelerator

    if not isinstance(accelerator, Accelerator):
        return f"{accelerator!r} is not an Accelerator"
    problem = mistyped(accelerator) or _impossible(accelerator)
    return f"accelerator {accelerator.name!r}: {problem}" if problem else ""


def _impossible(accelerator: Accelerator) -> str:
    for name in ("kind", "name"):
        text = getattr(accelerator, name)
        if not text.strip() or not text.isprintable():
            return f"{name} is {text!r}, a line of text is expected"
    for name in ("vram_bytes", "free_bytes", "bandwidth_gb_s"):
        size = getattr(accelerator, name)
        if size is not None and not 0 <= size <= _MOST:
            return f"{name} is {size!r}, 0 to 2**60 is expected"
    return ""


_CHECKS: dict[str, Callable[..., str]] = {
    "register_backends": _backend,
    "register_sources": _source,
    "register_converters": _converter,
    "register_tuners": _tuner,
    "register_rules": _rule,
    "register_commands": _command,
    "register_models": _model,
    "register_quants": _quant,
    "probe_accelerators": _accelerator,
}


def unlike(protocol: type, thing: object) -> str:
    """What `thing` lacks of `protocol`, and which of its methods cannot be called as `protocol` says; "" = nothing."""
    if inspect.isclass(thing):
        return of_class(thing)
    members = {name: member for name, member in vars(protocol).items() if not name.startswith("_")}
    lacking = [name for name in members if not hasattr(thing, name)]
    if lacking:
        return f"it lacks {', '.join(lacking)}"
    methods = {name: member for name, member in members.items() if inspect.isfunction(member)}
    return "; ".join(
        f"{name}: {problem}" for name, member in methods.items() if (problem := miscalled(getattr(thing, name), member))
    )


def miscalled(call: object, like: Callable[..., Any]) -> str:
    """Why `call` cannot be called with the arguments of the method `like`; "" = it can."""
    if not callable(call):
        return f"{call!r} cannot be called"
    positional, keywords, wanted = _arguments(like)
    try:
        signature = inspect.signature(call)
    except ValueError:  # of some built-in functions it is not known
        return ""
    try:
        signature.bind(*positional, **keywords)
    except TypeError as error:
        return f"it takes {signature}, but is called with {wanted}: {error}"
    return ""


@functools.cache
def _arguments(like: Callable[..., Any]) -> tuple[tuple[str, ...], dict[str, str], str]:
    """Something for each argument of a method but its own object, and how they are written."""
    _, *parameters = inspect.signature(like).parameters.values()
    keywords = {p.name: p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    positional = tuple(p.name for p in parameters if p.name not in keywords)
    return positional, keywords, f"({', '.join((*positional, *(f'{name}=' for name in keywords)))})"
